"""A step on the machine: a row for each program, totals that are sums of rows, all from the machine's counters."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from nmsat.dataflow.contract.isa import BEAT_BYTES
from nmsat.dataflow.network.step import layer_of
from nmsat.sim.results.causes import MACHINE_CAUSES, machine_causes
from nmsat.sim.results.provenance import Source
from nmsat.sim.results.result import HostTotals

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
        return self.macs / (self.cycles * self.config.elements)

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
        size = {f"bytes_{way}": count for way, count in self.bytes.items()}
        counters = {name: count for name, count in self.counters.items() if name not in ("cycles", "steps")}
        return {**out, "programs": self.programs, **size, **self.causes, **counters}


@dataclass(frozen=True, eq=False, kw_only=True)
class MachineResult:
    """A step as the machine's programs ran it, one behind the other. Every total is the sum over `rows`.

    macs_full: multiply-adds of the same step with nothing left out; host: work of the host, not in the cycles.
    """

    config: SatConfig
    rows: tuple[MachineRow, ...]
    macs_full: int
    host: HostTotals = field(default_factory=HostTotals)

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

    @property
    def cycles(self) -> int:
        """Cycles of all programs."""
        return self.counters["cycles"]

    @property
    def seconds(self) -> float:
        """Time of all programs."""
        return self.cycles / (self.config.clock_mhz * 1e6)

    @cached_property
    def macs(self) -> int:
        """Multiply-adds of kept elements."""
        return sum(row.macs for row in self.rows)

    @property
    def macs_skipped(self) -> int:
        """Multiply-adds that sparsity left out of the products."""
        return sum(row.macs_skipped for row in self.rows)

    @property
    def bound(self) -> float:
        """Speed-up over the step with nothing left out that no machine of equal peak can beat."""
        return self.macs_full / self.macs if self.macs else float("inf")

    @property
    def utilization(self) -> float:
        """Multiply-adds / (cycles x elements)."""
        return self.macs / (self.cycles * self.config.elements)

    @cached_property
    def causes(self) -> dict[str, int]:
        """Cycles by cause; they add up to `cycles`."""
        total: Counter[str] = Counter()
        for row in self.rows:
            total.update(row.causes)
        return {cause: total[cause] for cause in MACHINE_CAUSES}

    @property
    def stalls(self) -> dict[str, int]:
        """Cycles in which no multiply-add issues, by cause."""
        return {cause: cycles for cause, cycles in self.causes.items() if cause != "steps"}

    @cached_property
    def bytes(self) -> dict[str, int]:
        """Bytes between memory and chip; instructions are read, too."""
        read, written = (sum(row.bytes[way] for row in self.rows) for way in ("read", "written"))
        return {"read": read, "written": written}

    def by(self, key: str) -> dict[str, int]:
        """Cycles by 'stage', 'layer', 'name' or 'cause'; they add up to `cycles`."""
        if key == "cause":
            return self.causes
        names = {"stage": lambda row: row.stage, "name": lambda row: row.name, "layer": lambda row: layer_of(row.name)}
        if key not in names:
            raise ValueError(f"key is {key!r}; it must be 'stage', 'layer', 'name' or 'cause'")
        total: Counter[str] = Counter()
        for row in self.rows:
            total[names[key](row)] += row.cycles
        return dict(total)

    def table(self) -> list[dict[str, object]]:
        """Return the rows as dictionaries, for `pandas.DataFrame(result.table())`."""
        return [row.record() for row in self.rows]

    def record(self) -> dict[str, object]:
        """Return the totals as plain values, for JSON."""
        return {
            "config": self.config.name,
            "source": self.source,
            "memory_channels": self.config.ports,
            "cycles": self.cycles,
            "seconds": self.seconds,
            "macs": self.macs,
            "macs_skipped": self.macs_skipped,
            "utilization": self.utilization,
            "causes": self.causes,
            "stages": self.by("stage"),
            "counters": self.counters,
            "programs": sum(row.programs for row in self.rows),
            "bytes": self.bytes,
            "host_operators": self.host.operators,
            "host_operations": self.host.operations,
            "host_bytes": self.host.bytes,
        }
