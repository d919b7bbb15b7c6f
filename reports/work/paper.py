"""The five networks of the paper on the machine: rows, goals, what is lost and where, what was said before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from nmsat.reports.work.estimate_error import error_text
from nmsat.reports.work.text import prose, table
from nmsat.sim.results.causes import MACHINE_CAUSES
from nmsat.sim.results.provenance import Source, told

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from nmsat.reports.work.step_runs import NetworkRuns
    from nmsat.sim.results.machine import MachineResult, MachineRow

SHARE: Final = {"2:4": 0.98, "2:8": 0.97, "2:16": 0.93}
"""Least share of each network's bound, by pattern."""

SPEEDUP: Final = 1.90
"""Least average speed-up at 2:8."""

PAPER: Final = 1.75
"""Average speed-up at 2:8 that the paper reports."""

DENSE: Final = 0.97
"""Least utilization of each dense step."""

WORST: Final = 3
"""Products of each network that are named with what they lose."""


@dataclass(frozen=True)
class Before:
    """What the schedule model of versions up to 0.1 said of a network at batch 512 on vcu1525: share of the peak in the
    dense step, speed-ups by pattern, million cycles of the dense step."""

    dense_use: float
    speedup: Mapping[str, float]
    dense_cycles: int


BEFORE: Final = {
    "resnet9": Before(0.998, {"2:4": 1.4973, "2:8": 1.9927, "2:16": 2.3877}, 1744),
    "vit": Before(0.973, {"2:4": 1.4605, "2:8": 1.8974, "2:16": 2.2311}, 2189),
    "vgg19": Before(0.994, {"2:4": 1.4933, "2:8": 1.9822, "2:16": 2.3162}, 600),
    "resnet18": Before(0.996, {"2:4": 1.4952, "2:8": 1.9859, "2:16": 2.2430}, 3344),
    "resnet50": Before(0.999, {"2:4": 1.4843, "2:8": 1.9326, "2:16": 2.1952}, 6082),
}
"""By network; `--batch 512 --config vcu1525`."""

BEFORE_NOTE: Final = (
    "Figures up to version 0.1 were those of a schedule model: four memory channels where the machine has one, a "
    "loader that fills all rows of the array at once, packed pairs of 20 bits instead of 32, a cut and an order of its "
    "own, no instructions. They are shown here once, beside the machine's."
)


def row_of(runs: NetworkRuns) -> dict[str, Any]:
    """Return the row of a network whose steps are those of `SHARE`."""
    dense = runs.dense.result
    row: dict[str, Any] = {
        "model": runs.network,
        "dense_utilization": dense.utilization,
        "dense_cycles": dense.cycles,
        "dense_seconds": dense.seconds,
        "dense": _spent(dense),
    }
    for text in SHARE:
        run = runs.at(text)
        speedup = runs.speedup(run)
        row[text] = {
            "cycles": run.result.cycles,
            "speedup": speedup,
            "bound": run.bound,
            "share": speedup / run.bound,
            "utilization": run.result.utilization,
            **_spent(run.result),
        }
    return row


def _spent(result: MachineResult) -> dict[str, Any]:
    """Return where the cycles of a step go, and which of its products lose the most."""
    lost = sorted(_together(result).items(), key=lambda item: -item[1]["lost"])
    return {
        "causes": result.causes,
        "stages": result.by("stage"),
        "bytes": result.bytes,
        "worst": [{"name": name, **found} for name, found in lost[:WORST]],
    }


def _together(result: MachineResult) -> dict[str, dict[str, Any]]:
    """Return by name and stage of a product what it loses: cycles beyond those of its multiply-adds, and to what."""
    return {
        f"{row.name} {row.stage}": {
            "cycles": row.cycles,
            "lost": _lost(row),
            "share_of_step": _lost(row) / result.cycles,
            "utilization": row.utilization,
            "busiest": busiest(row),
        }
        for row in result.rows
    }


def _lost(row: MachineRow) -> float:
    return row.cycles - row.macs / row.config.elements


def busiest(row: MachineRow) -> str:
    """Return what works longest while a row runs, and for which share of its cycles."""
    count = row.counters
    found = {
        "array": count["compute_busy"],
        "loader": count["load_busy"],
        "stores": count["store_busy"],
        "update": count["update_busy"],
    }
    name = max(found, key=lambda what: found[what])
    return f"{name} {found[name] / row.cycles:.0%}"


def goals(values: Mapping[str, Any]) -> dict[str, bool]:
    """Return each goal and whether it is reached."""
    rows = values["rows"]
    found = {
        f"average speed-up at 2:8 at least {SPEEDUP:.2f}": values["speedup"] >= SPEEDUP,
        f"dense utilization of each at least {DENSE:.0%}": all(row["dense_utilization"] >= DENSE for row in rows),
    }
    for text, least in SHARE.items():
        found[f"each at least {least:.0%} of its bound at {text}"] = all(row[text]["share"] >= least for row in rows)
    return found


def mean(numbers: Sequence[float]) -> float:
    """Return the mean of some numbers."""
    return sum(numbers) / len(numbers)


def report(values: Mapping[str, Any]) -> str:
    """Return all of it as text."""
    rows = values["rows"]
    parts = [
        (
            f"BDWP over dense training, whole step with update and memory, batch {values['batch']}, configuration "
            f"{values['config']}"
        ),
        told(Source(values["source"])),
        _speedups(rows),
        "\n".join(f"{'reached' if done else 'MISSED '}  {goal}" for goal, done in values["goals"].items()),
        f"average at 2:8: {values['speedup']:.3f}; the paper reports {PAPER}",
        "cycles of a step by cause, in percent\n" + _causes(rows),
        f"where most is lost: the {WORST} programs of each step with the most cycles beyond their multiply-adds\n"
        + _worst(rows),
    ]
    if values["ablation"]:
        parts.append(
            "2:8 with one thing switched off in the programs, over the dense step as built\n"
            + _ablation(rows, values["ablation"])
        )
    if values["estimate_error"]:
        parts.append(error_text(values["estimate_error"]))
    if values["before"]:
        parts.append(prose(BEFORE_NOTE) + "\n" + _before(rows))
    return "\n\n".join(parts)


def _speedups(rows: Sequence[Mapping[str, Any]]) -> str:
    header = (
        "model",
        "dense Mcycles",
        "use",
        *(f"{text} {what}" for text in SHARE for what in ("speed-up", "bound", "share")),
    )
    lines = []
    for row in rows:
        cells = [_triple(row[text]["speedup"], row[text]["bound"], row[text]["share"]) for text in SHARE]
        use = f"{row['dense_utilization']:.1%}"
        lines.append((row["model"], f"{row['dense_cycles'] / 1e6:.1f}", use, *(c for cell in cells for c in cell)))
    means = [_triple(*(mean([row[t][what] for row in rows]) for what in ("speedup", "bound", "share"))) for t in SHARE]
    use = f"{mean([row['dense_utilization'] for row in rows]):.1%}"
    return table(header, [*lines, ("average", "", use, *(c for cell in means for c in cell))])


def _triple(speedup: float, bound: float, share: float) -> tuple[str, str, str]:
    return f"{speedup:.3f}", f"{bound:.3f}", f"{share:.1%}"


def _causes(rows: Sequence[Mapping[str, Any]]) -> str:
    kinds = [(row["model"], text, row[text]) for row in rows for text in ("dense", *SHARE)]
    shown = [cause for cause in MACHINE_CAUSES if any(found["causes"][cause] for _, _, found in kinds)]
    lines = []
    for name, text, found in kinds:
        total = sum(found["causes"].values())
        lines.append((f"{name} {text}", *(f"{100 * found['causes'][cause] / total:.1f}" for cause in shown)))
    return table(("step", *shown), lines)


def _worst(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = [
        (
            f"{row['model']} {text}",
            item["name"],
            f"{item['share_of_step']:.1%}",
            f"{item['utilization']:.1%}",
            item["busiest"],
        )
        for row in rows
        for text in ("dense", "2:8")
        for item in row[text]["worst"]
    ]
    return table(("step", "program", "lost of the step", "use", "busiest"), lines)


def _ablation(rows: Sequence[Mapping[str, Any]], found: Mapping[str, Sequence[float]]) -> str:
    lines = [(name, *(f"{x:.3f}" for x in speedups), f"{mean(speedups):.3f}") for name, speedups in found.items()]
    return table(("ablation", *(row["model"] for row in rows), "average"), lines)


def _before(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = []
    for row in rows:
        old = BEFORE[row["model"]]
        lines.append(
            (
                row["model"],
                f"{old.dense_use:.1%}",
                f"{row['dense_utilization']:.1%}",
                f"{old.speedup['2:8']:.3f}",
                f"{row['2:8']['speedup']:.3f}",
                f"{1e6 * old.dense_cycles / row['2:8']['cycles']:.3f}",
            )
        )
    header = ("model", "dense use then", "now", "2:8 speed-up then", "now", "dense then over 2:8 now")
    return table(header, lines)
