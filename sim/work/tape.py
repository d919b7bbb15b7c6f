"""Products on the array with their operands on chip, as rows: given ones as they are, those of a tape lowered."""

from __future__ import annotations

from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING

from nmsat.dataflow.contract.timing import drain_cycles
from nmsat.dataflow.cycles.array import Duration, product_duration
from nmsat.dataflow.mapping.chain import chain_cycles, os_chain_cycles
from nmsat.dataflow.mapping.choose import best_tiling
from nmsat.dataflow.mapping.tiling import MAX_WINDOWS, Tiling, legal_mappings
from nmsat.dataflow.program.ways import lower
from nmsat.sim.array.fast import kept_macs
from nmsat.sim.results.causes import ARRAY_CAUSES
from nmsat.sim.results.rows import ArrayResult, Row, tiling_schedule
from nmsat.sim.work.workload import WorkloadResult, simulate_tape, simulated

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from nmsat.algorithms.core.tape import Pattern, Product, Tape
    from nmsat.dataflow.contract.config import SatConfig
    from nmsat.dataflow.mapping.chain import ProductShape
    from nmsat.dataflow.mapping.tiling import Mapping
    from nmsat.dataflow.program.ways import Lowered
    from nmsat.sim.results.result import HostTotals


@dataclass(frozen=True, eq=False, kw_only=True)
class TapeResult(ArrayResult):
    """A tape on the array. workload: how each product was lowered, shares of array and host, ideal and reached."""

    workload: WorkloadResult


def run_products(products: Sequence[Product], config: SatConfig, dataflow: str | None, host: HostTotals) -> ArrayResult:
    """Run products one after the other, each with its own pattern and its best mapping, operands on chip.

    dataflow: 'os', 'ws' or None for the better. Raises ValueError for a product that no mapping can take.
    """
    rows, at = [], 0
    for product in products:
        if product.sparsity is None:
            row = _given(product, config, dataflow, at)
        else:
            row = _lowered(lower(product, config), config, at)
        rows.append(row)
        at += row.cycles
    full = sum(product.macs_full for product in products)
    return ArrayResult(config=config, rows=tuple(rows), macs_full=full, host=host)


def run_tape(tape: Tape, config: SatConfig, host: HostTotals) -> TapeResult:
    """Run the products of a tape, each in the quickest way: dense, native, cover, skip or gather; operands on chip."""
    workload = simulate_tape(tape, config)
    rows, at = [], 0
    for item in workload.lowered:
        row = _lowered(item, config, at)
        rows.append(row)
        at += row.cycles
    return TapeResult(config=config, rows=tuple(rows), macs_full=workload.macs_full, host=host, workload=workload)


def product_values(product: Product, config: SatConfig) -> np.ndarray:
    """Return Y of a product as the array computes it: float32[m, n], a leading axis where count > 1.

    Raises ValueError for a product without operands.
    """
    if product.a is None or product.w is None:
        raise ValueError(
            f"product {product.name!r} holds no operands; make it with matmul(a, w) or record the tape with values=True"
        )
    return simulated(lower(product, config))


def _given(product: Product, config: SatConfig, dataflow: str | None, start: int) -> Row:
    tiling = best_tiling(config, product.m, product.k, product.n, product.pattern, dataflow, product.count)
    return Row(
        config=config,
        name=product.name,
        stage=product.stage.value,
        start=start,
        causes=_causes(product_duration(tiling)),
        shape=(product.m, product.k, product.n, product.count),
        macs=kept_macs(tiling),
        macs_full=product.macs_full,
        schedule=tiling_schedule(tiling),
        tiling=tiling,
    )


def _lowered(item: Lowered, config: SatConfig, start: int) -> Row:
    product, tiling = item.product, _only_tiling(item, config)
    cut = tiling_schedule(tiling) if tiling else {}
    return Row(
        config=config,
        name=product.name,
        stage=product.stage.value,
        start=start,
        causes=_causes(_parts_duration(item, config)),
        shape=(product.m, product.k, product.n, product.count),
        macs=product.macs_true,
        macs_full=product.macs_full,
        schedule={"how": item.how.value, "parts": sum(piece.count for piece in item.pieces), **cut},
        # With fillers in place of absent elements the tiles spend more multiply-adds than the product has.
        tiling=tiling if tiling and kept_macs(tiling) == product.macs_true else None,
    )


def _only_tiling(item: Lowered, config: SatConfig) -> Tiling | None:
    if len(item.pieces) != 1:
        return None
    (piece,) = item.pieces
    return best_tiling(config, piece.m, piece.k, piece.n, piece.pattern, count=piece.count)


def _causes(duration: Duration) -> dict[str, int]:
    return {**dict.fromkeys(ARRAY_CAUSES, 0), "steps": duration.steps, **duration.stalls}


def _parts_duration(item: Lowered, config: SatConfig) -> Duration:
    """Return the cycles of all pieces by cause; pieces with one pattern follow each other in a chain."""
    rows: dict[Pattern | None, list[ProductShape]] = {}
    for piece in item.pieces:
        rows.setdefault(piece.pattern, []).append((piece.m, piece.k, piece.n, piece.count))
    total = _sum([chain_duration(config, tuple(shapes), pattern) for pattern, shapes in rows.items()])
    if total.total != item.cycles:
        raise RuntimeError(f"causes of {item.product.name!r} add up to {total.total}, not to {item.cycles} cycles")
    return total


def chain_duration(config: SatConfig, shapes: tuple[ProductShape, ...], pattern: Pattern | None) -> Duration:
    """Return `dataflow.mapping.chain.chain_cycles` by cause."""
    wanted = chain_cycles(config, shapes, pattern)
    apart = _sum([product_duration(best_tiling(config, m, k, n, pattern, count=c)) for m, k, n, c in shapes])
    if apart.total == wanted:
        return apart
    for mapping in legal_mappings(config, pattern):
        fits = not mapping.ws and all(-(-k // mapping.m) <= MAX_WINDOWS for _, k, _, _ in shapes)
        if fits and os_chain_cycles(config, mapping, shapes) == wanted:
            return _os_chain_duration(config, mapping, shapes)
    raise RuntimeError(f"no chain of {shapes!r} takes {wanted} cycles")


def _os_chain_duration(config: SatConfig, mapping: Mapping, shapes: tuple[ProductShape, ...]) -> Duration:
    """Sum up a chain of OS products: one fill in front, one finish behind, a drain between any two."""
    tilings = [Tiling(config, mapping, m, k, n, count) for m, k, n, count in shapes]
    found = [tiling.duration for tiling in tilings]
    between = sum(max(0, drain_cycles(config) - tiling.windows * tiling.window) for tiling in tilings[1:])
    return Duration(
        steps=sum(d.steps for d in found),
        link=sum(d.link for d in found),
        fill=found[0].fill,
        drain=sum(d.drain for d in found) + between,
        weight=0,
        dependency=0,
        finish=found[0].finish,
    )


def _sum(found: list[Duration]) -> Duration:
    names = ("steps", "link", "fill", "drain", "weight", "dependency", "finish")
    return Duration(**{name: sum(map(attrgetter(name), found)) for name in names})
