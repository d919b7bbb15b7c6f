"""The Verilated array engine against simulator and reference: bits, and the cycle of every result."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from nmsat.algorithms.core.tape import Pattern
from nmsat.dataflow.contract.config import SatConfig, preset
from nmsat.dataflow.mapping.choose import best_tiling
from nmsat.dataflow.mapping.tiling import legal_mappings
from nmsat.tb.array import products
from nmsat.tb.array.products import Job, bench_config, compare, run_products, verify_products
from tests.benches import in_amaranth
from tests.cases import patterns, product

pytestmark = pytest.mark.rtl

TINY = bench_config(preset("tiny"))
SLICED = TINY.replace(rows=3, columns=5, row_slices=(1,), column_slices=(2, 4), act_lanes=2, adder_stages=7)
SMALL = bench_config(preset("small"))


def jobs(config: SatConfig, chosen: list[Pattern | None], seed: int, top: int, gap: int = 0) -> list[Job]:
    """Return one random product for every mapping of every pattern."""
    rng = np.random.default_rng(seed)
    found = []
    for pattern in chosen:
        for mapping in legal_mappings(config, pattern):
            m, k, n = (int(x) for x in rng.integers(1, top, 3))
            a, packed, tiling = product(rng, config, mapping, (m, k, n), special=float(rng.choice([0.0, 0.02])))
            found.append(Job(a, packed, tiling, gap=gap, seed=seed + len(found)))
    return found


def check(config: SatConfig, found: list[Job]) -> None:
    for job, verdict in zip([j for j in found if not j.abort], verify_products(config, found), strict=True):
        assert verdict.match, (job.tiling.mapping, job.tiling.m, job.tiling.k, job.tiling.n, verdict.differences)


def test_every_pattern_and_mapping_on_tiny() -> None:
    """All N from 1 to M, M in 2, 4, 8, 16, dense; both dataflows; all rectangles; without reset in between."""
    check(TINY, jobs(TINY, patterns(), seed=1, top=24))


def test_late_commands_and_operands_with_gaps() -> None:
    check(TINY, jobs(TINY, [None, Pattern(2, 8), Pattern(3, 4)], seed=2, top=30, gap=3))


def test_reset_in_mid_operation() -> None:
    """An engine reset at any moment computes the next product as if nothing had been."""
    found = []
    for i, job in enumerate(jobs(TINY, [None, Pattern(2, 8), Pattern(1, 16)], seed=3, top=40)):
        found += [replace(job, abort=37 + 53 * i), job]
    check(TINY, found)


def test_slices_two_lanes_deep_adder() -> None:
    check(SLICED, jobs(SLICED, [None, Pattern(1, 2), Pattern(2, 8), Pattern(7, 8), Pattern(3, 16)], seed=4, top=40))


def test_leftover_shapes_on_small() -> None:
    """Shapes of the issue and those that broke other engines."""
    shapes = [(17, 37, 9), (1, 1, 1), (33, 64, 65), (12, 16, 16), (30, 32, 17), (24, 32, 1), (31, 31, 31), (5, 32, 3)]
    rng = np.random.default_rng(5)
    found = []
    for shape in shapes:
        for pattern in (None, Pattern(2, 8), Pattern(1, 16)):
            for dataflow in ("os", "ws"):
                mapping = best_tiling(SMALL, *shape, pattern, dataflow).mapping
                found.append(Job(*product(rng, SMALL, mapping, shape)))
    check(SMALL, found)


def test_the_check_itself_fails() -> None:
    """A wrong value and a late result are each reported, with the place of the first difference."""
    rng = np.random.default_rng(6)
    job = Job(*product(rng, TINY, best_tiling(TINY, 6, 20, 5, None).mapping, (6, 20, 5)))
    got = run_products(TINY, [job])[0]
    assert compare(job, got).match
    y = got.y.copy()
    y[3, 2] += np.float32(1)
    assert "first at row 3, column 2" in compare(job, replace(got, y=y)).differences[0]
    late = got.cycle.copy()
    late[1, 0] += 1
    assert "result 0 of column 1" in compare(job, replace(got, cycle=late)).differences[0]


@pytest.mark.long
@pytest.mark.parametrize("seed", range(4))
def test_every_pattern_and_mapping_long(seed: int) -> None:
    config = bench_config(preset("tiny"), deep=True).replace(adder_stages=1 + 2 * seed, act_lanes=1 + seed % 2)
    check(config, jobs(config, patterns(), seed=100 + seed, top=60))


@pytest.mark.long
def test_full_array() -> None:
    """The 32 x 32 array: every pattern of the paper in both dataflows, and the product of the utilization table."""
    config = bench_config(preset("vcu1525"))
    rng = np.random.default_rng(8)
    found = []
    for pattern in (None, Pattern(2, 4), Pattern(2, 8), Pattern(4, 8), Pattern(2, 16), Pattern(1, 8)):
        for dataflow in ("os", "ws"):
            mapping = best_tiling(config, 70, 200, 300, pattern, dataflow).mapping
            found.append(Job(*product(rng, config, mapping, (70, 200, 300))))
    check(config, found)


@pytest.mark.long
def test_in_amaranths_simulator() -> None:
    """A little of the bench, for faults that are planted (`make mutate`)."""
    config = TINY.replace(rows=2, columns=2)
    products.build_stce.cache_clear()
    with in_amaranth(products.__name__):
        check(config, jobs(config, [None, Pattern(2, 4)], seed=1, top=9))
    products.build_stce.cache_clear()
