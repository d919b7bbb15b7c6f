"""SMoE-Dropout: routing, gates, schedule, shapes; the oracles of its fact sheet."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from nmsat.algorithms.core.sparsity import Gathered
from nmsat.algorithms.core.tape import Stage
from nmsat.algorithms.workloads.engine import ops
from nmsat.algorithms.workloads.engine.program import Program
from nmsat.algorithms.workloads.engine.registry import record
from nmsat.algorithms.workloads.engine.text import library_text
from nmsat.algorithms.workloads.methods.smoe_dropout import (
    ENWIK8,
    SMALL,
    active_experts,
    balanced,
    forward,
    mixture,
    train,
)

if TYPE_CHECKING:
    from nmsat.algorithms.workloads.engine.parameters import Parameter

SIZE = replace(SMALL, batch=1, target=20)
X = np.random.default_rng(0).standard_normal((20, 32))


def _mixture(store: dict[str, Parameter], active: int, x: np.ndarray = X) -> np.ndarray:
    p = Program(store=store, dtype=np.float64)
    return mixture(p, SIZE, "moe", p.input(x.shape, x), active, "faithful").array


def _filled() -> dict[str, Parameter]:
    store: dict[str, Parameter] = {}
    _mixture(store, 8)
    rng = np.random.default_rng(1)
    for name in ("moe.b1", "moe.b2"):
        store[name].value = rng.standard_normal(store[name].shape)
    return store


def _expert(store: dict[str, Parameter], e: int, x: np.ndarray) -> np.ndarray:
    w1, w2, b1, b2 = (store[f"moe.{name}"].array[e] for name in ("w1", "w2", "b1", "b2"))
    return np.maximum(x @ w1 + b1, 0) @ w2 + b2


@pytest.mark.parametrize("active", [1, 3, 8])
def test_every_token_meets_its_experts(active: int) -> None:
    store = _filled()
    y, logits = _mixture(store, active), X @ store["moe.router"].array
    for token, row in enumerate(logits):
        chosen = np.argsort(-row, kind="stable")[:active]
        gates = ops.soft(row[chosen])
        expected = sum(g * _expert(store, e, X[token]) for g, e in zip(gates, chosen, strict=True))
        assert np.allclose(y[token], expected, atol=1e-12)
    if active == 1:  # the gate is exactly 1
        chosen = logits.argmax(axis=1)
        assert np.allclose(y, [_expert(store, e, x) for e, x in zip(chosen, X, strict=True)], atol=1e-13)


def test_uniform_gates_and_all_experts_are_the_dense_layer() -> None:
    store = _filled()
    store["moe.router"].value = np.zeros((32, 8))
    w1 = np.concatenate(list(store["moe.w1"].array), axis=1)
    w2 = np.concatenate(list(store["moe.w2"].array), axis=0) / 8
    dense = np.maximum(X @ w1 + store["moe.b1"].array.ravel(), 0) @ w2 + store["moe.b2"].array.mean(axis=0)
    assert np.allclose(_mixture(store, 8), dense, atol=1e-12)


def test_permuting_tokens_permutes_outputs() -> None:
    store, order = _filled(), np.random.default_rng(2).permutation(20)
    assert np.allclose(_mixture(store, 3, X[order]), _mixture(store, 3)[order], atol=1e-13)


def test_gradients_with_the_routing_held_fixed() -> None:
    store = _filled()
    factors = np.random.default_rng(3).standard_normal((20, 32))

    def loss() -> float:
        return float((_mixture(store, 3) * factors).sum())

    p = Program(store=store, dtype=np.float64)
    y = mixture(p, SIZE, "moe", p.input(X.shape, X), 3, "faithful")
    p.backward(ops.total(ops.mul(y, p.input(factors.shape, factors))))
    for name in ("moe.w1", "moe.w2", "moe.b1"):
        w, place = store[name], (3, 5, 2)[: len(store[name].shape)]
        assert w.grad is not None
        w.array[place] += 1e-6
        high = loss()
        w.array[place] -= 2e-6
        low = loss()
        w.array[place] += 1e-6
        assert w.grad[place] == pytest.approx((high - low) / 2e-6, abs=1e-6)
    assert store["moe.router"].grad is None


def test_the_schedule_grows_from_half_to_all() -> None:
    ks = [active_experts(t, 100, 8, 16) for t in range(101)]
    assert (ks[0], ks[50], ks[100]) == (8, 12, 16)
    assert ks == sorted(ks)
    assert balanced(10, 4) == (3, 3, 2, 2)


def test_loads_add_up_and_macs_are_linear_in_k() -> None:
    macs = {}
    for active in (1, 2, 4):
        p = Program(store=_filled(), dtype=np.float64)
        mixture(p, SIZE, "moe", p.input(X.shape, X), active, "faithful")
        banks = [q.sparsity for q in p.tape.products if isinstance(q.sparsity, Gathered)]
        assert all(sum(bank.loads) == 20 * active for bank in banks)
        macs[active] = sum(q.macs_true for q in p.tape.products if q.name != "moe.router")
    assert macs[2] == 2 * macs[1]
    assert macs[4] == 4 * macs[1]


def test_the_router_is_never_trained() -> None:
    size = replace(SMALL, batch=4, target=8, memory=8)
    first = train(size, 1, "faithful", "smoe")["l0.moe.router"].array
    later = train(size, 4, "faithful", "smoe")["l0.moe.router"].array
    assert np.array_equal(first, later)
    assert not np.array_equal(first, train(size, 4, "faithful", "learned")["l0.moe.router"].array)
    tape = record("smoe-dropout", "paper", "faithful").tape
    assert not [q for q in tape.of(Stage.WU) if "router" in q.name]
    assert [q for q in tape.of(Stage.WU) if ".moe.w1" in q.name]


@pytest.mark.parametrize(("active", "giga"), [(1, 125.3), (2, 137.1), (8, 208.0), (12, 255.2), (16, 302.5)])
def test_enwik8_has_the_macs_of_the_fact_sheet(active: int, giga: float) -> None:
    p = Program(values=False)
    forward(p, ENWIK8, None, [None] * ENWIK8.layers, active)
    assert sum(q.macs_true for q in p.tape.products) == pytest.approx(giga * 1e9, rel=1e-3)


def test_library_text_is_what_it_says() -> None:
    trained, held_out = library_text()
    assert trained.min() >= 0
    assert trained.max() < 97
    assert len(trained) > 100_000
    assert len(held_out) > 50_000
    assert (trained == 1).sum() > 3000  # line ends
    with pytest.raises(ValueError, match="need 97"):
        library_text(64)
