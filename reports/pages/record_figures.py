"""Figures of committed records: accuracy against the cycles of a step, workloads on the machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from matplotlib.ticker import MaxNLocator

from nmsat.algorithms.workloads.engine.registry import VARIANTS
from nmsat.reports.pages.drawing import BAR, FOOT, HEAD, Panel, bar_panels
from nmsat.reports.pages.figure import Figure, field, number, table_of, take_picture
from nmsat.reports.pages.style import BLUE, DENSE_COLOR, INK, SMALL, VERMILLION, new_figure, style
from nmsat.reports.pages.workload_page import machine_cells
from nmsat.reports.work.committed import CYCLES_PAGE
from nmsat.reports.work.losses import CONFIDENCE, half_width
from nmsat.reports.work.standing import Basis, Standing, standing_of
from nmsat.reports.work.text import InputError
from nmsat.sim.results.provenance import Source, told

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.figure import Figure as Drawing

METHOD: Final = "bdwp"
PATTERN: Final = "2:8"
"""Of the points in the picture: those of the paper; all others are in the table."""


def accuracy_rows(record: Mapping[str, Any]) -> tuple[dict[str, Any], ...]:
    """Return accuracy, loss against dense and cycles of a step of every network, method and pattern of a study.

    record: as `nmsat study` writes it. points_lost: percent points, mean over the seeds; half_width: half of its 95 %
    confidence interval; cycles and speed-up are None where the machine has no program for a method.
    """
    return tuple(
        {
            "network": row["network"],
            "method": row["method"],
            "pattern": row["pattern"],
            "standing": Standing.MEASURED,
            "seeds": row["seeds"],
            "accuracy": row["accuracy"],
            "points_lost": row["loss_points"],
            "half_width": half_width(row["by_seed"]) if row["method"] != "dense" else None,
            "cycles": row["sat"]["cycles"],
            "speedup": row["sat"]["speedup"],
            "bound": row["sat"]["bound"],
        }
        for row in record["rows"]
        if not row["variant"]
    )


def accuracy_figure(record: Mapping[str, Any], basis: Basis) -> Figure:
    """Return what training loses against what its step takes."""
    rows = accuracy_rows(record)
    shown = [row for row in rows if (row["method"], row["pattern"]) == (METHOD, PATTERN) and row["speedup"]]
    shown.sort(key=lambda row: -row["speedup"])
    title = "Accuracy against cycles"
    interval = f"{100 * CONFIDENCE:.0f} % confidence interval"
    caption = (
        f"{METHOD} at {PATTERN}, the fewest cycles first: points of test accuracy lost against dense training, and "
        f"cycles of a step in percent of the dense step. Lines: {interval} over seeds; one that holds 0 shows neither "
        "a loss nor that there is none."
    )
    words = "; ".join(
        f"{row['network']} {row['points_lost']:.2f} points at {row['speedup']:.2f} times the speed" for row in shown
    )
    with style():
        picture = take_picture(_accuracy(shown, record["paper_loss"]), "accuracy", title, f"{caption} {words}.")
    columns = {
        "training": lambda row: f"{row['network']} {row['method']} {row['pattern']}".replace("dense dense", "dense"),
        "accuracy": number("accuracy", ".2%"),
        "points lost": _lost,
        "speed-up": number("speedup", ".2f", "×"),
        "cycles": number("cycles", ",d"),
        "seeds": field("seeds"),
    }
    asked = [row for row in rows if row["method"] in ("dense", METHOD)]
    table = table_of(f"dense and {METHOD}; other methods are in the files", columns, asked)
    standing = (
        (Standing.MEASURED, "accuracies, of training runs that this repository repeats bit for bit"),
        (standing_of(Source(record["source"])), f"cycles of a step on configuration {record['machine']}"),
        (Standing.QUOTED, f"{record['paper_loss']} points of the paper, over its own networks and data"),
    )
    data = "; ".join(dict.fromkeys(found["source"] for found in record["data"].values()))
    notes = [f"Data: {data}. These are small networks in the spirit of the paper's, not the paper's."]
    fast = [name for name, recipe in record["recipes"].items() if recipe["arithmetic"] == "fast"]
    if fast:
        notes.append(f"The runs of {', '.join(fast)} computed in plain binary32, not in the machine's arithmetic.")
    return Figure("accuracy", title, caption, picture, table, rows, basis.origin(*standing), tuple(notes))


def _lost(row: Mapping[str, Any]) -> str:
    half = "" if row["half_width"] is None else f" ± {row['half_width']:.2f}"
    return "–" if row["points_lost"] is None else f"{row['points_lost'] + 0:.2f}{half}"


def _accuracy(rows: Sequence[Mapping[str, Any]], paper: float) -> Drawing:
    """Draw a row for each training, the fewest cycles first: its loss with its interval."""
    figure = new_figure(BAR * (len(rows) + 1) + FOOT + 30)
    axes = figure.subplots()
    axes.axvline(0, color=DENSE_COLOR, linewidth=1)
    line = axes.axvline(paper, color=INK, linewidth=1, linestyle=(0, (4, 3)), label=f"mean of the paper: {paper:.2f}")
    for place, row in enumerate(rows):
        x, half = row["points_lost"], row["half_width"]
        if half is not None:
            axes.plot((x - half, x + half), (place, place), color=VERMILLION, linewidth=1.6)
        axes.plot(x, place, "o", color=VERMILLION, markersize=6)
        axes.text(1.02, place, f"{x + 0:.2f}", transform=axes.get_yaxis_transform(), va="center", fontsize=SMALL)
    axes.set_yticks(range(len(rows)), [f"{row['network']}, {100 / row['speedup']:.0f} %" for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")
    axes.set_xlabel("points lost; names: cycles of dense")
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    figure.legend(handles=[line], loc="outside upper left")
    return figure


def workload_rows(record: Mapping[str, Mapping[str, int]], page: str) -> tuple[dict[str, Any], ...]:
    """Return cycles and speed-up of each workload, the fastest first.

    record: as `workload table` keeps it, of workloads whose programs ran; page: its `CYCLES_PAGE`, which has all, '' if
    there is none. Of those that it alone has no dense cycles are known, and a speed-up of two places.
    """
    found: dict[tuple[str, str], tuple[Standing, int, int | None, float]] = {
        (name.rpartition(" ")[0], name.rpartition(" ")[2]): (
            standing_of(Source.MACHINE),
            entry["cycles"],
            entry["cycles_dense"],
            entry["cycles_dense"] / entry["cycles"],
        )
        for name, entry in record.items()
    }
    try:
        told_of = machine_cells(page) if page else {}
    except (ValueError, IndexError) as error:
        raise InputError(f"{CYCLES_PAGE} is no page of workloads ({error}); nmsat workload table writes one") from None
    for key, (cycles, speedup, ran) in told_of.items():
        standing = standing_of(Source.MACHINE if ran else Source.ESTIMATE)
        found.setdefault(key, (standing, cycles, None, speedup))
    keys = ("standing", "cycles", "cycles_dense", "speedup")
    rows = [
        {"workload": name, "variant": variant, **dict(zip(keys, values, strict=True))}
        for (name, variant), values in found.items()
    ]
    return tuple(sorted(rows, key=lambda row: (-row["speedup"], row["workload"], row["variant"])))


def workload_figure(values: Mapping[str, Any], basis: Basis) -> Figure:
    """Return the speed-up of one workload: ideal, on the array alone, on the machine. values: of `workload_run`."""
    memory = values["with_memory"]
    sources = (Source(values["cycles_source"]), Source(memory["source"]))
    rows = (
        {
            "what": "array",
            "standing": standing_of(sources[0]),
            "cycles": values["cycles"],
            "cycles_dense": values["cycles_dense"],
            "speedup": values["speedup"],
        },
        {
            "what": "machine",
            "standing": standing_of(sources[1]),
            "cycles": memory["cycles"],
            "cycles_dense": memory["cycles_dense"],
            "speedup": memory["speedup"],
        },
    )
    title = "Speed-up of the method"
    caption = (
        "Cycles of the same work with nothing left out over those of the method. Upright mark: what leaving out as "
        "many multiply-adds could bring at best."
    )
    bars = {row["what"]: row["speedup"] for row in rows}
    panel = Panel(f"{values['name']}, {values['variant']}", bars, dict.fromkeys(bars, values["speedup_ideal"]))
    words = f"{bars['array']:.2f} on the array, {bars['machine']:.2f} on the machine"
    with style():
        drawing = bar_panels([panel], BLUE, "times as fast as with nothing left out")
        picture = take_picture(drawing, "workload", title, f"{caption} {words}, {values['speedup_ideal']:.2f} ideal.")
    columns = {
        "on the": field("what"),
        "speed-up": number("speedup", ".2f", "×"),
        "cycles": number("cycles", ",d"),
        "dense cycles": number("cycles_dense", ",d"),
        "standing": field("standing"),
    }
    standing = tuple(
        (standing_of(source), f"{row['what']}, {told(source)}") for source, row in zip(sources, rows, strict=True)
    )
    table = table_of("Cycles and speed-up", columns, rows)
    notes = (f"The paper says (quoted, not ours): {values['quoted']}",)
    return Figure("workload", title, caption, picture, table, rows, basis.origin(*standing), notes)


def workloads_figure(record: Mapping[str, Mapping[str, int]], page: str, basis: Basis) -> Figure:
    """Return the speed-up of published sparse methods. record, page: as of `workload_rows`."""
    rows = workload_rows(record, page)
    ran = [row for row in rows if row["standing"] == standing_of(Source.MACHINE)]
    title = "Other sparse methods"
    caption = (
        "Cycles of the same work with nothing left out over those of the method, whole programs with memory, at the "
        "sizes of the papers: as published (rings) and in an N:M form of ours (dots); the number is the larger. Blue: "
        "the programs ran. Grey: the estimate. A logarithmic axis; the line is 1."
    )
    words = "; ".join(f"{row['workload']} {row['variant']} {row['speedup']:.2f}" for row in rows)
    with style():
        picture = take_picture(_workloads(rows), "workloads", title, f"{caption} {words}.")
    columns = {
        "workload": field("workload"),
        "speed-up": number("speedup", ".2f", "×"),
        "variant": field("variant"),
        "standing": field("standing"),
        "cycles": number("cycles", ",d"),
        "dense cycles": number("cycles_dense", ",d"),
    }
    left = len(rows) - len(ran)
    others = f"Of {left} of the {len(rows)} the programs have not run: that takes up to an hour each. They are of the "
    others += "estimate; nmsat workload table --exact NAME,... runs them."
    alone = f"Only the {len(ran)} whose programs have run are here: {CYCLES_PAGE}, which has the others, is not there."
    standing = [(standing_of(Source.MACHINE), "cycles, as recorded when the programs ran")] if ran else []
    standing += [(standing_of(Source.ESTIMATE), f"cycles, {told(Source.ESTIMATE).replace('`', '')}")] if left else []
    table = table_of("Workloads, the largest speed-up first", columns, rows)
    notes = (others,) if left else () if page else (alone,)
    return Figure("workloads", title, caption, picture, table, rows, basis.origin(*standing), notes)


def _workloads(rows: Sequence[Mapping[str, Any]]) -> Drawing:
    names = list(dict.fromkeys(row["workload"] for row in rows))
    figure = new_figure(BAR * len(names) + FOOT + HEAD)
    axes = figure.subplots()
    for place, name in enumerate(names):
        mine = [row for row in rows if row["workload"] == name]
        ends = [row["speedup"] for row in mine]
        axes.plot((min(ends), max(ends)), (place, place), color=DENSE_COLOR, linewidth=1, zorder=1)
        for row in mine:
            color = BLUE if row["standing"] == standing_of(Source.MACHINE) else DENSE_COLOR
            ring = row["variant"] == VARIANTS[0]
            face, size = ("none", 8) if ring else (color, 5)
            axes.plot(row["speedup"], place, "o", color=color, markerfacecolor=face, markersize=size)
        at = (max(ends), place)
        axes.annotate(f"{max(ends):.2f}×", at, (8, 0), textcoords="offset points", va="center", fontsize=SMALL)
    least, most = min(row["speedup"] for row in rows), max(row["speedup"] for row in rows)
    axes.set(xscale="log", xlabel="times as fast as with nothing left out")
    axes.set_xlim(min(0.9, 0.9 * least), 1.8 * most)
    axes.xaxis.set_major_formatter("{x:g}×")
    axes.xaxis.set_minor_formatter("")
    axes.axvline(1, color=INK, linewidth=0.8, zorder=0)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.plot([], [], "o", color=INK, markerfacecolor="none", markersize=8, label="as published")
    for label, color in (("N:M form", INK), ("programs ran", BLUE), (str(Source.ESTIMATE), DENSE_COLOR)):
        axes.plot([], [], "o", color=color, markersize=5, label=label)
    figure.legend(loc="outside upper left", ncols=2)
    return figure
