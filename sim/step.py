"""One training step on SAT: the interface for notebooks and commands.

    layers = load_model("resnet18", 512)
    step = training_products(layers, "bdwp", Pattern.parse("2:8"))
    result = simulate_step(step, preset("vcu1525"))
    result.seconds, result.by("stage"), pandas.DataFrame(result.rows())

Products, update and pruning are in the cycles; host operators (normalisation, activation, softmax, pooling, loss) are
not: they are counted in `result.host`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from dataflow.plan import ALL_ON
from dataflow.step_program import step_program
from dataflow.transfers import memory_timing
from sim.machine import CAUSES, MachineRun, run_program
from sim.product import kept_macs

if TYPE_CHECKING:
    from dataflow.config import SatConfig
    from dataflow.plan import Switches
    from dataflow.program import Program
    from dataflow.step import Step
    from sim.machine import Span


@dataclass(frozen=True)
class HostTotals:
    """Work of the host in a step: operators, scalar operations, bytes. Not in the cycles."""

    operators: int
    operations: int
    bytes: int


@dataclass(frozen=True)
class StepResult:
    """A step that was simulated: the program that ran, and what each of its parts took."""

    program: Program
    run: MachineRun
    host: HostTotals
    bound: float

    @property
    def config(self) -> SatConfig:
        """The machine."""
        return self.program.config

    @cached_property
    def cycles(self) -> int:
        """Cycles of the whole step."""
        return self.run.cycles

    @property
    def seconds(self) -> float:
        """Time of the whole step."""
        return self.cycles / (self.config.clock_mhz * 1e6)

    @cached_property
    def macs(self) -> int:
        """Multiply-adds of kept elements."""
        return sum(kept_macs(span.piped.tiling) for span in self.run.spans if span.piped)

    @property
    def utilization(self) -> float:
        """Multiply-adds / (cycles x elements)."""
        return self.macs / (self.cycles * self.config.elements)

    @cached_property
    def causes(self) -> dict[str, int]:
        """Cycles by cause; they add up to `cycles`."""
        total: Counter[str] = Counter()
        for span in self.run.spans:
            total.update(span.causes)
        return {cause: total[cause] for cause in CAUSES}

    @cached_property
    def bytes(self) -> dict[str, int]:
        """Bytes between memory and chip by operand: a, w, y of the products, update, prune."""
        total: dict[str, int] = {"a": 0, "w": 0, "y": 0, "update": 0, "prune": 0}
        for span in self.run.spans:
            if span.run:
                for name, stream in (("a", span.run.a), ("w", span.run.w), ("y", span.run.y)):
                    total[name] += stream.bytes
        for vector in self.run.vectors:
            total[vector.stage] += vector.bytes
        return total

    def by(self, key: str) -> dict[str, int]:
        """Cycles by 'stage' or 'name'; they add up to `cycles`."""
        if key not in ("stage", "name"):
            raise ValueError(f"key is {key!r}; it must be 'stage' or 'name'")
        total: dict[str, int] = {}
        for span in self.run.spans:
            what = span.stage if key == "stage" else span.name
            total[what] = total.get(what, 0) + span.cycles
        return total

    def rows(self) -> list[dict[str, object]]:
        """Return one record per product and per wait for the vector engine; their cycles add up to `cycles`."""
        return [_row(span, self.config) for span in self.run.spans]

    def record(self) -> dict[str, object]:
        """Return the totals as plain values, for JSON."""
        return {
            "config": self.config.name,
            "cycles": self.cycles,
            "seconds": self.seconds,
            "macs": self.macs,
            "utilization": self.utilization,
            "causes": self.causes,
            "stages": self.by("stage"),
            "bytes": self.bytes,
            "host_operators": self.host.operators,
            "host_operations": self.host.operations,
            "host_bytes": self.host.bytes,
        }


def simulate_step(step: Step, config: SatConfig, switches: Switches = ALL_ON) -> StepResult:
    """Schedule and simulate one training step; time grows with the number of distinct products, not with cycles.

    Raises ValueError when the switches leave no schedule for a product.
    """
    program = step_program(step, config, switches)
    run = run_program(program, prefetch=switches.prefetch)
    ops = step.host_ops
    host = HostTotals(len(ops), sum(op.operations for op in ops), sum(op.bytes for op in ops))
    return StepResult(program, run, host, step.bound)


def roofline(config: SatConfig, macs: int, size: int) -> tuple[float, float, str]:
    """Return (multiply-adds per byte, most multiply-adds per cycle at that intensity, what limits them).

    macs: multiply-adds; size: bytes moved for them, at least 1.
    """
    timing = memory_timing(config.memory, config.clock_mhz)
    intensity = macs / size
    memory = intensity * timing.bytes_per_cycle
    return intensity, min(memory, config.elements), "array" if memory >= config.elements else "memory"


def _row(span: Span, config: SatConfig) -> dict[str, object]:
    row: dict[str, object] = {"name": span.name, "stage": span.stage, "start": span.start, "cycles": span.cycles}
    run, piped = span.run, span.piped
    if run is not None and piped is not None:
        tiling, size = piped.tiling, piped.traffic.bytes
        macs = kept_macs(tiling)
        intensity, attainable, limit = roofline(config, macs, size)
        row |= {
            "m": run.m,
            "k": run.k,
            "n": run.n,
            "count": run.count,
            "group": f"{run.mapping.n}:{run.mapping.m}",
            "dataflow": run.mapping.name,
            "rectangle": f"{run.mapping.a}x{run.mapping.b}",
            "loop": run.order.value,
            "tile_rows": tiling.tile_rows,
            "tile_columns": run.mapping.b * config.columns,
            "commands": tiling.commands,
            "pieces": run.slots,
            "macs": macs,
            "macs_skipped": run.m * run.k * run.n * run.count - macs,
            "utilization": macs / (span.cycles * config.elements),
            "bytes_a": run.a.bytes,
            "bytes_w": run.w.bytes,
            "bytes_y": run.y.bytes,
            "macs_per_byte": intensity,
            "roofline": attainable / config.elements,
            "limit": limit,
        }
    return row | {"memory_busy": span.memory_busy} | span.causes
