"""Pictures of a sweep: cycles against elements with the front of each work, and a heat map over two fields."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final

from nmsat.reports.pages.style import DENSE_COLOR, GROUPED, PALETTE, new_figure, standalone, style, svg_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Row = dict[str, Any]

MOST_WORKS: Final = len(PALETTE)
"""Works that the front is drawn of: as many as there are colours."""

NAMES: Final = ("pareto.svg", "heat.svg")
"""Files of the pictures."""


def sweep_plots(rows: Sequence[Row], axes: Iterable[str]) -> dict[str, str]:
    """Return name -> SVG; the heat map only if two fields of the machine have several values."""
    found = [row for row in rows if row["cycles"] is not None]
    if not found:
        return {}
    with style():
        plots = {"pareto.svg": _pareto(_works(found))}
        fields = [name.removeprefix("set.") for name in axes if name.startswith("set.")][:2]
        if len(fields) == 2:
            plots["heat.svg"] = _heat(next(iter(_works(found).values())), *fields)
        return plots


def _works(rows: Sequence[Row]) -> dict[str, list[Row]]:
    works: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        works[f"{row['network']}, batch {row['batch']}, {row['method']} {row['pattern']}"].append(row)
    return works


def _pareto(works: dict[str, list[Row]]) -> str:
    figure = new_figure(320)
    axes = figure.subplots()
    for color, (name, rows) in zip(PALETTE, works.items(), strict=False):
        axes.scatter([r["elements"] for r in rows], [r["cycles"] for r in rows], s=9, color=color, alpha=0.5)
        front = sorted(
            (r["elements"], r["exact_cycles"] if r.get("exact_cycles") else r["cycles"]) for r in rows if r["front"]
        )
        axes.plot([e for e, _ in front], [c for _, c in front], "o-", color=color, markersize=6, mfc="none", label=name)
    axes.set(xscale="log", yscale="log", xlabel="elements of the array", ylabel="cycles of a step")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(GROUPED)
        axis.set_minor_formatter("")
    axes.set_xticks(sorted({r["elements"] for rows in works.values() for r in rows}))
    axes.grid(visible=True)
    figure.legend(loc="outside upper left")
    told = f"{len(works)} works, the first {MOST_WORKS} drawn; rings: the front; points: the estimate."
    return standalone(svg_text(figure, "pareto", "Cycles of a training step against elements", told))


def _heat(rows: Sequence[Row], down: str, across: str) -> str:
    """Draw the fewest cycles of a work, over the fewest of all, for each pair of values of two fields."""
    best: dict[tuple[Any, Any], int] = {}
    for row in rows:
        at = (row[down], row[across])
        best[at] = min(row["cycles"], best.get(at, row["cycles"]))
    ys, xs = (sorted({at[place] for at in best}) for place in (0, 1))
    least = min(best.values())
    grid = [[best[y, x] / least if (y, x) in best else float("nan") for x in xs] for y in ys]
    figure = new_figure(60 + 40 * len(ys))
    axes = figure.subplots()
    axes.imshow(grid, cmap="cividis_r", aspect="auto", origin="lower")
    axes.set(xlabel=across, ylabel=down)
    axes.set_xticks(range(len(xs)), [f"{x:g}" for x in xs])
    axes.set_yticks(range(len(ys)), [f"{y:g}" for y in ys])
    axes.tick_params(length=0, color=DENSE_COLOR)
    middle = (max(best.values()) / least + 1) / 2
    for (y, x), cycles in best.items():
        color = "white" if cycles / least > middle else "black"
        axes.text(xs.index(x), ys.index(y), f"{cycles / least:.2f}", ha="center", va="center", color=color)
    first = rows[0]
    title = f"Cycles of {first['network']}, {first['method']} {first['pattern']}, over the fewest"
    axes.set_title(title)
    return standalone(svg_text(figure, "heat", title, f"Estimate; {down} upwards, {across} to the right."))
