"""Sparsifiner: masks, error bound, low rank, shapes of DeiT-S; the oracles of its fact sheet."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from nmsat.algorithms.core.sparsity import Unstructured
from nmsat.algorithms.core.tape import Tape
from nmsat.algorithms.workloads.engine import ops
from nmsat.algorithms.workloads.engine.parameters import Parameter
from nmsat.algorithms.workloads.engine.program import Program
from nmsat.algorithms.workloads.engine.registry import VARIANTS, Variant, record
from nmsat.algorithms.workloads.engine.transformer import top_groups, top_k
from nmsat.algorithms.workloads.methods.sparsifiner import DEIT_S
from nmsat.algorithms.workloads.methods.sparsifiner_model import SMALL, Size, forward, pointer_images
from nmsat.algorithms.workloads.methods.sparsifiner_study import fixed_masks


def _difference(size: Size) -> float:
    """Largest difference of the logits with sparse and with dense attention, same parameters."""
    store, x, found = {}, pointer_images(size, 3)[0], []
    for mode in ("sparse", "dense"):
        p = Program(dtype=np.float64, store=store)
        found.append(forward(p, size, p.input(x.shape, x), mode, "faithful")[0].array)
    return float(np.abs(found[0] - found[1]).max())


def test_keeping_everything_is_dense_attention() -> None:
    assert _difference(replace(SMALL, keep=1.0)) < 1e-12
    assert _difference(SMALL) > 1e-3


@pytest.mark.parametrize("variant", VARIANTS)
def test_rows_keep_exactly_what_they_should(variant: Variant) -> None:
    program = record("sparsifiner", "small", variant)
    (product,) = [p for p in program.tape.products if p.name == "l0.av"]
    assert product.w is not None
    a = product.w.astype(float).swapaxes(1, 2)  # [copies, queries, keys]
    rows = (a != 0).sum(axis=2)
    if variant == "faithful":
        assert (rows[:, 0] == SMALL.tokens).all()
        assert (rows[:, 1:] <= SMALL.keys).all()
        known = product.sparsity
        assert isinstance(known, Unstructured)
        assert known.keep is not None
        assert (known.keep.sum(axis=1)[:, 1:] == SMALL.keys).all()
        assert not a[~known.keep.swapaxes(1, 2)].any()
    else:
        groups = np.add.reduceat(a != 0, np.arange(0, SMALL.tokens, 8), axis=2, dtype=int)
        assert groups.max() == 2
    assert np.allclose(a.sum(axis=2), 1, atol=2e-3)  # binary16 operands


def test_kept_mass_of_top_k_is_the_best_of_all_subsets() -> None:
    a = ops.soft(np.random.default_rng(0).standard_normal((4, 9)))
    for row, keep in zip(a, top_k(a, 3), strict=True):
        best = max(row[list(chosen)].sum() for chosen in combinations(range(9), 3))
        assert row[keep].sum() == pytest.approx(best, abs=1e-15)


def test_grouped_masks_keep_no_more_mass_than_free_ones() -> None:
    a = ops.soft(2 * np.random.default_rng(1).standard_normal((50, 200)))
    free, grouped = (a * top_k(a, 50)).sum(axis=1), (a * top_groups(a, 2, 8)).sum(axis=1)
    assert top_groups(a, 2, 8).sum() == 50 * 50
    assert (grouped <= free + 1e-12).all()
    assert 0.01 < (free - grouped).mean() < 0.1


def test_the_error_of_a_mask_is_bounded_by_the_mass_it_drops() -> None:
    rng = np.random.default_rng(2)
    scores, v = 2 * rng.standard_normal((30, 40)), rng.standard_normal((40, 8))
    a = ops.soft(scores)
    keep = top_k(a, 10)
    masked = ops.soft(np.where(keep, scores, -np.inf)) @ v
    bound = 2 * (1 - (a * keep).sum(axis=1)) * np.abs(v).max()
    assert (np.abs(masked - a @ v).max(axis=1) <= bound).all()


def test_low_rank_attention_is_ranked_rightly_and_few_coefficients_lose_nothing() -> None:
    rng = np.random.default_rng(3)
    basis = rng.random((8, 64)) * (rng.random((8, 64)) < 0.2)
    c = np.where(top_k(rng.random((100, 8)), 2), rng.random((100, 8)), 0)
    attention = c @ basis
    kept = np.where(top_k(c, 2), c, 0)
    assert np.array_equal(kept @ basis, attention)
    wanted = (attention > 0).sum(axis=1).clip(max=5)
    found = top_k(kept @ basis, 5)
    assert ((attention * found > 0).sum(axis=1) == wanted).all()


def test_deit_s_has_the_macs_of_the_fact_sheet() -> None:
    program = record("sparsifiner", "paper", "faithful")
    macs: dict[str, int] = {}
    for p in program.tape.products:
        macs[p.name.split(".", 1)[-1]] = macs.get(p.name.split(".", 1)[-1], 0) + p.macs_full
    millions = {name: round(value / 1e6, 1) for name, value in macs.items()}
    assert (DEIT_S.tokens, DEIT_S.bases, DEIT_S.keys, DEIT_S.coefficients) == (197, 32, 50, 8)
    assert (millions["qkv"], millions["proj"]) == (1045.8, 348.6)
    assert (millions["qk"], millions["av"]) == (178.8, 178.8)
    assert millions["mlp.up"] + millions["mlp.down"] == pytest.approx(2789, abs=1)
    assert millions["pq"] + millions["pk"] == pytest.approx(58, abs=0.2)
    assert (millions["down"], millions["cheap"], millions["up"]) == (14.5, 14.5, 89.0)
    predictor = sum(macs[name] for name in ("pq", "pk", "down", "cheap", "up"))
    assert sum(macs.values()) - predictor == pytest.approx(4.60e9, rel=2e-3)
    true = {p.name: p.macs_true for p in program.tape.products}
    assert 12 * true["l0.av"] == pytest.approx(46e6, rel=0.01)
    assert 12 * true["l0.up"] == pytest.approx(22e6, rel=0.02)


def test_labels_are_the_most_frequent_content_of_the_named_column() -> None:
    x, labels = pointer_images(SMALL, 5)
    for image, wanted in zip(x, labels, strict=True):
        grid = image[:, :4].argmax(axis=1).reshape(4, 4)
        for patch, pointer in enumerate(image[:, 4:].argmax(axis=1)):
            counts = np.bincount(grid[:, pointer], minlength=4)
            assert counts[wanted[1 + patch]] == counts.max()


def test_noise_is_added_to_the_images_alone() -> None:
    (clean, labels), (noisy, same) = pointer_images(SMALL, 5), pointer_images(SMALL, 5, 0.2)
    assert np.array_equal(labels, same)
    assert (noisy - clean).std() == pytest.approx(0.2, rel=0.1)


def test_fixed_masks_are_those_of_most_attention_and_the_same_for_all_images() -> None:
    store: dict[str, Parameter] = {}
    x, _ = pointer_images(SMALL, 1)
    first = Program(store=store)
    forward(first, SMALL, first.input(x.shape, x), "dense", "faithful")
    masks = fixed_masks(store, "faithful", 0)
    assert set(masks) == {"l0.fixed"}
    assert masks["l0.fixed"].shape == (SMALL.heads, SMALL.tokens, SMALL.tokens)
    assert (masks["l0.fixed"].sum(axis=2) == SMALL.keys).all()
    # Keys outside a fixed mask have no influence: the others' attention is as if they were alone.
    only = np.zeros_like(masks["l0.fixed"])
    only[:, :, 3] = True
    store["l0.fixed"] = Parameter("l0.fixed", only.shape, only.astype(np.float32), frozen=True)
    p = Program(tape=Tape(values=True), store=store)
    forward(p, SMALL, p.input(x.shape, x), "fixed", "faithful")
    (product,) = [q for q in p.tape.products if q.name == "l0.av"]
    assert product.a is not None
    assert np.array_equal(product.a, np.broadcast_to(only, (SMALL.batch, *only.shape)).reshape(product.a.shape))
