"""How far the estimate is off: the programs of products, by it and by the quick gear."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from nmsat.dataflow.program.jobs import ProductJob
from nmsat.reports.work.text import table
from nmsat.reports.work.timings import time_jobs, timer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from nmsat.dataflow.contract.config import SatConfig
    from nmsat.dataflow.program.jobs import Job
    from nmsat.reports.work.timings import Wanted

Step: TypeAlias = tuple[str, str]
"""A network and 'dense' or the pattern of its step."""

MOST: Final = 0.95
"""Share of the products whose error is at most the one that is told."""

WORST: Final = 5
"""Products that are named, those with the largest errors."""


def product_jobs(config: SatConfig, wanted: Mapping[Step, Wanted]) -> list[tuple[Step, Job]]:
    """Return the distinct programs of products of several steps, each with the first step that has it."""
    exact = timer(config)
    found: dict[str, tuple[Step, Job]] = {}
    for step, one in wanted.items():
        for job in one.jobs:
            if isinstance(job, ProductJob):
                found.setdefault(exact.key(job), (step, job))
    return list(found.values())


def estimate_error(
    config: SatConfig, jobs: Sequence[tuple[Step, Job]], told: Callable[[Job], object], processes: int = 1
) -> dict[str, Any]:
    """Return the errors of the programs of `product_jobs`, together and by pattern; 0.01 is 1 %.

    told, processes: as in `time_jobs`; what has not been timed by the quick gear is timed now, one after the other.
    """
    exact, guess = timer(config), time_jobs(config, (job for _, job in jobs), told, processes, estimate=True)
    rows = [_row(step, job, guess.time(job).cycles, exact.time(job).cycles) for step, job in jobs]
    patterns = dict.fromkeys(row["pattern"] for row in rows)
    return {
        **_spread(rows),
        "by_pattern": {pattern: _spread([row for row in rows if row["pattern"] == pattern]) for pattern in patterns},
        "worst": sorted(rows, key=lambda row: -abs(row["error"]))[:WORST],
    }


def _row(step: Step, job: Job, guess: int, exact: int) -> dict[str, Any]:
    network, pattern = step
    names = {"model": network, "pattern": pattern, "name": job.name, "stage": job.stage}
    return {**names, "cycles": exact, "estimated": guess, "error": guess / exact - 1}


def _spread(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return number, median, the error that `MOST` of the products do not exceed, and the largest."""
    off = sorted(abs(row["error"]) for row in rows)
    most = off[min(len(off) - 1, int(MOST * len(off)))]
    return {"products": len(off), "median": statistics.median(off), "most": most, "largest": off[-1]}


def error_text(values: Mapping[str, Any]) -> str:
    """Return the errors as text."""
    kinds = [("all", values), *values["by_pattern"].items()]
    lines = [
        (name, str(one["products"]), *(f"{one[what]:.2%}" for what in ("median", "most", "largest")))
        for name, one in kinds
    ]
    worst = [
        (f"{row['model']} {row['pattern']}", f"{row['name']} {row['stage']}", f"{row['error']:+.1%}")
        for row in values["worst"]
    ]
    return (
        "error of the estimate against the programs\n"
        f"{table(('products of', 'how many', 'median', f'{MOST:.0%} at most', 'largest'), lines)}\n\n"
        f"{table(('step', 'product', 'estimate is off by'), worst)}"
    )
