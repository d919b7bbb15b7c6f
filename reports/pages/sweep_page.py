"""The self-contained page of a sweep."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from nmsat.reports.pages.figure import KINDS
from nmsat.reports.pages.html_page import render_page
from nmsat.reports.pages.page_tables import Cell, Table, numbers, percent
from nmsat.reports.pages.sweep_plots import work_of
from nmsat.reports.work.sweep_front import near_text, told_here
from nmsat.sim.results.provenance import Source, told

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from nmsat.reports.pages.figure import Figure

PAGE: Final = "report.html"
"""File of the page."""

MOST_ROWS: Final = 60
"""Points of the fronts in the table; all are in the Parquet."""


MOST_ERRORS: Final = 20
"""Reasons of points that did not run in the table; those of all points are in the Parquet."""


def sweep_page(values: Mapping[str, Any], figures: Sequence[Figure], command: str) -> str:
    """Return the page. values: what summary.json holds; figures: of `sweep_figures`; command: repeats the sweep."""
    return render_page(
        "sweep.html.j2",
        title="nmsat: a sweep",
        values=values,
        figures=figures,
        kinds=KINDS,
        command=command,
        states=", ".join(f"{numbers(count)} {name}" for name, count in values["states"].items()),
        off=values["estimate_off"],
        origin={
            str(Source.ESTIMATE): told_here(values["estimate_off"]),
            "exact": told(Source.MACHINE).replace("`", ""),
        },
        near=near_text(values["near"]) if values["near"] else "",
        front=_front(values["front"]),
        left=max(0, len(values["front"]) - MOST_ROWS),
        errors=_errors(values["errors"]),
        reasons_left=max(0, len(values["errors"]) - MOST_ERRORS),
        points_left=sum(list(values["errors"].values())[MOST_ERRORS:]),
        percent=percent,
        number=numbers,
    )


def _front(rows: Sequence[Mapping[str, Any]]) -> Table:
    columns = ("point", "speed-up", "cycles", "standing", "LUTs", "DSPs", "RAM kbit", "use", "joule, modelled")
    found = []
    for row in rows[:MOST_ROWS]:
        ran = bool(row.get("exact_cycles"))
        get = (lambda name, row=row: row[f"exact_{name}"]) if ran else row.__getitem__
        joule = f"{row['modelled_joule']:.3g}" if ran else "not run"
        texts = (
            f"{work_of(dict(row))} on {row['machine']}",
            f"{get('speedup'):.2f}×",
            numbers(get("cycles")),
            "exact" if ran else str(Source.ESTIMATE),
            numbers(row["lut"]),
            numbers(row["dsp"]),
            numbers(row["ram_kbit"]),
            percent(get("utilization")),
            joule,
        )
        found.append(tuple(map(Cell, texts)))
    return Table("Points that no other of the same work beats in LUTs, DSPs, RAM and cycles", columns, 3, tuple(found))


def _errors(found: Mapping[str, int]) -> Table:
    rows = tuple((Cell(text), Cell(numbers(count))) for text, count in list(found.items())[:MOST_ERRORS])
    return Table("Points that did not run", ("why", "points"), 2, rows)
