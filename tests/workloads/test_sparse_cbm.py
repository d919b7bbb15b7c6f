"""Sparse-CBM: bottleneck losses, Concept Matrix Search, counts of CLIP; the oracles of its fact sheet."""

from __future__ import annotations

import math

import numpy as np
import pytest

from nmsat.algorithms.core.sparsity import Unstructured
from nmsat.algorithms.workloads.engine import ops
from nmsat.algorithms.workloads.engine.program import Program
from nmsat.algorithms.workloads.engine.registry import record
from nmsat.algorithms.workloads.methods.sparse_cbm import IMAGENET, TEXT_L
from nmsat.algorithms.workloads.methods.sparse_cbm_model import (
    Kind,
    bottleneck,
    concept_matrix_search,
    dropped,
    image_tower,
    pair_loss,
    text_tower,
)
from nmsat.algorithms.workloads.methods.sparse_cbm_study import planted, recovered

RNG = np.random.default_rng(0)


def _loss(z: np.ndarray, kind: Kind, tau: float = 1.0, seed: int = 3) -> float:
    p = Program(dtype=np.float64)
    return float(pair_loss(p.input(z.shape, z), kind, np.random.default_rng(seed), tau).array)


def _match(v: np.ndarray, t: np.ndarray) -> np.ndarray:
    p = Program(dtype=np.float64)
    return concept_matrix_search(p.input(v.shape, v), p.input(t.shape, t)).array


def test_the_search_over_a_tight_frame_is_zero_shot() -> None:
    bases = [np.linalg.qr(RNG.standard_normal((6, 6)))[0] for _ in range(4)]
    frame = np.concatenate(bases)  # unit rows, C^T C = 4 I
    x, t = RNG.standard_normal((20, 6)), RNG.standard_normal((5, 6))
    cosine = x @ t.T / np.linalg.norm(x, axis=1)[:, None] / np.linalg.norm(t, axis=1)
    assert np.allclose(_match(x @ frame.T, t @ frame.T), cosine)


def test_the_search_ignores_lengths_and_finds_itself() -> None:
    v = RNG.standard_normal((7, 12))
    assert (_match(v, v).argmax(axis=1) == np.arange(7)).all()
    assert np.allclose(_match(v * RNG.uniform(0.1, 9, (7, 1)), v), _match(v, v))


def test_the_contrastive_loss_of_a_scaled_identity() -> None:
    for a in (0.0, 1.0, 4.0):
        assert _loss(a * np.eye(6), "contrastive") == pytest.approx(math.log(1 + 5 * math.exp(-a)))
    wide = np.concatenate([4 * np.eye(3), np.zeros((3, 5))], axis=1)  # three pairs alone
    along, across = math.log(1 + 7 * math.exp(-4)), math.log(1 + 2 * math.exp(-4))
    assert _loss(wide, "contrastive") == pytest.approx((along + across) / 2)


def test_the_temperature_takes_the_gumbel_loss_from_the_largest_to_evenness() -> None:
    z = RNG.standard_normal((4, 9))
    noisy = z + np.random.default_rng(3).gumbel(size=z.shape)
    assert _loss(z, "gumbel", 1e6) == pytest.approx((math.log(9) + math.log(4)) / 2, abs=1e-4)
    diagonal = noisy[np.arange(4), np.arange(4)]
    gap = (noisy.max(axis=1) - diagonal).mean() + (noisy[:, :4].max(axis=0) - diagonal).mean()
    assert 1e-4 * _loss(z, "gumbel", 1e-4) == pytest.approx(gap / 2, abs=1e-3)


def test_the_largest_noisy_logit_is_drawn_by_softmax() -> None:
    z = np.array([0.0, 1.0, -1.0, 0.5])
    drawn = (z + np.random.default_rng(4).gumbel(size=(4000, 4))).argmax(axis=1)
    expected = 4000 * ops.soft(z)
    assert ((np.bincount(drawn, minlength=4) - expected) ** 2 / expected).sum() < 16.3  # 3 degrees, 0.1 %


def test_the_form_of_the_authors_code_prefers_constant_logits() -> None:
    for seed in range(3):
        constant = _loss(np.zeros((8, 8)), "flat", seed=seed)
        assert constant < _loss(4 * np.eye(8), "flat", seed=seed) - 0.1
        assert _loss(np.zeros((8, 8)), "gumbel", seed=seed) > _loss(4 * np.eye(8), "gumbel", seed=seed) + 0.5


@pytest.mark.parametrize("kind", ["gumbel", "flat", "contrastive"])
def test_gradients_are_those_of_finite_differences(kind: Kind) -> None:
    z = RNG.standard_normal((3, 5))
    p = Program(dtype=np.float64)
    leaf = p.vector("z", z.shape)
    leaf.array[...] = z
    p.backward(pair_loss(leaf, kind, np.random.default_rng(3)))
    found = p.store["z"].grad
    assert found is not None
    for place in np.ndindex(z.shape):
        e = np.zeros_like(z)
        e[place] = 1e-5
        assert found[place] == pytest.approx((_loss(z + e, kind) - _loss(z - e, kind)) / 2e-5, abs=1e-8)


def test_an_identity_bottleneck_is_a_linear_probe() -> None:
    p, x = Program(), RNG.standard_normal((4, 16)).astype(np.float32)
    bottleneck(p, p.input(x.shape, x), 3, "faithful")
    p.store["bottleneck"].value = np.eye(16, dtype=np.float32)
    z, y = bottleneck(p, p.input(x.shape, x), 3, "faithful")
    assert np.array_equal(z.array, x)
    assert np.allclose(y.array, x @ p.store["head"].array, atol=1e-5)


def test_what_is_dropped_is_smaller_than_what_is_left() -> None:
    p, x = Program(), RNG.standard_normal((4, 16)).astype(np.float32)
    bottleneck(p, p.input(x.shape, x), 3, "faithful")
    before, after = p.store["bottleneck"].array, dropped(p, "faithful", 0.25).forward().values
    assert after is not None
    assert np.count_nonzero(after) == 64
    assert np.abs(before[after != 0]).min() >= np.abs(before[after == 0]).max()
    ours = dropped(p, "nm")
    assert ours.ff is None  # the store was made without a pattern
    q = Program()
    bottleneck(q, q.input(x.shape, x), 3, "nm")
    kept = dropped(q, "nm").forward().values
    assert kept is not None
    assert ((kept != 0).reshape(2, 8, 16).sum(axis=1) == 2).all()


def test_recovery_counts_as_many_as_there_are() -> None:
    z = np.array([[3.0, 2.0, 1.0, 0.0], [0.0, 1.0, 2.0, 3.0], [1.0, 0.0, 0.0, 0.0]])
    present = np.array([[1, 0, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0]], bool)
    assert recovered(z, present) == pytest.approx((0.5 + 1.0) / 2)
    data = planted(0)
    assert recovered(data.present.astype(float), data.present) == 1
    assert recovered(data.scores, data.present) > 3 * data.present.mean()


def test_the_towers_are_those_of_clip() -> None:
    tape = record("sparse-cbm", "paper", "faithful").tape
    image = [q for q in tape.products if q.name.startswith("i")]
    assert sum(q.macs_full for q in image) / IMAGENET.images == pytest.approx(81.0e9, rel=2e-3)
    (used,) = [q for q in tape.products if q.name == "used.bottleneck"]
    assert (used.m, used.k, used.n) == (32, 4751, 4751)
    assert isinstance(used.sparsity, Unstructured)
    assert used.macs_true / used.macs_full == pytest.approx(0.1, abs=1e-4)
    p = Program(values=False)
    text_tower(p, TEXT_L, None, 10, 49408)
    assert p.tape.macs_dense / 10 == pytest.approx(6.65e9, rel=3e-3)
    image_tower(p, IMAGENET.tower, p.input((1, 256, 588)))
    assert sum(w.size for w in p.store.values()) + 1 == 427_616_513  # and the scale of the logits
