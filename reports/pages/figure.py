"""A figure of a report: picture, numbers and origin together, for a page and as files of its own.

    figure = Figure("speedup", "Speed-up", caption, picture, table, rows, origin)
    figure_files(figure)   # speedup.svg, .png, .csv, .json: the same numbers as on the page, with their origin
"""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from nmsat.reports.pages.page_tables import Cell, Table
from nmsat.reports.pages.style import standalone, svg_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from matplotlib.figure import Figure as Drawing

    from nmsat.reports.work.standing import Origin

KINDS: Final = ("svg", "png", "csv", "json")
"""Files of a figure, by the ending of their names."""

_DOTS: Final = 192  # of the PNG to an inch of 72 units


@dataclass(frozen=True)
class Picture:
    """A drawing as an SVG for a page and as the bytes of a PNG on white."""

    svg: str
    png: bytes


@dataclass(frozen=True)
class Figure:
    """A figure.

    name: of its files; title; caption: what is to be seen; picture; table: the numbers that people read; rows: all
    numbers, one dictionary a row, all with the same keys and a standing; origin: where they come from; notes: what has
    to be known beside, a line each.
    """

    name: str
    title: str
    caption: str
    picture: Picture
    table: Table
    rows: tuple[Mapping[str, Any], ...]
    origin: Origin
    notes: tuple[str, ...] = ()

    def record(self) -> dict[str, Any]:
        """Return the numbers with their origin as plain values."""
        return {
            "name": self.name,
            "title": self.title,
            "caption": self.caption,
            **self.origin.record(),
            "notes": list(self.notes),
            "rows": [dict(row) for row in self.rows],
        }


def take_picture(drawing: Drawing, name: str, title: str, words: str) -> Picture:
    """Return a drawing as a picture; words: what it shows, for those who do not see it. Within `style()`."""
    buffer = io.BytesIO()
    about = {"Software": None, "Title": title, "Description": words}
    drawing.savefig(buffer, format="png", dpi=_DOTS, facecolor="white", metadata=about)
    return Picture(svg_text(drawing, name, title, words), buffer.getvalue())


def figure_files(figure: Figure) -> dict[str, str | bytes]:
    """Return file name -> content of a figure, by `KINDS`."""
    origin = f"</desc>\n<!-- {figure.origin.line().replace('--', '- -')} -->"
    texts: dict[str, str | bytes] = {
        "svg": standalone(figure.picture.svg).replace("</desc>", origin, 1),
        "png": figure.picture.png,
        "csv": csv_text(figure.rows),
        "json": json.dumps(figure.record(), indent=1, allow_nan=False) + "\n",
    }
    return {f"{figure.name}.{kind}": texts[kind] for kind in KINDS}


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows as CSV; the keys of the first are the header, None is an empty cell."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def table_of(
    caption: str,
    columns: Mapping[str, Callable[[Mapping[str, Any]], str]],
    rows: Iterable[Mapping[str, Any]],
    *,
    lead: int = 3,
    sums: int = 0,
) -> Table:
    """Return a table. columns: heading -> text of a row's cell; lead, sums: as of `Table`."""
    cells = tuple(tuple(Cell(text(row)) for text in columns.values()) for row in rows)
    return Table(caption, tuple(columns), lead, cells, sums)


def field(name: str) -> Callable[[Mapping[str, Any]], str]:
    """Return what reads a text of a row."""
    return lambda row: str(row[name])


def number(name: str, form: str, unit: str = "") -> Callable[[Mapping[str, Any]], str]:
    """Return what writes a number of a row in a form of `format`; a number that is not known is a dash."""
    return lambda row: "–" if row[name] is None else f"{format(row[name], form).replace(',', _THIN)}{unit}"


_THIN: Final = "\N{NARROW NO-BREAK SPACE}"
