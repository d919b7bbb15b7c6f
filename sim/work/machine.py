"""A training step on the machine: every product and update as a program, each distinct one run by the quick gear."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nmsat.dataflow.program.jobs import ALL_ON, step_jobs
from nmsat.sim.results.machine import MachineResult, MachineRow
from nmsat.sim.results.result import HostTotals

if TYPE_CHECKING:
    from collections.abc import Callable

    from nmsat.dataflow.network.step import Step
    from nmsat.dataflow.program.jobs import Job, Switches
    from nmsat.sim.work.timed import Timed, Timer


def machine_step(
    step: Step, timer: Timer, told: Callable[[Job], object] | None = None, *, switches: Switches = ALL_ON
) -> MachineResult:
    """Return what a step takes on the machine of the timer.

    told: called with each program before it is timed; switches: what the programs may use. Raises ValueError for a
    product that the machine has no program for (docs/machine/programs.md).
    """
    jobs = step_jobs(step, switches)
    rows, start = [], 0
    for job, timed in zip(jobs, timer.all(jobs, told), strict=True):
        rows.append(_row(job, timed, timer, start))
        start += timed.cycles
    ops = step.host_ops
    host = HostTotals(len(ops), sum(op.operations for op in ops), sum(op.bytes for op in ops))
    return MachineResult(config=timer.config, rows=tuple(rows), macs_full=step.macs_dense, host=host)


def _row(job: Job, timed: Timed, timer: Timer, start: int) -> MachineRow:
    products = job.products
    shape = None
    if products:
        first = products[0]
        shape = (sum(p.m for p in products), max(p.k for p in products), first.n, first.count)
    return MachineRow(
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
