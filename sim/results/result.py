"""The result of a run: rows that open, totals that are their sums."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from nmsat.algorithms.core.numeric import to_half
from nmsat.dataflow.network.step import layer_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nmsat.dataflow.contract.config import SatConfig
    from nmsat.sim.results.provenance import Source


class ResultRow(Protocol):
    """A row of any result: cycles by cause, multiply-adds of kept elements and those that sparsity left out."""

    @property
    def name(self) -> str: ...
    @property
    def stage(self) -> str: ...
    @property
    def start(self) -> int: ...
    @property
    def cycles(self) -> int: ...
    @property
    def causes(self) -> Mapping[str, int]: ...
    @property
    def macs(self) -> int: ...
    @property
    def macs_skipped(self) -> int: ...
    @property
    def shape(self) -> tuple[int, int, int, int] | None: ...
    def record(self) -> dict[str, object]: ...


@dataclass(frozen=True)
class HostTotals:
    """Work of the host in a run: operators, scalar operations, bytes. Not in the cycles."""

    operators: int = 0
    operations: int = 0
    bytes: int = 0


@dataclass(frozen=True, eq=False, kw_only=True)
class Result:
    """What a run took on one machine. Every total is the sum over `rows`.

    config: the machine; rows: what ran, in order, without gap; macs_full: multiply-adds of the same work with nothing
    left out; host: work beside; values: Y of every product, if they were asked for: float32[m, n], a leading axis where
    count > 1. Of the array alone it is `sim.results.rows.ArrayResult`, of the machine `sim.results.machine`.
    """

    config: SatConfig
    rows: tuple[ResultRow, ...]
    macs_full: int
    host: HostTotals = field(default_factory=HostTotals)
    values: tuple[np.ndarray, ...] = ()

    @property
    def source(self) -> Source:
        """What gave the cycles."""
        raise NotImplementedError

    @property
    def planned(self) -> tuple[str, ...]:
        """In words, what of the machine is planned and not built in RTL; empty if all is built."""
        return self.config.planned

    @cached_property
    def cycles(self) -> int:
        """Cycles of the whole run."""
        return sum(row.cycles for row in self.rows)

    @property
    def seconds(self) -> float:
        """Time of the whole run."""
        return self.cycles / (self.config.clock_mhz * 1e6)

    @cached_property
    def macs(self) -> int:
        """Multiply-adds of kept elements."""
        return sum(row.macs for row in self.rows)

    @property
    def macs_skipped(self) -> int:
        """Multiply-adds that sparsity left out of the products (padding of a kernel tap to whole groups included)."""
        return sum(row.macs_skipped for row in self.rows)

    @property
    def bound(self) -> float:
        """Speed-up over the run with nothing left out that no machine of equal peak can beat."""
        return self.macs_full / self.macs if self.macs else float("inf")

    @property
    def utilization(self) -> float:
        """Multiply-adds / (cycles x elements)."""
        return self.macs / (self.cycles * self.config.elements) if self.cycles else 0.0

    @cached_property
    def causes(self) -> dict[str, int]:
        """Cycles by cause (`sim.results.causes`); they add up to `cycles`."""
        total: Counter[str] = Counter()
        for row in self.rows:
            total.update(row.causes)
        return {cause: total[cause] for cause in self._causes()}

    @property
    def stalls(self) -> dict[str, int]:
        """Cycles in which no multiply-add issues, by cause."""
        return {cause: cycles for cause, cycles in self.causes.items() if cause != "steps"}

    def special(self, *, half: bool = False) -> bool:
        """Return whether a result is infinite or NaN: the sticky flag of the machine; half: results leave as binary16.

        Raises ValueError for a run without values.
        """
        if not self.values:
            raise ValueError("the run has no values; simulate with values=True")
        found = (to_half(y) if half else y for y in self.values)
        return not all(np.isfinite(y).all() for y in found)

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

    def record(self) -> dict[str, Any]:
        """Return the totals as plain values, for JSON."""
        return {
            "config": self.config.name,
            "source": self.source,
            "planned": list(self.planned),
            "cycles": self.cycles,
            "seconds": self.seconds,
            "macs": self.macs,
            "macs_skipped": self.macs_skipped,
            "utilization": self.utilization,
            "causes": self.causes,
            "stages": self.by("stage"),
            "host_operators": self.host.operators,
            "host_operations": self.host.operations,
            "host_bytes": self.host.bytes,
        }

    def _causes(self) -> tuple[str, ...]:
        """Return all causes that its rows can have, in order."""
        raise NotImplementedError
