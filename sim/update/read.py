"""When the read streams of the update engine move (hw/update/read.py), without data."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from nmsat.dataflow.contract.isa import OFFSET_MASK
from nmsat.dataflow.contract.limits import UPDATE_BEATS, UPDATE_BURST
from nmsat.sim.memory.port import Burst
from nmsat.sim.parts.state import Registers

if TYPE_CHECKING:
    from nmsat.dataflow.contract.isa import Instruction

_WEIGHTS: Final = 0
_MOMENTA: Final = 1
_GRADIENT: Final = 2
_MASK: Final = 3
"""Streams, by their place in `UPDATE_READS`."""


class UpdateRead(Registers):
    """The read streams of one pass between two clock edges. request: burst that stands on the port."""

    REGISTERS = (
        "request",
        "_at",
        "_left",
        "_room",
        "_level",
        "_blocks",
        "_base",
        "_half",
        "_beat",
        "_asking",
        "_chosen",
        "_order",
    )

    def __init__(self, instruction: Instruction, blocks: int, groups: int) -> None:
        """Begin the pass of an UPDATE; blocks: of columns; groups: of W_ff in a block."""
        k, at = instruction["k"], instruction["w_at"]
        self.request: Burst | None = None
        self._region, self._k, self._step = instruction["region"], k, instruction["g_step"]
        self._masked = instruction["use_mask"] == 1
        self._at = [at, (at + blocks * k) & OFFSET_MASK, instruction["g_at"], instruction["mask_at"]]
        # beats; of the gradient: rows of the block
        self._left = [blocks * k, blocks * k, k, blocks * groups if self._masked else 0]
        self._room = [UPDATE_BEATS] * 4
        self._level = [0] * 4
        self._blocks, self._base, self._half = blocks, instruction["g_at"], 0
        self._beat = 0
        self._asking = True  # False: no stream can ask before another row is taken
        self._chosen = -1  # the stream that asks next
        self._order: deque[tuple[int, int]] = deque()  # stream and beats of the bursts under way

    @property
    def valid(self) -> bool:
        """Whether a row stands on the output."""
        w, v, g, mask = self._level
        return w != 0 and v != 0 and g != 0 and (mask != 0 or not self._masked)

    def tick(self, granted: bool, arrives: bool, taken: bool, next_mask: bool) -> None:
        """End the cycle. granted, arrives: the port; taken: the row on the output; next_mask: the last of its group."""
        asked = -1
        free = self.request is None or granted
        if free:
            self.request = None
        if self._chosen >= 0:
            if free:
                asked, self._chosen = self._chosen, -1
        elif self._asking:
            self._chosen = self._choose()
        if arrives:
            stream, beats = self._order[0]
            self._level[stream] += 1
            self._beat += 1
            if self._beat == beats:
                self._order.popleft()
                self._beat = 0
        if asked >= 0:
            self._ask(asked)
        if taken:
            self._asking = True
            for stream in (_WEIGHTS, _MOMENTA, _GRADIENT, _MASK) if next_mask else (_WEIGHTS, _MOMENTA, _GRADIENT):
                self._level[stream] -= 1
                self._room[stream] += 1

    def _size(self, stream: int) -> int:
        if stream == _GRADIENT and self._step != 1:
            return 1
        return min(UPDATE_BURST - self._at[stream] % UPDATE_BURST, self._left[stream])

    def _choose(self) -> int:
        """Return the stream that asks next, -1 for none."""
        left, room = self._left, self._room
        if left[_MASK] and room[_MASK] >= UPDATE_BEATS // 2:
            return _MASK
        best, most = -1, 0
        for stream in (_GRADIENT, _WEIGHTS, _MOMENTA):
            space = room[stream]
            if space > most and left[stream] and space >= self._size(stream):
                best, most = stream, space
        if best < 0:
            self._asking = False
        return best

    def _ask(self, stream: int) -> None:
        size = self._size(stream)
        at = self._at[stream]
        self.request = Burst(self._region, at, size)
        self._order.append((stream, size))
        self._room[stream] -= size
        self._left[stream] -= size
        if stream == _GRADIENT:
            self._follow_gradient(at, size)
        else:
            self._at[stream] = (at + size) & OFFSET_MASK

    def _follow_gradient(self, at: int, size: int) -> None:
        """Step to the next row, or to the next block, which lies in the other half of a beat."""
        self._at[_GRADIENT] = (at + (size if self._step == 1 else self._step)) & OFFSET_MASK
        if self._left[_GRADIENT] == 0:
            self._blocks -= 1
            self._base = (self._base + self._half) & OFFSET_MASK
            self._half ^= 1
            self._at[_GRADIENT] = self._base
            self._left[_GRADIENT] = self._k if self._blocks else 0
