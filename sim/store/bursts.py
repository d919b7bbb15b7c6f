"""Bursts for the rows of a tile, cycle by cycle (hw/store/bursts.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nmsat.dataflow.contract.isa import OFFSET_MASK
from nmsat.dataflow.contract.limits import MAX_BURST, PAGE_BEATS
from nmsat.sim.memory.port import Burst
from nmsat.sim.parts.walk import Walk

if TYPE_CHECKING:
    from nmsat.dataflow.contract.isa import Instruction


class RowBursts:
    """Registers of `hw.store.bursts.RowBursts`; nothing is asked for before `start`.

    next: the burst that comes next, None when all have been asked for. It stands as a request if there is room for it.
    """

    def __init__(self) -> None:
        self.next: Burst | None = None
        self._rows = self._sent = self._first = self._beats = self._region = 0
        self._walk = Walk({})

    def start(self, instruction: Instruction, prefix: str, rows: int, first: int, beats: int) -> None:
        """Begin: `rows` rows, each of `beats` beats from beat `first` on."""
        self._walk = Walk(instruction.fields, prefix)
        self._rows, self._first, self._beats, self._sent = rows, first, beats, 0
        self._region = instruction[prefix + "region"]
        self._find()

    def advance(self) -> None:
        """Go on to the burst behind `next`, which has been taken."""
        assert self.next is not None
        self._sent += self.next.beats
        if self._sent == self._beats:
            self._sent = 0
            self._rows -= 1
            self._walk.advance()
        self._find()

    def _find(self) -> None:
        if not self._rows:
            self.next = None
            return
        offset = self._walk.offset + self._first + self._sent & OFFSET_MASK
        beats = min(self._beats - self._sent, MAX_BURST, PAGE_BEATS - offset % PAGE_BEATS)
        self.next = Burst(self._region, offset, beats)
