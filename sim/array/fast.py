"""The fast gear for one product: exact cycles in closed form, exact values by the ordered sum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nmsat.algorithms.core.numeric import ordered_dot_packed
from nmsat.dataflow.cycles.array import Duration, product_duration
from nmsat.sim.results.provenance import Source

if TYPE_CHECKING:
    import numpy as np

    from nmsat.algorithms.core.packed import Packed
    from nmsat.dataflow.mapping.tiling import Tiling


@dataclass(frozen=True, eq=False)
class ProductResult:
    """One product on the array with its operands on chip.

    tiling: how it was cut; duration: its cycles, split by cause; macs: multiply-adds of kept elements;
    macs_dense: the same without sparsity; y: float32[m, n] when operands were given.
    """

    tiling: Tiling
    duration: Duration
    macs: int
    y: np.ndarray | None = None

    @property
    def macs_dense(self) -> int:
        """Multiply-adds of the product without sparsity."""
        return self.tiling.m * self.tiling.k * self.tiling.n * self.tiling.count

    @property
    def cycles(self) -> int:
        """From the start of the first window to the last result, both included."""
        return self.duration.total

    @property
    def ideal_cycles(self) -> int:
        """Cycles if every element did one multiply-add of a kept element in each."""
        return -(-self.macs // self.tiling.config.elements)

    @property
    def utilization(self) -> float:
        """Multiply-adds done / (cycles x elements)."""
        return self.macs / (self.cycles * self.tiling.config.elements)

    def record(self) -> dict[str, object]:
        """Return the result as plain values (without y), for JSON and tables."""
        mapping = self.tiling.mapping
        return {
            "m": self.tiling.m,
            "k": self.tiling.k,
            "n": self.tiling.n,
            "count": self.tiling.count,
            "group": f"{mapping.n}:{mapping.m}",
            "dataflow": mapping.name,
            "rectangle": f"{mapping.a}x{mapping.b}",
            "commands": self.tiling.commands,
            "source": Source.ARRAY,
            "planned": list(self.tiling.config.planned),
            "cycles": self.cycles,
            "ideal_cycles": self.ideal_cycles,
            "utilization": self.utilization,
            "macs": self.macs,
            "macs_dense": self.macs_dense,
            "stalls": self.duration.stalls,
        }


def kept_macs(tiling: Tiling) -> int:
    """Multiply-adds when every group keeps all the pairs that the pattern and its length allow."""
    n, m = tiling.mapping.n, tiling.mapping.m
    full, tail = divmod(tiling.k, m)
    return tiling.count * tiling.m * tiling.n * (full * n + min(n, tail))


def simulate_product(tiling: Tiling, a: np.ndarray | None = None, packed: Packed | None = None) -> ProductResult:
    """Return cycles and, when operands are given, values of one product.

    a: float16[m, k]; packed: W packed along k in the group of the tiling's mapping. Without operands the
    multiply-adds count full groups. Raises ValueError when operands do not have the tiling's shape.
    """
    duration = product_duration(tiling)
    if a is None or packed is None:
        return ProductResult(tiling, duration, kept_macs(tiling))
    if a.shape != (tiling.m, tiling.k) or (packed.k, packed.columns) != (tiling.k, tiling.n):
        raise ValueError(
            f"operands have shapes {a.shape!r} and {(packed.k, packed.columns)!r}; "
            f"the tiling is {(tiling.m, tiling.k)!r} by {(tiling.k, tiling.n)!r}"
        )
    mapping = tiling.mapping
    if (packed.n, packed.m) != (mapping.n, mapping.m):
        raise ValueError(f"weights are packed {packed.n}:{packed.m}; the mapping takes {mapping.n}:{mapping.m}")
    return ProductResult(tiling, duration, tiling.m * packed.kept, ordered_dot_packed(a, packed))
