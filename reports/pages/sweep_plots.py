"""Figures of a sweep: cycles against what a machine takes, heat maps over its fields, roofline, accuracy."""

from __future__ import annotations

from collections import defaultdict
from itertools import combinations
from typing import TYPE_CHECKING, Any, Final

from matplotlib.ticker import FixedLocator, NullLocator

from nmsat.reports.pages.figure import KINDS, Figure, field, number, table_of, take_picture
from nmsat.reports.pages.style import DENSE_COLOR, GROUPED, INK, PALETTE, new_figure, style
from nmsat.reports.work.standing import Standing, standing_of
from nmsat.sim.results.provenance import Source, told

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure as Drawing

    from nmsat.reports.work.standing import Basis

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
    "lut": "LUTs of the machine, estimate",
    "dsp": "DSPs of the machine, estimate",
    "ram_kbit": "block RAM of the buffers, kbit",
}
"""What cycles are drawn against -> title of the axis."""

_PATTERNS: Final = (*(f"pareto_{cost}" for cost in COSTS), "heat_*", "roofline", "accuracy")

NAMES: Final = tuple(f"{name}.{kind}" for name in _PATTERNS for kind in KINDS)
"""Files of the figures, as patterns."""

MOST_LINES: Final = 24
"""Rows of a figure's table on the page; all are in its files."""

_ESTIMATED: Final = standing_of(Source.ESTIMATE)
_TOLD: Final = told(Source.ESTIMATE).replace("`", "")


def sweep_figures(rows: Sequence[Row], axes: Iterable[str], basis: Basis) -> list[Figure]:
    """Return the figures of a sweep in their order. basis: command and machines.

    Heat maps: of every two fields of the machine with several values, at most `MOST_FIELDS`; roofline: of what ran in
    the quick gear; accuracy: where it is known.
    """
    found = [row for row in rows if row["cycles"] is not None]
    if not found:
        return []
    works = works_of(found)
    with style():
        figures = [_pareto(works, cost, basis) for cost in COSTS]
        fields = [name.removeprefix("set.") for name in axes if name.startswith("set.")][:MOST_FIELDS]
        first = next(iter(works.values()))
        for index, (down, across) in enumerate(combinations(fields, 2), 1):
            figures.append(_heat(first, down, across, index, basis))
        ran = works_of([row for row in found if row.get("exact_macs")])
        if ran:
            figures.append(_roofline(ran, basis))
        known = [row for row in found if row.get("accuracy") is not None]
        if known:
            figures.append(_accuracy(known, basis))
        return figures


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


def _pareto(works: dict[str, list[Row]], cost: str, basis: Basis) -> Figure:
    drawing, axes = _start(320)
    image = sum(map(len, works.values())) > MOST_MARKS
    edges: list[Row] = []
    for name, rows in works.items():
        least = None
        for row in sorted(rows, key=lambda row: (row[cost], row["cycles"])):
            if least is None or row["cycles"] < least:
                least = row["cycles"]
                known = {"work": name, "machine": row["machine"], "standing": _ESTIMATED}
                edges.append({**known, cost: row[cost], "cycles": least})
    for color, (name, rows) in zip(PALETTE, works.items(), strict=False):
        xs, ys = [row[cost] for row in rows], [row["cycles"] for row in rows]
        axes.scatter(xs, ys, s=9, color=color, alpha=0.5, linewidths=0, rasterized=image)
        edge = [(row[cost], row["cycles"]) for row in edges if row["work"] == name]
        axes.plot([x for x, _ in edge], [y for _, y in edge], "o-", color=color, markersize=6, mfc="none", label=name)
    axes.set(xscale="log", yscale="log", xlabel=COSTS[cost], ylabel="cycles of a step")
    mark_axis(axes.xaxis, [row[cost] for rows in works.values() for row in rows])
    mark_axis(axes.yaxis, [row["cycles"] for rows in works.values() for row in rows])
    drawing.legend(loc="outside upper left")
    title, caption = f"Cycles against {COSTS[cost]}", f"Rings: the points that no cheaper one beats.{_shown(works)}"
    columns = {
        "work": field("work"),
        COSTS[cost].partition(" of")[0]: number(cost, ",d"),
        "cycles": number("cycles", ",d"),
        "machine": field("machine"),
    }
    standing = (
        (_ESTIMATED, f"cycles, {_TOLD}"),
        (Standing.MODELLED, COSTS[cost] if cost == "ram_kbit" else f"{COSTS[cost]}; packing and routing are not in it"),
    )
    return _figure(f"pareto_{cost}", title, caption, drawing, columns, edges, basis, standing)


def _heat(rows: Sequence[Row], down: str, across: str, index: int, basis: Basis) -> Figure:
    """Draw the fewest cycles of a work, over the fewest of all, for each pair of values of two fields."""
    best: dict[tuple[Any, Any], int] = {}
    for row in rows:
        at = (row[down], row[across])
        best[at] = min(row["cycles"], best.get(at, row["cycles"]))
    ys, xs = (sorted({at[place] for at in best}) for place in (0, 1))
    least = min(best.values())
    grid = [[best[y, x] / least if (y, x) in best else float("nan") for x in xs] for y in ys]
    drawing = new_figure(min(360, 80 + 40 * len(ys)))
    axes = drawing.subplots()
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
    axes.set_title(f"{down} and {across}")
    caption = (
        f"Fewest cycles of {work_of(rows[0])} with these two, over the fewest of all "
        f"({least:,} cycles); from {1.0:.2f} (light) to {max(best.values()) / least:.2f} (dark)."
    )
    found = [
        {down: y, across: x, "standing": _ESTIMATED, "cycles": cycles, "over_fewest": cycles / least}
        for (y, x), cycles in sorted(best.items(), key=lambda item: item[1])
    ]
    columns = {
        down: number(down, "g"),
        across: number(across, "g"),
        "cycles": number("cycles", ",d"),
        "over the fewest": number("over_fewest", ".2f"),
    }
    standing = ((_ESTIMATED, f"cycles, {_TOLD}"),)
    return _figure(f"heat_{index}", f"Cycles by {down} and {across}", caption, drawing, columns, found, basis, standing)


def _roofline(works: dict[str, list[Row]], basis: Basis) -> Figure:
    """Draw the use of the array against what memory allows it, for what ran."""
    drawing, axes = _start(300)
    found = [
        {
            "work": name,
            "machine": row["machine"],
            "standing": standing_of(Source.MACHINE),
            "macs_per_byte": row["exact_macs"] / (row["exact_bytes_read"] + row["exact_bytes_written"]),
            "utilization": row["exact_utilization"],
            "roofline": row["exact_roofline"],
        }
        for name, rows in works.items()
        for row in rows
    ]
    drawn = dict(zip(works, PALETTE, strict=False))
    for name, color in drawn.items():
        mine = [row for row in found if row["work"] == name]
        xs, ys, roofs = ([row[key] for row in mine] for key in ("macs_per_byte", "utilization", "roofline"))
        axes.vlines(xs, ys, roofs, color=color, linewidth=1, alpha=0.6)
        axes.plot(xs, roofs, "_", color=color, markersize=10)
        axes.plot(xs, ys, "o", color=color, markersize=5, label=name)
    axes.set(xscale="log", xlabel="multiply-adds per byte of memory", ylabel="share of the array in use")
    axes.set_ylim(0, 1.05)
    axes.axhline(1, color=INK, linewidth=0.8)
    mark_axis(axes.xaxis, [row["macs_per_byte"] for row in found if row["work"] in drawn])
    drawing.legend(loc="outside upper left")
    caption = (
        "Points of the fronts: use of the array (dots) below what array and memory allow on the whole step (bars)."
        f"{_shown(works)}"
    )
    columns = {
        "work": field("work"),
        "use": number("utilization", ".1%"),
        "roof": number("roofline", ".1%"),
        "multiply-adds per byte": number("macs_per_byte", ",.1f"),
        "machine": field("machine"),
    }
    standing = (
        (standing_of(Source.MACHINE), f"use and bytes, {told(Source.MACHINE).replace('`', '')}"),
        (Standing.MODELLED, "the bars: bandwidth of the memory as the configurations state it"),
    )
    title = "Use of the array under its roofline"
    return _figure("roofline", title, caption, drawing, columns, found, basis, standing)


def _accuracy(rows: Sequence[Row], basis: Basis) -> Figure:
    """Draw the accuracy of trainings against the fewest cycles of a step that a machine of the sweep takes."""
    best: dict[str, Row] = {}
    for row in rows:
        key = work_of(row)
        if key not in best or row["cycles"] < best[key]["cycles"]:
            best[key] = row
    drawing, axes = _start(300)
    networks = list(dict.fromkeys(row["network"] for row in best.values()))
    for color, network in zip(PALETTE, networks, strict=False):
        mine = [row for row in best.values() if row["network"] == network]
        xs, ys = [row["cycles"] for row in mine], [100 * row["accuracy"] for row in mine]
        axes.plot(xs, ys, "o", color=color, label=network)
        for row, x, y in zip(mine, xs, ys, strict=True):
            text = row["method"] if row["method"] == "dense" else f"{row['method']} {row['pattern']}"
            axes.annotate(text, (x, y), (4, 3), textcoords="offset points", fontsize=11.5)
    axes.set(xscale="log", xlabel="cycles of a step, fewest of the sweep", ylabel="test accuracy, %")
    mark_axis(axes.xaxis, [row["cycles"] for row in best.values()])
    axes.yaxis.set_major_formatter("{x:g}")
    axes.margins(x=0.25, y=0.15)
    drawing.legend(loc="outside upper left")
    more = len(networks) - MOST_WORKS
    caption = "Accuracy of trainings against the fewest cycles that a step takes on a machine of the sweep."
    caption += f" {more} networks not drawn." if more > 0 else ""
    found = [
        {"work": name, "machine": row["machine"], "standing": Standing.MEASURED, "accuracy": row["accuracy"],
         "cycles": row["cycles"]}
        for name, row in best.items()
    ]  # fmt: skip
    columns = {
        "work": field("work"),
        "accuracy": number("accuracy", ".2%"),
        "cycles": number("cycles", ",d"),
        "machine": field("machine"),
    }
    standing = (
        (Standing.MEASURED, "accuracies, of the table of nmsat study that was named"),
        (_ESTIMATED, f"cycles, {_TOLD}"),
    )
    return _figure("accuracy", "Accuracy against cycles", caption, drawing, columns, found, basis, standing)


def _figure(
    name: str,
    title: str,
    caption: str,
    drawing: Drawing,
    columns: Mapping[str, Callable[[Mapping[str, Any]], str]],
    rows: Sequence[Row],
    basis: Basis,
    standing: tuple[tuple[Standing, str], ...],
) -> Figure:
    """Return a figure whose table has the first rows; what is left is said."""
    more = len(rows) - MOST_LINES
    notes = (f"The table has {MOST_LINES} of {len(rows)} rows; all are in {name}.csv and {name}.json.",)
    table = table_of(title, columns, rows[:MOST_LINES])
    picture = take_picture(drawing, name, title, caption)
    origin = basis.origin(*standing)
    return Figure(name, title, caption, picture, table, tuple(rows), origin, notes if more > 0 else ())


def _start(height: float) -> tuple[Drawing, Axes]:
    drawing = new_figure(height)
    drawing.set_dpi(144)
    axes = drawing.subplots()
    axes.grid(visible=True)
    return drawing, axes


def mark_axis(axis: Axis, values: Sequence[float]) -> None:
    """Mark a logarithmic axis at up to four numbers, evenly from the least to the most.

    They have two digits, and three where all values lie close together: none is moved out of the picture.
    """
    low, high = min(values), max(values)
    steps = 3 if high > 1.5 * low else 1 if high > low else 0
    places = [low * (high / low) ** (step / max(1, steps)) for step in range(steps + 1)]
    axis.set_major_locator(FixedLocator(sorted({float(f"{place:.{2 if steps > 1 else 3}g}") for place in places})))
    axis.set_major_formatter(GROUPED if low >= 10 else "{x:g}")
    axis.set_minor_locator(NullLocator())


def _shown(works: dict[str, list[Row]]) -> str:
    return f" {len(works)} works, the first {MOST_WORKS} drawn." if len(works) > MOST_WORKS else ""
