"""A recorded workload on the machine: its pieces as programs, and the updates behind them (docs/timing.md)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from nmsat.algorithms.core.tape import Stage
from nmsat.dataflow.program.pieces import LearntWeights, base_name, piece_jobs
from nmsat.sim.work.machine import machine_run

if TYPE_CHECKING:
    from collections.abc import Callable

    from nmsat.algorithms.workloads.engine.program import Program
    from nmsat.dataflow.program.jobs import Job
    from nmsat.sim.results.machine import MachineResult
    from nmsat.sim.work.timed import Timer
    from nmsat.sim.work.workload import WorkloadResult

HOST_UPDATE: Final = "update"
"""Name of the host work by which a program says that its optimizer is not the update engine's."""


@dataclass(frozen=True, eq=False)
class MemoryResult:
    """A workload on the machine. run, dense: what ran, and the same work with nothing left out."""

    run: MachineResult
    dense: MachineResult

    @property
    def cycles(self) -> int:
        """Cycles of all programs."""
        return self.run.cycles

    @property
    def cycles_dense(self) -> int:
        """The same with nothing left out."""
        return self.dense.cycles

    @property
    def speedup(self) -> float:
        """Cycles dense over cycles."""
        return self.cycles_dense / self.cycles

    def record(self) -> dict[str, object]:
        """Return the totals as plain values for JSON."""
        known = self.run.record()
        return {
            "source": self.run.source,
            "planned": list(self.run.planned),
            "cycles_dense": self.cycles_dense,
            "cycles": self.cycles,
            "speedup": self.speedup,
            **{name: known[name] for name in ("causes", "bytes") if name in known},
        }


def workload_jobs(program: Program, result: WorkloadResult, *, dense: bool = False) -> tuple[Job, ...]:
    """Return a workload as programs of the machine; result: of `simulate_tape` for the program's tape.

    dense: with nothing left out.
    """
    return piece_jobs(result.lowered, stored_weights(program), dense=dense)


def simulate_memory(
    program: Program, result: WorkloadResult, timer: Timer, told: Callable[[Job], object] | None = None
) -> MemoryResult:
    """Run the lowered products of a program on the machine of a timer; result: of `simulate_tape` for its tape.

    told: called with each program before it is timed. Raises ValueError for a product without a program.
    """
    run, dense = (
        machine_run(workload_jobs(program, result, dense=dense), timer, result.macs_full, told=told)
        for dense in (False, True)
    )
    return MemoryResult(run, dense)


def stored_weights(program: Program) -> LearntWeights:
    """Return which layers of a program multiply by weights, and which of them SAT updates.

    A layer learns if its weight gradient was recorded; SAT updates it unless the program left that to the host.
    """
    by_host = any(work.name == HOST_UPDATE for work in program.tape.host)
    learning = {base_name(product) for product in program.tape.of(Stage.WU)} & program.store.keys()
    sizes = {name: program.store[name].size for name in sorted(learning)}
    return LearntWeights(frozenset(program.store), {} if by_host else sizes)
