"""Products that follow each other on the array: with one mapping they share a single fill and drain."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, TypeAlias

from nmsat.dataflow.contract.timing import drain_cycles
from nmsat.dataflow.cycles.array import product_duration
from nmsat.dataflow.mapping.choose import best_tiling
from nmsat.dataflow.mapping.tiling import MAX_WINDOWS, Tiling, legal_mappings

if TYPE_CHECKING:
    from nmsat.algorithms.core.tape import Pattern
    from nmsat.dataflow.contract.config import SatConfig
    from nmsat.dataflow.mapping.tiling import Mapping

ProductShape: TypeAlias = tuple[int, int, int, int]
"""m, k, n and count of equal products."""


@lru_cache(maxsize=65536)
def chain_cycles(config: SatConfig, shapes: tuple[ProductShape, ...], pattern: Pattern | None) -> int:
    """Return the cycles of independent products with one pattern, run one after the other, operands on chip.

    Either each shape takes its own best mapping, and the array runs empty in between, or all take one output-stationary
    mapping and only the first waits for its operands. The better of both counts.
    """
    apart = sum(product_duration(best_tiling(config, *s[:3], pattern, count=s[3])).total for s in shapes)
    if len(shapes) == 1:
        return apart
    mappings = [mapping for mapping in legal_mappings(config, pattern) if not mapping.ws]
    together = [os_chain_cycles(config, mapping, shapes) for mapping in mappings if _fits(mapping, shapes)]
    return min([apart, *together])


def os_chain_cycles(config: SatConfig, mapping: Mapping, shapes: tuple[ProductShape, ...]) -> int:
    """Return the cycles of products that follow each other without a break in one output-stationary mapping.

    Between commands only the drain of the one before is waited for (docs/machine/array.md): starts of last windows are
    at least 8 R apart, whichever products they belong to.
    """
    tilings = [Tiling(config, mapping, m, k, n, count) for m, k, n, count in shapes]
    total = 0
    for index, tiling in enumerate(tilings):
        found = product_duration(tiling)
        total += found.steps + found.link + found.drain
        if index:
            total += max(0, drain_cycles(config) - tiling.windows * tiling.window)
    ends = product_duration(tilings[0])
    return total + ends.fill + ends.finish


def _fits(mapping: Mapping, shapes: tuple[ProductShape, ...]) -> bool:
    return all(-(-k // mapping.m) <= MAX_WINDOWS for _, k, _, _ in shapes)
