"""Sparse then Prune: its term on attention, its one threshold, counts; the oracles of its fact sheet."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest

from nmsat.algorithms.core.tape import Pattern, Stage
from nmsat.algorithms.training.data import digits
from nmsat.algorithms.workloads.engine import ops
from nmsat.algorithms.workloads.engine.program import Program
from nmsat.algorithms.workloads.engine.registry import record
from nmsat.algorithms.workloads.methods.sparse_then_prune import (
    SMALL,
    STRENGTH,
    VIT_B_384,
    evenness,
    forward,
    loss,
    patches,
    prune,
    tune,
)


@lru_cache(maxsize=1)
def _fresh() -> Program:
    """A small network with its parameters drawn."""
    p = Program()
    forward(p, SMALL, p.input((SMALL.batch, 16, 4), patches()[0][: SMALL.batch]))
    return p


def _evenness(a: np.ndarray) -> float:
    p = Program(dtype=np.float64)
    return float(evenness(p.input(a.shape, a)).array)


def test_the_term_of_even_and_of_peaked_rows() -> None:
    n = 577
    assert _evenness(np.full((2, 3, n, n), 1 / n)) == pytest.approx(math.log(1 + 1 / n**2))
    assert _evenness(np.eye(n)) == pytest.approx(math.log(2) / n)
    assert _evenness(np.eye(n)) > 300 * _evenness(np.full((n, n), 1 / n))


def test_the_gradient_of_the_term_is_that_of_finite_differences() -> None:
    x = np.random.default_rng(1).standard_normal((3, 5))

    def value(v: np.ndarray) -> float:
        e = np.exp(v)
        return float(np.log(1 + (e / e.sum(axis=-1, keepdims=True)) ** 2).mean())

    p = Program(dtype=np.float64)
    leaf = p.vector("x", x.shape)
    leaf.array[...] = x
    p.backward(evenness(ops.softmax(leaf)))
    found = p.store["x"].grad
    for place in np.ndindex(x.shape):
        step = np.zeros_like(x)
        step[place] = 1e-5
        assert found[place] == pytest.approx((value(x + step) - value(x - step)) / 2e-5, abs=1e-9)  # type: ignore[index]


def test_descent_on_the_term_alone_makes_attention_even() -> None:
    p = Program(dtype=np.float64)
    p.vector("x", (4, 6)).array[...] = np.random.default_rng(2).standard_normal((4, 6))
    for _ in range(400):
        step = Program(dtype=np.float64, store=p.store)
        step.backward(evenness(ops.softmax(step.vector("x", (4, 6)))))
        q = p.store["x"]
        q.value, q.grad = q.array - 20 * q.grad, None  # type: ignore[operator]
    a = ops.soft(p.store["x"].array)
    assert -(a * np.log(a)).sum(axis=-1) == pytest.approx(math.log(6), abs=1e-3)


def test_the_loss_adds_the_term_of_the_last_layer() -> None:
    p, x, labels = _fresh(), patches()[0][:4], np.arange(4)
    plain, whole = (
        float(loss(q, SMALL, q.input(x.shape, x), labels, strength).array)
        for q, strength in ((Program(store=p.store), 0.0), (Program(store=p.store), 100.0))
    )
    q = Program(store=p.store)
    logits, a = forward(q, SMALL, q.input(x.shape, x))
    assert plain == float(ops.cross_entropy(logits, labels).array)
    assert whole - plain == pytest.approx(100 * float(np.log(1 + a.array**2).mean()), rel=1e-4)


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 0.9])
def test_one_threshold_over_all_matrices(rate: float) -> None:
    p = _fresh()
    found = prune(p, rate, None)
    names = {"embed", "head", *(f"l{i}.{m}" for i in (0, 1) for m in ("q", "k", "v", "out", "up", "down"))}
    assert set(found) == names | {f"l{i}.norm{j}.gain" for i in (0, 1) for j in (1, 2)}
    before = np.concatenate([p.store[name].array.ravel() for name in found])
    after = np.concatenate([w.array.ravel() for w in found.values()])
    lost = round(rate * before.size)
    assert np.count_nonzero(after == 0) == lost
    assert np.array_equal(after[after != 0], before[after != 0])
    edge = np.partition(np.abs(before), lost)[lost]
    assert np.array_equal(after != 0, np.abs(before) >= edge)
    assert all(w.nonzeros == np.count_nonzero(w.array) for name, w in found.items() if not name.endswith("gain"))
    if rate <= 0.5:
        assert all(w.array.all() for name, w in found.items() if name.endswith("gain"))


def test_pruned_weights_are_what_the_second_pass_multiplies() -> None:
    p, x = _fresh(), patches()[0][:4]
    found = prune(p, 0.6, None)
    q = Program(store=p.store)
    forward(q, SMALL, q.input(x.shape, x), found)
    cut = Program(
        store={name: replace(w, value=found[name].array) if name in found else w for name, w in p.store.items()}
    )
    expected = forward(cut, SMALL, cut.input(x.shape, x))[0].array
    again = Program(store=p.store)
    assert np.array_equal(forward(again, SMALL, again.input(x.shape, x), found)[0].array, expected)
    whole = forward(again, SMALL, again.input(x.shape, x), prune(again, 0.0, None))[0].array
    assert np.array_equal(whole, forward(again, SMALL, again.input(x.shape, x))[0].array)


def test_our_variant_keeps_the_largest_of_each_group() -> None:
    p = _fresh()
    w = prune(p, 0.1, Pattern(3, 8))["l0.up"]
    values = w.forward().values
    assert values is not None
    groups, kept = np.abs(w.array).reshape(-1, 8, w.shape[1]), values.reshape(-1, 8, w.shape[1]) != 0
    assert (kept.sum(axis=1) == 3).all()
    assert (np.where(kept, groups, np.inf).min(axis=1) >= np.where(kept, 0, groups).max(axis=1)).all()


def test_the_network_is_the_one_of_the_paper() -> None:
    tape = record("sparse-then-prune", "paper", "faithful").tape
    forward_pass = [q for q in tape.of(Stage.FF) if not q.name.startswith("pruned.")]
    assert sum(q.macs_full for q in forward_pass) / VIT_B_384.batch == pytest.approx(55.5e9, rel=2e-3)
    attention = sum(q.macs_full for q in forward_pass if q.name.endswith((".qk", ".av")))
    assert attention / sum(q.macs_full for q in forward_pass) == pytest.approx(0.111, abs=1e-3)
    pruned = [q for q in tape.of(Stage.FF) if q.name.startswith("pruned.") and not q.name.endswith((".qk", ".av"))]
    assert sum(q.macs_true for q in pruned) / sum(q.macs_full for q in pruned) == pytest.approx(0.9, abs=1e-3)
    p = Program(values=False)
    size = replace(VIT_B_384, classes=1000)
    forward(p, size, p.input((16, 576, 768)))
    assert sum(w.size for w in p.store.values()) == 86_859_496


def test_tuning_learns_and_leaves_the_start_alone() -> None:
    p, x, labels = _fresh(), patches()[0][:64], digits().y_train[:64]
    before = {name: w.array.copy() for name, w in p.store.items()}
    own = tune(p.store, 0, 8, 0.02, STRENGTH)
    size = replace(SMALL, batch=64)
    first, then = (
        float(loss(q, size, q.input(x.shape, x), labels, 0.0).array)
        for q in (Program(store=p.store), Program(store=own))
    )
    assert then < first - 0.1
    assert all(np.array_equal(w.array, before[name]) for name, w in p.store.items())
