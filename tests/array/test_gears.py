"""The two gears of the simulator against each other and against the reference, over random products."""

from __future__ import annotations

import numpy as np
import pytest

from nmsat.algorithms.core.numeric import ordered_dot_packed
from nmsat.algorithms.core.tape import Pattern
from nmsat.dataflow.contract.config import preset
from nmsat.dataflow.cycles.array import product_duration, result_cycles, tile_times
from nmsat.dataflow.mapping.choose import best_tiling
from nmsat.dataflow.mapping.tiling import Tiling, legal_mappings
from nmsat.sim.array.fast import simulate_product
from nmsat.sim.array.links import positions
from nmsat.sim.array.stepped import run_stepped
from tests.cases import patterns, product, random_products

CHUNK = 25


def check_equal(seed: int, count: int, top: float = 2.4) -> None:
    """Step `count` random products and compare bits and the cycle of every result with the fast gear."""
    for i, (a, packed, tiling) in enumerate(random_products(seed, count, top)):
        what = f"case {i} of seed {seed}: {tiling.mapping} {tiling.m}x{tiling.k}x{tiling.n} on {tiling.config}"
        y, trace = run_stepped(a, packed, tiling)
        fast = simulate_product(tiling, a, packed)
        assert fast.y is not None
        assert np.array_equal(y.view(np.uint32), fast.y.view(np.uint32)), what
        assert np.array_equal(y.view(np.uint32), ordered_dot_packed(a, packed).view(np.uint32)), what
        offset = positions(tiling.config.columns, tiling.config.column_slices)
        cycles = np.array(trace.out_cycle) - trace.starts[0][0]
        assert np.array_equal(cycles, result_cycles(tiling)[None, :] + offset[:, None]), what
        assert trace.cycles == fast.cycles, what
        check_tiles(tiling, [cycle - trace.starts[0][0] for cycle, computes in trace.starts if computes], what)


def check_tiles(tiling: Tiling, starts: list[int], what: str) -> None:
    """Hold the tiles of a product against its total and against the stepped starts of their last windows."""
    tiles, whole = list(tile_times(tiling)), product_duration(tiling)
    for name in ("steps", "link", "fill", "drain", "weight", "dependency", "finish"):
        parts = [getattr(tile.duration, name) for tile in tiles]
        assert min(parts) >= 0, what
        assert sum(parts) == getattr(whole, name), what
    ends = [tile.start + tile.duration.total - tile.duration.finish - tiling.window for tile in tiles]
    assert ends == starts[tiling.windows - 1 :: tiling.windows], what
    places = [(tile.copy, tile.column, tile.row, tile.depth) for tile in tiles]
    assert places == [(0, tile.column, tile.row, tile.depth) for tile in tiling.tiles()], what


@pytest.mark.parametrize("seed", range(12))
def test_stepped_equals_fast(seed: int) -> None:
    check_equal(seed, CHUNK)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(100, 180))
def test_stepped_equals_fast_long(seed: int) -> None:
    check_equal(seed, CHUNK, top=3.2)


def test_every_mapping_has_the_same_bits() -> None:
    """The bits of a product do not depend on its schedule (design, section 2)."""
    config = preset("tiny").replace(rows=2, columns=2, act_depth=1 << 14, weight_depth=1 << 14)
    rng = np.random.default_rng(7)
    for pattern in (None, Pattern(2, 8), Pattern(5, 8), Pattern(3, 16)):
        reference = None
        for mapping in legal_mappings(config, pattern):
            rng = np.random.default_rng(11)
            a, packed, tiling = product(rng, config, mapping, (7, 35, 5), special=0.02)
            y = run_stepped(a, packed, tiling)[0].view(np.uint32)
            reference = y if reference is None else reference
            assert np.array_equal(y, reference), mapping


def test_duration_is_split_without_remainder() -> None:
    """Causes add up to the total, none is negative, and steps are what the windows issue."""
    for pattern in patterns():
        for mapping in legal_mappings(preset("small"), pattern):
            tiling = Tiling(preset("small"), mapping, 100, 300, 70)
            duration = product_duration(tiling)
            assert duration.total == duration.steps + sum(duration.stalls.values())
            assert min(duration.stalls.values()) >= 0
            assert duration.steps == tiling.commands * tiling.windows * 8 * mapping.slots


@pytest.mark.parametrize(
    ("pattern", "least"),
    [(None, 0.98), ("2:4", 0.97), ("2:8", 0.97), ("4:8", 0.97), ("2:16", 0.95), ("1:8", 0.95)],
)
def test_utilization_at_full_size(pattern: str | None, least: float) -> None:
    tiling = best_tiling(preset("vcu1525"), 2048, 1152, 256, Pattern.parse(pattern) if pattern else None)
    assert simulate_product(tiling).utilization >= least


def test_best_tiling_is_the_best_of_all() -> None:
    config = preset("tiny")
    for pattern in (None, Pattern(2, 8), Pattern(1, 16)):
        found = product_duration(best_tiling(config, 50, 60, 30, pattern)).total
        every = [product_duration(Tiling(config, m, 50, 60, 30)).total for m in legal_mappings(config, pattern)]
        assert found == min(every)


def test_best_tiling_refuses_bad_input() -> None:
    with pytest.raises(ValueError, match="dataflow is 'xs'"):
        best_tiling(preset("tiny"), 1, 1, 1, None, "xs")
    with pytest.raises(ValueError, match="k is 0"):
        best_tiling(preset("tiny"), 1, 0, 1, None)
