"""binary32 adder and multiplier against NumPy and MPFR, in every number of stages."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from nmsat.hw.fp.f32 import ADD_CUTS, F32Add, F32Multiply, F32Product
from nmsat.tb.drive.bank import check
from nmsat.tb.fp import mpfr
from nmsat.tb.fp.f32_vectors import add_pairs, multiply_pairs, numpy_add, numpy_multiply

if TYPE_CHECKING:
    from collections.abc import Callable


def check_add(stages: int, count: int, seed: int) -> None:
    a, b = add_pairs(np.random.default_rng(seed), count)
    expected = numpy_add(a, b)
    assert np.array_equal(expected, mpfr.add(a, b))
    assert check(lambda: F32Add(stages), stages, {"a": a, "b": b, "o": expected}) > 0.99 * count


def check_multiply(stages: int, count: int, seed: int) -> None:
    a, b = multiply_pairs(np.random.default_rng(seed), count)
    expected = numpy_multiply(a, b)
    assert np.array_equal(expected, mpfr.multiply(a, b))
    assert check(lambda: F32Multiply(stages), stages, {"a": a, "b": b, "o": expected}) > 0.99 * count


@pytest.mark.rtl
def test_add() -> None:
    check_add(4, 20_000, 1)


@pytest.mark.rtl
def test_multiply() -> None:
    check_multiply(5, 20_000, 2)


@pytest.mark.rtl
@pytest.mark.long
@pytest.mark.parametrize("stages", sorted(ADD_CUTS))
def test_add_long(stages: int) -> None:
    check_add(stages, 210_000, 10 + stages)


@pytest.mark.rtl
@pytest.mark.long
@pytest.mark.parametrize("stages", [2, 3, 4, 5, 6])
def test_multiply_long(stages: int) -> None:
    check_multiply(stages, 210_000, 20 + stages)


def test_operands_cover_what_hurts() -> None:
    a, b = add_pairs(np.random.default_rng(3), 7_000)
    total = numpy_add(a, b)
    exponent = (total >> 23) & 0xFF
    assert np.count_nonzero((exponent == 0) & (total << 1 != 0)) > 300  # subnormal sums
    assert np.count_nonzero(total << 1 == 0) > 20  # exact cancellation
    assert np.count_nonzero(exponent == 255) > 100
    a, b = multiply_pairs(np.random.default_rng(4), 6_000)
    product = numpy_multiply(a, b)
    exponent = (product >> 23) & 0xFF
    assert np.count_nonzero((exponent == 0) & (product << 1 != 0)) > 300
    assert np.count_nonzero((product & 0x7FFFFFFF) == 0x7F800000) > 100
    exact = a.view(np.float32).astype(np.float64) * b.view(np.float32).astype(np.float64)
    rounding = exact.view(np.uint64) & np.uint64((1 << 29) - 1)
    assert np.count_nonzero((rounding == 1 << 28) & (exponent > 0) & (exponent < 255)) > 30  # ties


@pytest.mark.filterwarnings("ignore::amaranth.hdl.UnusedElaboratable")
@pytest.mark.parametrize("unit", [F32Add, F32Multiply, F32Product])
def test_stages_out_of_range(unit: Callable[[int], object]) -> None:
    with pytest.raises(ValueError, match="stages of F32"):
        unit(0)
    with pytest.raises(ValueError, match="it must be from"):
        unit(7)
