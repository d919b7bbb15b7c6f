"""Sparse-IFT: closed forms of widths and ranks, folding, RigL, and the oracles of its fact sheet."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest

from nmsat.algorithms.core.tape import Pattern
from nmsat.algorithms.workloads.engine.parameters import Parameter
from nmsat.algorithms.workloads.engine.program import Program
from nmsat.algorithms.workloads.engine.registry import VARIANTS, record
from nmsat.algorithms.workloads.methods import sparse_ift as ift

if TYPE_CHECKING:
    from nmsat.algorithms.workloads.methods.sparse_ift import Family

FAMILIES: tuple[Family, ...] = ("wide", "parallel", "factorized", "doped")


def test_widths_and_ranks_of_the_paper() -> None:
    assert [ift.branches(s) for s in (0.5, 0.75, 0.9)] == [2, 4, 10]
    assert [ift.wide_width(64, s) for s in (0.5, 0.75, 0.9)] == [90, 128, 202]
    assert [ift.factorized_rank(9 * 64, 64, s) for s in (0.5, 0.75, 0.9)] == [116, 231, 577]
    assert [ift.doped_rank(9 * 64, 64, s) for s in (0.5, 0.75, 0.9)] == [28, 43, 51]
    assert ift.factorized_rank(9 * 64, 64, 0.75, 4) == 232
    assert ift.pattern_of(0.75) == Pattern(1, 4)
    with pytest.raises(ValueError, match="1:10"):
        ift.pattern_of(0.9)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("sparsity", [0.5, 0.75, 0.9])
def test_a_transformed_layer_costs_what_the_dense_one_did(family: Family, sparsity: float) -> None:
    k, n = 9 * 64, 64
    ratio = ift.iso_flop_ratio(family, k, n, sparsity)
    if family == "wide":  # a width of the right size, rounded down by less than one
        exact = 64 * math.sqrt(ift.branches(sparsity))
        assert (exact - 1) ** 2 / exact**2 * (1 - sparsity) * ift.branches(sparsity) < ratio <= 1 + 1e-9
    else:
        assert abs(ratio - 1) <= (k + n) / (k * n) * (1 if family == "doped" else 1 - sparsity) + 1e-9


def test_wide_at_three_quarters_is_exact_and_native() -> None:
    assert ift.iso_flop_ratio("wide", 9 * 64, 64, 0.75) == 1
    program = record("sparse-ift-wide", "paper", "nm")
    forward = [p for p in program.tape.products if p.stage == "ff"]
    inner = [p for p in forward if p.name not in ("stem", "classifier")]
    assert all(p.pattern == Pattern(1, 4) for p in inner)
    # ResNet-18 for 32 x 32 inputs: 0.555 G multiply-adds per image, of which the stem and the classifier grow.
    dense = 0.555e9 * 128
    assert sum(p.macs_full for p in forward) == pytest.approx(4 * dense, rel=0.01)
    assert sum(p.macs_true for p in forward) == pytest.approx(dense, rel=0.01)


@pytest.mark.parametrize("family", FAMILIES)
def test_faithful_and_nm_need_what_the_dense_network_needed(family: Family) -> None:
    for variant in ("faithful", "nm"):
        program = record(f"sparse-ift-{family}", "paper", variant)
        forward = sum(p.macs_true for p in program.tape.products if p.stage == "ff")
        assert forward == pytest.approx(0.555e9 * 128, rel=0.015)


def _store(family: Family) -> dict[str, Parameter]:
    store: dict[str, Parameter] = {}
    p = Program(store=store, dtype=np.float64)
    ift.student(p, p.input((5, 32), np.ones((5, 32))), family, 0.75, ift.maker(p, 0.75, "faithful"))
    return store


def test_parallel_folds_into_one_matrix_with_the_union_of_the_masks() -> None:
    store = _store("parallel")
    branches = [store[f"mid.{i}"] for i in range(4)]
    x = np.random.default_rng(0).standard_normal((7, ift.HIDDEN))
    masks = [w.keep for w in branches]
    matrices = [np.where(w.keep, w.array, 0) for w in branches if w.keep is not None]
    assert np.allclose(sum(x @ m for m in matrices), x @ sum(matrices))
    union = np.logical_or.reduce([m for m in masks if m is not None])
    assert np.array_equal(union, sum(np.abs(m) for m in matrices) > 0)
    assert union.mean() == pytest.approx(1 - 0.75**4, abs=0.06)


def test_doped_folds_into_sparse_plus_low_rank() -> None:
    store = _store("doped")
    p = Program(store=store, dtype=np.float64)
    x = np.random.default_rng(1).standard_normal((6, 32))
    y = ift.student(p, p.input((6, 32), x), "doped", 0.75, ift.maker(p, 0.75, "faithful")).array
    hidden = np.maximum(x @ store["in"].array, 0)
    s = store["mid"]
    matrix = np.where(s.keep if s.keep is not None else True, s.array, 0) + store["mid.u"].array @ store["mid.v"].array
    assert np.linalg.matrix_rank(store["mid.u"].array @ store["mid.v"].array) == ift.doped_rank(24, 24, 0.75)
    assert np.allclose(y, np.maximum(hidden @ matrix, 0) @ store["out"].array)


def test_rigl_keeps_the_count_and_starts_grown_weights_at_zero() -> None:
    rng = np.random.default_rng(2)
    for ff in (None, Pattern(1, 4)):
        w = Parameter("w", (32, 8), rng.standard_normal((32, 8)), ff=ff)
        mask = rng.random((32, 8)) < 0.25
        if ff is not None:
            mask = np.zeros((32, 8), bool)
            mask[::4] = True
        w.mask(mask)
        w.value = np.where(mask, w.array, 0)
        w.state["velocity"] = w.array.copy()
        grad = rng.standard_normal((32, 8))
        ever = [mask]
        for _ in range(3):
            before = w.keep
            ift.rigl(w, grad, 0.4)
            assert w.keep is not None
            assert before is not None
            assert w.keep.sum() == mask.sum()
            assert not w.array[w.keep & ~before].any()
            assert not w.state["velocity"][~w.keep].any()
            w.value = np.where(w.keep, w.array + 1e-3, 0)
            ever.append(ever[-1] | w.keep)
            grad = rng.standard_normal((32, 8))
        # More and more weights have been active at some time (in-time over-parametrisation).
        assert sum(mask.sum() for mask in ever) > 4 * ever[0].sum()
        before = w.keep
        ift.rigl(w, grad, 0.0)
        assert before is not None
        assert np.array_equal(before, w.keep if w.keep is not None else [])


def test_no_sparsity_is_the_dense_network() -> None:
    assert ift.branches(0.0) == 1
    assert ift.wide_width(64, 0.0) == 64
    assert ift.doped_rank(576, 64, 0.0) == 0
    assert ift.widened(ift.RESNET18_CIFAR, 0.0) == ift.RESNET18_CIFAR


def test_sparse_wide_beats_the_dense_student() -> None:
    assert ift.student_error(0, "wide", "faithful", steps=600) < ift.student_error(0, None, "faithful", steps=600)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_students_of_the_study_cost_what_the_dense_one_does(family: Family) -> None:
    dense = 32 * ift.HIDDEN + ift.HIDDEN**2 + ift.HIDDEN * 4
    assert ift.student_macs(None, "faithful") == dense
    for variant in VARIANTS:
        assert ift.student_macs(family, variant) == dense
    assert ift.student_macs("parallel", "faithful", 0.5) == dense
    assert ift.student_macs("wide", "faithful", 0.9) != dense  # a width rounded down
