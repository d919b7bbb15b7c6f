"""Operands that hurt a multiply-add, and what NumPy says of them (tb/fp/mpfr.py holds the independent oracle)."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

QUIET_NAN: Final = 0x7FC00000
"""The only NaN of a sum."""

CLASSES: Final = (
    "random",
    "close",
    "one ulp apart",
    "cancelling",
    "powers of two",
    "ties",
    "long carry",
    "half subnormals",
    "half overflow edge",
    "special",
    "zero",
    "filler",
)


class Vectors(NamedTuple):
    """uint16[n] a, w; bool[n] filler; uint32[n] x; uint8[n] kind (index into CLASSES)."""

    a: np.ndarray
    w: np.ndarray
    filler: np.ndarray
    x: np.ndarray
    kind: np.ndarray


def make(count: int, seed: int) -> Vectors:
    """Return at least `count` vectors, as many of each class, in random order."""
    rng = np.random.default_rng(seed)
    each = -(-count // len(CLASSES))
    parts = [_one_class(name, each, rng) for name in CLASSES]
    a, w, x = (np.concatenate([part[i] for part in parts]) for i in range(3))
    kind = np.repeat(np.arange(len(CLASSES), dtype=np.uint8), each)
    filler = (kind == CLASSES.index("filler")) | (rng.random(len(a)) < 0.01)
    order = rng.permutation(len(a))
    return Vectors(a[order], w[order], filler[order], _as_sum(x)[order], kind[order])


def expected_numpy(v: Vectors) -> np.ndarray:
    """uint32[n]: x + a * w by NumPy's binary32."""
    with np.errstate(all="ignore"):
        product = v.a.view(np.float16).astype(np.float32) * v.w.view(np.float16).astype(np.float32)
        total = v.x.view(np.float32) + product
    bits = np.where(np.isnan(total), np.uint32(QUIET_NAN), total.view(np.uint32))
    return np.where(v.filler, v.x, bits).astype(np.uint32)


def _one_class(name: str, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return n of a, w, x of one class; x still any binary32."""
    a, w = rng.integers(0, 1 << 16, (2, n), dtype=np.uint16)
    a, w = (np.where(v & 0x7C00 == 0x7C00, v ^ 0x4000, v).astype(np.uint16) for v in (a, w))
    if name == "powers of two":
        a, w = (v & 0xFC00 for v in (a, w))
    elif name == "half subnormals":
        a, w = (np.where(rng.random(n) < 0.7, v & 0x83FF, v).astype(np.uint16) for v in (a, w))
    elif name == "half overflow edge":
        a, w = (v & 0x8000 | rng.integers(0x7BF0, 0x7C00, n, dtype=np.uint16) for v in (a, w))
    elif name == "zero":
        a, w = (np.where(rng.random(n) < 0.6, v & 0x8000, v).astype(np.uint16) for v in (a, w))
    elif name in ("special", "filler"):
        a, w = (np.where(rng.random(n) < 0.4, _special_halves(n, rng), v) for v in (a, w))
    return a, w, _sums(name, a, w, n, rng)


def _special_halves(n: int, rng: np.random.Generator) -> np.ndarray:
    return rng.choice(np.array([0x7C00, 0xFC00, 0x7E00, 0xFE00, 0x7C01, 0xFFFF, 0x7D55, 0, 0x8000], np.uint16), n)


def _sums(name: str, a: np.ndarray, w: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    with np.errstate(all="ignore"):
        product = (a.view(np.float16).astype(np.float32) * w.view(np.float16).astype(np.float32)).view(np.uint32)
    sign = rng.integers(0, 2, n, dtype=np.uint32) << 31
    fraction = rng.integers(0, 1 << 23, n, dtype=np.uint32)
    anywhere = rng.integers(79, 219, n, dtype=np.uint32)
    near = np.clip((product >> 23 & 0xFF).astype(np.int64) + rng.integers(-30, 31, n), 79, 218).astype(np.uint32)
    marked = rng.choice(np.array([0, 1 << 31, 0x7F800000, 0xFF800000, QUIET_NAN], np.uint32), n)
    few = np.uint32(1) << rng.integers(0, 24, n).astype(np.uint32)
    opposite = product ^ np.uint32(1 << 31)
    result = sign | anywhere << 23 | fraction
    if name in ("close", "half subnormals", "half overflow edge", "filler"):
        result = sign | near << 23 | fraction
    elif name == "one ulp apart":
        result = opposite + rng.integers(-2, 3, n).astype(np.uint32)
    elif name == "cancelling":
        result = opposite ^ ((few - 1) & fraction) ^ ((fraction & 3 == 0).astype(np.uint32) << 23)
    elif name == "powers of two":
        result = sign | near << 23 | rng.integers(0, 2, n, dtype=np.uint32) * np.uint32(0x7FFFFF)
    elif name == "ties":
        result = sign | near << 23 | np.where(fraction & 1, few, ~few) & np.uint32(0x7FFFFF)
    elif name == "long carry":
        result = (product & np.uint32(1 << 31)) | near << 23 | ~(few - 1) & np.uint32(0x7FFFFF) | (fraction & 3)
    elif name in ("special", "zero"):
        result = np.where(rng.random(n) < 0.6, marked, result)
    return result.astype(np.uint32)


def _as_sum(x: np.ndarray) -> np.ndarray:
    """Make x something a chain can hold: a multiple of 2^-48 below 2^92, infinity, the canonical NaN; -0 as a seed."""
    exponent = (x >> 23 & 0xFF).astype(np.int64)
    low = np.clip(102 - exponent, 0, 23).astype(np.uint32)
    result = x & ~((np.uint32(1) << low) - np.uint32(1))
    result = np.where(exponent < 79, x & np.uint32(1 << 31), result)
    special = np.where(x & 0x7FFFFF != 0, np.uint32(QUIET_NAN), x)
    result = np.where(exponent > 218, np.where(exponent == 255, special, result - np.uint32(1 << 28)), result)
    return result.astype(np.uint32)
