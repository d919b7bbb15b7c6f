"""Figures of committed records: accuracy against the cycles of a step, workloads on the machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from matplotlib.ticker import MaxNLocator

from nmsat.reports.pages.drawing import BAR, FOOT, Panel, bar_panels
from nmsat.reports.pages.figure import Figure, field, number, table_of, take_picture
from nmsat.reports.pages.style import BLUE, DENSE_COLOR, INK, SMALL, VERMILLION, new_figure, style
from nmsat.reports.work.losses import CONFIDENCE, half_width
from nmsat.reports.work.standing import Basis, Standing, standing_of
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


def workload_rows(record: Mapping[str, Mapping[str, int]]) -> tuple[dict[str, Any], ...]:
    """Return cycles and speed-up of each recorded workload, the fastest first. record: as `workload table` keeps it."""
    rows = [
        {
            "workload": name.rpartition(" ")[0],
            "variant": name.rpartition(" ")[2],
            "standing": standing_of(Source.MACHINE),
            "cycles": entry["cycles"],
            "cycles_dense": entry["cycles_dense"],
            "speedup": entry["cycles_dense"] / entry["cycles"],
        }
        for name, entry in record.items()
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


def workloads_figure(record: Mapping[str, Mapping[str, int]], basis: Basis) -> Figure:
    """Return the speed-up of published sparse methods whose programs have run."""
    rows = workload_rows(record)
    title = "Other sparse methods"
    caption = (
        "Cycles of the same work with nothing left out over those of the method, whole programs with memory, at the "
        "sizes of the papers. A logarithmic axis; the line is 1."
    )
    words = "; ".join(f"{row['workload']} {row['variant']} {row['speedup']:.2f}" for row in rows)
    with style():
        picture = take_picture(_workloads(rows), "workloads", title, f"{caption} {words}.")
    columns = {
        "workload": field("workload"),
        "speed-up": number("speedup", ".2f", "×"),
        "variant": field("variant"),
        "cycles": number("cycles", ",d"),
        "dense cycles": number("cycles_dense", ",d"),
    }
    notes = (
        ("Only workloads whose programs have run are here; reports/tables/workloads.md has all, those without such a "
        "run by the estimate."),
    )
    standing = (standing_of(Source.MACHINE), "cycles, as recorded when the programs ran")
    table = table_of("Workloads whose programs ran", columns, rows)
    return Figure("workloads", title, caption, picture, table, rows, basis.origin(standing), notes)


def _workloads(rows: Sequence[Mapping[str, Any]]) -> Drawing:
    figure = new_figure(BAR * len(rows) + FOOT)
    axes = figure.subplots()
    for place, row in enumerate(rows):
        axes.plot((1, row["speedup"]), (place, place), color=BLUE, linewidth=6, solid_capstyle="butt")
        axes.annotate(
            f"{row['speedup']:.2f}×",
            (row["speedup"], place),
            (5, 0),
            textcoords="offset points",
            va="center",
            fontsize=SMALL,
        )
    least, most = min(row["speedup"] for row in rows), max(row["speedup"] for row in rows)
    axes.set(xscale="log", xlabel="times as fast as with nothing left out")
    axes.set_xlim(min(0.9, 0.9 * least), 1.8 * most)
    axes.xaxis.set_major_formatter("{x:g}×")
    axes.xaxis.set_minor_formatter("")
    axes.axvline(1, color=INK, linewidth=0.8)
    axes.set_yticks(range(len(rows)), [f"{row['workload']}, {row['variant']}" for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    return figure
