"""A few products of a recorded program, small enough for the RTL: of every kind one, before a second of any."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from algorithms.nm import pack_kept
from dataflow.schedule import best_tiling
from sim.workload import part_operands

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from algorithms.nm import Packed
    from dataflow.config import SatConfig
    from dataflow.lowering import Lowered
    from dataflow.tiling import Tiling
    from sim.workload import WorkloadResult


@dataclass(frozen=True, eq=False)
class Sample:
    """One product, or a cut of it, as the array runs it.

    product, stage, how: where it comes from; whole: False if rows, columns or the end of the reduction were left out;
    a: float16[m, k]; packed: W in the group of the tiling's mapping.
    """

    product: str
    stage: str
    how: str
    pattern: str
    whole: bool
    a: NDArray[np.float16]
    packed: Packed
    tiling: Tiling


def sample_products(result: WorkloadResult, config: SatConfig, count: int = 6, most: int = 20_000) -> list[Sample]:
    """Return up to `count` samples for `config` (the bench's), each of at most `most` dense multiply-adds.

    Larger products are cut to their first rows, columns and steps of the reduction. Raises ValueError if the tape holds
    no values.
    """
    held = [item for item in result.lowered if item.product.a is not None]
    if not held:
        raise ValueError("the tape holds no values; record the program with values (scale 'small')")
    kinds: dict[tuple[str, str, str], list[Lowered]] = {}
    for item in held:
        part = item.parts[0] if item.parts else None
        if part is not None:
            kinds.setdefault((item.how.value, str(part.pattern), item.product.stage.value), []).append(item)
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
    part, a, w, keep = next(part_operands(item))
    m, n, k = min(part.m, 24), min(part.n, 24), part.k
    k = min(k, max(16, most // (m * n) // 16 * 16))
    cut = keep[:k, :n]
    tiling = best_tiling(config, m, k, n, part.pattern)
    packed = pack_kept(w[:k, :n], cut, tiling.mapping.n, tiling.mapping.m)
    product = item.product
    return Sample(
        product.name,
        product.stage.value,
        item.how.value,
        str(part.pattern or "dense"),
        (m, n, k) == (part.m, part.n, part.k),
        np.ascontiguousarray(a[:m, :k]),
        packed,
        tiling,
    )
