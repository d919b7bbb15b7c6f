"""Models of the loader's writers (hw/load_sets.py, hw/load_beats.py, hw/load_wgt.py): when beats are taken."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from dataflow.config import INTERLEAVE
from dataflow.isa import HALVES, LANES, ActMode

if TYPE_CHECKING:
    from dataflow.config import SatConfig
    from dataflow.isa import Instruction

PAIRS: Final = (LANES, HALVES)
"""Columns of a beat: packed, dense."""


class Place(NamedTuple):
    """A beat on its way. local: it is zeros or staged, not read; turn: last of its round; last: of its instruction."""

    local: bool
    turn: bool
    last: bool


class LoadSets:
    """Mode 0: R beats are collected, then written word by word."""

    def __init__(self, config: SatConfig, instruction: Instruction) -> None:
        m = 2 << instruction["log2_m_less_1"]
        self._rows = config.rows
        self._words = m // config.act_lanes
        self._beat_groups = HALVES // m
        self._groups = -(-instruction["k"] // m)
        self._taking = True
        self._at = 0
        self._full = False
        self._end = Place(False, False, False)
        self._left = 0
        self._play_last = False

    @property
    def ready(self) -> bool:
        """Whether a beat can be taken."""
        return self._taking and (not self._full or self._left <= 1)

    def tick(self, place: Place | None) -> bool:
        """End the cycle; place: the beat taken. Return whether the last write of the instruction was in it."""
        ends = self._left == 1
        ended = ends and self._play_last
        moves = self._full and self._left <= 1
        if self._left:
            self._left -= 1
        if moves:
            self._left = self._words * min(self._beat_groups, self._groups)
            self._play_last = self._end.last
            if self._end.turn:
                self._groups -= self._beat_groups
            self._full = False
        if place is not None:
            self._at += 1
            if self._at == self._rows:
                self._at, self._full, self._end = 0, True, place
            self._taking = not place.last
        return ended


class LoadBeats:
    """Modes 1 and 2: every beat is written at once."""

    def __init__(self, config: SatConfig, instruction: Instruction) -> None:
        columns = instruction["mode"] == ActMode.OS_COLUMNS
        if columns:
            self._cycles = min(1 << instruction["log2_a"], HALVES // config.rows)
        else:
            self._cycles = (2 << instruction["log2_m_less_1"]) // config.act_lanes
        self._pairs = columns and config.act_lanes == 2
        self._even = self._pairs
        self._taking = True
        self._left = 0
        self._play_last = False

    @property
    def ready(self) -> bool:
        """Whether a beat can be taken."""
        return self._taking and (self._even or self._left <= 1)

    def tick(self, place: Place | None) -> bool:
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


class LoadStage:
    """STAGE: a beat is written in every cycle."""

    def __init__(self) -> None:
        self._taking = True

    @property
    def ready(self) -> bool:
        """Whether a beat can be taken."""
        return self._taking

    def tick(self, place: Place | None) -> bool:
        """End the cycle; place: the beat taken. Return whether the last write of the instruction was in it."""
        if place is None:
            return False
        self._taking = not place.last
        return place.last


class LoadWgt:
    """LOAD_WGT: every beat is written at once; fillers behind each block take no beat."""

    def __init__(self, config: SatConfig, instruction: Instruction) -> None:
        beat = max(1, PAIRS[instruction["dense"]] // config.columns)
        self._cycles = min(beat, INTERLEAVE >> instruction["log2_a"])
        self._pad = instruction["pad"]
        self._taking = True
        self._pads = 0
        self._pad_last = False
        self._left = 0
        self._play_last = False

    @property
    def ready(self) -> bool:
        """Whether a beat can be taken."""
        return self._taking and not self._pads and self._left <= 1

    def tick(self, place: Place | None) -> bool:
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
