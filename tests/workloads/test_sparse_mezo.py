"""Sparse MeZO: exact projections, moments, masks, both forms of the step; the oracles of its fact sheet."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from nmsat.algorithms.core.tape import Pattern, Stage
from nmsat.algorithms.workloads.engine.products import linear
from nmsat.algorithms.workloads.engine.program import Program
from nmsat.algorithms.workloads.engine.registry import VARIANTS, Variant, record
from nmsat.algorithms.workloads.methods import sparse_mezo
from nmsat.algorithms.workloads.methods.sparse_mezo import (
    LLAMA_7B,
    SMALL,
    STREAMS,
    _beside,
    _written,
    best_rate,
    clearly_below,
    descend,
    forward,
    losses_of,
    run,
    smallest,
    threshold,
    tune,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nmsat.algorithms.workloads.engine.program import Tensor

RNG = np.random.default_rng(0)
HALF = RNG.standard_normal((12, 12))
HESSIAN = HALF @ HALF.T


def _quadratic(values: list[NDArray]) -> NDArray:
    w = values[0].reshape(-1)
    return np.asarray(0.5 * w @ HESSIAN @ w + w.sum())


def _noise(seed: int) -> list[NDArray]:
    return [np.random.default_rng(seed).standard_normal((4, 3))]


def test_the_projection_is_exact_on_a_quadratic_whatever_epsilon() -> None:
    w, mask = RNG.standard_normal((4, 3)), RNG.random((4, 3)) < 0.5
    slope = (HESSIAN @ w.reshape(-1) + 1).reshape(4, 3)
    for epsilon in (1e-3, 1.0):
        z = mask * np.random.default_rng(5).standard_normal((4, 3))
        (new,), g = descend([w], [mask], _quadratic, _noise(5), 0.1, epsilon)
        assert float(g) == pytest.approx(float((slope * z).sum()), rel=1e-9)
        assert np.allclose(new, w - 0.1 * (slope * z).sum() * z)


def test_moments_of_the_estimate() -> None:
    """Of a linear loss: E[g z] is the masked gradient, E|g z|^2 = (d + 2) |masked gradient|^2."""
    slope, mask = RNG.standard_normal((1, 8, 1)), np.arange(8).reshape(1, 8, 1) % 2 == 0
    runs = 200_000
    zero = np.zeros((runs, 8, 1))
    drawn = [RNG.standard_normal(zero.shape)]
    (moved,), _ = descend(
        [zero], [np.broadcast_to(mask, zero.shape)], lambda v: (v[0] * slope).sum(axis=(1, 2)), drawn, -1.0
    )
    wanted = (mask * slope)[0]
    assert np.allclose(moved.mean(axis=0), wanted, atol=0.03)
    assert (moved**2).sum(axis=(1, 2)).mean() == pytest.approx((4 + 2) * (wanted**2).sum(), rel=0.03)


def test_masks_say_what_moves() -> None:
    w = RNG.standard_normal((4, 3))
    everything, _ = descend([w], [np.ones((4, 3))], _quadratic, _noise(1), 0.1)
    assert (everything[0] != w).all()
    nothing, g = descend([w], [np.zeros((4, 3))], _quadratic, _noise(1), 0.1)
    assert np.array_equal(nothing[0], w)
    assert g == 0
    again, _ = descend([w], [np.ones((4, 3))], _quadratic, _noise(1), 0.1)
    assert np.array_equal(again[0], everything[0])
    mask, moved = RNG.random((4, 3)) < 0.5, [w]
    for _ in range(20):
        moved, _ = descend(moved, [mask], _quadratic, [RNG.standard_normal((4, 3))], 0.01)
    assert np.array_equal(moved[0] != w, mask)


@pytest.mark.parametrize("kind", ["all", "random", "small", "groups"])
def test_a_rate_gives_the_same_losses_in_every_grid(kind: str) -> None:
    starts = [[RNG.standard_normal((64, 32)) / 8, RNG.standard_normal((32, 10)) / 6] for _ in range(2)]
    wide, alone = tune(kind, starts, 3, (1e-3, 3e-2, 1e-4)), tune(kind, starts, 3, (3e-2,))
    assert wide.shape == (2, 2 * STREAMS, 3)
    assert np.allclose(wide[..., 1], alone[..., 0], rtol=1e-9)
    assert len(np.unique(alone[0].round(9))) == 2 * STREAMS  # every run has noise of its own


@pytest.mark.parametrize("first", [range(-10, -4), range(-16, -14), range(2)])
def test_the_best_rate_is_bracketed(monkeypatch: pytest.MonkeyPatch, first: range) -> None:
    def told(_kind: str, _starts: object, _steps: int, rates: list[float]) -> NDArray:
        far = (4 * np.log10(rates) + 7) ** 2
        return np.stack([np.stack([far, far + 2]), np.stack([10 + far, 20 + far])])

    monkeypatch.setattr(sparse_mezo, "tune", told)
    rate, losses = best_rate("all", [], 1, first)
    assert rate == pytest.approx(10 ** (-7 / 4))
    assert losses.tolist() == pytest.approx([10, 20])
    monkeypatch.setattr(sparse_mezo, "tune", lambda *a: -np.ones((2, 2, 1)) * np.asarray(a[3]))
    with pytest.raises(RuntimeError, match="no best inside"):
        best_rate("all", [], 1, first)


def test_a_clear_gap_is_two_errors_wide() -> None:
    other = np.array([1.0, 2.0, 3.0, 4.0])
    assert clearly_below(other - np.array([0.5, 0.6, 0.5, 0.4]), other)
    assert not clearly_below(other - np.array([2.0, -1.5, 1.0, -0.5]), other)
    assert not clearly_below(other, other)


def test_the_threshold_selects_its_share_and_groups_their_smallest() -> None:
    w = RNG.standard_normal((3, 40, 16))
    assert (np.abs(w) <= threshold(w)).sum(axis=(1, 2)).tolist() == [160] * 3
    chosen = smallest(w, Pattern(2, 8))
    for column in range(16):
        group = np.abs(w[1, 8:16, column])
        assert set(np.flatnonzero(chosen[1, 8:16, column])) == set(np.argsort(group)[:2])


def test_noise_beside_the_weights_is_noise_in_them() -> None:
    tokens = RNG.integers(0, 97, SMALL.batch * SMALL.tokens)
    p = Program(dtype=np.float64)
    noise: dict = {}
    both = forward(p, SMALL, tokens, _beside(p, noise, np.random.default_rng(1)), 2).array
    for sign, found in zip((1, -1), both, strict=True):
        # The same noise again, in the matrices.
        q = Program(dtype=np.float64, store=p.store)
        again = forward(q, SMALL, tokens, _written(q, noise, np.random.default_rng(1), sign), 1).array[0]
        assert np.allclose(found, again, atol=1e-12)
    assert not np.allclose(both[0], both[1], atol=1e-6)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_step_moves_the_small_weights_alone(variant: Variant) -> None:
    p = Program()
    run(p, SMALL, variant)
    fresh = Program(store={}, rng=np.random.default_rng(0))
    run(fresh, SMALL, variant)
    q = Program(rng=np.random.default_rng(0))
    forward(q, SMALL, np.zeros(32, int), lambda name, x, n: _plain(q, name, x, n), 1)
    for name, w in p.store.items():
        assert np.array_equal(w.array, fresh.store[name].array)
        before = q.store[name].array
        moved = w.array != before
        if len(w.shape) == 2 and name != "table":
            small = smallest(before, Pattern(2, 8)) if variant == "nm" else np.abs(before) <= threshold(before)
            assert moved.any()
            assert not (moved & ~small).any()
        else:
            assert not moved.any()


def _plain(p: Program, name: str, x: Tensor, n: int) -> Tensor:
    return linear(name, x, p.weight(name, (x.shape[-1], n), gain=1.0, frozen=True))


def test_losses_are_cross_entropies() -> None:
    logits = RNG.standard_normal((2, 5, 3))
    labels = np.array([0, 2, 1, 1, 0])
    shares = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    assert np.allclose(losses_of(logits, labels), [-np.log(s[np.arange(5), labels]).mean() for s in shares])


@pytest.mark.parametrize("variant", VARIANTS)
def test_llama_has_the_products_of_the_fact_sheet(variant: Variant) -> None:
    tape = record("sparse-mezo", "paper", variant).tape
    assert {q.stage for q in tape.products} == {Stage.FF}
    tokens = LLAMA_7B.batch * LLAMA_7B.tokens
    layers = [q for q in tape.products if not q.name.endswith((".qk", ".av"))]
    dense = [q for q in layers if not q.name.endswith(".noise")]
    assert sum(q.macs_true for q in dense) / (2 * tokens) == pytest.approx(6.61e9, rel=1e-3)
    side = sum(q.macs_true for q in layers) - sum(q.macs_true for q in dense)
    assert side == (sum(q.macs_true for q in dense) / 4 if variant == "nm" else 0)
