"""Operands that hurt binary32 units, and what NumPy says of them. All arrays are bit patterns, uint32.

tb/fp/mpfr.py holds the independent oracle.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from nmsat.algorithms.core.numeric import canonical

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Bits = NDArray[np.uint32]

SIGN: Final = np.uint32(1 << 31)

SPECIAL: Final = np.array(
    [
        0x00000000,  # 0
        0x00000001,  # smallest subnormal
        0x007FFFFF,  # largest subnormal
        0x00800000,  # smallest normal
        0x00800001,
        0x00FFFFFF,
        0x33800000,  # 2^-24
        0x3F7FFFFF,  # 1 - 2^-24
        0x3F800000,  # 1
        0x3F800001,
        0x3FFFFFFF,
        0x40000000,  # 2
        0x4B7FFFFF,
        0x4B800000,  # 2^24
        0x7F000000,  # 2^127
        0x7F7FFFFF,  # largest finite
        0x7F800000,  # infinity
        0x7F800001,  # signalling NaN
        0x7FC00000,  # quiet NaN
        0x7FFFFFFF,
    ],
    np.uint32,
)
"""One of each kind of number, without sign."""


def special_pairs() -> tuple[Bits, Bits]:
    """Return every pair of special numbers with every sign: 1,600 pairs."""
    values = np.concatenate([SPECIAL, SPECIAL | SIGN])
    a, b = np.meshgrid(values, values, indexing="ij")
    return a.ravel(), b.ravel()


def significands(rng: np.random.Generator, count: int) -> Bits:
    """Return fractions (23 bits) of the kinds that make long carries, ties and sticky bits, one kind in five each."""
    ones = np.uint32(0x7FFFFF)
    width = rng.integers(0, 24, count, dtype=np.uint32)
    few = np.zeros(count, np.uint32)
    for _ in range(3):
        few |= np.uint32(1) << rng.integers(0, 23, count, dtype=np.uint32)
    kinds = [
        rng.integers(0, 1 << 23, count, dtype=np.uint32),
        few,
        ones ^ few,
        (ones << width) & ones,  # a run of ones at the top
        ones >> width,  # a run of ones at the bottom
    ]
    return np.choose(rng.integers(0, len(kinds), count), kinds).astype(np.uint32)


def compose(sign: NDArray, exponent: NDArray, fraction: NDArray) -> Bits:
    """Return binary32 numbers; exponents are cut to 0..254, so no NaN and no infinity arises."""
    field = np.clip(np.asarray(exponent, np.int64), 0, 254).astype(np.uint32)
    return (np.asarray(sign).astype(np.uint32) << np.uint32(31)) | (field << np.uint32(23)) | fraction


def add_pairs(rng: np.random.Generator, count: int) -> tuple[Bits, Bits]:
    """Return about `count` operand pairs of an adder, in equal shares of seven kinds, after all special pairs."""
    each = max(1, count // 7)

    def some(low: int, high: int) -> NDArray:
        return rng.integers(low, high, each)

    sign, frac = some(0, 2), significands(rng, each)
    middle = some(1, 254)
    value = compose(sign, middle, frac)
    other = 1 - sign
    ulps = rng.integers(-4, 5, each).astype(np.int64)
    near = (value.astype(np.int64) + ulps).astype(np.uint32)
    low = some(0, 4)
    top = some(250, 255)
    random = rng.integers(0, 1 << 32, (2, each), dtype=np.uint32)
    groups = [
        (random[0], random[1]),
        (value, near ^ SIGN),  # a few ulps apart, opposite signs
        (value, compose(other, middle - some(0, 3), significands(rng, each))),  # near cancellation
        (value, compose(some(0, 2), middle - some(0, 28), significands(rng, each))),  # every alignment
        (compose(sign, low, frac), compose(some(0, 2), low + some(-3, 4), significands(rng, each))),  # subnormals
        (compose(sign, top, frac), compose(sign, top - some(0, 26), significands(rng, each))),  # overflow edge
        (
            compose(sign, middle, np.zeros_like(frac)),
            compose(other, middle - some(0, 27), np.zeros_like(frac)),
        ),  # powers of two
    ]
    return _joined([special_pairs(), *groups], rng)


def multiply_pairs(rng: np.random.Generator, count: int) -> tuple[Bits, Bits]:
    """Return about `count` operand pairs of a multiplier, in equal shares of six kinds, after all special pairs."""
    each = max(1, count // 6)

    def some(low: int, high: int) -> NDArray:
        return rng.integers(low, high, each)

    def number(exponent: NDArray) -> Bits:
        return compose(some(0, 2), exponent, significands(rng, each))

    middle = some(1, 254)
    random = rng.integers(0, 1 << 32, (2, each), dtype=np.uint32)
    # 12-bit significands: products of 24 bits and one more, many of them exact ties
    half = [compose(some(0, 2), some(64, 190), some(0, 1 << 12).astype(np.uint32) << np.uint32(11)) for _ in range(2)]
    groups = [
        (random[0], random[1]),
        (number(middle), number(127 - middle + some(-25, 4))),  # subnormal results and their edge
        (number(np.zeros(each, np.int64)), number(some(100, 255))),  # subnormal operand
        (number(middle), number(381 - middle + some(-4, 3))),  # overflow edge
        (half[0], half[1]),
        (number(some(60, 190)), compose(some(0, 2), some(60, 190), np.zeros(each, np.uint32))),  # powers of two
    ]
    return _joined([special_pairs(), *groups], rng)


def numpy_add(a: Bits, b: Bits) -> Bits:
    """Return a + b by NumPy, with canonical NaNs."""
    with np.errstate(all="ignore"):
        return canonical(a.view(np.float32) + b.view(np.float32)).view(np.uint32)


def numpy_multiply(a: Bits, b: Bits) -> Bits:
    """Return a * b by NumPy, with canonical NaNs."""
    with np.errstate(all="ignore"):
        return canonical(a.view(np.float32) * b.view(np.float32)).view(np.uint32)


def half_boundaries() -> Bits:
    """Return, as binary32, each midpoint of two binary16 neighbours with its own two neighbours, of both signs.

    The upper end is the midpoint of 65504 and 65536, where rounding starts to give infinity. 190,464 numbers.
    """
    half = np.arange(0x7C00, dtype=np.uint32)
    low = half.astype(np.uint16).view(np.float16).astype(np.float64)
    high = np.append(low[1:], 65536.0)
    middle = ((low + high) / 2).astype(np.float32).view(np.uint32)
    values = np.concatenate([middle - np.uint32(1), middle, middle + np.uint32(1)])
    return np.concatenate([values, values | SIGN])


def _joined(groups: list[tuple[Bits, Bits]], rng: np.random.Generator) -> tuple[Bits, Bits]:
    a = np.concatenate([np.asarray(left, np.uint32) for left, _ in groups])
    b = np.concatenate([np.asarray(right, np.uint32) for _, right in groups])
    # Either operand can be the larger one or the special one.
    swap = rng.integers(0, 2, a.shape).astype(bool)
    swap[: len(groups[0][0])] = False
    return np.where(swap, b, a), np.where(swap, a, b)


def random_floats(rng: np.random.Generator, count: int, spread: bool) -> NDArray[np.float32]:
    """Return binary32 numbers like weights, or (spread) of every magnitude with special ones among them."""
    if not spread:
        return rng.normal(0, 0.05, count).astype(np.float32)
    numbers = compose(rng.integers(0, 2, count), rng.integers(0, 255, count), significands(rng, count))
    special = SPECIAL[rng.integers(0, len(SPECIAL), count)] | (rng.integers(0, 2, count).astype(np.uint32) * SIGN)
    return np.where(rng.random(count) < 0.1, special, numbers).view(np.float32)


def cancelling(rng: np.random.Generator, values: NDArray[np.float32], share: float = 1.0) -> NDArray[np.float32]:
    """Return what `values` cancel with: their negatives, one in four exact, others changed in some of the lowest bits.

    How many of the lowest 23 bits may change is random for each. share: of values that get such a partner; the others
    get 0. Infinities and NaN get one of their kind.
    """
    bits = values.astype(np.float32).view(np.uint32)
    low = (np.uint32(1) << rng.integers(0, 24, bits.shape, dtype=np.uint32)) - np.uint32(1)
    change = np.where(rng.random(bits.shape) < 0.25, 0, rng.integers(0, 1 << 23, bits.shape, dtype=np.uint32) & low)
    found = (bits ^ change.astype(np.uint32) ^ SIGN).view(np.float32)
    return np.where(rng.random(bits.shape) < share, found, np.float32(0))
