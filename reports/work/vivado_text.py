"""Tables and figures of Vivado's reports as text; what is none is a `ReportError`."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

_FIGURE: Final = re.compile(r"-?[0-9]+(\.[0-9]+)?")
_FRAME: Final = re.compile(r"\+(-+\+)+ *")

MAX_FIGURE: Final = 10.0**15
"""Largest figure that is believed; no resource, slack, count or power comes near it."""


class ReportError(ValueError):
    """A report is not what it should be."""


@dataclass(frozen=True)
class Table:
    """A table: names of its columns, and the lines between the frames as they are."""

    columns: tuple[str, ...]
    lines: tuple[str, ...]

    def rows(self, *needed: str) -> Iterator[dict[str, str]]:
        """Yield column -> cell of each row; ReportError if a column that is needed is missing, or a row is damaged."""
        missing = [name for name in needed if name not in self.columns]
        if missing:
            raise ReportError(f"its table of {self.columns[0]!r} has no column {', '.join(map(repr, missing))}")
        if len(set(self.columns)) < len(self.columns):
            raise ReportError(f"its table of {self.columns[0]!r} has a column twice")
        for line in self.lines:
            cells = row_cells(line)
            if cells is None or len(cells) != len(self.columns):
                raise ReportError(
                    f"a row is {shortened(line)}; its table of {self.columns[0]!r} has {len(self.columns)} columns"
                )
            yield dict(zip(self.columns, cells, strict=True))


def row_cells(line: str) -> tuple[str, ...] | None:
    """Return the cells of a line of a table, a space of the frame taken off on either side; None if it is none."""
    line = line.rstrip()
    if len(line) < 2 or line[0] != "|" or line[-1] != "|":
        return None
    return tuple(cell.removeprefix(" ").removesuffix(" ") for cell in line[1:-1].split("|"))


def read_tables(text: str) -> Iterator[Table]:
    """Yield the tables: a frame, a row of names, a frame, rows, a frame."""
    lines = text.splitlines()
    frames = [number for number, line in enumerate(lines) if _FRAME.fullmatch(line)]
    for first, second, last in zip(frames, frames[1:], frames[2:], strict=False):
        names = row_cells(lines[first + 1])
        if second == first + 2 and names is not None:
            yield Table(tuple(name.strip() for name in names), tuple(lines[second + 1 : last]))


def shortened(line: str) -> str:
    """Return a line as an error shows it."""
    line = " ".join(line.split())
    return repr(line if len(line) <= 60 else f"{line[:57]}...")


def read_number(cell: str) -> float:
    figure = cell.strip().removeprefix("<").replace(",", "")
    value = float(figure) if _FIGURE.fullmatch(figure) else math.nan
    if not abs(value) <= MAX_FIGURE:
        raise ReportError(f"a figure is {shortened(cell)}")
    return int(value) if value.is_integer() else value


def read_amount(cell: str) -> float:
    value = read_number(cell)
    if value < 0:
        raise ReportError(f"an amount is {shortened(cell)}, below 0")
    return value


def read_count(cell: str) -> int:
    value = read_amount(cell)
    if not isinstance(value, int):
        raise ReportError(f"a count is {shortened(cell)}, no whole number")
    return value
