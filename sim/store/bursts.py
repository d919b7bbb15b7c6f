"""Bursts for the rows of a tile, cycle by cycle (hw/store/bursts.py)."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Final

from nmsat.dataflow.contract.isa import OFFSET_MASK
from nmsat.dataflow.contract.limits import MAX_BURST, PAGE_BEATS
from nmsat.sim.memory.port import Burst
from nmsat.sim.parts.walk import Walk

if TYPE_CHECKING:
    from nmsat.dataflow.contract.isa import Instruction

_WALK: Final = ("width", "height", "x0", "y0")
_PLACES: Final = ("at", "line_at", "image_at")
_STEPS: Final = ("x_step", "y_step", "image_step")


class Bursts:
    """All bursts of the rows of a tile whose walk begins in the first page.

    beats: of each; offsets; low, high: the least and largest of them as differences, high < low if there is none.
    """

    __slots__ = ("beats", "high", "low", "offsets")

    def __init__(self, walk: Walk, rows: int, first: int, beats: int) -> None:
        sizes, self.offsets = bytearray(), array("q")
        for _ in range(rows):
            sent = 0
            while sent < beats:
                offset = walk.offset + first + sent & OFFSET_MASK
                size = min(beats - sent, MAX_BURST, PAGE_BEATS - offset % PAGE_BEATS)
                sizes.append(size)
                self.offsets.append(offset)
                sent += size
            walk.advance()
        self.beats = bytes(sizes)
        ends = [offset - (offset > OFFSET_MASK >> 1) * (OFFSET_MASK + 1) for offset in self.offsets]
        self.low = min(ends, default=0)
        self.high = max([end + size - 1 for end, size in zip(ends, sizes, strict=True)], default=-1)


class RowBursts:
    """Registers of `hw.store.bursts.RowBursts`; nothing is asked for before `start`.

    next: the burst that comes next, None when all have been asked for. It stands as a request if there is room for it.
    known: the bursts of tiles seen before, which differed at most in where they lay.
    """

    def __init__(self, known: dict[tuple[int, ...], Bursts]) -> None:
        self._known = known
        self.next: Burst | None = None
        self.at = 0  # the number of `next`
        self._bursts: Bursts | None = None
        self._shift = self._region = 0

    def start(self, instruction: Instruction, prefix: str, rows: int, first: int, beats: int) -> None:
        """Begin: `rows` rows, each of `beats` beats from beat `first` on."""
        self._bursts, self._shift = self.bursts(instruction, prefix, rows, first, beats)
        self._region = instruction[prefix + "region"]
        self.go(0)

    def bursts(self, instruction: Instruction, prefix: str, rows: int, first: int, beats: int) -> tuple[Bursts, int]:
        """Return the bursts of a tile moved to the first page, and by how many beats."""
        shift = instruction[prefix + "at"] & -PAGE_BEATS
        fields = {name: instruction[prefix + name] for name in (*_PLACES, *_STEPS)}
        for name in _PLACES:
            fields[name] -= shift
        fields |= {name: instruction[name] for name in _WALK}
        key = (rows, first, beats, *fields.values())
        if key not in self._known:
            self._known[key] = Bursts(Walk(fields), rows, first, beats)
        return self._known[key], shift

    def advance(self) -> None:
        """Go on to the burst behind `next`, which has been taken."""
        self.go(self.at + 1)

    def go(self, at: int) -> None:
        """Go to a burst by its number."""
        bursts, self.at = self._bursts, at
        if bursts is None or at >= len(bursts.beats):
            self.next = None
        else:
            self.next = Burst(self._region, (bursts.offsets[at] + self._shift) & OFFSET_MASK, bursts.beats[at])
