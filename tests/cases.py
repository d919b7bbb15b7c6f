"""Random products for the array: every pattern, mapping and odd shape, with values that hurt."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from nmsat.algorithms.core.nm import pack
from nmsat.algorithms.core.ranges import GROUP_SIZES
from nmsat.algorithms.core.tape import Pattern
from nmsat.dataflow.contract.config import SatConfig
from nmsat.dataflow.mapping.tiling import Mapping, Tiling, legal_mappings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nmsat.algorithms.core.packed import Packed

SPECIAL = np.array(
    [0.0, -0.0, np.inf, -np.inf, np.nan, 6e-8, -6e-8, 6.1e-5, 65504.0, -65504.0, 1.0, -1.0, 1.001], np.float16
)
"""Zeros, infinities, NaN, smallest and largest subnormals and normals."""


def patterns() -> list[Pattern | None]:
    """Every N:M, and dense."""
    return [None, *(Pattern(n, m) for m in GROUP_SIZES for n in range(1, m + 1))]


def operands(rng: np.random.Generator, shape: tuple[int, ...], special: float) -> np.ndarray:
    """Return float16 values; each is replaced by one of `SPECIAL` with the given probability."""
    values = (rng.standard_normal(shape) * 2.0 ** rng.integers(-6, 6)).astype(np.float16)
    return np.where(rng.random(shape) < special, rng.choice(SPECIAL, shape), values).astype(np.float16)


def product(
    rng: np.random.Generator, config: SatConfig, mapping: Mapping, shape: tuple[int, int, int], special: float = 0.0
) -> tuple[np.ndarray, Packed, Tiling]:
    """Return operands and tiling of one product with the given mapping."""
    m, k, n = shape
    a, w = operands(rng, (m, k), special), operands(rng, (k, n), special / 4)
    return a, pack(w, mapping.n, mapping.m), Tiling(config, mapping, m, k, n)


def small_config(rng: np.random.Generator) -> SatConfig:
    """Return an array of up to 4 x 4 elements with random options."""
    rows, columns = (int(x) for x in rng.integers(1, 5, 2))
    return SatConfig(
        name="random",
        rows=rows,
        columns=columns,
        act_lanes=int(rng.integers(1, 3)),
        adder_stages=int(rng.integers(1, 8)),
        row_slices=tuple(r for r in range(1, rows) if rng.random() < 0.3),
        column_slices=tuple(c for c in range(1, columns) if rng.random() < 0.3),
        act_depth=1 << 14,
        weight_depth=1 << 14,
        sum_depth=int(2 ** rng.integers(6, 10)),
    )


def random_products(seed: int, count: int, top: float = 2.4) -> Iterator[tuple[np.ndarray, Packed, Tiling]]:
    """Yield `count` products, each on an array of its own, no side longer than e ** top + 1."""
    rng = np.random.default_rng(seed)
    choices = patterns()
    for _ in range(count):
        config = small_config(rng)
        mappings = legal_mappings(config, choices[int(rng.integers(len(choices)))])
        mapping = mappings[int(rng.integers(len(mappings)))]
        m, k, n = (int(x) for x in np.exp(rng.uniform(0, top, 3)).astype(int) + rng.integers(0, 2, 3))
        yield product(rng, config, mapping, (m, k, n), special=float(rng.choice([0.0, 0.0, 0.02])))
