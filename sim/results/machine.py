"""A step on the machine: a row for each program, totals that are sums of rows, all from the machine's counters."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from nmsat.dataflow.contract.isa import BEAT_BYTES
from nmsat.dataflow.cycles.memory import memory_timing
from nmsat.sim.results.causes import MACHINE_CAUSES, machine_causes
from nmsat.sim.results.provenance import Source
from nmsat.sim.results.result import Result

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nmsat.dataflow.contract.config import SatConfig


@dataclass(frozen=True, kw_only=True)
class MachineRow:
    """A product of a step with all its parts and copies, or the update of a weight matrix.

    start: its first cycle, programs one behind the other; counters: of its programs together
    (`dataflow.contract.registers.COUNTERS`); programs: how often one is started; shape: m, k, n and count, the rows of
    all parts together, None of an update; macs: multiply-adds of kept elements; macs_full: with nothing left out;
    schedule: how its first product is cut.
    """

    config: SatConfig
    name: str
    stage: str
    start: int
    counters: Mapping[str, int]
    programs: int
    shape: tuple[int, int, int, int] | None = None
    macs: int = 0
    macs_full: int = 0
    schedule: Mapping[str, Any] = field(default_factory=dict)

    @property
    def cycles(self) -> int:
        """Cycles from the start to the end of its programs."""
        return self.counters["cycles"]

    @property
    def causes(self) -> dict[str, int]:
        """Cycles by cause (`sim.results.causes.MACHINE_CAUSES`); they add up to `cycles`."""
        return machine_causes(self.counters, update=self.shape is None)

    @property
    def macs_skipped(self) -> int:
        """Multiply-adds that sparsity left out."""
        return self.macs_full - self.macs

    @property
    def utilization(self) -> float:
        """Multiply-adds / (cycles x elements)."""
        return self.macs / (self.cycles * self.config.elements) if self.cycles else 0.0

    @property
    def bytes(self) -> dict[str, int]:
        """Bytes between memory and chip, those of instructions among what is read."""
        return {
            way: BEAT_BYTES * self.counters[f"{what}_beats"] for way, what in (("read", "read"), ("written", "write"))
        }

    def record(self) -> dict[str, object]:
        """Return the row as plain values: what does not apply to it is absent."""
        out: dict[str, object] = {"name": self.name, "stage": self.stage, "start": self.start, "cycles": self.cycles}
        if self.shape is not None:
            out |= dict(zip(("m", "k", "n", "count"), self.shape, strict=True))
            out |= self.schedule
            out |= {"macs": self.macs, "macs_skipped": self.macs_skipped, "utilization": self.utilization}
            intensity, attainable, limit = roofline(self.config, self.macs, sum(self.bytes.values()) or 1)
            out |= {"macs_per_byte": intensity, "roofline": attainable / self.config.elements, "limit": limit}
        size = {f"bytes_{way}": count for way, count in self.bytes.items()}
        counters = {name: count for name, count in self.counters.items() if name not in ("cycles", "steps")}
        return {**out, "programs": self.programs, **size, **self.causes, **counters}


@dataclass(frozen=True, eq=False, kw_only=True)
class MachineResult(Result):
    """A step as the machine's programs ran it, one behind the other."""

    rows: tuple[MachineRow, ...]

    @property
    def source(self) -> Source:
        """What gave the cycles."""
        return Source.MACHINE

    @cached_property
    def counters(self) -> dict[str, int]:
        """All counters of the machine, of all programs together."""
        total: Counter[str] = Counter()
        for row in self.rows:
            total.update(row.counters)
        return dict(total)

    @cached_property
    def bytes(self) -> dict[str, int]:
        """Bytes between memory and chip; instructions are read, too."""
        read, written = (sum(row.bytes[way] for row in self.rows) for way in ("read", "written"))
        return {"read": read, "written": written}

    def record(self) -> dict[str, object]:
        """Return the totals as plain values, for JSON."""
        return {
            **super().record(),
            "memory_channels": self.config.ports,
            "counters": self.counters,
            "programs": sum(row.programs for row in self.rows),
            "bytes": self.bytes,
        }

    def _causes(self) -> tuple[str, ...]:
        return MACHINE_CAUSES


class EstimatedRow(MachineRow):
    """A row that a closed form gave: cycles, and nothing of where they go."""

    @property
    def causes(self) -> dict[str, int]:
        """None: nothing was run."""
        return {}

    @property
    def bytes(self) -> dict[str, int]:
        """None: nothing was run."""
        return {}

    def record(self) -> dict[str, object]:
        """Return the row as plain values."""
        out: dict[str, object] = {"name": self.name, "stage": self.stage, "start": self.start, "cycles": self.cycles}
        if self.shape is not None:
            out |= dict(zip(("m", "k", "n", "count"), self.shape, strict=True)) | dict(self.schedule)
            out |= {"macs": self.macs, "macs_skipped": self.macs_skipped, "utilization": self.utilization}
        return {**out, "programs": self.programs}


class EstimatedResult(MachineResult):
    """A step as the closed form of its programs has it: cycles only, of which none is exact."""

    @property
    def source(self) -> Source:
        """What gave the cycles."""
        return Source.ESTIMATE

    @cached_property
    def bytes(self) -> dict[str, int]:
        """None: nothing was run."""
        return {}

    def record(self) -> dict[str, object]:
        """Return the totals as plain values, for JSON."""
        found = super().record()
        return {name: value for name, value in found.items() if name not in ("causes", "counters", "bytes")}

    def _causes(self) -> tuple[str, ...]:
        return ()


def roofline(config: SatConfig, macs: int, size: int) -> tuple[float, float, str]:
    """Return (multiply-adds per byte, most multiply-adds per cycle at that intensity, what limits them).

    macs: multiply-adds; size: bytes moved for them by all ports of the machine, at least 1. Each port has a channel of
    its own, and as many as there are move at once what is spread over them evenly.
    """
    timing = memory_timing(config)
    intensity = macs / size
    memory = intensity * timing.bytes_per_cycle / timing.channels * config.ports
    return intensity, min(memory, config.elements), "array" if memory >= config.elements else "memory"
