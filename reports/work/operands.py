"""Tiling and random operands for the commands that run one product."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from nmsat.algorithms.core.nm import pack, prune
from nmsat.dataflow.mapping.choose import best_tiling
from nmsat.reports.work.text import InputError
from nmsat.sim.api import matmul

if TYPE_CHECKING:
    import argparse

    from nmsat.algorithms.core.nm import Packed
    from nmsat.algorithms.core.tape import Pattern, Product
    from nmsat.dataflow.contract.config import SatConfig
    from nmsat.dataflow.mapping.tiling import Tiling


def choose_tiling(config: SatConfig, options: argparse.Namespace, pattern: Pattern | None) -> Tiling:
    """Return the tiling of the product M, K, N in `options`; InputError when no mapping can take it."""
    try:
        return best_tiling(config, options.m, options.k, options.n, pattern, options.dataflow)
    except ValueError as error:
        raise InputError(str(error)) from None


def random_half(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Return finite binary16 numbers drawn evenly over their bit patterns: all exponents, subnormals, both zeros."""
    magnitude = rng.integers(0, 0x7C00, shape, dtype=np.uint16)
    sign = rng.integers(0, 2, shape, dtype=np.uint16) << np.uint16(15)
    return (magnitude | sign).view(np.float16)


def with_operands(product: Product, seed: int) -> Product:
    """Return the product with the operands of `random_operands`, W unpacked."""
    rng = np.random.default_rng(seed)
    a, w = random_half(rng, (product.m, product.k)), random_half(rng, (product.k, product.n))
    return matmul(a, w, product.pattern, name=product.name)


def random_operands(tiling: Tiling, pattern: Pattern | None, seed: int) -> tuple[np.ndarray, Packed]:
    """Return A float16[m, k] and W pruned to `pattern` along k and packed as the tiling's mapping takes it."""
    rng = np.random.default_rng(seed)
    a = random_half(rng, (tiling.m, tiling.k))
    w = random_half(rng, (tiling.k, tiling.n))
    if pattern is not None:
        w = prune(w, pattern.n, pattern.m, axis=0)
    return a, pack(w, tiling.mapping.n, tiling.mapping.m, axis=0)
