"""The beats of a load, found once for all loads that differ only in where they lie: what the loader's time depends on.

Addresses count modulo 64 beats (4 KiB, which no burst crosses) and as differences; the buffers' bases not at all.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Final

from nmsat.dataflow.contract.isa import INSTRUCTIONS, OFFSET_MASK, Instruction, Opcode
from nmsat.dataflow.contract.limits import PAGE_BEATS
from nmsat.sim.load.writers import BeatPlace

if TYPE_CHECKING:
    from collections.abc import Iterable

    from nmsat.sim.load.slots import Slot


FOLLOWS: Final = 32
"""Bit of a beat: read, and right behind the one that was read before it."""

PAGE_END: Final = 64
"""Bit of a beat: a page begins behind it."""

FIRST: Final = 128
"""Bit of a beat: the first of its load that is read; whether it follows depends on the load in front."""

PLACES: Final = tuple(
    BeatPlace(bool(flags & 1), bool(flags & 2), bool(flags & 4), bool(flags & 8), bool(flags & 16))
    for flags in range(32)
)
"""What a beat is, by the lowest five bits of its flags."""

_NAMES: Final = {
    opcode: tuple(
        field.name
        for field in INSTRUCTIONS[opcode].fields
        if field.name not in ("opcode", "wait", "signal", "base", "region", "beside", "zero")
    )
    for opcode in (Opcode.LOAD_ACT, Opcode.LOAD_WGT, Opcode.STAGE)
}
_INPUT: Final = ("ix0", "iy0", "ix_line", "iy_image", "ix_step", "iy_step", "in_width", "in_height")
_SIZES: Final = ("width", "height", "x0", "y0", *_INPUT)
_LINES: Final = ("line_at", "image_at", "y_step", "image_step", *_SIZES)
_PLACES: Final = ("at", "line_at", "image_at")
_STEPS: Final = ("x_step", "y_step", "image_step")


class Beats:
    """The beats of a load in the order in which they are looked at.

    flags: one byte each, an index of PLACES and the bits above; offsets: of a load that lies where `canonical` put it,
    those of zeros and staged beats mean nothing. first, last: numbers of the first and last beat that is read; low,
    high: least and largest offset of those as differences, high < low if none is read.
    """

    __slots__ = ("first", "flags", "high", "last", "low", "offsets")

    def __init__(self, slots: Iterable[Slot]) -> None:
        flags, self.offsets, following, first = bytearray(), array("q"), -1, FIRST
        low, high = 0, -1
        self.first = self.last = 0
        for place, _, offset in slots:
            bits = place.local | place.turn << 1 | place.chunk << 2 | place.last << 3 | place.pair << 4
            if not place.local:
                self.first, self.last = len(flags) if first else self.first, len(flags)
                behind = offset + 1 & OFFSET_MASK
                bits |= first or FOLLOWS * (offset == following)
                bits |= PAGE_END * (behind % PAGE_BEATS == 0)
                following, first = behind, 0
                distance = offset if offset <= OFFSET_MASK >> 1 else offset - OFFSET_MASK - 1
                low, high = (distance, distance) if high < low else (min(low, distance), max(high, distance))
            flags.append(bits)
            self.offsets.append(offset)
        self.flags = bytes(flags)
        self.low, self.high = low, high


def canonical(instruction: Instruction) -> tuple[tuple[int, ...], Instruction, int]:
    """Return what tells a load's beats from others, the load moved to the first page, and by how many beats."""
    opcode = instruction.opcode
    fields = {name: instruction[name] for name in _NAMES[opcode]}
    shift = fields["at"] & -PAGE_BEATS
    places = _PLACES if opcode is Opcode.LOAD_ACT else ("at",)
    if opcode is Opcode.LOAD_ACT:
        if fields["staged"]:  # nothing is read; pairs of beats look at odd places
            fields |= dict.fromkeys(_SIZES, 0) | {name: fields[name] & 1 for name in (*_PLACES, *_STEPS)}
            shift = 0
        elif not fields["windowed"]:
            fields |= dict.fromkeys(_LINES, 0)
            places = ("at",)
    for name in places:
        fields[name] -= shift
    return (int(opcode), *fields.values()), Instruction(opcode, fields), shift
