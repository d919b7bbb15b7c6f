"""Conversions between binary16 and binary32: every binary16 number, every midpoint and its neighbours."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from nmsat.algorithms.core.numeric import canonical, to_half
from nmsat.dataflow.contract.legal import MAX_SHIFT
from nmsat.hw.fp.convert import HALF_CUTS, F16ToF32, F32ToF16
from nmsat.tb.drive.bank import check
from nmsat.tb.fp import mpfr
from nmsat.tb.fp.f32_vectors import SPECIAL, half_boundaries

if TYPE_CHECKING:
    from numpy.typing import NDArray

HALVES = np.arange(1 << 16, dtype=np.uint32)


def widened(half: NDArray[np.uint32], down: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Return half * 2^-down in binary32 by NumPy, in binary64 on the way (exact)."""
    with np.errstate(all="ignore"):
        value = half.astype(np.uint16).view(np.float16).astype(np.float64) * np.exp2(-down.astype(np.float64))
    return canonical(value.astype(np.float32)).view(np.uint32)


def check_widening(downs: list[int]) -> int:
    half = np.tile(HALVES, len(downs))
    down = np.repeat(np.array(downs, np.uint32), HALVES.size)
    return check(F16ToF32, 1, {"i": half, "down": down, "o": widened(half, down)})


def narrowing_vectors(count: int) -> NDArray[np.uint32]:
    random = np.random.default_rng(5).integers(0, 1 << 32, count, dtype=np.uint32)
    exact = HALVES.astype(np.uint16).view(np.float16).astype(np.float32).view(np.uint32)
    return np.concatenate([half_boundaries(), exact, SPECIAL, random])


@pytest.mark.rtl
def test_widen_every_half() -> None:
    assert check_widening([0, 24]) == 2 << 16


@pytest.mark.rtl
def test_widen_flags_infinity_and_nan() -> None:
    special = ((HALVES & 0x7C00) == 0x7C00).astype(np.uint32)
    assert check(F16ToF32, 1, {"i": HALVES, "down": HALVES % 25, "special": special}, output="special") == 1 << 16


@pytest.mark.rtl
@pytest.mark.long
def test_widen_every_half_by_every_scale() -> None:
    assert check_widening(list(range(MAX_SHIFT + 1))) == 25 << 16


@pytest.mark.rtl
@pytest.mark.parametrize("stages", sorted(HALF_CUTS))
def test_round_midpoints_and_neighbours(stages: int) -> None:
    values = narrowing_vectors(20_000)
    expected = to_half(values.view(np.float32)).view(np.uint16).astype(np.uint32)
    assert np.array_equal(expected, mpfr.to_half(values))
    assert check(lambda: F32ToF16(stages), stages, {"i": values, "o": expected}) > 270_000


@pytest.mark.rtl
@pytest.mark.long
def test_round_random() -> None:
    values = narrowing_vectors(2_000_000)
    expected = to_half(values.view(np.float32)).view(np.uint16).astype(np.uint32)
    assert np.array_equal(expected, mpfr.to_half(values))
    assert check(lambda: F32ToF16(2), 2, {"i": values, "o": expected}) > 2_000_000


def test_boundaries_are_ties() -> None:
    values = half_boundaries().view(np.float32).reshape(2, 3, -1)[0]
    assert values.shape == (3, 0x7C00)
    below, tie, above = (to_half(row).view(np.uint16).astype(int) for row in values)
    assert np.array_equal(above - below, np.ones(0x7C00))
    assert np.all(tie % 2 == 0)
    assert to_half(values[1, -1:])[0] == np.inf
