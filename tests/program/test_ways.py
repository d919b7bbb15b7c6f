"""How products meet the array: covers, blocks, gathering; the cut never changes a bit."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from nmsat.algorithms.core.nm import pack
from nmsat.algorithms.core.numeric import ordered_dot
from nmsat.algorithms.core.sparsity import Blocks, Gathered, Unstructured
from nmsat.algorithms.core.tape import Pattern, Product, Stage, Tape
from nmsat.algorithms.workloads.engine.parameters import Operand
from nmsat.algorithms.workloads.engine.products import multiply
from nmsat.algorithms.workloads.engine.program import Program
from nmsat.dataflow.contract.config import preset
from nmsat.dataflow.mapping.chain import chain_cycles, os_chain_cycles
from nmsat.dataflow.mapping.place import results_per_column
from nmsat.dataflow.mapping.tiling import Mapping, Tiling
from nmsat.dataflow.program.levels import (
    assumed_levels,
    balanced_rows,
    column_needs,
    cover_levels,
    expected_needs,
)
from nmsat.dataflow.program.ways import How, Options, lower, whole
from nmsat.sim.array.stce import Stce
from nmsat.sim.array.stepped import place_operands
from nmsat.sim.work.workload import check_values, runs, simulate_tape, simulated

if TYPE_CHECKING:
    from nmsat.dataflow.contract.config import SatConfig
    from nmsat.dataflow.mapping.chain import ProductShape

TINY, BIG = preset("tiny"), preset("vcu1525")


def _values(
    sparsity: object, m: int, k: int, n: int, count: int = 1, seed: int = 0, pattern: Pattern | None = None
) -> Product:
    """Record one product under the contract."""
    rng = np.random.default_rng(0)
    p = Program(exact=True)
    p.tape.values = True
    lead = (count,) if count > 1 else ()
    a, w = rng.standard_normal((*lead, m, k)), rng.standard_normal((*lead, k, n))
    if isinstance(sparsity, Unstructured) and sparsity.role == "w" and sparsity.keep is not None:
        w = np.where(sparsity.keep, w, 0)
    if isinstance(sparsity, Blocks) and sparsity.role in "aw":
        rows, columns = (m, k) if sparsity.role == "a" else (k, n)
        present = sparsity.keep[np.ix_(np.arange(rows) // sparsity.height, np.arange(columns) // sparsity.width)]
        a, w = (a * present, w) if sparsity.role == "a" else (a, w * present)
    multiply(p, "p", Stage.FF, a, Operand(w, pattern), (m, k, n), count, sparsity=sparsity)  # type: ignore[arg-type]
    return p.tape.products[0]


def _cycles(config: SatConfig, m: int, k: int, n: int, pattern: Pattern | None, count: int = 1) -> int:
    return chain_cycles(config, ((m, k, n, count),), pattern)


def _exact(product: Product, options: Options | None = None) -> bool:
    tape = Tape(values=True)
    tape.record(product)
    return check_values(simulate_tape(tape, TINY, options)) == []


def test_expected_needs_agree_with_the_closed_form_and_with_random_masks() -> None:
    # E[N] of tiles of 64 (k) x 16: facts, appendix of group A and table of group B.
    for density, mean in ((0.5, 7.4), (0.2, 4.9), (0.1, 3.6), (0.05, 2.5)):
        counts = expected_needs(64, 1000, 16, density, 8)
        assert sum(counts) == 1000
        assert sum(level * c for level, c in enumerate(counts)) / 1000 == pytest.approx(mean, abs=0.12)
    keep = np.random.default_rng(1).random((128, 4000)) < 0.15
    seen = np.bincount(column_needs(keep, 16), minlength=17)
    assert np.abs(seen - np.array(expected_needs(128, 4000, 1, 0.15, 16))).max() < 160


@pytest.mark.parametrize("sort", [True, False])
@pytest.mark.parametrize("density", [0.02, 0.1, 0.3])
def test_levels_hold_the_mask(density: float, sort: bool) -> None:
    keep = np.random.default_rng(2).random((72, 130)) < density
    levels = cover_levels(TINY, 64, keep, sort=sort)
    assert levels
    covered = np.zeros(130, bool)
    for level in levels:
        assert level.which is not None
        assert len(level.which) == level.columns
        assert column_needs(keep[:, level.which], level.pattern.m).max() <= level.pattern.n
        covered[level.which] = True
    assert not keep[:, ~covered].any()
    assert sum(level.columns for level in levels) == covered.sum()


def test_sorting_columns_never_costs_cycles() -> None:
    rng = np.random.default_rng(3)
    keep = rng.random((64, 96)) < rng.choice([0.02, 0.4], 96)[None]
    spent = []
    for sort in (True, False):
        levels = cover_levels(TINY, 64, keep, sort=sort)
        spent.append(sum(_cycles(TINY, 64, 64, level.columns, level.pattern) for level in levels))
    assert spent[0] < spent[1]


def test_assumed_cover_is_close_to_that_of_a_random_mask() -> None:
    keep = np.random.default_rng(4).random((512, 512)) < 0.1
    found, assumed = cover_levels(BIG, 512, keep, sizes=(8, 16)), assumed_levels(BIG, 512, 512, 512, 0.1)
    ours, theirs = (sum(_cycles(BIG, 512, 512, x.columns, x.pattern) for x in levels) for levels in (found, assumed))
    assert sum(level.columns for level in assumed) == 512
    assert ours == pytest.approx(theirs, rel=0.1)  # tiles of 256 columns: few columns move many cycles


def test_a_native_mask_is_found_in_an_unstructured_record() -> None:
    keep = np.zeros((1024, 256), bool)
    keep[::4] = True
    (level,) = cover_levels(BIG, 1024, keep)
    assert str(level.pattern) in ("1:4", "2:8", "4:16")
    assert level.columns == 256


def test_nearly_dense_masks_run_dense() -> None:
    keep = np.random.default_rng(5).random((256, 256)) < 0.9
    product = Product("p", Stage.FF, 256, 256, 256, sparsity=Unstructured("w", int(keep.sum()), keep))
    item = lower(product, BIG)
    assert item.how is How.DENSE
    assert item.cycles == item.cycles_dense


@pytest.mark.parametrize("density", [0.03, 0.2, 0.6])
@pytest.mark.parametrize("count", [1, 3])
def test_covers_are_exact(density: float, count: int) -> None:
    lead = (count,) if count > 1 else ()
    keep = np.random.default_rng(6).random((*lead, 40, 21)) < density
    product = _values(Unstructured("w", int(keep.sum()), keep), 9, 40, 21, count)
    for options in (None, Options(columns=False), Options(only=(How.COVER,)), Options(only=(How.DENSE,))):
        assert _exact(product, options)


def test_balanced_rows_lower_a_clustered_cover_and_keep_the_product() -> None:
    rng = np.random.default_rng(7)
    keep = np.zeros((64, 24), bool)
    keep[:12] = rng.random((12, 24)) < 0.8
    order = balanced_rows(keep, 16)
    assert sorted(order) == list(range(64))
    assert column_needs(keep[order], 16).max() < column_needs(keep, 16).max()
    product = _values(Unstructured("w", int(keep.sum()), keep), 16, 64, 24)
    plain, balanced = lower(product, TINY), lower(product, TINY, Options(rows=True))
    assert balanced.cycles < plain.cycles
    assert product.a is not None
    assert product.w is not None
    assert np.array_equal(simulated(balanced), ordered_dot(product.a[:, order], product.w[order]))
    with pytest.raises(ValueError, match="reordered"):
        _exact(product, Options(rows=True))


def test_native_runs_dense_only_where_that_is_faster() -> None:
    product = _values(None, 40, 48, 12, pattern=Pattern(2, 16))
    assert _exact(product)
    assert _exact(product, Options(only=(How.DENSE,)))
    assert lower(product, TINY).how is How.NATIVE
    tall = Product("p", Stage.FF, 4096, 16, 4, Pattern(12, 16))
    assert lower(tall, BIG).cycles <= lower(tall, BIG, Options(only=(How.NATIVE,))).cycles


@pytest.mark.parametrize("role", ["y", "a", "w"])
@pytest.mark.parametrize("count", [1, 2])
def test_blocks_are_skipped_exactly(role: str, count: int) -> None:
    m, k, n = 37, 30, 26
    rows, columns = {"y": (m, n), "a": (m, k), "w": (k, n)}[role]
    keep = np.random.default_rng(8).random((-(-rows // 8), -(-columns // 6))) < 0.5
    keep[0] = False
    blocks = Blocks(role, 8, 6, keep)  # type: ignore[arg-type]
    product = _values(blocks, m, k, n, count)
    skip = Options(only=(How.SKIP,))
    assert _exact(product, skip)
    assert lower(product, TINY, skip).macs == product.macs_true


def test_a_causal_band_costs_its_blocks() -> None:
    blocks, width = 32, 5
    i, j = np.indices((blocks, blocks))
    keep = (j <= i) & (i - j < width)
    product = Product("scores", Stage.FF, 2048, 64, 2048, count=8, sparsity=Blocks("y", 64, 64, keep))
    item = lower(product, BIG)
    active = width * (width + 1) // 2 + width * (blocks - width)
    assert item.how is How.SKIP
    assert item.macs == 8 * active * 64 * 64 * 64
    assert item.cycles < item.cycles_dense * 1.3 * active / blocks**2


@pytest.mark.parametrize("pattern", [None, Pattern(2, 8)])
def test_experts_are_gathered_exactly(pattern: Pattern | None) -> None:
    rng = np.random.default_rng(9)
    loads = (5, 0, 11, 5)
    p = Program(exact=True)
    p.tape.values = True
    a, w = rng.standard_normal((21, 24)), rng.standard_normal((4, 24, 10))
    multiply(p, "e", Stage.FF, a, Operand(w, pattern), (21, 24, 10), gathered=Gathered("experts", (21, 24, 10), loads))
    product = p.tape.products[0]
    assert _exact(product)
    item = lower(product, TINY)
    assert item.how is How.GATHER
    assert sorted((part.m, part.count) for part in item.pieces) == [(5, 2), (11, 1)]
    assert whole(product).count == 4
    assert item.cycles_dense == _cycles(TINY, 21, 24, 10, None, 4)


@pytest.mark.parametrize(
    ("mapping", "shapes"),
    [
        (Mapping(False, 2, 2, 2), ((5, 9, 7, 1), (20, 4, 3, 1))),
        (Mapping(False, 1, 4, 4), ((4, 12, 40, 1), (3, 30, 33, 1), (4, 5, 8, 1))),
    ],
)
def test_a_chain_of_products_takes_the_cycles_of_the_stepped_gear(
    mapping: Mapping, shapes: tuple[ProductShape, ...]
) -> None:
    """Commands of several products with one mapping, offered in a row to the register-level simulator."""
    rng, config = np.random.default_rng(11), TINY.replace(act_depth=8192, weight_depth=8192)
    engine, commands, expected, acts, pairs = Stce(config), [], 0, 0, 0
    for m, k, n, _ in shapes:
        tiling = Tiling(config, mapping, m, k, n)
        a, w = (rng.standard_normal(size).astype(np.float16) for size in ((m, k), (k, n)))
        placed = place_operands(a, pack(w, mapping.n, mapping.m), tiling)
        for r, row in enumerate(engine.rows):
            row.buffer[acts : acts + placed.act.shape[1]] = placed.act[r]
        part = slice(pairs, pairs + placed.value.shape[1])
        engine.columns.values[:, part], engine.columns.indices[:, part] = placed.value, placed.index
        engine.columns.fillers[:, part] = placed.filler
        commands += [replace(c, act_base=c.act_base + acts, wgt_base=c.wgt_base + pairs) for c in placed.commands]
        acts, pairs = acts + placed.act.shape[1], part.stop
        expected += results_per_column(tiling)
    assert engine.run(commands, expected).cycles == os_chain_cycles(config, mapping, shapes)


def test_every_kept_pair_runs_once() -> None:
    keep = np.random.default_rng(10).random((40, 33)) < 0.2
    product = _values(Unstructured("w", int(keep.sum()), keep), 6, 40, 33)
    item = lower(product, TINY, Options(only=(How.COVER,)))
    assert sum(packed.kept for *_, packed in runs(item)) == keep.sum()


def test_a_wrong_result_is_reported() -> None:
    product = _values(None, 4, 8, 4)
    assert product.y is not None
    product.y[2, 3] = np.nextafter(product.y[2, 3], np.float32(np.inf))
    tape = Tape(values=True)
    tape.record(product)
    (found,) = check_values(simulate_tape(tape, TINY))
    assert (found.product, found.results, found.row, found.column) == ("p", 1, 2, 3)


def test_bad_requests() -> None:
    with pytest.raises(ValueError, match="holds no products"):
        simulate_tape(Tape(), TINY)
    product = Product("p", Stage.FF, 4, 8, 4)
    with pytest.raises(ValueError, match="has none of these ways"):
        lower(product, TINY, Options(only=(How.SKIP,)))
    tape = Tape()
    tape.record(product)
    with pytest.raises(ValueError, match="holds no values"):
        check_values(simulate_tape(tape, TINY))
