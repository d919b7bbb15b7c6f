"""A training step on SAT: scheduled, run by the machine with external memory, opened into rows.

Products, update and pruning are in the cycles; host operators (normalisation, activation, softmax, pooling, loss) are
not: they are counted in `host`. `sim.api.simulate` is the way in.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from nmsat.dataflow.schedule.plan import ALL_ON
from nmsat.dataflow.schedule.program import ProductRun
from nmsat.dataflow.schedule.step_program import step_program
from nmsat.dataflow.schedule.traffic import OperandBytes
from nmsat.sim.array.fast import kept_macs
from nmsat.sim.results.provenance import Source
from nmsat.sim.results.result import HostTotals, Result
from nmsat.sim.results.rows import Row, tiling_schedule
from nmsat.sim.schedule.machine import run_program

if TYPE_CHECKING:
    from nmsat.dataflow.contract.config import SatConfig
    from nmsat.dataflow.network.step import Step
    from nmsat.dataflow.schedule.plan import Switches
    from nmsat.dataflow.schedule.program import Program
    from nmsat.sim.schedule.machine import MachineRun, Span


@dataclass(frozen=True, eq=False, kw_only=True)
class StepResult(Result):
    """A program that ran on the machine with its memory. program: what ran; run: what its parts took."""

    program: Program
    run: MachineRun

    @property
    def source(self) -> Source:
        """What gave the cycles: the schedule model."""
        return Source.MODEL

    @property
    def planned(self) -> tuple[str, ...]:
        """In words, what of machine and memory is planned and not built in RTL."""
        return (*self.config.planned, *self.config.memory.planned)

    @cached_property
    def bytes(self) -> dict[str, int]:
        """Bytes between memory and chip by operand: a, w, y of the products, update, prune."""
        total = {**super().bytes, "update": 0, "prune": 0}
        for update in self.run.updates:
            total[update.stage] += update.bytes
        return total


def simulate_step(step: Step, config: SatConfig, switches: Switches = ALL_ON) -> StepResult:
    """Schedule and simulate one training step; time grows with the number of distinct products, not with cycles.

    Raises ValueError when the switches leave no schedule for a product.
    """
    program = step_program(step, config, switches)
    ops = step.host_ops
    host = HostTotals(len(ops), sum(op.operations for op in ops), sum(op.bytes for op in ops))
    return simulate_program(program, switches, macs_full=step.macs_dense, host=host)


def simulate_program(
    program: Program,
    switches: Switches = ALL_ON,
    *,
    macs_full: int | None = None,
    host: HostTotals | None = None,
) -> StepResult:
    """Run a program, for example one that was read back from its words.

    macs_full: multiply-adds with nothing left out, by default those of its products without their patterns.
    """
    run = run_program(program, prefetch=switches.prefetch)
    rows = tuple(_row(span, program.config) for span in run.spans)
    if macs_full is None:
        macs_full = sum(p.m * p.k * p.n * p.count for p in program.instructions if isinstance(p, ProductRun))
    return StepResult(
        config=program.config, rows=rows, macs_full=macs_full, host=host or HostTotals(), program=program, run=run
    )


def _row(span: Span, config: SatConfig) -> Row:
    run, piped = span.run, span.piped
    if run is None or piped is None:
        return Row(
            config=config,
            name=span.name,
            stage=span.stage,
            start=span.start,
            causes=span.causes,
            memory_busy=span.memory_busy,
        )
    tiling = piped.tiling
    return Row(
        config=config,
        name=span.name,
        stage=span.stage,
        start=span.start,
        causes=span.causes,
        shape=(run.m, run.k, run.n, run.count),
        macs=kept_macs(tiling),
        macs_full=run.m * run.k * run.n * run.count,
        schedule={
            **tiling_schedule(tiling),
            "loop": run.order.value,
            "pieces": run.slots,
        },
        memory=OperandBytes(run.a.bytes, run.w.bytes, run.y.bytes),
        memory_busy=span.memory_busy,
        tiling=tiling,
    )
