"""What programs took on the machine, kept in the cache folder: a second call answers at once.

A result is kept by the configuration, the product and the text of all sources that it comes from. A folder that cannot
be written is no obstacle: everything is timed anew.
"""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import as_completed
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from nmsat.algorithms.core.files import write_text
from nmsat.algorithms.training.workers import workers
from nmsat.dataflow.program.jobs import ALL_ON, step_jobs
from nmsat.hw.parts.cache import CacheError, cache_folder
from nmsat.reports.work.progress import task
from nmsat.sim.compiled import prepare
from nmsat.sim.work.machine import machine_step
from nmsat.sim.work.timed import Estimator, Timer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from nmsat.dataflow.contract.config import SatConfig
    from nmsat.dataflow.network.step import Step
    from nmsat.dataflow.program.jobs import Job, Switches
    from nmsat.sim.results.machine import MachineResult
    from nmsat.sim.work.timed import Timed

ROOM: Final = "timed"
"""Folder of the results in the cache folder."""

WORTH: Final = 12
"""Programs to be timed from which on the minute pays that compiling the engines takes."""

SOURCES: Final = (
    *(f"algorithms/core/{name}.py" for name in ("nm", "tape", "windows")),
    *(f"dataflow/{room}" for room in ("contract", "cycles", "mapping", "network/gradient.py", "program")),
    *(f"sim/{room}" for room in ("array", "control", "load", "memory", "parts", "quick", "store", "update")),
    *(f"sim/{name}.py" for name in ("run", "sat", "work/rhythm", "work/timed")),
)
"""Modules, and folders of modules, that a result depends on."""


class Timings:
    """Results in the cache folder, one file each. folder: None if it cannot be written."""

    def __init__(self) -> None:
        self._known: dict[str, dict[str, Any]] = {}
        self.folder: Path | None = None
        with suppress(CacheError):
            self.folder = cache_folder(ROOM)

    def get(self, key: str) -> dict[str, Any] | None:
        """Return what was kept under a key, None if there is nothing that can be read."""
        if key not in self._known and self.folder is not None:
            with suppress(OSError, ValueError):
                found = json.loads((self.folder / f"{key}.json").read_text(encoding="utf-8"))
                if isinstance(found, dict):
                    self._known[key] = found
        return self._known.get(key)

    def put(self, key: str, value: dict[str, Any]) -> None:
        """Keep a result, for this process in any case."""
        self._known[key] = value
        if self.folder is not None:
            with suppress(OSError):
                write_text(self.folder / f"{key}.json", json.dumps(value))


@cache
def version() -> str:
    """Return the SHA-256 of all sources that results come from."""
    root = Path(__file__).resolve().parents[2]
    digest = hashlib.sha256()
    for name in SOURCES:
        place = root / name
        for path in [place] if place.suffix else sorted(place.rglob("*.py")):
            digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def timer(config: SatConfig, *, estimate: bool = False) -> Timer:
    """Return a timer of a configuration whose results are kept; estimate: of one that runs no programs."""
    return (Estimator if estimate else Timer)(config, Timings(), version())


@dataclass(frozen=True)
class Wanted:
    """A step to be timed. switches: what its programs may use."""

    step: Step
    switches: Switches = ALL_ON

    @property
    def jobs(self) -> tuple[Job, ...]:
        """Its programs."""
        return step_jobs(self.step, self.switches)


def time_all(
    config: SatConfig,
    wanted: Sequence[Wanted],
    told: Callable[[Job], object],
    processes: int = 1,
    *,
    estimate: bool = False,
) -> list[MachineResult]:
    """Return what each of several steps takes on the machine; estimate: by the closed form of their programs.

    told: called once for each distinct program of them, when it is timed or known; processes: how many time programs at
    once, each of which holds what it walked (up to a gigabyte for a large network).
    """
    kept = time_jobs(config, [job for one in wanted for job in one.jobs], told, processes, estimate=estimate)
    return [machine_step(one.step, kept, switches=one.switches) for one in wanted]


def time_jobs(
    config: SatConfig,
    jobs: Iterable[Job],
    told: Callable[[Job], object],
    processes: int = 1,
    *,
    estimate: bool = False,
) -> Timer:
    """Return a timer that knows what each of the programs takes; the arguments are those of `time_all`."""
    kept = timer(config, estimate=estimate)
    each = {kept.key(job): job for job in jobs}
    if kept.exact and sum(not kept.knows(job) for job in each.values()) >= WORTH:
        with task("compiling the engines of the simulator, unless they are there", aside=True):
            prepare()
    if processes == 1:
        for job in each.values():
            told(job)
            kept.time(job)
    else:
        _in_processes(kept, each, told, processes)
    return kept


def distinct(config: SatConfig, wanted: Sequence[Wanted]) -> int:
    """Return the number of distinct programs of several steps."""
    return distinct_jobs(config, (job for one in wanted for job in one.jobs))


def distinct_jobs(config: SatConfig, jobs: Iterable[Job]) -> int:
    """Return the number of distinct programs."""
    kept = Timer(config)
    return len({kept.key(job) for job in jobs})


def _in_processes(kept: Timer, jobs: dict[str, Job], told: Callable[[Job], object], processes: int) -> None:
    """Time jobs in several processes, those with the most work first, and keep what they find."""
    order = sorted(jobs.values(), key=lambda job: -sum(p.macs_kept for p in job.products))
    with workers(processes) as pool:
        todo = {pool.submit(_timed, kept.config, job, kept.exact): job for job in order if not kept.knows(job)}
        for job in jobs.values():
            if kept.knows(job):
                told(job)
        for done in as_completed(todo):
            kept.keep(todo[done], done.result())
            told(todo[done])


_here: dict[tuple[SatConfig, bool], Timer] = {}
"""Timers of this worker."""


def _timed(config: SatConfig, job: Job, exact: bool) -> Timed:
    if (config, exact) not in _here:
        _here[config, exact] = (Timer if exact else Estimator)(config)
    return _here[config, exact].time(job)
