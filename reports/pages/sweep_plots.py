"""Pictures of a sweep: cycles against what a machine takes, heat maps over its fields, roofline, accuracy."""

from __future__ import annotations

from collections import defaultdict
from itertools import combinations
from typing import TYPE_CHECKING, Any, Final

from matplotlib.ticker import FixedLocator, NullLocator

from nmsat.reports.pages.style import DENSE_COLOR, GROUPED, INK, PALETTE, new_figure, style, svg_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

Row = dict[str, Any]

MOST_WORKS: Final = len(PALETTE)
"""Works that are drawn in a picture: as many as there are colours."""

MOST_MARKS: Final = 2000
"""Points from which on they are drawn as an image inside the picture, not one by one."""

MOST_FIELDS: Final = 3
"""Fields of the machine with several values of which every two have a heat map."""

MOST_CELLS: Final = 10
"""Values of a field from which on the cells of a heat map hold no numbers."""

COSTS: Final = {
    "lut": "LUTs of the array's elements, estimate",
    "dsp": "DSPs (one for each element)",
    "ram_kbit": "block RAM of the buffers, kbit",
}
"""What cycles are drawn against -> title of the axis."""

NAMES: Final = (*(f"pareto_{cost}.svg" for cost in COSTS), "heat_*.svg", "roofline.svg", "accuracy.svg")
"""Files of the pictures, as patterns."""


def sweep_plots(rows: Sequence[Row], axes: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Return name -> SVG for a page and its caption.

    Heat maps: of every two fields of the machine with several values, at most `MOST_FIELDS`; roofline: of what ran in
    the quick gear; accuracy: where it is known.
    """
    found = [row for row in rows if row["cycles"] is not None]
    if not found:
        return {}
    works = works_of(found)
    with style():
        plots = {f"pareto_{cost}": _pareto(works, cost) for cost in COSTS}
        fields = [name.removeprefix("set.") for name in axes if name.startswith("set.")][:MOST_FIELDS]
        first = next(iter(works.values()))
        for number, (down, across) in enumerate(combinations(fields, 2), 1):
            plots[f"heat_{number}"] = _heat(first, down, across, number)
        ran = works_of([row for row in found if row.get("exact_macs")])
        if ran:
            plots["roofline"] = _roofline(ran)
        known = [row for row in found if row.get("accuracy") is not None]
        if known:
            plots["accuracy"] = _accuracy(known)
        return plots


def works_of(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Return the points by what they compute."""
    works: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        works[work_of(row)].append(row)
    return works


def work_of(row: Row) -> str:
    """Return in words what a point computes."""
    pattern = "" if row["method"] == "dense" else f" {row['pattern']}"
    return f"{row['network']}, batch {row['batch']}, {row['method']}{pattern}"


def _pareto(works: dict[str, list[Row]], cost: str) -> tuple[str, str]:
    figure, axes = _start(320)
    image = sum(map(len, works.values())) > MOST_MARKS
    for color, (name, rows) in zip(PALETTE, works.items(), strict=False):
        xs, ys = [row[cost] for row in rows], [row["cycles"] for row in rows]
        axes.scatter(xs, ys, s=9, color=color, alpha=0.5, linewidths=0, rasterized=image)
        edge: list[tuple[int, int]] = []
        for x, y in sorted((row[cost], row["cycles"]) for row in rows):
            if not edge or y < edge[-1][1]:
                edge.append((x, y))
        axes.plot([x for x, _ in edge], [y for _, y in edge], "o-", color=color, markersize=6, mfc="none", label=name)
    axes.set(xscale="log", yscale="log", xlabel=COSTS[cost], ylabel="cycles of a step")
    mark_axis(axes.xaxis, [row[cost] for rows in works.values() for row in rows])
    mark_axis(axes.yaxis, [row["cycles"] for rows in works.values() for row in rows])
    figure.legend(loc="outside upper left")
    told = f"Estimate. Rings: the points that no cheaper one beats.{_shown(works)}"
    return svg_text(figure, f"pareto-{cost}", f"Cycles against {COSTS[cost]}", told), told


def _heat(rows: Sequence[Row], down: str, across: str, number: int) -> tuple[str, str]:
    """Draw the fewest cycles of a work, over the fewest of all, for each pair of values of two fields."""
    best: dict[tuple[Any, Any], int] = {}
    for row in rows:
        at = (row[down], row[across])
        best[at] = min(row["cycles"], best.get(at, row["cycles"]))
    ys, xs = (sorted({at[place] for at in best}) for place in (0, 1))
    least = min(best.values())
    grid = [[best[y, x] / least if (y, x) in best else float("nan") for x in xs] for y in ys]
    figure = new_figure(min(360, 80 + 40 * len(ys)))
    axes = figure.subplots()
    axes.imshow(grid, cmap="cividis_r", aspect="auto", origin="lower")
    axes.set(xlabel=across, ylabel=down)
    for axis, values in ((axes.xaxis, xs), (axes.yaxis, ys)):
        places = range(0, len(values), 1 + len(values) // MOST_CELLS)
        axis.set_ticks(list(places), [f"{values[place]:g}" for place in places])
    axes.tick_params(length=0, color=DENSE_COLOR)
    middle = (max(best.values()) / least + 1) / 2
    for (y, x), cycles in best.items() if max(len(xs), len(ys)) < MOST_CELLS else ():
        color = "white" if cycles / least > middle else "black"
        axes.text(xs.index(x), ys.index(y), f"{cycles / least:.2f}", ha="center", va="center", color=color)
    title = f"{down} and {across}"
    axes.set_title(title)
    told = (
        f"Estimate: fewest cycles of {work_of(rows[0])} with these two, over the fewest of all "
        f"({least:,} cycles); from {1.0:.2f} (light) to {max(best.values()) / least:.2f} (dark)."
    )
    return svg_text(figure, f"heat-{number}", f"Cycles by {title}", told), told


def _roofline(works: dict[str, list[Row]]) -> tuple[str, str]:
    """Draw the use of the array against what memory allows it, for what ran."""
    figure, axes = _start(300)
    intensities: list[float] = []
    for color, (name, rows) in zip(PALETTE, works.items(), strict=False):
        xs = [row["exact_macs"] / (row["exact_bytes_read"] + row["exact_bytes_written"]) for row in rows]
        ys, roofs = [row["exact_utilization"] for row in rows], [row["exact_roofline"] for row in rows]
        intensities += xs
        axes.vlines(xs, ys, roofs, color=color, linewidth=1, alpha=0.6)
        axes.plot(xs, roofs, "_", color=color, markersize=10)
        axes.plot(xs, ys, "o", color=color, markersize=5, label=name)
    axes.set(xscale="log", xlabel="multiply-adds per byte of memory", ylabel="share of the array in use")
    axes.set_ylim(0, 1.05)
    axes.axhline(1, color=INK, linewidth=0.8)
    mark_axis(axes.xaxis, intensities)
    figure.legend(loc="outside upper left")
    told = (
        f"Exact, points of the fronts: use of the array (dots) below what array and memory allow on the whole step "
        f"(bars).{_shown(works)}"
    )
    return svg_text(figure, "roofline", "Use of the array under its roofline", told), told


def _accuracy(rows: Sequence[Row]) -> tuple[str, str]:
    """Draw the accuracy of trainings against the fewest cycles of a step that a machine of the sweep takes."""
    best: dict[tuple[str, str], Row] = {}
    for row in rows:
        key = (row["network"], work_of(row))
        if key not in best or row["cycles"] < best[key]["cycles"]:
            best[key] = row
    figure, axes = _start(300)
    networks = list(dict.fromkeys(network for network, _ in best))
    for color, network in zip(PALETTE, networks, strict=False):
        mine = [row for (name, _), row in best.items() if name == network]
        xs, ys = [row["cycles"] for row in mine], [100 * row["accuracy"] for row in mine]
        axes.plot(xs, ys, "o", color=color, label=network)
        for row, x, y in zip(mine, xs, ys, strict=True):
            text = row["method"] if row["method"] == "dense" else f"{row['method']} {row['pattern']}"
            axes.annotate(text, (x, y), (4, 3), textcoords="offset points", fontsize=11.5)
    axes.set(xscale="log", xlabel="cycles of a step, fewest of the sweep", ylabel="test accuracy, %")
    mark_axis(axes.xaxis, [row["cycles"] for row in best.values()])
    axes.yaxis.set_major_formatter("{x:g}")
    axes.margins(x=0.25, y=0.15)
    figure.legend(loc="outside upper left")
    more = len(networks) - MOST_WORKS
    told = "Accuracy: of the table of nmsat study; cycles: estimate."
    told += f" {more} networks not drawn." if more > 0 else ""
    return svg_text(figure, "accuracy", "Accuracy against cycles", told), told


def _start(height: float) -> tuple[Figure, Axes]:
    figure = new_figure(height)
    figure.set_dpi(144)
    axes = figure.subplots()
    axes.grid(visible=True)
    return figure, axes


def mark_axis(axis: Axis, values: Sequence[float]) -> None:
    """Mark a logarithmic axis at up to four numbers of two digits, evenly from the least to the most."""
    low, high = min(values), max(values)
    steps = 3 if high > 1.5 * low else 1 if high > low else 0
    places = [low * (high / low) ** (step / max(1, steps)) for step in range(steps + 1)]
    axis.set_major_locator(FixedLocator(sorted({float(f"{place:.2g}") for place in places})))
    axis.set_major_formatter(GROUPED if low >= 10 else "{x:g}")
    axis.set_minor_locator(NullLocator())


def _shown(works: dict[str, list[Row]]) -> str:
    return f" {len(works)} works, the first {MOST_WORKS} drawn." if len(works) > MOST_WORKS else ""
