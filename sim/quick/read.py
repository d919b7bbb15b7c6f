"""Symbols of a program that is told by forms: each read once for every place in a page that time tells apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np

from nmsat.dataflow.contract.isa import OFFSET_MASK, Opcode
from nmsat.dataflow.contract.limits import PAGE_BEATS
from nmsat.sim.quick.symbols import LOADS, Reader, ports_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nmsat.dataflow.contract.registers import Launch
    from nmsat.dataflow.program.stream import Stream
    from nmsat.sim.quick.symbols import Symbol, Symbols

_Ints: TypeAlias = "NDArray[np.int64]"

SIGNALS: Final = 1 << 16
"""Masks of semaphores."""


@dataclass(frozen=True)
class _Places:
    """Instructions of a stream that are the same but for whole pages. of: which each one is; at: the first of each."""

    of: _Ints
    at: _Ints


def read_stream(symbols: Symbols, program: Stream, launch: Launch) -> list[Symbol] | None:
    """Return the symbols of a program, or None if an access may leave its region (`Symbols.program` of it)."""
    page = program.beats % PAGE_BEATS * PAGE_BEATS + program.side % PAGE_BEATS
    _, at, of = np.unique(program.of * PAGE_BEATS**2 + page, return_index=True, return_inverse=True)
    places = _Places(of, at)
    if not _within(symbols, program, places, launch):
        return None
    told = (of * 2 + _joins(symbols, program, places)) * SIGNALS + program.signal
    ports = ports_of(launch)
    kinds, firsts, inverse = np.unique(told, return_index=True, return_inverse=True)
    made = [
        symbols.of(program.instruction(int(first)), int(kind) // SIGNALS % 2, ports)
        for kind, first in zip(kinds, firsts, strict=True)
    ]
    return [made[number] for number in inverse.tolist()]


def _within(symbols: Symbols, program: Stream, places: _Places, launch: Launch) -> bool:
    """Whether all accesses stay in their regions: of instructions that differ by pages the first and the last do."""
    ranges: list[tuple[_Ints, _Ints]] = []
    for column in (program.beats, program.side):
        here = column[places.at]
        least, most = here.copy(), here.copy()
        np.minimum.at(least, places.of, column)
        np.maximum.at(most, places.of, column)
        ranges.append((least - here, most - here))
    for number, at in enumerate(places.at.tolist()):
        reach = Reader(symbols, ports_of(launch)).read(program.instruction(at))[
            1
        ]  # a load's; a store's, result and what lies beside
        for part, ends in zip(reach, ranges, strict=False):
            if not all(part.moved(int(end[number])).within(launch.regions) for end in ends):
                return False
    return True


def _joins(symbols: Symbols, program: Stream, places: _Places) -> _Ints:
    """Return of each instruction whether its first beat follows the last one of the load in front (`Reader`)."""
    count = len(places.at)
    first, end = np.full(count, -1), np.full(count, -1)
    reads = np.zeros(count, bool)
    for number, at in enumerate(places.at.tolist()):
        instruction = program.instruction(at)
        if instruction.opcode not in LOADS or instruction.opcode is Opcode.STAGE:  # which asks for itself
            continue
        span = symbols.span(instruction)
        if span is not None:
            reads[number] = True
            first[number], end[number] = span
    at = np.flatnonzero(reads[places.of])
    which = places.of[at]
    moved = program.beats[at] - program.beats[places.at][which]
    begins = first[which] + moved & OFFSET_MASK
    ends = np.where(end[which] < 0, -1, (end[which] + moved - 1 & OFFSET_MASK) + 1)
    out = np.zeros(len(program), int)
    out[at[1:]] = begins[1:] == ends[:-1]
    return out
