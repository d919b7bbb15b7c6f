"""Tiling and random operands for the commands that run one product."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from nmsat.algorithms.core.nm import pack, prune
from nmsat.dataflow.mapping.choose import best_tiling
from nmsat.reports.work.text import OPERAND_KINDS, InputError
from nmsat.sim.api import matmul

if TYPE_CHECKING:
    import argparse

    from nmsat.algorithms.core.packed import Packed
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
    a, w = random_pair(tiling, "finite", seed)
    return a, packed_for(w, tiling, pattern)


def random_pair(tiling: Tiling, kind: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return A float16[m, k] and W float16[k, n] of one of `OPERAND_KINDS`, W not pruned."""
    rng = np.random.default_rng(seed)
    if kind == "finite":
        a = random_half(rng, (tiling.m, tiling.k))
        return a, random_half(rng, (tiling.k, tiling.n))
    if kind == "all":
        a = mixed_lines(rng, tiling.m, tiling.k, sign=1)
        return a, np.ascontiguousarray(mixed_lines(rng, tiling.n, tiling.k, sign=-1).T)
    raise ValueError(f"operands is {kind!r}; it must be one of {', '.join(OPERAND_KINDS)}")


def packed_for(w: np.ndarray, tiling: Tiling, pattern: Pattern | None) -> Packed:
    """Return W pruned to `pattern` along k and packed as the tiling's mapping takes it."""
    if pattern is not None:
        w = prune(w, pattern.n, pattern.m, axis=0)
    return pack(w, tiling.mapping.n, tiling.mapping.m, axis=0)


def mixed_lines(rng: np.random.Generator, lines: int, length: int, *, sign: int) -> np.ndarray:
    """Return float16[lines, length], the lines of the kinds of `LINES` in turn, from a random one on.

    sign: -1 makes every second number of a cancelling line the negative of the one before, +1 the same, so that a row
    of A and a column of W take away what they have just added.
    """
    first = int(rng.integers(len(LINES)))
    return np.stack([LINES[(first + i) % len(LINES)](rng, length, sign) for i in range(lines)])


def _any(rng: np.random.Generator, length: int, sign: int) -> np.ndarray:
    del sign
    return random_half(rng, (length,))


def _ordinary(rng: np.random.Generator, length: int, sign: int) -> np.ndarray:
    del sign
    return rng.standard_normal(length).astype(np.float16)


def _subnormal(rng: np.random.Generator, length: int, sign: int) -> np.ndarray:
    del sign
    return _signed(rng, rng.integers(0, 0x0400, length, dtype=np.uint16))


def _zeros(rng: np.random.Generator, length: int, sign: int) -> np.ndarray:
    """Zeros of both signs, every fourth number another one."""
    zeros = _signed(rng, np.zeros(length, np.uint16))
    return np.where(rng.random(length) < 0.25, _ordinary(rng, length, sign), zeros).astype(np.float16)


def _large(rng: np.random.Generator, length: int, sign: int) -> np.ndarray:
    """Numbers from 32,768 up: their sums are beyond binary16."""
    del sign
    return _signed(rng, rng.integers(0x7800, 0x7C00, length, dtype=np.uint16))


def _cancelling(rng: np.random.Generator, length: int, sign: int) -> np.ndarray:
    """Pairs of equal magnitude, now and then one unit apart."""
    bits = random_half(rng, (length,)).view(np.uint16) & np.uint16(0x3FFF)
    bits[1::2] = bits[0 : length - length % 2 : 2] ^ (rng.random(length // 2) < 0.2)
    line = bits.view(np.float16)
    line[1::2] *= np.float16(sign)
    return line


def _infinite(rng: np.random.Generator, length: int, sign: int) -> np.ndarray:
    line = _ordinary(rng, length, sign)
    line[rng.integers(length, size=2)] = _signed(rng, np.full(2, 0x7C00, np.uint16))
    return line


def _nan(rng: np.random.Generator, length: int, sign: int) -> np.ndarray:
    """One NaN of any sign and payload, quiet or signalling."""
    line = _ordinary(rng, length, sign)
    place = int(rng.integers(length))
    line[place : place + 1] = _signed(rng, rng.integers(0x7C01, 0x8000, 1, dtype=np.uint16))
    return line


def _signed(rng: np.random.Generator, magnitude: np.ndarray) -> np.ndarray:
    """Return binary16 numbers of these magnitudes (bit patterns) with random signs."""
    sign = rng.integers(0, 2, magnitude.shape, dtype=np.uint16) << np.uint16(15)
    return (magnitude | sign).view(np.float16)


LINES: Final = (_any, _infinite, _large, _cancelling, _subnormal, _ordinary, _nan, _zeros)
"""Kinds of rows of A and of columns of W."""
