"""N:M masks and packing against a group-by-group definition."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nmsat.algorithms.core.nm import mask, pack, pack_kept, prune, unpack

PATTERNS = [(n, m) for m in (2, 4, 8, 16) for n in range(1, m + 1)]


def half(bits: list[int] | list[list[int]]) -> np.ndarray:
    return np.array(bits, np.uint16).view(np.float16)


def bits_of(x: np.ndarray) -> list:
    return x.view(np.uint16).tolist()


def slow_mask(column: np.ndarray, n: int, m: int) -> np.ndarray:
    """One column of binary16, by sorting each group on (magnitude downwards, index upwards)."""
    keep = np.zeros(len(column), bool)
    size = [int(b) & 0x7FFF for b in column.view(np.uint16)]
    for start in range(0, len(column), m):
        order = sorted(range(start, min(start + m, len(column))), key=lambda i: (-size[i], i))
        keep[order[:n]] = True
    return keep


@st.composite
def matrices(draw: st.DrawFn) -> np.ndarray:
    rows, columns = draw(st.integers(1, 40)), draw(st.integers(1, 5))
    # Few distinct patterns, so that ties, signed zeros, subnormals, infinities and NaNs meet often.
    values = [0, 0x8000, 1, 0x8001, 0x3C00, 0xBC00, 0x3C01, 0x7BFF, 0x7C00, 0xFC00, 0x7E00, 0xFE01]
    return half(draw(st.lists(st.sampled_from(values), min_size=rows * columns, max_size=rows * columns))).reshape(
        rows, columns
    )


@given(matrices(), st.sampled_from(PATTERNS), st.sampled_from([0, 1, -1]))
@settings(max_examples=400, deadline=None)
def test_mask_is_the_definition(w: np.ndarray, pattern: tuple[int, int], axis: int) -> None:
    columns = w if axis == 0 else w.T
    want = np.stack([slow_mask(np.ascontiguousarray(c), *pattern) for c in columns.T], axis=1)
    assert np.array_equal(mask(w, *pattern, axis=axis), want if axis == 0 else want.T)


@given(matrices(), st.sampled_from(PATTERNS))
@settings(max_examples=300, deadline=None)
def test_pack_holds_what_prune_keeps(w: np.ndarray, pattern: tuple[int, int]) -> None:
    n, m = pattern
    packed = pack(w, n, m)
    assert packed.values.shape == (-(-w.shape[0] // m), n, w.shape[1])
    assert bits_of(unpack(packed)) == bits_of(prune(w, n, m))
    assert packed.kept == mask(w, n, m).sum()
    index = np.where(packed.filler, 99, packed.index).astype(int)
    rising = np.diff(index, axis=1)
    assert ((rising > 0) | (index[:, 1:] == 99)).all()
    assert not (packed.filler[:, :-1] & ~packed.filler[:, 1:]).any()
    assert not packed.values[packed.filler].view(np.uint16).any()
    assert not packed.index[packed.filler].any()


@given(matrices(), st.sampled_from(PATTERNS))
@settings(max_examples=200, deadline=None)
def test_packing_a_pruned_matrix_changes_nothing(w: np.ndarray, pattern: tuple[int, int]) -> None:
    first, second = pack(w, *pattern), pack(prune(w, *pattern), *pattern)
    assert bits_of(first.values) == bits_of(second.values)
    assert np.array_equal(first.index, second.index)
    assert np.array_equal(first.filler, second.filler)


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_every_pattern_keeps_n_of_m_along_any_axis(pattern: tuple[int, int], axis: int) -> None:
    n, m = pattern
    w = np.random.default_rng(1).standard_normal((16, 32, 48)).astype(np.float32)
    keep = np.moveaxis(mask(w, n, m, axis), axis, 0)
    assert (keep.reshape(-1, m, *keep.shape[1:]).sum(axis=1) == n).all()


@pytest.mark.parametrize(
    ("group", "n", "kept"),
    [
        ([0x3C00, 0xBC00, 0x3C00, 0xBC00], 2, [0, 1]),  # four equal magnitudes
        ([0x8000, 0x0000, 0x8000, 0x0000], 1, [0]),  # signed zeros are equal
        ([0x0001, 0x8002, 0x0000, 0x0003], 2, [1, 3]),  # subnormals are ordered
        ([0x7C00, 0x7E00, 0x7BFF, 0xFC00], 1, [1]),  # NaN above infinity
        ([0x7E00, 0x3C00, 0xFC00, 0x7C00], 2, [0, 2]),  # of two infinities the first
    ],
)
def test_edges_of_the_order(group: list[int], n: int, kept: list[int]) -> None:
    assert np.flatnonzero(mask(half(group)[:, None], n, 4)[:, 0]).tolist() == kept


def test_kept_values_keep_their_bits() -> None:
    w = half([[0x8000], [0x8000], [0xFE01], [0x8001]])
    assert bits_of(prune(w, 3, 4)[:, 0]) == [0x8000, 0, 0xFE01, 0x8001]


def test_binary32_is_compared_as_binary16() -> None:
    w = np.array([[1.0], [1.0001], [0.5], [0.25]], np.float32)  # 1.0001 rounds to 1: a tie, the lower index stays
    assert mask(w, 1, 4)[:, 0].tolist() == [True, False, False, False]
    assert prune(w, 1, 4).dtype == np.float32


def test_a_short_tail_ends_in_fillers() -> None:
    w = half([[0x3C00], [0x4000], [0x3C01], [0x0000], [0x8000]])
    packed = pack(w, 3, 4)
    assert packed.groups == 2
    assert packed.index[:, :, 0].tolist() == [[0, 1, 2], [0, 0, 0]]
    assert packed.filler[:, :, 0].tolist() == [[False, False, False], [False, True, True]]
    assert bits_of(packed.values[1, :, 0]) == [0x8000, 0, 0]


def test_pack_along_the_second_axis_is_the_transpose() -> None:
    w = np.random.default_rng(2).standard_normal((5, 19)).astype(np.float16)
    assert bits_of(pack(w, 2, 8, axis=1).unpack()) == bits_of(pack(np.ascontiguousarray(w.T), 2, 8).unpack())
    assert pack(w, 2, 8, axis=1).k == 19


def test_pack_kept_allows_fewer_and_refuses_more() -> None:
    w = np.ones((8, 2), np.float16)
    keep = np.zeros((8, 2), bool)
    keep[3, 0] = keep[6, 0] = keep[7, 1] = True
    packed = pack_kept(w, keep, 2, 8)
    assert packed.kept == 3
    assert np.array_equal(packed.unpack() != 0, keep)
    with pytest.raises(ValueError, match="keeps 2 elements; 1:8"):
        pack_kept(w, keep, 1, 8)
    with pytest.raises(ValueError, match="shape"):
        pack_kept(w, keep[:4], 2, 8)


@pytest.mark.parametrize(("n", "m"), [(9, 8), (0, 4), (2, 5), (1, 32), (-1, 2)])
def test_illegal_patterns_are_refused(n: int, m: int) -> None:
    with pytest.raises(ValueError, match=f"'{n}:{m}'"):
        mask(np.ones((4, 4), np.float16), n, m)


def test_other_dtypes_are_refused() -> None:
    with pytest.raises(TypeError, match="float64"):
        mask(np.ones((4, 4)), 1, 2)
