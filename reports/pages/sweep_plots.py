"""Figures of a sweep: cycles against what a machine takes, heat maps over its fields, roofline, accuracy."""

from __future__ import annotations

import json
from collections import defaultdict
from itertools import combinations
from typing import TYPE_CHECKING, Any, Final

from matplotlib.ticker import FixedLocator, NullLocator

from nmsat.reports.pages.figure import KINDS, Figure, field, number, table_of, take_picture
from nmsat.reports.pages.style import DENSE_COLOR, GROUPED, INK, PALETTE, new_figure, style
from nmsat.reports.work.standing import Standing, standing_of
from nmsat.reports.work.sweep_front import estimate_off, exact_cycles, told_here
from nmsat.sim.results.provenance import Source, told

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure as Drawing

    from nmsat.reports.work.standing import Basis

Row = dict[str, Any]

MARKS: Final = tuple(
    (color, marker, line)
    for marker, line in (("o", "-"), ("s", "--"), ("^", ":"))
    for color in PALETTE
)[:8]  # fmt: skip
"""Colour, mark and line of the works of a picture, told apart also without colours."""

MOST_WORKS: Final = len(MARKS)
"""Works that are drawn in a picture."""

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

_LOOKS: Final = tuple(
    {"color": color, "fillstyle": filling} for filling in ("full", "none", "left") for color in PALETTE
)  # fmt: skip
"""Colours and fillings of the networks in the picture of accuracies."""

_SHAPES: Final = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">")
"""Marks of the trainings in the picture of accuracies."""

_DOTS: Final = 144
"""Dots of an image inside a picture to an inch of 72 units."""

_MOST_DIGITS: Final = 15
"""Digits of a number that any two on an axis are told apart by with fewer."""

_LINE: Final = 15
"""Height of a line of a legend, units."""

_ESTIMATED: Final = standing_of(Source.ESTIMATE)


def sweep_figures(rows: Sequence[Row], axes: Iterable[str], basis: Basis) -> list[Figure]:
    """Return the figures of a sweep in their order. basis: command and machines.

    Heat maps: of every two fields of the machine with several values, at most `MOST_FIELDS`; roofline: of what ran in
    the quick gear; accuracy: where it is known.
    """
    found = [row for row in rows if row["cycles"] is not None]
    if not found:
        return []
    works, words = works_of(found), told_here(estimate_off(found))
    with style():
        figures = [_pareto(works, cost, basis, words) for cost in COSTS]
        fields = [name.removeprefix("set.") for name in axes if name.startswith("set.")][:MOST_FIELDS]
        first = next(iter(works.values()))
        for index, (down, across) in enumerate(combinations(fields, 2), 1):
            figures.append(_heat(first, down, across, index, basis, words))
        ran = works_of([row for row in found if row.get("exact_macs")])
        if ran:
            figures.append(_roofline(ran, basis))
        known = [row for row in found if row.get("accuracy") is not None]
        if known:
            figures.append(_accuracy(known, basis, words))
        return figures


def works_of(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Return the points by what they compute."""
    works: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        works[work_of(row)].append(row)
    return works


def work_of(row: Row) -> str:
    """Return in words what a point computes."""
    return f"{row['network']}, batch {row['batch'] or 'as recorded'}, {_training(row)}"


def _pareto(works: dict[str, list[Row]], cost: str, basis: Basis, words: str) -> Figure:
    drawn = dict(zip(works, MARKS, strict=False))
    drawing, axes = _start(320 + _LINE * max(0, len(drawn) - 3))
    image = sum(map(len, works.values())) > MOST_MARKS
    edges = [{"work": name, **edge} for name, rows in works.items() for edge in _edge(rows, cost)]
    for name, (color, marker, line) in drawn.items():
        look = {"color": color, "marker": marker, "linewidths": 0, "rasterized": image}
        for ran, alpha in ((False, 0.3), (True, 0.9)):
            rows = [row for row in works[name] if bool(exact_cycles(row)) == ran]
            axes.scatter([row[cost] for row in rows], [_cycles(row) for row in rows], s=9, alpha=alpha, **look)
        mine = [edge for edge in edges if edge["work"] == name]
        xs, ys = [edge[cost] for edge in mine], [edge["cycles"] for edge in mine]
        axes.plot(xs, ys, linestyle=line, marker=marker, color=color, markersize=7, mfc="none", label=name)
    axes.set(xscale="log", yscale="log", xlabel=COSTS[cost], ylabel="cycles of a step")
    mark_axis(axes.xaxis, [row[cost] for name in drawn for row in works[name]])
    mark_axis(axes.yaxis, [_cycles(row) for name in drawn for row in works[name]])
    drawing.legend(loc="outside upper left")
    title = f"Cycles against {COSTS[cost]}"
    ran = any(exact_cycles(row) for rows in works.values() for row in rows)
    how = "Exact where a point ran (dark), the estimate elsewhere (pale)" if ran else "Cycles by the estimate"
    caption = f"{how}. Large marks: the points that no cheaper one beats, of those that ran where any did."
    columns = {
        "work": field("work"),
        COSTS[cost].partition(" of")[0]: number(cost, ",d"),
        "cycles": number("cycles", ",d"),
        "standing": field("standing"),
        "machine": field("machine"),
    }
    standing = (
        *_standing_of_cycles(works, words),
        (Standing.MODELLED, COSTS[cost] if cost == "ram_kbit" else f"{COSTS[cost]}; packing and routing are not in it"),
    )
    return _figure(f"pareto_{cost}", title, caption + _shown(works), drawing, columns, edges, basis, standing)


def _edge(rows: Sequence[Row], cost: str) -> list[Row]:
    """Return the points of a work that no cheaper one beats: of those that ran if any did."""
    least, found = None, []
    for row in sorted(_best_known(rows), key=lambda row: (row[cost], _cycles(row))):
        if least is None or _cycles(row) < least:
            least = _cycles(row)
            found.append({"machine": row["machine"], "standing": _standing(row), cost: row[cost], "cycles": least})
    return found


def _cycles(row: Row) -> int:
    """Return exact cycles where the point ran, those of the estimate elsewhere."""
    return exact_cycles(row) or row["cycles"]


def _standing(row: Row) -> Standing:
    return standing_of(Source.MACHINE) if exact_cycles(row) else _ESTIMATED


def _best_known(rows: Sequence[Row]) -> Sequence[Row]:
    """Return the points of a work whose cycles are exact if there are any, all of them otherwise."""
    return [row for row in rows if exact_cycles(row)] or rows


def _standing_of_cycles(works: Mapping[str, Sequence[Row]], words: str) -> tuple[tuple[Standing, str], ...]:
    rows = [row for found in works.values() for row in found]
    exact = (standing_of(Source.MACHINE), f"cycles of points that ran, {told(Source.MACHINE).replace('`', '')}")
    estimated = (_ESTIMATED, f"cycles of the others, {words}")
    kinds = {bool(exact_cycles(row)) for row in rows}
    return (*((exact,) if True in kinds else ()), *((estimated,) if False in kinds else ()))


def _heat(rows: Sequence[Row], down: str, across: str, index: int, basis: Basis, words: str) -> Figure:
    """Draw the fewest cycles of a work, over the fewest of all, for each pair of values of two fields."""
    best: dict[tuple[Any, Any], int] = {}
    for row in rows:
        at = (row[down], row[across])
        best[at] = min(row["cycles"], best.get(at, row["cycles"]))
    ys, xs = (sorted({at[place] for at in best}, key=_order) for place in (0, 1))
    least = min(best.values())
    grid = [[best[y, x] / least if (y, x) in best else float("nan") for x in xs] for y in ys]
    drawing = new_figure(min(360, 80 + 40 * len(ys)))
    drawing.set_dpi(_DOTS)
    axes = drawing.subplots()
    axes.imshow(grid, cmap="cividis_r", aspect="auto", origin="lower", interpolation="nearest")
    axes.set(xlabel=across, ylabel=down)
    for axis, values in ((axes.xaxis, xs), (axes.yaxis, ys)):
        places = range(0, len(values), 1 + len(values) // MOST_CELLS)
        axis.set_ticks(list(places), [_value(values[place]) for place in places])
    axes.tick_params(length=0, color=DENSE_COLOR)
    middle = (max(best.values()) / least + 1) / 2
    for (y, x), cycles in best.items() if max(len(xs), len(ys)) < MOST_CELLS else ():
        color = "white" if cycles / least > middle else "black"
        axes.text(xs.index(x), ys.index(y), f"{cycles / least:.2f}", ha="center", va="center", color=color)
    axes.set_title(f"{down} and {across}")
    caption = (
        f"Fewest cycles of {work_of(rows[0])} with these two, over the fewest of all "
        f"({least:,} cycles); from {1.0:.2f} (light) to {max(best.values()) / least:.2f} (dark)."
        f"{_left_out(drawing, axes, {down: len(ys), across: len(xs)})}"
    )
    found = [
        {down: y, across: x, "standing": _ESTIMATED, "cycles": cycles, "over_fewest": cycles / least}
        for (y, x), cycles in sorted(best.items(), key=lambda item: item[1])
    ]
    columns = {
        down: lambda row: _value(row[down]),
        across: lambda row: _value(row[across]),
        "cycles": number("cycles", ",d"),
        "over the fewest": number("over_fewest", ".2f"),
    }
    standing = ((_ESTIMATED, f"cycles, {words}"),)
    return _figure(f"heat_{index}", f"Cycles by {down} and {across}", caption, drawing, columns, found, basis, standing)


def _order(value: Any) -> Any:
    """Return what values of a field are sorted by; slices are text in the table, and sorted by their places."""
    return json.loads(value) if isinstance(value, str) else value


def _value(value: Any) -> str:
    return value if isinstance(value, str) else f"{value:g}"


def _left_out(drawing: Drawing, axes: Axes, counts: Mapping[str, int]) -> str:
    """Return how many values of a field have no dots of their own in the picture, '' if all have."""
    drawing.draw_without_rendering()  # runs the layout, which places are measured in
    room = dict(zip(counts, (int(axes.bbox.height), int(axes.bbox.width)), strict=True))
    return "".join(
        f" {room[name]} of the {count} values of {name} are drawn; all are in the files."
        for name, count in counts.items()
        if count > room[name]
    )


def _roofline(works: dict[str, list[Row]], basis: Basis) -> Figure:
    """Draw the use of the array against what memory allows it, for what ran."""
    drawn = dict(zip(works, MARKS, strict=False))
    drawing, axes = _start(300 + _LINE * max(0, len(drawn) - 3))
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
    for name, (color, marker, _) in drawn.items():
        mine = [row for row in found if row["work"] == name]
        xs, ys, roofs = ([row[key] for row in mine] for key in ("macs_per_byte", "utilization", "roofline"))
        axes.vlines(xs, ys, roofs, color=color, linewidth=1, alpha=0.6)
        axes.plot(xs, roofs, "_", color=color, markersize=10)
        axes.plot(xs, ys, marker, color=color, markersize=5, label=name)
    axes.set(xscale="log", xlabel="multiply-adds per byte of memory", ylabel="share of the array in use")
    axes.set_ylim(0, 1.05)
    axes.axhline(1, color=INK, linewidth=0.8)
    mark_axis(axes.xaxis, [row["macs_per_byte"] for row in found if row["work"] in drawn])
    drawing.legend(loc="outside upper left")
    caption = (
        "Points that ran: use of the array (marks) below what array and memory allow on the whole step (bars)."
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


def _accuracy(rows: Sequence[Row], basis: Basis, words: str) -> Figure:
    """Draw the accuracy of trainings against the fewest cycles of a step that a machine of the sweep takes."""
    best = {name: min(_best_known(found), key=_cycles) for name, found in works_of(rows).items()}
    networks = dict.fromkeys(row["network"] for row in best.values())
    trainings = dict.fromkeys(_training(row) for row in best.values())
    looks: dict[str, dict[str, Any]] = dict(zip(networks, _LOOKS, strict=False))
    marks = dict(zip(trainings, _SHAPES, strict=False))
    drawn = [row for row in best.values() if row["network"] in looks and _training(row) in marks]
    names = len(looks) + len(marks)
    drawing, axes = _start(270 + _LINE * (names + 1) // 2)
    for row in drawn:
        look: dict[str, Any] = looks[row["network"]] | {"marker": marks[_training(row)]}
        axes.plot(_cycles(row), 100 * row["accuracy"], linestyle="none", markersize=8, **look)
    greys: dict[str, dict[str, Any]] = {name: {"color": DENSE_COLOR, "marker": mark} for name, mark in marks.items()}
    for name, look in (*looks.items(), *greys.items()):
        sample: dict[str, Any] = {"marker": "o"} | look
        axes.plot([], [], linestyle="none", markersize=8, label=name, **sample)
    axes.set(xscale="log", xlabel="cycles of a step, fewest of the sweep", ylabel="test accuracy, %")
    mark_axis(axes.xaxis, [_cycles(row) for row in drawn])
    axes.yaxis.set_major_formatter("{x:g}")
    axes.margins(x=0.1, y=0.1)
    drawing.legend(loc="outside upper left", ncols=2)
    caption = "Accuracy of trainings against the fewest cycles that a step takes on a machine of the sweep: colours "
    caption += "and fillings are networks, shapes are trainings."
    caption += f" {len(best) - len(drawn)} of {len(best)} points not drawn." if len(best) > len(drawn) else ""
    found = [
        {"work": name, "machine": row["machine"], "standing": Standing.MEASURED, "accuracy": row["accuracy"],
         "cycles": _cycles(row)}
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
        *_standing_of_cycles({name: [row] for name, row in best.items()}, words),
    )
    return _figure("accuracy", "Accuracy against cycles", caption, drawing, columns, found, basis, standing)


def _training(row: Row) -> str:
    return row["method"] if row["method"] == "dense" else f"{row['method']} {row['pattern']}"


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
    drawing.set_dpi(_DOTS)
    axes = drawing.subplots()
    axes.grid(visible=True)
    return drawing, axes


def mark_axis(axis: Axis, values: Sequence[float]) -> None:
    """Mark a logarithmic axis at two to four numbers, evenly from the least to the most.

    They have as few digits, from two on, as tell them apart and move none out of the picture. An axis with one value
    reaches a quarter further on both sides.
    """
    low, high = min(values), max(values)
    if low == high:
        low, high = low / 1.25, high * 1.25
        axis.set_view_interval(low / 1.05, high * 1.05, ignore=True)
    steps = 3 if high > 1.5 * low else 1
    places = [low * (high / low) ** (step / steps) for step in range(steps + 1)]
    slack = (high / low) ** 0.04  # what the axis reaches beyond the values, and not quite
    forms = ((digits, sorted({float(f"{place:.{digits}g}") for place in places})) for digits in range(2, _MOST_DIGITS))
    digits, marked = next(
        (digits, marked)
        for digits, marked in forms
        if len(marked) > steps and low / slack <= marked[0] and marked[-1] <= high * slack
    )
    axis.set_major_locator(FixedLocator(marked))
    whole = all(place == round(place) for place in marked)
    axis.set_major_formatter(GROUPED if whole and low >= 10 else f"{{x:.{digits}g}}")
    axis.set_minor_locator(NullLocator())


def _shown(works: dict[str, list[Row]]) -> str:
    return f" {len(works)} works, the first {MOST_WORKS} drawn." if len(works) > MOST_WORKS else ""
