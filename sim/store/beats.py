"""Where the results of a tile lie in beats, cycle by cycle (hw/store/beats.py), without data."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nmsat.dataflow.contract.isa import HALVES, Side
from nmsat.sim.parts.state import Registers

if TYPE_CHECKING:
    from nmsat.dataflow.contract.isa import Instruction


class RowPlace(Registers):
    """Registers of `hw.store.beats.RowPlace`."""

    REGISTERS = (
        *("_row_columns", "_lane", "_left", "_at", "_piece", "_wide"),
        *("ends_chunk", "ends_beat", "ends_row"),
    )

    def __init__(self, columns: int) -> None:
        self._columns = columns
        self._row_columns = self._lane = self._left = self._at = self._piece = 0
        self._wide = False
        self.ends_chunk = self.ends_beat = self.ends_row = False

    def start(self, row_columns: int, lane: int, wide: bool) -> None:
        """Begin a row of so many columns, the first at `lane`, of 4 (wide) or 2 bytes."""
        self._row_columns, self._lane, self._wide = row_columns, lane, wide
        self._begin_row()

    def step(self) -> None:
        """Go to the next piece."""
        if self.ends_row:
            self._begin_row()
            return
        self._piece += 1
        if self.ends_chunk:
            self._piece = 0
            self._left -= self._columns
            self._at = (self._at + (self._columns << self._wide)) % HALVES
        self._look()

    def _begin_row(self) -> None:
        self._piece, self._left, self._at = 0, self._row_columns, (self._lane << self._wide) % HALVES
        self._look()

    def _look(self) -> None:
        end = self._at + (min(self._left, self._columns) << self._wide)
        edge = HALVES * (self._piece + 1)
        self.ends_chunk = end <= edge
        self.ends_row = self.ends_chunk and self._left <= self._columns
        self.ends_beat = end >= edge or self.ends_row


def row_extent(columns: int, lane: int, wide: bool) -> tuple[int, int]:
    """Return (first beat that holds an element, beats) of a row of so many columns, the first at place `lane`."""
    first = (lane << wide) // HALVES
    return first, -(-(lane + columns << wide) // HALVES) - first


def write_rows(instruction: Instruction) -> tuple[str, int, int, int]:
    """Return what `RowBursts` needs of the results of a STORE: prefix, rows, first beat of each, beats of each."""
    return "", instruction["rows"], *row_extent(instruction["columns"], instruction["lane"], not instruction["to_half"])


def side_rows(instruction: Instruction) -> tuple[str, int, int, int]:
    """Return the same of its second operand."""
    wide = instruction["side"] == Side.TILE32
    rows = (1 if same_row(instruction) else instruction["rows"]) if instruction["side"] else 0
    return "side_", rows, *row_extent(instruction["columns"], instruction["lane"], wide)


def same_row(instruction: Instruction) -> bool:
    """Return whether all rows of a STORE have the same second operand, which is read once: its walk does not move."""
    return not instruction["side_x_step"] and not instruction["width"]
