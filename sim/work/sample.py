"""A few products of a recorded program, small enough for the RTL: of every kind one, before a second of any."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from nmsat.algorithms.core.nm import pack_kept
from nmsat.dataflow.mapping.choose import best_tiling
from nmsat.sim.work.workload import piece_operands, places

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from nmsat.algorithms.core.packed import Packed
    from nmsat.algorithms.core.tape import Product
    from nmsat.dataflow.contract.config import SatConfig
    from nmsat.dataflow.mapping.tiling import Tiling
    from nmsat.dataflow.program.ways import Lowered, OperandPart
    from nmsat.sim.work.workload import WorkloadResult

SIDE: Final = 24
"""Most rows and columns of a sample."""

DEPTH: Final = 256
"""Longest reduction of a sample: with SIDE, what the buffers of the bench hold."""


@dataclass(frozen=True, eq=False)
class Sample:
    """One product, or a cut of it, as the array runs it.

    product, stage, how: where it comes from; whole: False if rows, columns or the end of the reduction were left out;
    a: float16[m, k]; packed: W in the group of the tiling's mapping; y: float32[m, n], the program's own results, None
    where the end of the reduction was left out.
    """

    product: str
    stage: str
    how: str
    pattern: str
    whole: bool
    a: NDArray[np.float16]
    packed: Packed
    tiling: Tiling
    y: NDArray[np.float32] | None


def sample_products(result: WorkloadResult, config: SatConfig, count: int = 6, most: int = 40_000) -> list[Sample]:
    """Return up to `count` samples for `config` (the bench's), each of about `most` dense multiply-adds at most.

    Larger products are cut to their first rows and columns, and where the reduction is longer than DEPTH, to its first
    steps. Raises ValueError if the tape holds no values.
    """
    held = [item for item in result.lowered if item.product.a is not None]
    if not held:
        raise ValueError("the tape holds no values; record the program with values (scale 'small')")
    kinds: dict[tuple[str, str, str], list[Lowered]] = {}
    for item in held:
        piece = item.pieces[0] if item.pieces else None
        if piece is not None:
            kinds.setdefault((item.how.value, str(piece.pattern), item.product.stage.value), []).append(item)
    found: list[Sample] = []
    for item in _in_turn(list(kinds.values())):
        if len(found) == count:
            break
        found.append(_sample(item, config, most))
    return found


def _in_turn(kinds: list[list[Lowered]]) -> Iterator[Lowered]:
    """The first of every kind, then the second of every kind, and so on."""
    for index in range(max(map(len, kinds))):
        yield from (items[index] for items in kinds if index < len(items))


def _sample(item: Lowered, config: SatConfig, most: int) -> Sample:
    piece, cut, a, w, keep = next(piece_operands(item))
    m, n, k = min(piece.m, SIDE), min(piece.n, SIDE), min(piece.k, DEPTH)
    while m * n * k > most:
        m, n = (-(-m // 2), n) if m >= n else (m, -(-n // 2))
    tiling = best_tiling(config, m, k, n, piece.pattern)
    packed = pack_kept(w[:k, :n], keep[:k, :n], tiling.mapping.n, tiling.mapping.m)
    product = item.product
    return Sample(
        product.name,
        product.stage.value,
        item.how.value,
        str(piece.pattern or "dense"),
        (m, n, k) == (piece.m, piece.n, piece.k),
        np.ascontiguousarray(a[:m, :k]),
        packed,
        tiling,
        _program_values(product, cut)[:m, :n] if k == piece.k and product.y is not None else None,
    )


def _program_values(product: Product, cut: OperandPart) -> NDArray[np.float32]:
    if product.y is None:
        raise ValueError(f"product {product.name!r} has operands but no result")
    y = product.y[cut.copy] if product.count > 1 else product.y
    return y.reshape(product.m, product.n)[places(product, cut)].astype(np.float32)
