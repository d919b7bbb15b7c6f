"""Random search: draws, restriction to nodes, the law of the best of T; the oracles of its fact sheet."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from nmsat.algorithms.core.sparsity import Gathered
from nmsat.algorithms.core.tape import Stage
from nmsat.algorithms.training.data import digits
from nmsat.algorithms.workloads.engine import ops
from nmsat.algorithms.workloads.engine.program import Program
from nmsat.algorithms.workloads.engine.registry import VARIANTS, Variant, record
from nmsat.algorithms.workloads.methods.random_search import (
    MNIST,
    SMALL,
    candidate_logits,
    draw,
    initial_losses,
    interval,
    parent,
    search,
    train,
    winner_logits,
)

X = digits().x_train[:20].reshape(20, 64)
LABELS = digits().y_train[:20]


def _masked(theta: list[np.ndarray], nodes: tuple[np.ndarray, np.ndarray], x: np.ndarray) -> list[np.ndarray]:
    """Hidden layers and logits of the whole network with every other unit held at 0."""
    found = []
    for i, w in enumerate(theta):
        x = x @ w
        if i < 2:
            keep = np.zeros(w.shape[1])
            keep[nodes[i]] = 1
            x = np.maximum(x, 0) * keep
        found.append(x)
    return found


def _cross_entropy(logits: np.ndarray) -> float:
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return float(-np.log(shares[np.arange(len(LABELS)), LABELS]).mean())


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_draw_keeps_as_many_units(variant: Variant) -> None:
    for layer in draw(np.random.default_rng(0), SMALL, 50, variant):
        assert layer.shape == (50, 16)
        assert (np.diff(layer, axis=1) > 0).all()
        assert len(np.unique(layer)) == SMALL.hidden
        if variant == "nm":
            assert (np.apply_along_axis(np.bincount, 1, layer // 8, minlength=8) == 2).all()
    with pytest.raises(ValueError, match="multiple of the group"):
        draw(np.random.default_rng(0), replace(SMALL, hidden=60), 1, "nm")


@pytest.mark.parametrize("variant", VARIANTS)
def test_all_draws_at_once_are_the_masked_networks(variant: Variant) -> None:
    nodes = draw(np.random.default_rng(1), SMALL, 5, variant)
    p = Program(dtype=np.float64)
    logits = candidate_logits(p, SMALL, p.input(X.shape, X), nodes, 5, variant)
    losses = initial_losses(logits, LABELS)
    theta = [w.array for w in parent(p, SMALL)]
    for t in range(5):
        wanted = _masked(theta, (nodes[0][t], nodes[1][t]), X.astype(np.float64))[-1]
        assert np.allclose(logits.array[t], wanted, atol=1e-12)
        assert losses[t] == pytest.approx(_cross_entropy(wanted))


def test_the_small_network_has_the_gradients_of_the_masked_one() -> None:
    size, rng = SMALL, np.random.default_rng(2)
    nodes = tuple(layer[0] for layer in draw(rng, size, 1, "faithful"))
    p = Program(dtype=np.float64)
    loss = ops.cross_entropy(winner_logits(p, size, p.input(X.shape, X), (nodes[0], nodes[1])), LABELS)
    p.backward(loss)
    theta = [w.array for w in parent(p, size)]
    h1, h2, y = _masked(theta, (nodes[0], nodes[1]), X.astype(np.float64))
    d = np.exp(y) / np.exp(y).sum(axis=1, keepdims=True)
    d[np.arange(20), LABELS] -= 1
    d /= 20
    d2 = d @ theta[2].T * (h2 > 0)
    full = [X.T @ (d2 @ theta[1].T * (h1 > 0)), h1.T @ d2, h2.T @ d]
    kept = [np.arange(64), nodes[0], nodes[1], np.arange(10)]
    for i, grad in enumerate(full):
        inside = np.ix_(kept[i], kept[i + 1])
        assert np.allclose(p.store[f"fc{i}"].grad, grad[inside], atol=1e-12)  # type: ignore[arg-type]
        grad[inside] = 0
        if i == 1:
            assert not grad.any()  # dropped units have no gradient on either side


def test_nothing_dropped_is_the_parent_and_one_draw_the_control() -> None:
    whole = replace(SMALL, kept=8, draws=3)
    _, (winner, control), losses = search(whole, 0, "faithful")
    assert np.ptp(losses) < 1e-6
    assert np.array_equal(winner[0], np.arange(64))
    _, (winner, control), losses = search(replace(SMALL, draws=1), 0, "faithful")
    assert len(losses) == 1
    assert all(np.array_equal(a, b) for a, b in zip(winner, control, strict=True))


def test_the_winner_of_many_draws_is_the_best_of_all_subsets() -> None:
    """6 units, 3 of them kept, the second layer whole: 20 subsets. 100 draws miss one with (19/20)^100 = 0.6 %."""
    size = replace(SMALL, hidden=6, kept=1, group=2, draws=100)
    p = Program()
    subsets = np.array(list(combinations(range(6), 3)))
    second = np.tile([0, 2, 5], (20, 1))
    logits = candidate_logits(p, size, p.input(X.shape, X), (subsets, second), 20, "faithful")
    every = initial_losses(logits, LABELS)
    drawn = draw(np.random.default_rng(3), size, 100, "faithful")[0]
    logits = candidate_logits(p, size, p.input(X.shape, X), (drawn, np.tile([0, 2, 5], (100, 1))), 100, "faithful")
    assert initial_losses(logits, LABELS).min() == pytest.approx(every.min())


def test_the_rank_of_the_best_follows_its_law() -> None:
    """Losses of 10 draws among 200 of one parent: the winner is in the best q of them with 1 - (1 - q)^10."""
    losses = np.sort(search(replace(SMALL, draws=200), 5, "faithful")[2])
    rng = np.random.default_rng(0)
    ranks = np.array([rng.integers(0, 200, 10).min() for _ in range(4000)])
    best = losses[ranks]
    for q in (0.05, 0.1, 0.3):
        share = np.mean(best <= losses[int(q * 200) - 1])
        assert share == pytest.approx(1 - (1 - q) ** 10, abs=0.03)


def test_networks_that_train_together_train_alone() -> None:
    rng = np.random.default_rng(4)
    networks = [
        [(rng.standard_normal(s) * 0.2).astype(np.float32) for s in ((64, 6), (6, 6), (6, 10))] for _ in range(2)
    ]
    together, alone = train(networks, 5), train(networks[1:], 5)
    for a, b in zip(together, alone, strict=True):
        assert a[1] == pytest.approx(b[0], rel=1e-3)


def test_the_interval_is_student_s() -> None:
    low, high = interval(np.array([1.0, 2.0, 3.0, 4.0]))
    assert (low, high) == pytest.approx((2.5 - 2.0542, 2.5 + 2.0542), abs=1e-3)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_search_of_the_paper_costs_its_smaller_networks(variant: Variant) -> None:
    tape = record("random-search", "paper", variant).tape
    scored = {q.name: q for q in tape.products if q.name.startswith("parent")}
    left, rows, draws = MNIST.left, MNIST.scored, MNIST.draws
    assert left == 256
    assert scored["parent0"].macs_true == rows * 784 * 1024  # once, not once a draw
    assert scored["parent1"].macs_true == draws * rows * left * left
    assert scored["parent1"].macs_full == draws * rows * 1024 * 1024
    assert scored["parent2"].macs_true == draws * rows * left * 10
    step = [q for q in tape.products if q.name.startswith("fc")]
    assert len(step) == 8
    assert all(isinstance(q.sparsity, Gathered) for q in step)
    assert sum(q.macs_true for q in step if q.stage is Stage.FF) == 128 * (784 * left + left * left + left * 10)
