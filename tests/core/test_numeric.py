"""Rounding and ordered dot products against scalar arithmetic on whole numbers and on NumPy scalars."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nmsat.algorithms.core.nm import mask, pack, pack_kept
from nmsat.algorithms.core.numeric import (
    NAN16,
    NAN32,
    canonical,
    ordered_dot,
    ordered_dot_batched,
    ordered_dot_packed,
    to_half,
)


def half(bits: list[int] | list[list[int]]) -> np.ndarray:
    return np.array(bits, np.uint16).view(np.float16)


def random_half(rng: np.random.Generator, shape: tuple[int, ...], specials: bool = False) -> np.ndarray:
    """Any bit pattern; without specials, exponents below 31 (finite)."""
    bits = rng.integers(0, 1 << 16, shape, dtype=np.uint16)
    if not specials:
        bits = np.where((bits & 0x7C00) == 0x7C00, bits & 0x83FF, bits).astype(np.uint16)
    return bits.view(np.float16)


def nearest_half(x: Fraction) -> Fraction | None:
    """Round a finite value to binary16 by exact search; None is an overflow."""
    if x == 0:
        return x
    exponent = -14
    while abs(x) >= Fraction(2) ** (exponent + 1):
        exponent += 1
    unit = Fraction(2) ** (exponent - 10)
    result = round(x / unit) * unit  # Fraction rounds ties to even
    return None if abs(result) > 65504 else result


@given(st.integers(0, 0xFFFFFFFF))
@settings(max_examples=2000, deadline=None)
def test_to_half_is_one_rounding(bits: int) -> None:
    x = np.array([bits], np.uint32).view(np.float32)
    got = to_half(x)[0]
    if np.isnan(x[0]):
        assert got.view(np.uint16) == 0x7E00
    elif np.isinf(x[0]):
        assert got == x[0]
    else:
        want = nearest_half(Fraction(float(x[0])))
        assert np.signbit(got) == np.signbit(x[0])
        assert np.isinf(got) if want is None else Fraction(float(got)) == want


@pytest.mark.parametrize(
    ("value", "bits"),
    [
        (65519.996, 0x7BFF),
        (65520.0, 0x7C00),
        (-65520.0, 0xFC00),
        (2.0**-24, 0x0001),
        (2.0**-25, 0x0000),
        (1.5 * 2.0**-25, 0x0001),
        (1.5 * 2.0**-24, 0x0002),
        (-0.0, 0x8000),
        (1 + 2.0**-11, 0x3C00),
        (1 + 3 * 2.0**-11, 0x3C02),
    ],
)
def test_to_half_edges(value: float, bits: int) -> None:
    assert to_half(np.array([value], np.float32)).view(np.uint16)[0] == bits


def test_to_half_refuses_double_rounding() -> None:
    with pytest.raises(TypeError, match="float64"):
        to_half(np.ones(3))


def test_canonical_nan_of_both_widths() -> None:
    assert canonical(half([0xFE01, 0x7D00, 0x3C00])).view(np.uint16).tolist() == [0x7E00, 0x7E00, 0x3C00]
    x = np.array([0xFFC00001, 0x7F800001, 0x80000000], np.uint32).view(np.float32)
    assert canonical(x).view(np.uint32).tolist() == [0x7FC00000, 0x7FC00000, 0x80000000]
    assert NAN16.view(np.uint16) == 0x7E00
    assert NAN32.view(np.uint32) == 0x7FC00000


def scalar_dot(a: np.ndarray, w: np.ndarray, keep: np.ndarray, seed: np.ndarray | None = None) -> np.ndarray:
    """The chain as the contract states it, one scalar operation at a time; returns bit patterns."""
    out = np.zeros((a.shape[0], w.shape[1]), np.uint32)
    with np.errstate(all="ignore"):
        for i, j in np.ndindex(out.shape):
            acc = np.float32(0) if seed is None else seed[i, j]
            for k in range(a.shape[1]):
                if keep[k, j]:
                    acc = np.float32(acc + np.float32(a[i, k]) * np.float32(w[k, j]))
            out[i, j] = 0x7FC00000 if np.isnan(acc) else acc.view(np.uint32)
    return out


SHAPES = [(1, 1, 1), (3, 17, 5), (5, 9, 2), (7, 33, 11), (2, 0, 3)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("specials", [False, True])
def test_ordered_dot_is_the_scalar_chain(shape: tuple[int, int, int], specials: bool) -> None:
    rng = np.random.default_rng(list(shape))
    m, k, n = shape
    a, w = random_half(rng, (m, k), specials), random_half(rng, (k, n), specials)
    want = scalar_dot(a, w, np.ones_like(w, bool))
    assert np.array_equal(ordered_dot(a, w).view(np.uint32), want)


@pytest.mark.parametrize("pattern", [(1, 2), (2, 4), (3, 4), (2, 8), (8, 8), (1, 16), (5, 16)])
@pytest.mark.parametrize("specials", [False, True])
def test_packed_dot_is_the_chain_of_the_kept(pattern: tuple[int, int], specials: bool) -> None:
    rng = np.random.default_rng(list(pattern))
    a, w = random_half(rng, (6, 37), specials), random_half(rng, (37, 5), specials)
    want = scalar_dot(a, w, mask(w, *pattern))
    assert np.array_equal(ordered_dot_packed(a, pack(w, *pattern)).view(np.uint32), want)


def test_fillers_meet_an_infinity_and_kept_zeros_do_too() -> None:
    a = half([[0x7C00, 0x3C00]])  # infinity, 1
    w = half([[0x0000], [0x4000]])  # 0, 2
    only_second = pack_kept(w, np.array([[False], [True]]), 2, 2)
    assert ordered_dot_packed(a, only_second)[0, 0] == 2.0
    both = pack_kept(w, np.array([[True], [True]]), 2, 2)
    assert ordered_dot_packed(a, both).view(np.uint32)[0, 0] == 0x7FC00000


@pytest.mark.parametrize("shape", [(40, 21, 3), (3, 21, 40), (5000, 3, 7), (9, 3, 5000), (200, 2, 300)])
def test_blocks_do_not_change_bits(shape: tuple[int, int, int]) -> None:
    m, k, n = shape
    rng = np.random.default_rng(k)
    a, w = random_half(rng, (m, k)), random_half(rng, (k, n))
    acc = np.zeros((m, n), np.float32)
    for i in range(k):
        acc += a[:, i : i + 1].astype(np.float32) * w[i].astype(np.float32)
    assert np.array_equal(ordered_dot(a, w).view(np.uint32), acc.view(np.uint32))
    assert np.array_equal(ordered_dot_packed(a, pack(w, 2, 2)).view(np.uint32), acc.view(np.uint32))


@pytest.mark.parametrize("cut", [8, 16, 24])
def test_a_seeded_chain_continues(cut: int) -> None:
    rng = np.random.default_rng(cut)
    a, w = random_half(rng, (9, 40)), random_half(rng, (40, 6))
    head = ordered_dot(a[:, :cut], w[:cut])
    assert np.array_equal(ordered_dot(a[:, cut:], w[cut:], head).view(np.uint32), ordered_dot(a, w).view(np.uint32))
    head = ordered_dot_packed(a[:, :cut], pack(w[:cut], 2, 8))
    whole = ordered_dot_packed(a, pack(w, 2, 8))
    assert np.array_equal(
        ordered_dot_packed(a[:, cut:], pack(w[cut:], 2, 8), head).view(np.uint32), whole.view(np.uint32)
    )


def test_the_seed_is_left_alone() -> None:
    seed = np.ones((2, 2), np.float32)
    ordered_dot(half([[0x3C00], [0x3C00]]), half([[0x3C00, 0x3C00]]), seed)
    ordered_dot_packed(half([[0x3C00], [0x3C00]]), pack(half([[0x3C00, 0x3C00]]), 1, 2), seed)
    assert (seed == 1).all()


def test_chains_hold_no_negative_zero_and_no_subnormal() -> None:
    rng = np.random.default_rng(5)
    bits = rng.integers(0, 4, (50, 60), dtype=np.uint16) | (rng.integers(0, 2, (50, 60), dtype=np.uint16) << 15)
    y = ordered_dot(bits.view(np.float16), bits.T.copy().view(np.float16))
    assert not (y.view(np.uint32) == 0x80000000).any()
    assert ((y == 0) | (abs(y) >= 2.0**-48)).all()


@pytest.mark.parametrize("shape", [(1, 3, 4, 5), (7, 2, 9, 3), (200, 9, 3, 20)])
def test_batched_products_are_single_ones(shape: tuple[int, int, int, int]) -> None:
    g, m, k, n = shape
    rng = np.random.default_rng(list(shape))
    a, w = random_half(rng, (g, m, k), specials=True), random_half(rng, (g, k, n), specials=True)
    want = np.stack([ordered_dot(left, right) for left, right in zip(a, w, strict=True)])
    assert np.array_equal(ordered_dot_batched(a, w).view(np.uint32), want.view(np.uint32))
    with pytest.raises(ValueError, match="shapes"):
        ordered_dot_batched(a, w[:, :, 0])


def test_bad_operands_are_named() -> None:
    good = np.zeros((2, 3), np.float16)
    with pytest.raises(TypeError, match="float32"):
        ordered_dot(good.astype(np.float32), good.T)  # type: ignore[arg-type] # the wrong dtype on purpose
    with pytest.raises(ValueError, match=r"\(2, 3\)"):
        ordered_dot(good, good)
    with pytest.raises(ValueError, match="seed"):
        ordered_dot(good, good.T, np.zeros((3, 3), np.float32))
    with pytest.raises(ValueError, match="shapes"):
        ordered_dot_packed(good, pack(good, 1, 2))
