"""The N:M cover of a mask: lossless, smallest, and recognised where it is native."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nmsat.algorithms.core.nm import mask, pack_kept
from nmsat.algorithms.core.tape import Pattern, Stage
from nmsat.dataflow.mapping.cover import Cover, cover_mask
from tests.mapping.native import native_pattern


def random_mask(k: int, columns: int, density: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((k, columns)) < density


def smallest(part: np.ndarray, m: int) -> int:
    """The largest count of any group of a tile, one by one."""
    return max(
        (int(part[at : at + m, c].sum()) for at in range(0, part.shape[0], m) for c in range(part.shape[1])),
        default=0,
    )


def check(found: Cover, keep: np.ndarray) -> None:
    """Every tile is as narrow as it can be and the slots are those of all tiles together."""
    slots = 0
    for i, row in enumerate(found.n):
        for j, n in enumerate(row):
            part = keep[i * found.tile_k : (i + 1) * found.tile_k, j * found.tile_n : (j + 1) * found.tile_n]
            assert n == smallest(part, found.m)
            slots += int(n) * -(-part.shape[0] // found.m) * part.shape[1]
    assert found.slots == slots
    assert found.nonzeros == keep.sum() <= slots


@settings(deadline=None, max_examples=80)
@given(
    st.integers(1, 70),
    st.integers(1, 40),
    st.floats(0, 1),
    st.integers(1, 24),
    st.sampled_from([None, 16, 32]),
    st.integers(0, 2**32 - 1),
)
def test_cover_is_lossless_and_smallest(
    k: int, columns: int, density: float, tile_n: int, tile_k: int | None, seed: int
) -> None:
    keep = random_mask(k, columns, density, seed)
    found = cover_mask(keep, tile_n=tile_n, tile_k=tile_k)
    check(found, keep)
    for m in (8, 16):
        tiled = cover_mask(keep, tile_n=tile_n, tile_k=tile_k, sizes=(m,))
        check(tiled, keep)
        assert found.slots <= tiled.slots
    products = found.products("layer", Stage.FF, rows=3)
    assert sum(p.n * -(-p.k // found.m) * (p.pattern.n if p.pattern else found.m) for p in products) == found.slots


@pytest.mark.parametrize("text", ["1:2", "1:4", "2:4", "1:8", "2:8", "3:8", "2:16", "5:16"])
def test_native_patterns_are_recognised(text: str) -> None:
    pattern = Pattern.parse(text)
    assert pattern is not None
    w = np.random.default_rng(1).standard_normal((64, 48)).astype(np.float32)
    keep = mask(w, pattern.n, pattern.m)
    found = cover_mask(keep)
    assert found.native
    assert found.pattern == pattern == native_pattern(keep)
    assert found.cover_density == found.density == pattern.n / pattern.m
    assert found.fill == 1
    (product,) = found.products("layer", Stage.FF, rows=5)
    assert (product.m, product.k, product.n, product.pattern) == (5, 64, 48, pattern)
    # The other axis of the same mask is not N:M.
    assert native_pattern(keep.T.copy()) != pattern


def test_tiles_follow_the_mask() -> None:
    """Columns 0..31 hold 2:8, the next 32 hold 1:16, the last 32 nothing."""
    w = np.random.default_rng(2).standard_normal((64, 96)).astype(np.float32)
    keep = np.zeros((64, 96), bool)
    keep[:, :32] = mask(w[:, :32], 2, 8)
    keep[:, 32:64] = mask(w[:, 32:64], 1, 16)
    found = cover_mask(keep)
    assert not found.native
    assert (found.m, found.n.tolist()) == (16, [[4, 1, 0]])
    assert found.slots == found.nonzeros
    products = found.products("layer", Stage.FF, rows=7)
    assert [(p.n, str(p.pattern)) for p in products] == [(32, "4:16"), (32, "1:16")]
    assert "cover 0:16 x 1, 1:16 x 1, 4:16 x 1" in found.describe()
    assert found.ideal_speedup == found.reached_speedup == pytest.approx(96 * 64 / (32 * 16 + 32 * 4))


def test_unstructured_masks_cost_more_than_ideal_and_lose_nothing() -> None:
    keep = random_mask(256, 128, 0.1)
    found = cover_mask(keep, tile_n=16)
    assert found.density < found.cover_density < 1
    assert 1 < found.reached_speedup < found.ideal_speedup
    assert found.fill == pytest.approx(found.nonzeros / found.slots)
    # Packing with the cover's pattern keeps every element.
    w = np.random.default_rng(3).standard_normal((256, 128)).astype(np.float16)
    pattern = found.pattern
    assert pattern is not None
    packed = pack_kept(w, keep, pattern.n, pattern.m)
    assert np.array_equal(packed.unpack(), np.where(keep, w, np.float16(0)))
    with pytest.raises(ValueError, match="a group keeps"):
        pack_kept(w, keep, pattern.n - 1, pattern.m)


def test_dense_and_empty_masks() -> None:
    dense = cover_mask(np.ones((40, 5), bool))
    assert dense.pattern is None
    assert dense.native
    assert native_pattern(np.ones((40, 5), bool)) is None
    assert [p.pattern for p in dense.products("layer", Stage.FF, 2)] == [None]
    empty = cover_mask(np.zeros((40, 5), bool))
    assert empty.slots == 0
    assert empty.products("layer", Stage.FF, 2) == ()
    assert empty.ideal_speedup == empty.reached_speedup == float("inf")
    assert empty.pattern == Pattern(1, 2)


def test_groups_start_anew_at_every_run() -> None:
    """12 channels in 3 taps: groups of 8 hold channels 0..7 and 8..11 of one tap, never two taps."""
    keep = np.zeros((36, 2), bool)
    keep[[0, 7, 8, 11, 12, 19]] = True
    found = cover_mask(keep, run=12, sizes=(8,))
    assert (found.k, found.rows) == (36, 48)
    assert found.n.max() == 2
    assert [p.k for p in found.products("layer", Stage.BP, 1)] == [48]
    assert native_pattern(keep, run=12) == Pattern(2, 8)


def test_refused_masks() -> None:
    good = np.ones((16, 4), bool)
    with pytest.raises(TypeError, match="dtype float64; it must be bool"):
        cover_mask(good.astype(float))
    with pytest.raises(ValueError, match=r"shape \(4,\)"):
        cover_mask(good[0])
    with pytest.raises(ValueError, match=r"shape \(0, 4\)"):
        cover_mask(good[:0])
    with pytest.raises(ValueError, match="tile_n is 0"):
        cover_mask(good, tile_n=0)
    with pytest.raises(ValueError, match="tile_k is 24; it must be a multiple"):
        cover_mask(good, tile_k=24)
    with pytest.raises(ValueError, match=r"sizes is \(32,\)"):
        cover_mask(good, sizes=(32,))
    with pytest.raises(ValueError, match="run is 5; it must divide"):
        cover_mask(good, run=5)
