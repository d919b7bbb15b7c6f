"""A recorded workload on SAT with its memory traffic (docs/timing.md): products, and updates beside them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final

from nmsat.algorithms.core.tape import Stage
from nmsat.dataflow.schedule.lowered_program import Weights, base_name, lowered_program
from nmsat.sim.results.causes import CAUSES
from nmsat.sim.results.provenance import Source
from nmsat.sim.schedule.machine import run_program

if TYPE_CHECKING:
    from nmsat.algorithms.workloads.engine.program import Program
    from nmsat.sim.schedule.machine import MachineRun
    from nmsat.sim.work.workload import WorkloadResult

HOST_UPDATE: Final = "update"
"""Name of the host work by which a program says that its optimizer is not the update engine's."""


@dataclass(frozen=True, eq=False)
class MemoryResult:
    """A workload with external memory.

    run, dense: what ran, and the same work with nothing left out; planned: what of machine and memory is not built.
    """

    run: MachineRun
    dense: MachineRun
    planned: tuple[str, ...] = ()

    @cached_property
    def cycles(self) -> int:
        """Cycles from the first load to the last store."""
        return self.run.cycles

    @cached_property
    def cycles_dense(self) -> int:
        """The same with nothing left out."""
        return self.dense.cycles

    @property
    def speedup(self) -> float:
        """Cycles dense over cycles."""
        return self.cycles_dense / self.cycles

    @cached_property
    def causes(self) -> dict[str, int]:
        """Cycles by cause; they add up to `cycles`."""
        total: Counter[str] = Counter()
        for span in self.run.spans:
            total.update(span.causes)
        return {cause: total[cause] for cause in CAUSES}

    def record(self) -> dict[str, object]:
        """Return the totals as plain values for JSON."""
        return {
            "source": Source.MODEL,
            "planned": list(self.planned),
            "cycles_dense": self.cycles_dense,
            "cycles": self.cycles,
            "speedup": self.speedup,
            "causes": self.causes,
        }


def simulate_memory(program: Program, result: WorkloadResult) -> MemoryResult:
    """Run the lowered products of a program with memory stalls; result: of `simulate_tape` for the program's tape."""
    weights = stored_weights(program)
    run, dense = (run_program(lowered_program(result.lowered, weights, dense=dense)) for dense in (False, True))
    return MemoryResult(run, dense, (*result.config.planned, *result.config.memory.planned))


def stored_weights(program: Program) -> Weights:
    """Return which layers of a program multiply by weights, and which of them SAT updates.

    A layer learns if its weight gradient was recorded; SAT updates it unless the program left that to the host.
    """
    by_host = any(work.name == HOST_UPDATE for work in program.tape.host)
    learning = {base_name(product) for product in program.tape.of(Stage.WU)} & program.store.keys()
    sizes = {name: program.store[name].size for name in sorted(learning)}
    return Weights(frozenset(program.store), {} if by_host else sizes)
