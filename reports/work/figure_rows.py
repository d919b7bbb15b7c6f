"""The numbers behind the figures of a report, as rows of plain values: one definition for picture, table, CSV and JSON.

Every row says its standing. Cycles, bytes and multiply-adds are of `sim.results.machine`; seconds are cycles at the
clock of the configuration, which nobody has measured, so all that is per second is modelled.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from nmsat.reports.work.paper import PAPER, mean
from nmsat.reports.work.standing import Standing, standing_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nmsat.reports.work.step_runs import NetworkRuns, StepRun
    from nmsat.sim.results.machine import MachineRow

Rows = tuple[dict[str, Any], ...]

AVERAGE: Final = "average"
"""Network of the row that holds the mean of all."""

PAPER_ROW: Final = "the paper"
"""Network of the row that holds what the paper reports."""

PAPER_PATTERN: Final = "2:8"
"""Pattern of that row."""

ENERGY_PARTS: Final = {
    "macs_joule": "multiply-adds",
    "memory_joule": "memory",
    "update_joule": "update",
    "rest_joule": "at rest",
}
"""Key of a part of the modelled energy -> its name."""


def speed_rows(found: Sequence[NetworkRuns]) -> Rows:
    """Return speed-up and bound of each network and pattern, their averages if there are several, and the paper's."""
    rows: list[dict[str, Any]] = []
    patterns = [run.pattern for run in found[0].sparse]
    for pattern in patterns:
        each = [_speed_row(runs, runs.at(pattern)) for runs in found]
        rows += each
        if len(each) > 1:
            means = {key: mean([row[key] for row in each]) for key in ("speedup", "bound", "share_of_bound")}
            rows.append(_speed(AVERAGE, pattern, each[0]["standing"]) | means)
    if PAPER_PATTERN in patterns:
        rows.append(_speed(PAPER_ROW, PAPER_PATTERN, Standing.QUOTED) | {"speedup": PAPER})
    return tuple(rows)


def _speed_row(runs: NetworkRuns, run: StepRun) -> dict[str, Any]:
    speedup = runs.speedup(run)
    return _speed(run.network, run.pattern, standing_of(run.result.source)) | {
        "cycles": run.result.cycles,
        "cycles_dense": runs.dense.result.cycles,
        "speedup": speedup,
        "bound": run.bound,
        "share_of_bound": speedup / run.bound,
    }


def _speed(network: str, pattern: str, standing: Standing) -> dict[str, Any]:
    empty = dict.fromkeys(("cycles", "cycles_dense", "speedup", "bound", "share_of_bound"))
    return {"network": network, "pattern": pattern, "standing": standing, **empty}


def stage_rows(found: Sequence[NetworkRuns]) -> Rows:
    """Return cycles of each stage of each step, also as share of the dense step."""
    return tuple(
        {
            **_step(run),
            "stage": stage,
            "cycles": cycles,
            "share_of_dense_step": cycles / runs.dense.result.cycles,
        }
        for runs in found
        for run in runs.all
        for stage, cycles in run.result.by("stage").items()
    )


def cause_rows(found: Sequence[NetworkRuns]) -> Rows:
    """Return cycles of each step by cause; they add up to the step."""
    return tuple(
        {**_step(run), "cause": cause, "cycles": cycles, "share": cycles / run.result.cycles}
        for runs in found
        for run in runs.all
        for cause, cycles in run.result.causes.items()
    )


def ablation_rows(found: Sequence[NetworkRuns]) -> Rows:
    """Return cycles of the sparse step with one thing switched off, and its speed-up over the dense step as built."""
    return tuple(
        {
            "network": runs.network,
            "pattern": runs.of,
            "standing": standing_of(result.source),
            "variant": variant,
            "cycles": result.cycles,
            "cycles_dense": runs.dense.result.cycles,
            "speedup": runs.dense.result.cycles / result.cycles,
        }
        for runs in found
        for variant, result in runs.ablated.items()
    )


def roof_rows(found: Sequence[NetworkRuns]) -> Rows:
    """Return use, multiply-adds per byte, and what array and memory allow, of every product of every step."""
    return tuple(
        {**_step(run), **_roof(row)}
        for runs in found
        for run in runs.all
        for row in run.result.rows
        if row.shape is not None
    )


def _roof(row: MachineRow) -> dict[str, Any]:
    known = row.record()
    same = ("name", "stage", "cycles", "macs", "macs_per_byte", "utilization", "roofline", "limit")
    lost = row.cycles - row.macs / row.config.elements
    return {key: known[key] for key in same} | {"bytes": sum(row.bytes.values()), "cycles_lost": lost}


def energy_rows(found: Sequence[NetworkRuns]) -> Rows:
    """Return the modelled energy of each step by where it goes, and the power that follows."""
    rows = []
    for runs in found:
        for run in runs.all:
            known = run.energy.record()
            rows.append(
                {
                    **_step(run, Standing.MODELLED),
                    **{part: known[part] for part in ENERGY_PARTS},
                    "total_joule": run.energy.total,
                    "seconds": run.result.seconds,
                    "watts": run.energy.total / run.result.seconds,
                }
            )
    return tuple(rows)


def throughput_rows(found: Sequence[NetworkRuns]) -> Rows:
    """Return operations per second and per joule of each step, a multiply-add counted as two.

    done: multiply-adds that were carried out; dense equivalent: those of the dense step in the time of this one.
    """
    rows = []
    for runs in found:
        for run in runs.all:
            joule, seconds = run.energy.total, run.result.seconds
            done, full = 2e-9 * run.result.macs, 2e-9 * runs.dense.result.macs
            rows.append(
                {
                    **_step(run, Standing.MODELLED),
                    "gflops_done": done / seconds,
                    "gflops_dense_equivalent": full / seconds,
                    "watts": joule / seconds,
                    "gflops_per_watt_done": done / joule,
                    "gflops_per_watt_dense_equivalent": full / joule,
                }
            )
    return tuple(rows)


def _step(run: StepRun, standing: Standing | None = None) -> dict[str, Any]:
    """Return what names a step; standing: of its numbers, that of its cycles unless it is given."""
    return {
        "network": run.network,
        "pattern": run.pattern,
        "standing": standing or standing_of(run.result.source),
    }
