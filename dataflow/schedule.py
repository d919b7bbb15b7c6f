"""Which mapping a product gets: the one with the fewest cycles, found by trying all legal ones."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from dataflow.duration import product_duration
from dataflow.tiling import MAX_WINDOWS, Tiling, legal_mappings

if TYPE_CHECKING:
    from algorithms.tape import Pattern
    from dataflow.config import SatConfig


@lru_cache(maxsize=65536)
def best_tiling(
    config: SatConfig, m: int, k: int, n: int, pattern: Pattern | None, dataflow: str | None = None
) -> Tiling:
    """Return the tiling of Y[m, n] = A[m, k] @ W[k, n] with the fewest cycles.

    pattern: N:M of W along k, None when dense; dataflow: 'os', 'ws' or None for the better of both. All legal
    mappings are tried; of equal ones the first in the order of `legal_mappings` wins. Raises ValueError when a
    dimension is below 1, the dataflow is unknown, or no mapping can take the product.
    """
    if dataflow not in (None, "os", "ws"):
        raise ValueError(f"dataflow is {dataflow!r}; it must be 'os', 'ws' or None")
    for name, value in (("m", m), ("k", k), ("n", n)):
        if value < 1:
            raise ValueError(f"{name} is {value!r}; a product has at least 1 in each dimension")
    candidates = [
        Tiling(config, mapping, m, k, n)
        for mapping in legal_mappings(config, pattern)
        if dataflow in (None, mapping.name) and (mapping.ws or -(-k // mapping.m) <= MAX_WINDOWS)
    ]
    if not candidates:
        raise ValueError(
            f"no mapping of {m} x {k} x {n} with pattern {pattern or 'dense'} on {config.name!r}: output stationary "
            f"takes k up to {MAX_WINDOWS} groups; allow weight stationary or cut the product along k"
        )
    return min(candidates, key=lambda tiling: product_duration(tiling).total)
