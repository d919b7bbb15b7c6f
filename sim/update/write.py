"""When the write streams of the update engine move (hw/update/write.py), without data."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from nmsat.dataflow.contract.isa import OFFSET_MASK
from nmsat.dataflow.contract.limits import UPDATE_BEATS, UPDATE_BURST, UPDATE_WAITING
from nmsat.sim.memory.port import Burst
from nmsat.sim.parts.state import Registers

if TYPE_CHECKING:
    from nmsat.dataflow.contract.isa import Instruction
    from nmsat.sim.update.pregen_timing import PregenTiming

_MASK: Final = 0
_BP: Final = 1
_FF: Final = 2
_MOMENTA: Final = 3
_WEIGHTS: Final = 4
"""Streams, by their place in `UPDATE_WRITES`."""


class UpdateWrite(Registers):
    """The write streams of one pass between two clock edges. request: burst that stands on the port."""

    REGISTERS = ("request", "_at", "_unasked", "_level", "_waiting", "_beat", "_asking", "_order")

    def __init__(self, instruction: Instruction, blocks: int) -> None:
        """Begin the pass of an UPDATE; blocks: of columns."""
        at = instruction["w_at"]
        copies = [instruction[name] for name in ("mask_at", "bp_at", "ff_at")]
        self.request: Burst | None = None
        self._region = instruction["region"]
        self._at = [*copies, (at + blocks * instruction["k"]) & OFFSET_MASK, at]
        self._unasked = [0] * 5
        self._level = [0] * 5
        self._waiting = self._beat = 0
        self._asking = False  # False: no stream can ask before another beat comes
        self._order: deque[tuple[int, int]] = deque()  # stream and beats of the bursts whose beats wait

    @property
    def empty(self) -> bool:
        """Whether nothing is held and everything is acknowledged."""
        return self._waiting == 0 and not any(self._unasked)

    @property
    def state_ready(self) -> bool:
        """Whether new weights and momenta are taken."""
        return self._level[_WEIGHTS] != UPDATE_BEATS and self._level[_MOMENTA] != UPDATE_BEATS

    @property
    def ff_ready(self) -> bool:
        """Whether a slot of W_ff is taken."""
        return self._level[_FF] != UPDATE_BEATS and self._level[_MASK] != UPDATE_BEATS

    @property
    def bp_ready(self) -> bool:
        """Whether a slot of W_bp is taken."""
        return self._level[_BP] != UPDATE_BEATS

    def tick(self, granted: bool, pulled: bool, acknowledged: bool, flush: bool, pregen: PregenTiming) -> None:
        """End the cycle. granted, pulled, acknowledged: the port; flush: nothing more comes; pregen: in this cycle."""
        if self.request is None or granted:
            self.request = None
            if (self._asking or flush) and self._waiting != UPDATE_WAITING:
                self._ask(flush)
        if acknowledged:
            self._waiting -= 1
        arriving = self._arriving(pregen)
        if pulled:
            self._pull()
        for stream in arriving:
            self._asking = True
            self._level[stream] += 1
            self._unasked[stream] += 1

    def _arriving(self, pregen: PregenTiming) -> list[int]:
        arriving: list[int] = []
        if pregen.state and self.state_ready:
            arriving += (_MOMENTA, _WEIGHTS)
        if pregen.ff and self.ff_ready:
            arriving += (_FF, _MASK) if pregen.ff_last else (_FF,)
        if pregen.bp and self.bp_ready:
            arriving.append(_BP)
        return arriving

    def _pull(self) -> None:
        stream, beats = self._order[0]
        self._level[stream] -= 1
        self._beat += 1
        if self._beat == beats:
            self._order.popleft()
            self._beat = 0

    def _ask(self, flush: bool) -> None:
        """Put the first burst that is whole, or all that is left of its stream, on the port."""
        for stream, held in enumerate(self._unasked):
            if held == 0:
                continue
            at = self._at[stream]
            size = UPDATE_BURST - at % UPDATE_BURST
            if held < size:
                if not flush:
                    continue
                size = held
            self.request = Burst(self._region, at, size)
            self._order.append((stream, size))
            self._unasked[stream] -= size
            self._at[stream] = (at + size) & OFFSET_MASK
            self._waiting += 1
            return
        self._asking = False
