"""THOR: both losses, drawn and gathered experts, counts; the oracles of its fact sheet."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from nmsat.algorithms.core.tape import Stage
from nmsat.algorithms.workloads.engine import ops
from nmsat.algorithms.workloads.engine.program import Program
from nmsat.algorithms.workloads.engine.registry import record
from nmsat.algorithms.workloads.methods.thor import IWSLT, run
from nmsat.algorithms.workloads.methods.thor_model import (
    SMALL,
    agreeing,
    divergence,
    forward,
    gathered,
    make_experts,
    one_expert,
    per_sentence,
    smoothed,
)
from nmsat.algorithms.workloads.methods.thor_study import STUDY, sentences, switch

U, V = np.random.default_rng(0).standard_normal((2, 3, 5))


def _divergence(u: np.ndarray, v: np.ndarray) -> float:
    p = Program(dtype=np.float64)
    return float(divergence(p.input(u.shape, u), p.input(v.shape, v)).array)


def test_the_divergence_of_two_words_in_closed_form() -> None:
    p, q = 0.8, 0.3
    logits = [np.array([[math.log(x), math.log(1 - x)]]) for x in (p, q)]
    expected = (p - q) * (math.log(p / (1 - p)) - math.log(q / (1 - q))) / 2
    assert _divergence(*logits) == pytest.approx(expected)


def test_the_divergence_is_symmetric_and_nothing_for_equal_passes() -> None:
    assert _divergence(U, V) == pytest.approx(_divergence(V, U))
    assert _divergence(U, V) > 0
    assert _divergence(U, U + 3.0) == pytest.approx(0, abs=1e-12)


def test_gradients_of_the_losses_are_those_of_finite_differences() -> None:
    labels = np.array([0, 3, 1])

    def losses(u: np.ndarray, v: np.ndarray) -> float:
        lp, lq = (x - np.log(np.exp(x).sum(axis=1, keepdims=True)) for x in (u, v))
        truth = np.full((3, 5), 0.1 / 5) + 0.9 * np.eye(5)[labels]
        kl = ((np.exp(lp) - np.exp(lq)) * (lp - lq)).sum() / 2
        return float((5 * kl - (truth * lp).sum() - (truth * lq).sum()) / 3)

    p = Program(dtype=np.float64)
    one, two = p.vector("u", U.shape), p.vector("v", V.shape)
    one.array[...], two.array[...] = U, V
    loss = agreeing(one, two, labels, 5.0)
    assert float(loss.array) == pytest.approx(losses(U, V))
    p.backward(loss)
    for place in np.ndindex(U.shape):
        e = np.zeros_like(U)
        e[place] = 1e-5
        for name, high, low in (("u", (U + e, V), (U - e, V)), ("v", (U, V + e), (U, V - e))):
            found = p.store[name].grad
            assert found is not None
            assert found[place] == pytest.approx((losses(*high) - losses(*low)) / 2e-5, abs=1e-8)


def test_one_expert_is_a_plain_transformer_run_twice() -> None:
    size = replace(SMALL, experts=1)
    ids, labels = np.random.default_rng(1).integers(0, 32, (2, 32))
    p = Program()
    draws = np.random.default_rng(2)
    one, two = (forward(p, size, ids, ids, one_expert(p, size, draws, "faithful")) for _ in range(2))
    assert np.array_equal(one.array, two.array)
    loss = float(agreeing(one, two, labels, 5.0).array)
    assert loss == pytest.approx(2 * float(smoothed(one, labels).array))
    drawn = forward(p, size, ids, ids, per_sentence(p, size, draws, "faithful"))
    assert np.allclose(drawn.array, one.array, atol=1e-5)


def test_gathering_is_mask_and_sum_in_every_bit() -> None:
    size = replace(SMALL, experts=4)
    p = Program(exact=True)
    make_experts(p, size, "e0", "faithful")
    rng = np.random.default_rng(3)
    for name, w in p.store.items():
        if name.endswith(".bias"):
            w.value = rng.standard_normal(w.shape).astype(np.float32)
    x = p.input((32, 32), rng.standard_normal((32, 32)).astype(np.float32))
    owner = np.repeat([2, 0, 2, 3], 8)
    found = gathered(p, size, "e0", x, owner).array
    expected = np.zeros_like(found)
    for e in range(4):
        one = one_expert(p, size, _Always(e), "faithful")("e0", x)  # type: ignore[arg-type]
        expected += np.where((owner == e)[:, None], one.array, 0)
    assert np.array_equal(found, expected)


class _Always:
    """Draws the same expert every time."""

    def __init__(self, expert: int) -> None:
        self.expert = expert

    def integers(self, _count: int) -> int:
        return self.expert


def test_experts_are_drawn_evenly_and_passes_independently() -> None:
    p, size = Program(values=False), replace(SMALL, experts=4)
    mixture = one_expert(p, size, np.random.default_rng(4), "faithful")
    x = p.input((4, 8, 32))
    drawn = np.empty((400, 2), int)
    for place in np.ndindex(drawn.shape):
        mixture("e0", x)
        drawn[place] = int(p.tape.products[-1].name[-1])
    table = np.histogram2d(drawn[:, 0], drawn[:, 1], bins=4)[0]
    assert ((table - 25) ** 2 / 25).sum() < 37.7  # chi-square of 15 degrees of freedom, 0.1 %


def test_a_step_costs_two_dense_ones_whatever_the_number_of_experts() -> None:
    spent = []
    for count in (1, 4):
        p = Program(values=False)
        run(p, replace(SMALL, experts=count), "faithful")
        drawn = [q for q in p.tape.products if q.name.startswith("drawn.")]
        spent.append(sum(q.macs_full for q in p.tape.products if not q.name.startswith("drawn.")))
        mixed = [q for q in drawn if q.name.endswith(("0.up", "0.down"))]
        assert sum(q.macs_full for q in mixed) == count * sum(q.macs_true for q in mixed)
    assert spent[0] == spent[1]


def test_the_network_is_the_one_of_the_fact_sheet() -> None:
    program = record("thor", "paper", "faithful")
    tokens = IWSLT.batch * IWSLT.tokens
    one = [q for q in program.tape.of(Stage.FF) if q.name.startswith("a.")]

    def per_token(start: str) -> float:
        found = [q for q in one if q.name.startswith(start) and not q.name.endswith((".qk", ".av"))]
        return sum(q.macs_full for q in found) / tokens

    assert per_token("a.e1.") == pytest.approx(2.10e6, rel=2e-3)
    assert per_token("a.d1.") == pytest.approx(3.15e6, rel=2e-3)
    assert per_token("a.head") == pytest.approx(5.12e6)
    parameters = sum(w.size for w in program.store.values())
    p = Program(values=False)
    run(p, replace(IWSLT, experts=1), "faithful")
    assert parameters - sum(w.size for w in p.store.values()) == pytest.approx(6.3e6, rel=1e-3)


def test_the_router_of_the_study_takes_the_best_expert_and_measures_balance() -> None:
    p, shares = Program(), []
    words, _ = sentences(STUDY, 0)
    forward(p, STUDY, words.ravel(), None, switch(p, STUDY, "faithful", shares))
    assert len(shares) == 1
    p = Program(store=p.store)
    x = p.input((1, 1, 32), np.ones((1, 1, 32), np.float32))
    small = replace(STUDY, batch=1, tokens=1)
    y = switch(p, small, "faithful", shares)("e0", x).array.ravel()
    gates = ops.soft(np.ones(32) @ p.store["e0.router"].array)
    e = int(gates.argmax())
    up, down = (p.store[f"e0.{part}"].array[e] for part in ("up", "down"))
    assert np.allclose(y, gates[e] * (np.maximum(np.ones(32) @ up, 0) @ down), atol=1e-4)
    assert float(shares[1].array) == pytest.approx(2 * gates[e], rel=1e-5)
