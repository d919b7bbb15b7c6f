"""What the programs of a step take on the machine, each distinct one timed once by the quick gear."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, Protocol

from nmsat.dataflow.contract.isa import ErrorCode
from nmsat.dataflow.contract.legal import check_machine
from nmsat.dataflow.contract.registers import COUNTERS, Launch, open_regions
from nmsat.dataflow.program.jobs import JobRun, UpdateJob, UpdateRun, runs_estimate
from nmsat.sim.quick.gear import Quick
from nmsat.sim.quick.product import time_product
from nmsat.sim.work.rhythm import update_counters

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from nmsat.dataflow.contract.config import SatConfig
    from nmsat.dataflow.program.jobs import Job
    from nmsat.sim.sat import Report

TIMED_LIMIT: Final = 1 << 44
"""Cycles after which a program is given up: days of the machine."""


class Kept(Protocol):
    """Results that are kept, by a text of 64 hexadecimal digits."""

    def get(self, key: str) -> dict[str, Any] | None:
        """Return what was kept under a key, None if there is nothing."""
        ...

    def put(self, key: str, value: dict[str, Any]) -> None:
        """Keep a result."""
        ...


class Memory:
    """Results that are kept as long as the timer is."""

    def __init__(self) -> None:
        self._held: dict[str, dict[str, Any]] = {}

    def get(self, key: str) -> dict[str, Any] | None:
        """Return what was kept under a key, None if there is nothing."""
        return self._held.get(key)

    def put(self, key: str, value: dict[str, Any]) -> None:
        """Keep a result."""
        self._held[key] = value


@dataclass(frozen=True)
class Timed:
    """What a job takes. counters: of all its programs together, by the names of `registers.COUNTERS`; schedule: how its
    first product is cut; programs: how often a program is started."""

    counters: dict[str, int]
    schedule: dict[str, Any]
    programs: int

    @property
    def cycles(self) -> int:
        """Cycles of all programs, one after the other."""
        return self.counters["cycles"]


class Timer:
    """Times jobs on one configuration. kept: where results are looked up first and put; version: of the code that they
    come from, so that those of another one are not taken."""

    exact = True
    """Whether programs are run."""

    def __init__(self, config: SatConfig, kept: Kept | None = None, version: str = "") -> None:
        self.config = config
        self._kept: Kept = Memory() if kept is None else kept
        self._version = version
        check_machine(config)
        self._updates: dict[str, dict[str, int]] = {}

    @cached_property
    def gear(self) -> Quick:
        """The quick gear, which keeps what it has walked; made with the first job, as engines may be compiled first."""
        return Quick(self.config)

    @cached_property
    def _same(self) -> str:
        """What the keys of all jobs begin with: a list in JSON that is not closed."""
        config = {name: value for name, value in asdict(self.config).items() if name != "name"}
        return json.dumps([self._version, self.exact, config], sort_keys=True)[:-1]

    def key(self, job: Job) -> str:
        """Return what the result of a job is kept by: configuration without its name, job, version."""
        return hashlib.sha256(f"{self._same}, {json.dumps(job.facts)}]".encode()).hexdigest()

    def time(self, job: Job) -> Timed:
        """Return what a job takes; ValueError for a product that the machine has no program for."""
        key = self.key(job)
        found = self._kept.get(key)
        if found is None:
            found = asdict(self._run(job))
            self._kept.put(key, found)
        return Timed(**found)

    def knows(self, job: Job) -> bool:
        """Whether the result of a job is kept."""
        return self._kept.get(self.key(job)) is not None

    def keep(self, job: Job, timed: Timed) -> None:
        """Keep what another timer of the same configuration found."""
        self._kept.put(self.key(job), asdict(timed))

    def all(self, jobs: Sequence[Job], told: Callable[[Job], object] | None = None) -> list[Timed]:
        """Return what each job takes; told: called with each before it is timed."""
        out = []
        for job in jobs:
            if told is not None:
                told(job)
            out.append(self.time(job))
        return out

    def _run(self, job: Job) -> Timed:
        total: Counter[str] = Counter()
        runs = job.runs(self.config)
        for run in runs:
            counters = (
                time_run(self.gear, run).counters if isinstance(run, JobRun) else update_counters(run.job, self._update)
            )
            total.update({name: run.times * count for name, count in counters.items()})
        first = runs[0]
        schedule = _schedule(first) if isinstance(first, JobRun) else {}
        return Timed({name: total[name] for name in COUNTERS}, schedule, sum(run.times for run in runs))

    def _update(self, job: UpdateJob) -> dict[str, int]:
        """Run an UPDATE, each distinct one once."""
        if job.facts not in self._updates:
            self._updates[job.facts] = time_run(self.gear, UpdateRun(1, job)).counters
        return self._updates[job.facts]


class Estimator(Timer):
    """Estimates jobs in closed form instead: no program is run, and cycles are all that is known."""

    exact = False

    def _run(self, job: Job) -> Timed:
        runs = job.runs(self.config)
        first = runs[0]
        schedule = _schedule(first) if isinstance(first, JobRun) else {}
        cycles = round(runs_estimate(runs, self.config))
        return Timed({"cycles": cycles}, schedule, sum(run.times for run in runs))


def time_run(gear: Quick, run: JobRun | UpdateRun) -> Report:
    """Return cycles and counters of a program, without values. RuntimeError if it ends in an error."""
    if isinstance(run, JobRun) and len(run.cuts) == 1:
        report = time_product(gear, run.cuts[0].code, run.cuts[0], limit=TIMED_LIMIT)
    else:
        instructions = run.assemble(gear.sat.config).instructions
        settings = Launch(open_regions(gear.sat.config.ports), 0, 0, len(instructions))
        report = gear.time_code(settings, instructions, limit=TIMED_LIMIT).report
    if report.error is not ErrorCode.NONE:
        raise RuntimeError(f"a program ended in {report.error.name} at instruction {report.error_index}")
    return report


def _schedule(run: JobRun) -> dict[str, Any]:
    """Return how the first product of a program is cut, as columns of a table."""
    cut = run.cuts[0]
    mapping = cut.mapping
    return {
        "group": f"{mapping.n}:{mapping.m}",
        "dataflow": mapping.name,
        "rectangle": f"{mapping.a}x{mapping.b}",
        "tile_rows": cut.tallest.rows,
        "tile_columns": cut.width,
        "commands": len(cut.rows) * cut.column_tiles * len(cut.parts),
    }
