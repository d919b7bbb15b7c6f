"""The work behind `nmsat train`: one run on a backend, and what a step of it costs on SAT."""

from __future__ import annotations

import math
import statistics
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

from threadpoolctl import threadpool_limits

from nmsat.algorithms.training.recipes import run_name
from nmsat.algorithms.training.results import file_stem, run_logged
from nmsat.algorithms.training.study import Cell, record_of
from nmsat.algorithms.training.train import train
from nmsat.dataflow.network.readers.recorded import run_steps
from nmsat.reports.work.backends import check, rtl_run, sim_run
from nmsat.reports.work.commandline import TRAIN_MACHINE, spell
from nmsat.reports.work.progress import LOG, task
from nmsat.reports.work.run_files import run_files
from nmsat.reports.work.timings import Wanted, distinct, time_all
from nmsat.sim.results.provenance import Source

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from nmsat.algorithms.training.config import TrainConfig
    from nmsat.algorithms.training.train import Progress, TrainResult
    from nmsat.dataflow.contract.config import SatConfig


@dataclass(frozen=True)
class Job:
    """One run: its configuration, the machine, the folder of its files (None: none), where to stop.

    steps: do at most so many steps now, and leave a checkpoint if there is a folder; None is all of the run. force:
    start again where files in the folder that are not the run's stand in its way.
    """

    config: TrainConfig
    machine: SatConfig
    folder: Path | None = None
    steps: int | None = None
    force: bool = False


class Backend(Protocol):
    """What computes the matrix products of a run. It must leave the bits that `algorithms.training.train` defines."""

    def __call__(self, job: Job, progress: Callable[[Progress], None]) -> TrainResult:
        """Do the run, calling progress after every step; files in job.folder as `algorithms.training.results` writes
        them."""
        ...


def numpy_backend(job: Job, progress: Callable[[Progress], None]) -> TrainResult:
    """Run on NumPy."""
    done = 0

    def seen(state: Progress) -> None:
        nonlocal done
        done += 1
        progress(state)

    def stop() -> bool:
        return job.steps is not None and done >= job.steps

    # One thread, as in the table's runs: with several, BLAS may add in another order, and small products run slower.
    with threadpool_limits(1):
        if job.folder is None:
            return train(job.config, progress=seen, stop=stop)
        return run_logged(job.config, job.folder, run_name(job.config), progress=seen, stop=stop)


def sim_backend(job: Job, progress: Callable[[Progress], None]) -> TrainResult:
    """Run on SAT in the simulator."""
    return sim_run(job.config, job.machine, job.folder, job.steps, progress)


def rtl_backend(job: Job, progress: Callable[[Progress], None]) -> TrainResult:
    """Run on SAT in Verilated RTL."""
    return rtl_run(job.config, job.machine, job.folder, job.steps, progress)


BACKENDS: Final[dict[str, Backend]] = {"numpy": numpy_backend, "sim": sim_backend, "rtl": rtl_backend}
"""Backends by name."""

MEASURED: Final = {"sim": Source.MACHINE, "rtl": Source.RTL}
"""Where the cycles of a step come from on backends that count them."""

ON_SAT: Final = ("sim", "rtl")
"""Backends that cannot carry out every run; what they cannot is refused before it starts."""


_KEPT: Final = (
    "macs_dense",
    "macs_kept",
    "bound",
    "seconds",
    "weights_sha256",
    "losses_sha256",
    "cycles_per_step",
    "cycles_per_step_source",
)
"""What of a run's summary is told."""


def train_run(job: Job, backend: str = "numpy") -> dict[str, Any]:
    """Do a run, or read it if job.folder holds it complete, and return everything found as plain values.

    Progress goes to stderr. Raises ValueError for an unknown backend, InputError for a folder that cannot be used or
    files in it that are not of this run.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend is {backend!r}; known backends: {', '.join(BACKENDS)}")
    if backend in ON_SAT:
        check(job.config, job.machine)
    cell = Cell(run_name(job.config), job.config)
    with run_files(job.folder, [cell], force=job.force) if job.folder else nullcontext():
        return _run(cell.name, job, backend)


def _run(name: str, job: Job, backend: str) -> dict[str, Any]:
    record = None if job.folder is None else record_of(Cell(name, job.config), job.folder)
    if record is not None:
        LOG.warning("%s is complete in %s; nothing was run", name, job.folder)
        epochs, summary = record.epochs, record.summary
    else:
        with training(name) as show:
            result = BACKENDS[backend](job, show)
        epochs = [asdict(epoch) for epoch in result.epochs]
        whole = len(epochs) == job.config.epochs
        summary = result.summary() if whole else {"step": len(result.losses)}
        summary |= {"weights_sha256": result.weights_sha256, "losses_sha256": result.losses_sha256}
        if result.cycles:
            summary["cycles_per_step"] = statistics.median(result.cycles)
            summary["cycles_per_step_source"] = MEASURED[backend]
    return {
        "name": name,
        "backend": backend,
        "config": job.config.as_dict(),
        "complete": len(epochs) == job.config.epochs,
        "step": summary["step"],
        "epochs": [_plain(epoch) for epoch in epochs],
        "accuracy": epochs[-1]["accuracy"] if epochs else None,
        **_plain({key: summary[key] for key in _KEPT if key in summary}),
        "sat": sat_step(job.config, job.machine),
        "files": None if job.folder is None else str(job.folder / file_stem(name)),
    }


def sat_step(config: TrainConfig, machine: SatConfig) -> dict[str, Any]:
    """Return what one step of the method costs on SAT: cycles, those of the dense step, speed-up and bound.

    The step is recorded from a run, shapes and patterns alone (the paper's networks are known by their layers); the
    programs of products and updates are in the cycles, each distinct one timed once by the quick gear and kept. Where
    the machine has no program for a product, cycles and speed-up are None and `refused` says why
    (docs/machine/programs.md).
    """
    step, whole = run_steps(config)
    wanted = [Wanted(step), Wanted(whole)]
    cost: dict[str, Any] = {"cycles": None, "dense_cycles": None, "speedup": None, "refused": None}
    try:
        with task("SAT cycles of a step", distinct(machine, wanted), "program") as running:
            result, dense = time_all(machine, wanted, lambda _: running.advance())
    except ValueError as error:  # a product that this machine has no program for
        cost["refused"] = str(error)
    else:
        speedup = dense.cycles / result.cycles
        cost |= {"cycles": result.cycles, "dense_cycles": dense.cycles, "speedup": speedup}
    origin = {"config": machine.name, "source": Source.MACHINE, "planned": list(machine.planned)}
    return {**origin, **cost, "bound": step.bound}


def train_command(config: TrainConfig, machine: SatConfig) -> str:
    """Return the command that repeats a run, its cycles on SAT included."""
    options: dict[str, object] = {"--cell": run_name(config)}
    if machine.name != TRAIN_MACHINE:
        options["--config"] = machine
    return spell("train", options=options)


@contextmanager
def training(label: str) -> Iterator[Callable[[Progress], None]]:
    """Show a training run: give a function that is called after every step."""
    with task(label, unit="step") as running:

        def show(progress: Progress) -> None:
            if running.total is None:
                running.begin(progress.step - 1, progress.steps)  # a resumed run starts in its middle
            shown = {"loss": f"{progress.loss:.3f}"}
            if not math.isnan(progress.accuracy):  # known from the end of the first epoch on
                shown["accuracy"] = f"{progress.accuracy:.1%}"
            running.advance(shown=shown)

        yield show


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """Return the values with None for numbers that JSON cannot hold (the loss of a run that diverged)."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
