"""What runs on the machine: every product and update as a program, each distinct one run by the quick gear."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nmsat.dataflow.program.jobs import ALL_ON, step_jobs
from nmsat.sim.results.machine import EstimatedResult, EstimatedRow, MachineResult, MachineRow
from nmsat.sim.results.result import HostTotals

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from nmsat.algorithms.core.tape import HostWork
    from nmsat.dataflow.network.step import Step, StepHostOp
    from nmsat.dataflow.program.jobs import Job, Switches
    from nmsat.sim.work.timed import Timed, Timer


def machine_step(
    step: Step, timer: Timer, told: Callable[[Job], object] | None = None, *, switches: Switches = ALL_ON
) -> MachineResult:
    """Return what a step takes on the machine of the timer, or is estimated to take by an `Estimator`.

    told: called with each program before it is timed; switches: what the programs may use. Raises ValueError for a
    product that the machine has no program for (docs/machine/programs.md).
    """
    return machine_run(step_jobs(step, switches), timer, step.macs_dense, host_totals(step.host_ops), told)


def machine_run(
    jobs: Sequence[Job],
    timer: Timer,
    macs_full: int,
    host: HostTotals | None = None,
    told: Callable[[Job], object] | None = None,
) -> MachineResult:
    """Return what programs take one behind the other; macs_full: multiply-adds of their work with nothing left out."""
    rows, start = [], 0
    kind = MachineRow if timer.exact else EstimatedRow
    for job, timed in zip(jobs, timer.all(jobs, told), strict=True):
        rows.append(_row(kind, job, timed, timer, start))
        start += timed.cycles
    made = MachineResult if timer.exact else EstimatedResult
    return made(config=timer.config, rows=tuple(rows), macs_full=macs_full, host=host or HostTotals())


def host_totals(ops: Iterable[StepHostOp | HostWork]) -> HostTotals:
    """Return the work of the host together."""
    ops = tuple(ops)
    return HostTotals(len(ops), sum(op.operations for op in ops), sum(op.bytes for op in ops))


def _row(kind: type[MachineRow], job: Job, timed: Timed, timer: Timer, start: int) -> MachineRow:
    products = job.products
    shape = None
    if products:
        first = products[0]
        shape = (sum(p.m for p in products), max(p.k for p in products), first.n, first.count)
    return kind(
        config=timer.config,
        name=job.name,
        stage=job.stage,
        start=start,
        counters=timed.counters,
        programs=timed.programs,
        shape=shape,
        macs=sum(p.macs_kept for p in products),
        macs_full=sum(p.macs_full for p in products),
        schedule=timed.schedule,
    )
