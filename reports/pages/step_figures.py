"""Figures of whole training steps: speed-up, stages, where cycles go, what each choice of the programs is worth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from nmsat.reports.pages.drawing import Panel, bar_panels, matrix, stacked
from nmsat.reports.pages.figure import Figure, field, number, table_of, take_picture
from nmsat.reports.pages.style import BLUE, DENSE_COLOR, STAGE_COLORS, STAGE_NAMES, style
from nmsat.reports.work.figure_rows import (
    AVERAGE,
    PAPER_ROW,
    Rows,
    ablation_rows,
    cause_rows,
    speed_rows,
    stage_rows,
)
from nmsat.reports.work.standing import Basis, Standing, cycles_words, standing_of
from nmsat.reports.work.step_runs import DENSE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from nmsat.reports.pages.page_tables import Table
    from nmsat.reports.work.step_runs import NetworkRuns

UPDATE: Final = "update"

CAUSES: Final = {
    "steps": "multiply-adds",
    "link": "operands enter",
    "operand": "wait: operand",
    "idle": "array idle",
    "update": "update alone",
}
"""Names of causes that need another one than their own; `sim.results.causes` says what each is."""

_MOST_NAME: Final = 14  # characters of a network's name that a picture has room for


def step_figures(found: Sequence[NetworkRuns], basis: Basis, pattern: str) -> list[Figure]:
    """Return the figures of steps. pattern: the one that pictures with room for one show beside dense."""
    figures = [speedup_figure(found, basis), stages_figure(found, basis, pattern)]
    if any(runs.ablated for runs in found):
        figures.append(ablation_figure(found, basis))
    return [*figures, causes_figure(found, basis, pattern)]


def speedup_figure(found: Sequence[NetworkRuns], basis: Basis) -> Figure:
    """Return the speed-up of each network and pattern beside its bound and what the paper reports."""
    rows = speed_rows(found)
    paper = next((row["speedup"] for row in rows if row["network"] == PAPER_ROW), None)
    panels = [_speed_panel(rows, run.pattern, paper) for run in found[0].sparse]
    title = "Speed-up over dense training"
    caption = (
        "Bars: cycles of the dense step over cycles of the sparse one, both on this machine. Upright mark: the bound, "
        "dense over kept multiply-adds."
    )
    quoted = [] if paper is None else [(Standing.QUOTED, f"{paper} of the paper, an average over its own networks")]
    with style():
        picture = take_picture(
            bar_panels(panels, BLUE, "times as fast as dense"), "speedup", title, f"{caption} {_speed_words(rows)}"
        )
    columns = {
        "network": field("network"),
        "pattern": field("pattern"),
        "speed-up": number("speedup", ".2f", "×"),
        "bound": number("bound", ".2f", "×"),
        "share of bound": number("share_of_bound", ".1%"),
        "cycles": number("cycles", ",d"),
        "dense cycles": number("cycles_dense", ",d"),
        "standing": field("standing"),
    }
    return Figure(
        "speedup",
        title,
        caption,
        picture,
        table_of("Speed-up by network and pattern", columns, rows),
        rows,
        basis.origin(_cycles(found), (Standing.EXACT, "bounds, counted from shapes"), *quoted),
    )


def _speed_panel(rows: Rows, pattern: str, paper: float | None) -> Panel:
    mine = [row for row in rows if row["pattern"] == pattern and row["network"] != PAPER_ROW]
    here = paper is not None and any(r["network"] == PAPER_ROW and r["pattern"] == pattern for r in rows)
    return Panel(
        pattern,
        {_short(row["network"]): row["speedup"] for row in mine},
        {_short(row["network"]): row["bound"] for row in mine},
        (paper, f"the paper's average, {paper}") if here and paper is not None else None,
    )


def _speed_words(rows: Rows) -> str:
    each = [f"{row['network']} {row['pattern']} {row['speedup']:.2f}" for row in rows]
    return f"Times as fast: {'; '.join(each)}."


def stages_figure(found: Sequence[NetworkRuns], basis: Basis, pattern: str) -> Figure:
    """Return the share of each stage in the dense step, before and after pruning."""
    rows = stage_rows(found)
    kinds = [stage for stage in (*STAGE_NAMES, UPDATE) if any(row["stage"] == stage for row in rows)]
    kinds += sorted({row["stage"] for row in rows} - set(kinds))
    colors = {**STAGE_COLORS, UPDATE: DENSE_COLOR}
    bars = {
        f"{_short(runs.network)} {run}": {
            _stage_name(row["stage"]): 100 * row["share_of_dense_step"]
            for row in sorted(_of(rows, runs.network, run), key=lambda row: kinds.index(row["stage"]))
        }
        for runs in found
        for run in (DENSE, pattern)
    }
    title = "Stages of a step"
    caption = (
        f"Cycles in percent of the dense step, dense and at {pattern}. Weight gradients stay dense, so forward and "
        "backward pass shrink."
    )
    totals = {name: f"{sum(parts.values()):.0f}" for name, parts in bars.items()}
    with style():
        drawing = stacked(
            bars,
            {_stage_name(kind): colors.get(kind, "#c9a227") for kind in kinds},
            "percent of the dense step",
            totals,
        )
        picture = take_picture(drawing, "stages", title, f"{caption} {_share_words(bars)}")
    table = _by_step(
        "Cycles of each step, and percent of the dense step by stage",
        found,
        pattern,
        bars,
        [_stage_name(kind) for kind in kinds],
    )
    return Figure("stages", title, caption, picture, table, rows, basis.origin(_cycles(found)))


def _stage_name(stage: str) -> str:
    return {**STAGE_NAMES, UPDATE: "weight update"}.get(stage, stage)


def causes_figure(found: Sequence[NetworkRuns], basis: Basis, pattern: str) -> Figure:
    """Return what the cycles of each step are spent on, in percent of the step."""
    rows = cause_rows(found)
    met = {row["cause"] for row in rows if row["share"] >= 0.0005}
    columns = {cause: CAUSES.get(cause, f"wait: {cause}") for cause in found[0].dense.result.causes if cause in met}
    grid = {
        f"{_short(runs.network)} {run}": {row["cause"]: 100 * row["share"] for row in _of(rows, runs.network, run)}
        for runs in found
        for run in (DENSE, pattern)
    }
    title = "Where cycles go"
    caption = (
        "Percent of each step by what the array does; every cycle is in one column. Multiply-adds: it works. Operands "
        "enter: a tile's operands come one by one for longer than its multiply-adds take. Waits: what a tile waits "
        "for. Idle: the array has no work yet and waits for loads, stores or the program."
    )
    lost = max((share for parts in grid.values() for cause, share in parts.items() if cause != "steps"), default=0.0)
    with style():
        picture = take_picture(matrix(grid, columns, lost or 1.0), "causes", title, f"{caption} {_share_words(grid)}")
    told = {
        step: {heading: parts[cause] for cause, heading in columns.items() if cause in parts}
        for step, parts in grid.items()
    }
    table = _by_step("Cycles of each step, and percent of it by cause", found, pattern, told, list(columns.values()))
    return Figure("causes", title, caption, picture, table, rows, basis.origin(_cycles(found)))


def ablation_figure(found: Sequence[NetworkRuns], basis: Basis) -> Figure:
    """Return the speed-up with one choice of the programs switched off at a time."""
    rows = ablation_rows(found)
    ran = [runs for runs in found if runs.ablated]
    panels = [
        Panel(
            f"{runs.network} {runs.of}",
            {row["variant"]: row["speedup"] for row in rows if row["network"] == runs.network},
            {},
        )
        for runs in ran
    ]
    title = "What each choice is worth"
    caption = "Speed-up over the dense step as built, with one thing switched off in the programs of the sparse step."
    words = "; ".join(f"{row['network']} {row['variant']} {row['speedup']:.2f}" for row in rows)
    with style():
        drawing = bar_panels(panels, BLUE, "times as fast as dense")
        picture = take_picture(drawing, "ablation", title, f"{caption} {words}.")
    columns = {
        "network": field("network"),
        "variant": field("variant"),
        "speed-up": number("speedup", ".3f", "×"),
        "pattern": field("pattern"),
        "cycles": number("cycles", ",d"),
    }
    table = table_of("Ablation", columns, rows)
    return Figure("ablation", title, caption, picture, table, rows, basis.origin(_cycles(found)))


def _by_step(
    caption: str,
    found: Sequence[NetworkRuns],
    pattern: str,
    shares: Mapping[str, Mapping[str, float]],
    kinds: Sequence[str],
) -> Table:
    """Return a table with a row for each step: its cycles, and percents by kind; shares: in the order of the steps."""
    runs = [run for each in found for run in (each.dense, each.at(pattern))]
    rows = [
        {"step": run.label, "cycles": run.result.cycles, **{kind: parts.get(kind, 0.0) for kind in kinds}}
        for run, parts in zip(runs, shares.values(), strict=True)
    ]
    columns = {"step": field("step"), "cycles": number("cycles", ",d")}
    return table_of(caption, columns | {kind: number(kind, ".1f") for kind in kinds}, rows)


def _cycles(found: Sequence[NetworkRuns]) -> tuple[Standing, str]:
    """Return the standing of the cycles, and what is to be known of them."""
    result = found[0].dense.result
    return standing_of(result.source), f"cycles, of the {cycles_words(result.source, result.config)}"


def _of(rows: Rows, network: str, pattern: str) -> list[dict[str, Any]]:
    return [row for row in rows if (row["network"], row["pattern"]) == (network, pattern)]


def _short(name: str) -> str:
    """Return a network's name as pictures have room for it: the end of a file's path, cut."""
    last = name.rpartition("/")[2]
    return last if len(last) <= _MOST_NAME or last == AVERAGE else f"{last[: _MOST_NAME - 1]}…"


def _share_words(bars: Mapping[str, Mapping[str, float]]) -> str:
    parts = [
        f"{name}: " + ", ".join(f"{part} {value:.1f} %" for part, value in found.items() if value >= 0.05)
        for name, found in bars.items()
    ]
    return "; ".join(parts) + "."
