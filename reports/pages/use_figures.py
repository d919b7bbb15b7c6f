"""Figures of how well the machine is used, and of what it takes: roofline, resources by engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from nmsat.reports.pages.drawing import matrix
from nmsat.reports.pages.figure import Figure, field, number, table_of, take_picture
from nmsat.reports.pages.style import DENSE_COLOR, INK, STAGE_COLORS, STAGE_NAMES, new_figure, style
from nmsat.reports.pages.sweep_plots import mark_axis
from nmsat.reports.work.figure_rows import Rows, roof_rows
from nmsat.reports.work.standing import Basis, Standing, cycles_words, standing_of
from nmsat.reports.work.step_runs import DENSE
from nmsat.reports.work.synth import RESOURCES
from nmsat.sim.results.machine import roofline

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.figure import Figure as Drawing

    from nmsat.dataflow.contract.config import SatConfig
    from nmsat.reports.work.step_runs import NetworkRuns

MOST_LOST: Final = 12
"""Products in the table: those that lose the most cycles."""


def roofline_figure(found: Sequence[NetworkRuns], basis: Basis, pattern: str) -> Figure:
    """Return the use of the array by every product under what array and memory allow."""
    rows = roof_rows(found)
    shown = [row for row in rows if row["pattern"] == pattern]
    config = found[0].dense.result.config
    uses = "; ".join(f"{run.label} {run.result.utilization:.1%}" for runs in found for run in runs.all)
    title = "Use of the array, and its roofline"
    caption = (
        f"Each dot is a product of a step at {pattern}. The line is the least of the array's peak and of what memory "
        "brings at so many multiply-adds per byte; below it something else holds the array up."
    )
    with style():
        drawing = _roofline(shown, config)
        picture = take_picture(drawing, "roofline", title, f"{caption} Use of whole steps: {uses}.")
    columns = {
        "product": lambda row: f"{row['network']} {row['name']} {row['stage']}",
        "use": number("utilization", ".1%"),
        "roof": number("roofline", ".1%"),
        "limit": field("limit"),
        "multiply-adds per byte": number("macs_per_byte", ",.1f"),
        "cycles": number("cycles", ",d"),
        "cycles lost": number("cycles_lost", ",.0f"),
    }
    worst = sorted(shown, key=lambda row: -row["cycles_lost"])[:MOST_LOST]
    more = " at " + pattern if pattern != DENSE else ""
    table = table_of(f"Products{more} with the most cycles beyond their multiply-adds", columns, worst)
    result = found[0].dense.result
    standing = (
        (standing_of(result.source), f"use and bytes, of the {cycles_words(result.source, config)}"),
        (Standing.MODELLED, "the line: bandwidth of the memory as the configuration states it"),
    )
    notes = (f"Use of whole steps: {'; '.join(map(_uses, found))}.",)
    return Figure("roofline", title, caption, picture, table, rows, basis.origin(*standing), notes)


def _uses(runs: NetworkRuns) -> str:
    each = ", ".join(f"{run.pattern} {run.result.utilization:.1%}" for run in runs.all)
    return f"{runs.network} {each}"


def _roofline(rows: Sequence[Mapping[str, Any]], config: SatConfig) -> Drawing:
    figure = new_figure(320)
    axes = figure.subplots()
    xs = [row["macs_per_byte"] for row in rows]
    low, high = min(xs) / 1.3, max(xs) * 1.3
    line = [low * (high / low) ** (step / 60) for step in range(61)]
    roof = [100 * roofline(config, round(x * 10**6), 10**6)[1] / config.elements for x in line]
    axes.plot(line, roof, color=INK, linewidth=1.4)
    for stage in dict.fromkeys(row["stage"] for row in rows):
        mine = [row for row in rows if row["stage"] == stage]
        axes.plot(
            [row["macs_per_byte"] for row in mine],
            [100 * row["utilization"] for row in mine],
            "o",
            color=STAGE_COLORS.get(stage, DENSE_COLOR),
            markersize=4.5,
            alpha=0.65,
            markeredgewidth=0,
            label=STAGE_NAMES.get(stage, stage),
        )
    axes.set(xscale="log", xlabel="multiply-adds per byte of memory", ylabel="percent of the array in use")
    axes.set_ylim(0, 105)
    axes.grid(visible=True)
    mark_axis(axes.xaxis, xs)
    figure.legend(loc="outside upper left", ncols=2)
    return figure


def resources_figure(record: Mapping[str, Any], basis: Basis) -> Figure:
    """Return what each engine takes of the device. record: as `nmsat synth` writes it."""
    device, rows = record["device"], resource_rows(record)
    kinds = {key: heading for key, heading in RESOURCES.items() if device[key]}
    grid = {
        row["engine"]: {key: 100 * row[f"{key}_share"] for key in kinds} for row in rows if any(row[k] for k in kinds)
    }
    title = f"Resources on {device['name']}"
    caption = f"Percent of {device['name']} that each engine takes. {record['mark']}, before placing and routing."
    by_table = record["buffers_by_table"]
    caption += f" The table of nmsat config check counts {by_table['bram36']} RAMB36 and {by_table['uram']} URAM."
    words = "; ".join(f"{name} " + ", ".join(f"{kinds[k]} {v:.1f} %" for k, v in p.items()) for name, p in grid.items())
    with style():
        picture = take_picture(matrix(grid, kinds, 50.0), "resources", title, f"{caption} {words}.")
    columns = {
        "engine": field("engine"),
        **{heading: number(key, ",.0f") for key, heading in kinds.items()},
    }
    has = {"engine": f"{device['name']} has", **{key: device[key] for key in kinds}}
    table = table_of(f"{record['mark']}: resources by engine", columns, [*rows, has], lead=4, sums=2)
    tool = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    standing = (Standing.MODELLED, f"{record['mark']} ({tool}); no Vivado was at hand, nothing was placed or timed")
    return Figure("resources", title, caption, picture, table, rows, basis.origin(standing))


def resource_rows(record: Mapping[str, Any]) -> Rows:
    """Return what each engine takes, and all together, as counts and as shares of the device."""
    device = record["device"]
    engines = [(_engine(row["engine"]), row) for row in record["engines"]]
    return tuple(_takes(name, row, device) for name, row in [*engines, ("all", record["total"])])


def _engine(module: str) -> str:
    """Return the name of a module of the machine; the machine itself is what lies around its engines."""
    return "around all" if module == "sat" else module.removeprefix("sat_").replace("_", " ")


def _takes(name: str, takes: Mapping[str, Any], device: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {"engine": name, "standing": Standing.MODELLED}
    for key in RESOURCES:
        has = device[key]
        found |= {key: takes[key], f"{key}_share": takes[key] / has if has else None}
    return found
