"""The arithmetic of docs/arithmetic.md once more, for judging: nothing of the project is imported here.

Numbers go in and come out as bit patterns: binary16 as uint16, binary32 as uint32. A value is decoded from its bits
here, sums are kept in binary64 and rounded to binary32 after every addition. That is the rounding of the contract: the
sum of two binary32 numbers, rounded to 53 bits and then to 24, is the sum rounded to 24, because 53 >= 2 * 24 + 2
(S. A. Figueroa, "When is double rounding innocuous?", SIGNUM Newsletter 30, 1995). Vectors run over outputs only; the
order of additions is a loop.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Bits16 = NDArray[np.uint16]
    Bits32 = NDArray[np.uint32]

CANONICAL32: Final = 0x7FC00000
"""The only binary32 NaN of a result."""

CANONICAL16: Final = 0x7E00
"""The only binary16 NaN of a result."""

_INFINITE16: Final = 0x7C00
_INFINITE32: Final = 0x7F800000


def value16(bits: int) -> float:
    """Return the value of a binary16 bit pattern; subnormals, both zeros, infinities and NaN included."""
    sign = -1.0 if bits >> 15 else 1.0
    exponent, fraction = bits >> 10 & 31, bits & 1023
    if exponent == 31:
        return float("nan") if fraction else sign * float("inf")
    if exponent == 0:
        return sign * fraction * 2.0**-24
    return sign * (1024 + fraction) * 2.0 ** (exponent - 25)


VALUES16: Final = np.array([value16(bits) for bits in range(1 << 16)])
"""Value of every binary16 bit pattern, in binary64."""


def kept_of_group(magnitudes: list[int], n: int) -> list[int]:
    """Return the places that stay, ascending: the n largest magnitudes, of equal ones the lower places."""
    order = sorted(range(len(magnitudes)), key=lambda place: (-magnitudes[place], place))
    return sorted(order[:n])


def kept(w: Bits16, n: int, m: int) -> NDArray[np.bool_]:
    """Return bool[k, columns]: which elements of w[k, columns] N:M pruning along k keeps.

    A magnitude is the bit pattern without its sign. A group at the end that is not full has only its present elements.
    """
    stays = np.zeros(w.shape, bool)
    magnitudes = (w & 0x7FFF).T.tolist()
    for column, line in enumerate(magnitudes):
        for first in range(0, len(line), m):
            for place in kept_of_group(line[first : first + m], n):
                stays[first + place, column] = True
    return stays


def product(a: Bits16, w: Bits16, pattern: tuple[int, int] | None) -> Bits32:
    """Return a[m, k] @ w[k, columns] with w pruned to (N, M) along k (None: dense): binary32[m, columns]."""
    _check(a, w)
    stays = np.ones(w.shape, bool) if pattern is None else kept(w, *pattern)
    left, right = VALUES16[a], VALUES16[w]
    sums = np.zeros((a.shape[0], w.shape[1]))
    with np.errstate(all="ignore"):
        for k in range(a.shape[1]):
            columns = np.flatnonzero(stays[k])
            sums[:, columns] = _add(sums[:, columns], left[:, k, None], right[k, columns])
    return bits32(sums)


def product_of_pairs(a: Bits16, values: Bits16, index: NDArray[np.uint8], filler: NDArray[np.bool_], m: int) -> Bits32:
    """Return a[rows, k] times a packed matrix: binary32[rows, columns].

    values, index, filler: [groups, slots, columns], the stored pairs of each group of m along k in their order.
    """
    left = VALUES16[a]
    groups, slots, columns = values.shape
    sums = np.zeros((a.shape[0], columns))
    with np.errstate(all="ignore"):
        for group in range(groups):
            for slot in range(slots):
                present = np.flatnonzero(~filler[group, slot])
                k = group * m + index[group, slot, present].astype(np.intp)
                sums[:, present] = _add(sums[:, present], left[:, k], VALUES16[values[group, slot, present]])
    return bits32(sums)


def bits32(sums: NDArray[np.float64]) -> Bits32:
    """Return the bit patterns of binary32 numbers that are held in binary64; every NaN is the canonical one."""
    found = sums.astype(np.float32).view(np.uint32).copy()
    found[np.isnan(sums)] = CANONICAL32
    return found


def half(sums: Bits32) -> Bits16:
    """Return binary32 rounded once to binary16: nearest even, overflow to infinity, subnormals kept, canonical NaN.

    By whole numbers: a number is s 2^(e - 150) with a significand s of up to 24 bits; a unit of binary16 there is
    2^(e - 137), and never below 2^-24.
    """
    magnitude = (sums & 0x7FFFFFFF).astype(np.int64)
    exponent = np.maximum(magnitude >> 23, 1)
    significand = (magnitude & 0x7FFFFF) + np.where(magnitude >> 23 > 0, 1 << 23, 0)
    shift = np.minimum(13 + np.maximum(113 - exponent, 0), 40)
    units, rest, tie = significand >> shift, significand & ((1 << shift) - 1), 1 << (shift - 1)
    units = units + ((rest > tie) | ((rest == tie) & (units & 1 == 1)))
    # The leading bit of a normal number's units counts one exponent; carries go on from there.
    found = np.minimum(units + (np.maximum(exponent - 113, 0) << 10), _INFINITE16)
    found = np.where(magnitude == _INFINITE32, _INFINITE16, found) | (sums >> 16 & 0x8000)
    return np.where(magnitude > _INFINITE32, CANONICAL16, found).astype(np.uint16)


def _add(sums: NDArray[np.float64], left: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return sums + left * right rounded to binary32; the product of two binary16 numbers is exact before that."""
    return (sums + left * right).astype(np.float32).astype(np.float64)


def _check(a: Bits16, w: Bits16) -> None:
    if a.dtype != np.uint16 or w.dtype != np.uint16:
        raise TypeError(f"operands have dtypes {a.dtype} and {w.dtype}; they must be bit patterns, uint16")
    if a.ndim != 2 or w.ndim != 2 or a.shape[1] != w.shape[0]:
        raise ValueError(f"operands have shapes {a.shape!r} and {w.shape!r}; they must be (m, k) and (k, n)")
