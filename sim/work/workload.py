"""A recorded program on SAT: cycles of every product, shares of array and host, and values held against the program."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from nmsat.algorithms.core.nm import mask, pack_kept
from nmsat.algorithms.core.sparsity import Blocks, Unstructured
from nmsat.dataflow.mapping.choose import best_tiling
from nmsat.dataflow.program.ways import Lowered, lower
from nmsat.sim.array.fast import simulate_product
from nmsat.sim.results.provenance import Source

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from nmsat.algorithms.core.packed import Packed
    from nmsat.algorithms.core.tape import Product, Tape
    from nmsat.dataflow.contract.config import SatConfig
    from nmsat.dataflow.mapping.tiling import Tiling
    from nmsat.dataflow.program.ways import OperandPart, Options, Piece


@dataclass(frozen=True)
class Mismatch:
    """A product whose simulated result is not the program's: how many results differ, and the first."""

    product: str
    results: int
    row: int
    column: int
    simulated: float
    program: float


@dataclass(frozen=True, eq=False)
class WorkloadResult:
    """One run of a program on one configuration. tape: what was recorded; lowered: how each product ran."""

    config: SatConfig
    tape: Tape
    lowered: tuple[Lowered, ...]

    @cached_property
    def macs_full(self) -> int:
        """Multiply-adds with nothing left out."""
        return sum(item.product.macs_full for item in self.lowered)

    @cached_property
    def macs_true(self) -> int:
        """Multiply-adds that the method needs."""
        return sum(item.product.macs_true for item in self.lowered)

    @cached_property
    def macs_spent(self) -> int:
        """Multiply-adds that the array spends, fillers included."""
        return sum(item.macs for item in self.lowered)

    @cached_property
    def cycles(self) -> int:
        """Cycles of the array, product after product."""
        return sum(item.cycles for item in self.lowered)

    @cached_property
    def cycles_dense(self) -> int:
        """Cycles with nothing left out."""
        return sum(item.cycles_dense for item in self.lowered)

    @property
    def density(self) -> float:
        """Needed over full multiply-adds."""
        return self.macs_true / self.macs_full

    @property
    def cover(self) -> float:
        """Spent over full multiply-adds."""
        return self.macs_spent / self.macs_full

    @property
    def ideal(self) -> float:
        """Speed-up of a machine that does exactly the needed multiply-adds."""
        return self.macs_full / self.macs_true

    @property
    def speedup(self) -> float:
        """Speed-up reached: cycles dense over cycles."""
        return self.cycles_dense / self.cycles

    @property
    def utilization(self) -> float:
        """Needed multiply-adds per element and cycle, 0..1."""
        return self.macs_true / (self.cycles * self.config.elements)

    @property
    def sat_share(self) -> float:
        """Share of the program's multiply-adds, those of host solvers included, that run on SAT."""
        host = sum(work.macs for work in self.tape.host)
        return self.macs_true / (self.macs_true + host)

    @property
    def host_operations(self) -> int:
        """Scalar operations of the host."""
        return sum(work.operations for work in self.tape.host)

    @property
    def host_share(self) -> float:
        """Host operations over all: a multiply-add counts as two."""
        return self.host_operations / (self.host_operations + 2 * self.macs_true)

    def record(self) -> dict[str, object]:
        """Return the totals as plain values for JSON."""
        return {
            "cycles_source": Source.ARRAY,
            "planned": list(self.config.planned),
            "products": sum(item.product.count for item in self.lowered),
            "macs_full": self.macs_full,
            "macs_true": self.macs_true,
            "macs_spent": self.macs_spent,
            "true_density": self.density,
            "cover_density": self.cover,
            "cycles_dense": self.cycles_dense,
            "cycles": self.cycles,
            "speedup_ideal": self.ideal,
            "speedup": self.speedup,
            "utilization": self.utilization,
            "sat_mac_share": self.sat_share,
            "host_operations": self.host_operations,
            "host_bytes": sum(work.bytes for work in self.tape.host),
            "host_share": self.host_share,
            "ways": self.ways(),
        }

    def ways(self) -> dict[str, float]:
        """Return the share of needed multiply-adds by the way they reach the array, largest first."""
        found: dict[str, int] = {}
        for item in self.lowered:
            found[item.how.value] = found.get(item.how.value, 0) + item.product.macs_true
        order = sorted(found.items(), key=lambda pair: -pair[1])
        return {way: macs / self.macs_true for way, macs in order}

    def host_kinds(self) -> dict[str, int]:
        """Return the operations of the host by kind, largest first."""
        found: dict[str, int] = {}
        for work in self.tape.host:
            found[work.kind] = found.get(work.kind, 0) + work.operations
        return dict(sorted(found.items(), key=lambda pair: -pair[1]))


def simulate_tape(tape: Tape, config: SatConfig, options: Options | None = None) -> WorkloadResult:
    """Lower every product of a tape and return cycles and shares; ValueError if the tape holds no products."""
    if not tape.products:
        raise ValueError("the tape holds no products; run a program first")
    cache: dict[tuple[object, ...], Lowered] = {}
    lowered = []
    for product in tape.products:
        # Without values a product is known by its facts: layers repeat.
        key = (*product.facts()[1:], product.sparsity) if product.a is not None else product.facts()[1:]
        if product.a is not None or key not in cache:
            cache[key] = lower(product, config, options)
        lowered.append(Lowered(product, config, cache[key].how, cache[key].pieces))
    return WorkloadResult(config, tape, tuple(lowered))


def check_values(result: WorkloadResult) -> list[Mismatch]:
    """Run every product that holds values on the simulator and return those that differ from the program in any bit.

    Raises ValueError if the tape holds no values.
    """
    held = [item for item in result.lowered if item.product.a is not None]
    if not held:
        raise ValueError("the tape holds no values; record the program with values (scale 'small')")
    return [found for item in held if (found := _compare(item)) is not None]


def piece_operands(
    item: Lowered,
) -> Iterator[tuple[Piece, OperandPart, NDArray[np.float16], NDArray[np.float16], NDArray[np.bool_]]]:
    """Yield (piece, cut, a, w, keep) of every product that the array runs for a lowered product with values.

    keep says which elements of w are in the chain. Raises ValueError if the product holds no values.
    """
    product = item.product
    if product.a is None or product.w is None:
        raise ValueError(f"product {product.name!r} holds no values")
    kept = _kept(product)
    for piece in item.pieces:
        for cut in piece.cuts:
            a = _take(_copy(product.a, product.count, cut.copy), cut.rows, cut.depth)
            which = cut.copy if cut.expert is None else cut.expert
            w, keep = (_take(x[which] if x.ndim == 3 else x, cut.depth, cut.columns) for x in (product.w, kept))
            yield piece, cut, a, w, keep


def runs(item: Lowered) -> Iterator[tuple[Piece, OperandPart, Tiling, NDArray[np.float16], Packed]]:
    """Yield every product that the array runs for a lowered product with values: piece, cut, tiling, a, packed W."""
    for piece, cut, a, w, keep in piece_operands(item):
        tiling = best_tiling(item.config, piece.m, piece.k, piece.n, piece.pattern)
        yield piece, cut, tiling, a, pack_kept(w, keep, tiling.mapping.n, tiling.mapping.m)


def simulated(item: Lowered) -> NDArray[np.float32]:
    """Return Y of a lowered product as the array computes it; results that no piece computes are 0."""
    product = item.product
    y = np.zeros((product.count, product.m, product.n), np.float32)
    for _, cut, tiling, a, packed in runs(item):
        value = simulate_product(tiling, a, packed).y
        if value is None:
            raise RuntimeError(f"product {product.name!r} was simulated without values")
        y[cut.copy][places(product, cut)] = value
    return y if product.count > 1 else y[0]


def places(product: Product, cut: OperandPart) -> tuple[NDArray[np.int64], ...]:
    """Return where the results of a cut stand in one copy of Y, as an index of both axes."""
    rows = np.arange(product.m) if cut.rows is None else cut.rows
    columns = np.arange(product.n) if cut.columns is None else cut.columns
    return np.ix_(rows, columns)


def wanted(product: Product) -> NDArray[np.bool_]:
    """Return which results of a product count: bool[m, n], all but absent blocks of Y."""
    known = product.sparsity
    if isinstance(known, Blocks) and known.role == "y":
        return known.places(product.m, product.n)
    return np.ones((product.m, product.n), np.bool_)


def _compare(item: Lowered) -> Mismatch | None:
    product = item.product
    if any(cut.depth is not None and (np.diff(cut.depth) < 0).any() for piece in item.pieces for cut in piece.cuts):
        raise ValueError(f"rows of product {product.name!r} were reordered: its chain is another one; lower it without")
    if product.y is None:
        raise ValueError(f"product {product.name!r} has operands but no result")
    ours, theirs = simulated(item), product.y
    differ = (ours.view(np.uint32) != theirs.astype(np.float32).view(np.uint32)) & wanted(product)
    if not differ.any():
        return None
    place = tuple(int(i) for i in np.argwhere(differ)[0])
    return Mismatch(product.name, int(differ.sum()), place[-2], place[-1], float(ours[place]), float(theirs[place]))


def _kept(product: Product) -> NDArray[np.bool_]:
    """Return which elements of W are in the chain: bool of W's shape."""
    w, pattern, known = product.w, product.pattern, product.sparsity
    if w is None:
        raise ValueError(f"product {product.name!r} holds no values")
    if pattern is not None and pattern.n < pattern.m:
        return mask(w, pattern.n, pattern.m, axis=w.ndim - 2)
    if isinstance(known, Unstructured) and known.role == "w" and known.keep is not None:
        return np.broadcast_to(known.keep, w.shape)
    if isinstance(known, Blocks) and known.role == "w":
        return np.broadcast_to(known.places(product.k, product.n), w.shape)
    return np.ones(w.shape, np.bool_)


def _copy(x: NDArray, count: int, copy: int) -> NDArray:
    return x[copy] if count > 1 else x


def _take(x: NDArray, rows: NDArray[np.int64] | None, columns: NDArray[np.int64] | None) -> NDArray:
    if rows is not None:
        x = x[rows]
    return x if columns is None else x[:, columns]
