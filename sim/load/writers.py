"""Models of the loader's writers (hw/load/rows.py, hw/load/beats.py, hw/load/weights.py): when beats are taken."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple

from nmsat.dataflow.contract.codes import group_size, rectangle_rows
from nmsat.dataflow.contract.config import INTERLEAVE
from nmsat.dataflow.contract.isa import HALVES, LANES, ActMode
from nmsat.dataflow.contract.limits import LOAD_SETS
from nmsat.sim.parts.state import Key, Registers

if TYPE_CHECKING:
    from nmsat.dataflow.contract.config import SatConfig
    from nmsat.dataflow.contract.isa import Instruction

PAIRS: Final = (LANES, HALVES)
"""Columns of a beat: packed, dense."""


class BeatPlace(NamedTuple):
    """A beat on its way. local: it is zeros or staged, not read; the others: as `hw.load.ask.place_layout`."""

    local: bool
    turn: bool
    chunk: bool
    last: bool
    pair: bool = False
    mark: bool = False


class LoadRows(Registers):
    """Mode 0: chunks of R tile rows are collected, then written word by word.

    The sets of an instruction may be collected (`collect`) before those of the one in front have been written; they
    are written from its `begin` on.
    """

    REGISTERS = (
        *("_taking", "_at", "_place", "_sets", "_open", "_words", "_beat_groups", "_groups", "_set_groups"),
        *("_number", "_left", "_play_last"),
    )

    def __init__(self, config: SatConfig) -> None:
        self._rows, self._lanes = config.rows, config.act_lanes
        self._taking = False
        # the set that comes: tile rows there, beats of the present one; sets that are there: beats of a row, last beat
        self._at = self._place = 0
        self._sets: deque[tuple[int, BeatPlace]] = deque()
        # the set that leaves: beat of its tile rows, groups behind it and behind its chunk; the beat that leaves
        self._open = False
        self._words = self._beat_groups = self._groups = self._set_groups = 0
        self._number = self._left = 0
        self._play_last = False

    def key(self) -> Key:
        """Return the state; what an instruction that has ended left behind is not part of it."""
        if not self._open:
            self._words = self._beat_groups = self._groups = self._set_groups = 0
        self._play_last = self._play_last and self._left > 0
        return super().key()

    def collect(self) -> None:
        """Take the beats of an instruction from the next cycle on."""
        self._taking = True

    def begin(self, instruction: Instruction) -> None:
        """Write the sets of an instruction from the next cycle on."""
        m = group_size(instruction)
        self._words = m // self._lanes
        self._beat_groups = HALVES // m
        self._groups = self._set_groups = -(-instruction["k"] // m)
        self._open = True

    @property
    def ready(self) -> bool:
        """Whether a beat can be taken."""
        return self._taking and len(self._sets) < LOAD_SETS

    def tick(self, place: BeatPlace | None) -> bool:
        """End the cycle; place: the beat taken. Return whether the last write of the instruction was in it."""
        ended = self._left == 1 and self._play_last
        moves = self._sets and self._open and self._left <= 1
        if self._left:
            self._left -= 1
        if moves:
            self._move()
        if place is not None:
            self._place += 1 + place.pair
            if place.turn:
                self._at += 1
                if self._at == self._rows:
                    self._sets.append((self._place, place))
                    self._at = 0
                self._place = 0
            self._taking = not place.last
        return ended

    def _move(self) -> None:
        """Begin to write the next beat of all tile rows of the set."""
        count, end = self._sets[0]
        self._left = self._words * min(self._beat_groups, self._set_groups)
        self._set_groups -= self._beat_groups
        self._number += 1
        final = self._number == count
        self._play_last = final and end.last
        if final:
            self._sets.popleft()
            self._number = 0
            self._open = not end.last
            if end.chunk:
                self._groups = self._set_groups
            self._set_groups = self._groups


class LoadBeats(Registers):
    """Modes 1 and 2: every beat is written at once."""

    REGISTERS = ("_even", "_taking", "_left", "_play_last")

    def __init__(self, config: SatConfig, instruction: Instruction) -> None:
        columns = instruction["mode"] == ActMode.OS_COLUMNS
        if columns:
            self._cycles = min(rectangle_rows(instruction), HALVES // config.rows)
        else:
            self._cycles = group_size(instruction) // config.act_lanes
        self._pairs = columns and config.act_lanes == 2
        self._even = self._pairs
        self._taking = True
        self._left = 0
        self._play_last = False

    @property
    def ready(self) -> bool:
        """Whether a beat can be taken."""
        return self._taking and (self._even or self._left <= 1)

    def tick(self, place: BeatPlace | None) -> bool:
        """End the cycle; place: the beat taken. Return whether the last write of the instruction was in it."""
        ended = self._left == 1 and self._play_last
        if self._left:
            self._left -= 1
        if place is not None:
            if not self._even:
                self._left, self._play_last = self._cycles, place.last
            if place.turn and self._pairs:
                self._even = not self._even
            self._taking = not place.last
        return ended


class LoadWeights(Registers):
    """LOAD_WGT: every beat is written at once; fillers behind each block (dense: behind the last row) take no beat."""

    REGISTERS = ("_taking", "_pads", "_pad_last", "_left", "_play_last")

    def __init__(self, config: SatConfig, instruction: Instruction) -> None:
        beat = max(1, PAIRS[instruction["dense"]] // config.columns)
        self._cycles = min(beat, INTERLEAVE // rectangle_rows(instruction))
        self._pad = instruction["pad"] * (instruction["inner"] if instruction["dense"] else 1)
        self._taking = True
        self._pads = 0
        self._pad_last = False
        self._left = 0
        self._play_last = False

    @property
    def ready(self) -> bool:
        """Whether a beat can be taken."""
        return self._taking and not self._pads and self._left <= 1

    def tick(self, place: BeatPlace | None) -> bool:
        """End the cycle; place: the beat taken. Return whether the last write of the instruction was in it."""
        free = self._left <= 1
        ended = self._left == 1 and self._play_last
        if self._left:
            self._left -= 1
        if place is not None:
            self._left = self._cycles
            self._play_last = place.last and not self._pad
            if place.turn:
                self._pads, self._pad_last = self._pad, place.last
            self._taking = not place.last
        elif self._pads and free:
            self._pads -= 1
            self._left = self._cycles
            self._play_last = self._pad_last and not self._pads
        return ended
