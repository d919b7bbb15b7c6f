"""IEEE 754 arithmetic by MPFR: the oracle of the floating-point units. All arrays are bit patterns.

MPFR computes with integers and rounds the exact result once, to nearest even, with gradual underflow (`gmpy2.ieee`).
It shares nothing with NumPy, which computes on the processor, nor with the circuits. NaNs are canonical.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import gmpy2
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    Bits = NDArray[np.uint32]
    Halves = NDArray[np.uint16]

NAN16: Final = 0x7E00
NAN32: Final = 0x7FC00000

_MPFR: Final[Any] = gmpy2  # its names come from a compiled module without types
_BINARY16: Final = _MPFR.ieee(16)
_BINARY32: Final = _MPFR.ieee(32)


def add(a: Bits, b: Bits) -> Bits:
    """Return a + b in binary32: uint32[n] of uint32[n] each."""
    return _binary32(map(_BINARY32.add, _numbers(a), _numbers(b)))


def multiply(a: Bits, b: Bits) -> Bits:
    """Return a * b in binary32: uint32[n] of uint32[n] each."""
    return _binary32(map(_BINARY32.mul, _numbers(a), _numbers(b)))


def multiply_add(a: Halves, w: Halves, x: Bits) -> Bits:
    """Return x + a * w rounded once to binary32: uint32[n]; a, w: uint16[n], binary16; x: uint32[n]."""
    return _binary32(map(_BINARY32.fma, _numbers(a), _numbers(w), _numbers(x)))


def multiply_then_add(a: Halves, w: Halves, x: Bits) -> Bits:
    """Return the same with a product that is rounded to binary32 by itself: what a chain of two units gives."""
    products = map(_BINARY32.mul, _numbers(a), _numbers(w))
    return _binary32(map(_BINARY32.add, products, _numbers(x)))


def to_half(x: Bits) -> Halves:
    """Return x rounded once to binary16: uint16[n] of uint32[n]."""
    values = _floats(map(_BINARY16.plus, _numbers(x)))
    with np.errstate(all="ignore"):
        return np.where(np.isnan(values), np.uint16(NAN16), values.astype(np.float16).view(np.uint16))


def _numbers(bits: NDArray[np.unsignedinteger]) -> list[float]:
    """Return binary16 or binary32 patterns as Python's binary64 numbers, which hold them exactly."""
    form = {2: np.float16, 4: np.float32}[bits.itemsize]
    with np.errstate(invalid="ignore"):  # signalling NaNs
        return bits.view(form).astype(np.float64).tolist()


def _floats(results: Iterable[Any]) -> NDArray[np.float64]:
    return np.fromiter(map(float, results), np.float64)


def _binary32(results: Iterable[Any]) -> Bits:
    # MPFR has rounded already; every step from here is exact, as the tests on exact fractions confirm.
    values = _floats(results)
    return np.where(np.isnan(values), np.uint32(NAN32), values.astype(np.float32).view(np.uint32))
