"""The oracle of the floating-point units, MPFR, against exact fractions."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from nmsat.tb.fp import mac_vectors, mpfr
from nmsat.tb.fp.f32_vectors import SPECIAL, add_pairs, half_boundaries, multiply_pairs, special_pairs

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray


class Form(NamedTuple):
    """A binary format: bits of the significand, bits of a number without its sign, exponent of the smallest number."""

    precision: int
    width: int
    smallest: int


BINARY16: Final = Form(11, 15, -24)
BINARY32: Final = Form(24, 31, -149)


def nearest(value: Fraction, form: Form, *, negative_zero: bool) -> int:
    """Return the pattern of `value` rounded to nearest even, found with whole numbers only."""
    if value == 0:
        return int(negative_zero) << form.width
    bits = value.numerator.bit_length() - value.denominator.bit_length()
    exponent = max(form.smallest, bits - form.precision - 1)
    while abs(value) >= Fraction(2) ** (exponent + form.precision):
        exponent += 1
    units, rest = divmod(abs(value) / Fraction(2) ** exponent, 1)
    units += rest > Fraction(1, 2) or (rest == Fraction(1, 2) and units % 2 == 1)
    # Neighbours have consecutive patterns, so a carry out of the significand needs no case of its own.
    pattern = units + ((exponent - form.smallest) << form.precision - 1)
    infinity = (1 << form.width) - (1 << form.precision - 1)
    return int(value < 0) << form.width | min(pattern, infinity)


def minus(x: float) -> bool:
    return math.copysign(1, x) < 0


def exact_add(a: float, b: float) -> int:
    return nearest(Fraction(a) + Fraction(b), BINARY32, negative_zero=minus(a) and minus(b))


def exact_multiply(a: float, b: float) -> int:
    return nearest(Fraction(a) * Fraction(b), BINARY32, negative_zero=minus(a) != minus(b))


def exact_multiply_add(a: float, w: float, x: float) -> int:
    value = Fraction(a) * Fraction(w) + Fraction(x)
    return nearest(value, BINARY32, negative_zero=minus(a) != minus(w) and minus(x))


def exact_half(x: float) -> int:
    return nearest(Fraction(x), BINARY16, negative_zero=minus(x))


def floats(column: NDArray[np.unsignedinteger]) -> list[float]:
    with np.errstate(invalid="ignore"):
        return column.view({2: np.float16, 4: np.float32}[column.itemsize]).astype(np.float64).tolist()


def agree(oracle: Callable[..., NDArray], exact: Callable[..., int], *columns: NDArray[np.unsignedinteger]) -> int:
    """Compare the oracle with exact fractions in all rows of finite numbers; return how many there were."""
    rows = zip(*map(floats, columns), oracle(*columns).tolist(), strict=True)
    compared = 0
    for *operands, got in rows:
        if all(map(math.isfinite, operands)):
            expected = exact(*operands)
            assert got == expected, f"{operands}: {got:#x}, exactly {expected:#x}"
            compared += 1
    return compared


def some(count: int, columns: tuple[NDArray, ...]) -> list[NDArray]:
    """Return `count` rows, always the same ones."""
    chosen = np.random.default_rng(0).permutation(len(columns[0]))[:count]
    return [column[chosen] for column in columns]


def operands_of_add(count: int) -> list[NDArray]:
    return some(count, add_pairs(np.random.default_rng(1), 4 * count))


def operands_of_multiply(count: int) -> list[NDArray]:
    return some(count, multiply_pairs(np.random.default_rng(2), 4 * count))


def operands_of_half(count: int) -> list[NDArray]:
    random = np.random.default_rng(3).integers(0, 1 << 32, count, dtype=np.uint32)
    return some(count, (np.concatenate([half_boundaries(), SPECIAL, random]),))


def test_mpfr_adds_as_exact_fractions() -> None:
    assert agree(mpfr.add, exact_add, *special_pairs()) == 32**2
    assert agree(mpfr.add, exact_add, *operands_of_add(3000)) > 2000


def test_mpfr_multiplies_as_exact_fractions() -> None:
    assert agree(mpfr.multiply, exact_multiply, *special_pairs()) == 32**2
    assert agree(mpfr.multiply, exact_multiply, *operands_of_multiply(3000)) > 2000


def test_mpfr_multiplies_and_adds_as_exact_fractions_in_one_rounding_or_two() -> None:
    vectors = mac_vectors.make(3000, seed=5)
    for oracle in (mpfr.multiply_add, mpfr.multiply_then_add):
        assert agree(oracle, exact_multiply_add, vectors.a, vectors.w, vectors.x) > 2000


def test_mpfr_rounds_to_half_as_exact_fractions() -> None:
    assert agree(mpfr.to_half, exact_half, *operands_of_half(6000)) > 5000


def test_mpfr_knows_infinities_and_nans() -> None:
    a, b = special_pairs()
    left, right = map(np.asarray, map(floats, (a, b)))
    with np.errstate(all="ignore"):
        for got, expected in ((mpfr.add(a, b), left + right), (mpfr.multiply(a, b), left * right)):
            special = ~np.isfinite(left) | ~np.isfinite(right)
            assert np.array_equal(got[special] == mpfr.NAN32, np.isnan(expected[special]))
            infinite = special & np.isinf(expected)
            assert np.array_equal(got[infinite], expected[infinite].astype(np.float32).view(np.uint32))
    assert mpfr.to_half(np.array([0x7F800000, 0xFF800000, 0x7F800001], np.uint32)).tolist() == [0x7C00, 0xFC00, 0x7E00]
