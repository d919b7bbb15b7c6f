"""Which mapping a product gets: the one with the fewest cycles, found by trying all legal ones."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from nmsat.algorithms.core.ranges import MAX_COUNT, MAX_SIDE, check_whole
from nmsat.dataflow.mapping.tiling import MAX_WINDOWS, Tiling, legal_mappings

if TYPE_CHECKING:
    from nmsat.algorithms.core.tape import Pattern
    from nmsat.dataflow.contract.config import SatConfig


@lru_cache(maxsize=65536)
def best_tiling(
    config: SatConfig, m: int, k: int, n: int, pattern: Pattern | None, dataflow: str | None = None, count: int = 1
) -> Tiling:
    """Return the tiling of Y[m, n] = A[m, k] @ W[k, n] with the fewest cycles.

    pattern: N:M of W along k, None when dense; dataflow: 'os', 'ws' or None for the better of both; count: as many
    independent products of this shape run one after the other. All legal
    mappings are tried; of equal ones the first in the order of `legal_mappings` wins. Raises ValueError when a
    dimension is out of range, the dataflow is unknown, or no mapping can take the product, TypeError when a dimension
    is no int.
    """
    if dataflow not in (None, "os", "ws"):
        raise ValueError(f"dataflow is {dataflow!r}; it must be 'os', 'ws' or None")
    for name, value, high in (("m", m, MAX_SIDE), ("k", k, MAX_SIDE), ("n", n, MAX_SIDE), ("count", count, MAX_COUNT)):
        check_whole(name, value, 1, high)
    candidates = [
        Tiling(config, mapping, m, k, n, count)
        for mapping in legal_mappings(config, pattern)
        if dataflow in (None, mapping.name) and (mapping.ws or -(-k // mapping.m) <= MAX_WINDOWS)
    ]
    if not candidates:
        least_windows = min(-(-k // mapping.m) for mapping in legal_mappings(config, pattern) if not mapping.ws)
        raise ValueError(
            f"no mapping of {m} x {k} x {n} with pattern {pattern or 'dense'} on {config.name!r}: output stationary "
            f"needs {least_windows} windows for k = {k} and has at most {MAX_WINDOWS}; allow weight stationary or cut "
            "the product along k"
        )
    best, least = candidates[0], None
    for tiling in candidates:
        # No mapping is quicker than its windows: most lose on that already.
        if least is not None and tiling.commands * tiling.windows * tiling.window >= least:
            continue
        total = tiling.duration.total
        if least is None or total < least:
            best, least = tiling, total
    return best
