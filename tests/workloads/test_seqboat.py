"""SeqBoat: moving averages, packing, windowed attention, counts; the oracles of its fact sheet."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from nmsat.algorithms.core.tape import Stage
from nmsat.algorithms.workloads.engine import ops
from nmsat.algorithms.workloads.engine.program import Program
from nmsat.algorithms.workloads.engine.registry import record
from nmsat.algorithms.workloads.methods.seqboat import ENWIK8
from nmsat.algorithms.workloads.methods.seqboat_ema import averages, convolved, kernel
from nmsat.algorithms.workloads.methods.seqboat_model import (
    SMALL,
    Size,
    attend,
    distances,
    forward,
    heated,
    layer,
    looked_up,
    pack,
)
from nmsat.algorithms.workloads.methods.seqboat_study import NEEDED, SIDE, recall

RNG = np.random.default_rng(0)
ONE = replace(SMALL, batch=2, tokens=16, width=6, narrow=4, window=4)


def _sigmoid(v: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-v))


def _parameters(p: Program, name: str) -> list[np.ndarray]:
    return [p.store[f"{name}.{part}"].array for part in ("delta", "alpha", "beta", "gamma")]


def test_the_convolution_is_the_recurrence() -> None:
    p = Program(dtype=np.float64)
    x = RNG.standard_normal((2, 9, 3))
    y = convolved(p, "c", p.input(x.shape, x), kernel(p, "e", 3, 9)).array
    delta, alpha, beta, gamma = _parameters(p, "e")
    keep, q = _sigmoid(delta), 1 - _sigmoid(delta) * _sigmoid(alpha)
    h = np.zeros((2, 3, 16))
    for t in range(9):
        h = q * h + keep * beta * x[:, t, :, None]
        assert np.allclose(y[:, t], (gamma * h).sum(axis=-1) / 4)


def test_gradients_of_kernel_and_convolution_are_those_of_finite_differences() -> None:
    x, weight = RNG.standard_normal((2, 5, 2)), RNG.standard_normal((2, 5, 2))

    def record_loss(p: Program) -> float:
        leaf = p.vector("x", x.shape)
        y = convolved(p, "c", leaf, kernel(p, "e", 2, 5, 3))
        total = ops.mean(ops.reshape(ops.mul(y, p.input(x.shape, weight)), (20,)), 0)
        p.backward(ops.reshape(total, ()))
        return float(total.array)

    p = Program(dtype=np.float64)
    kernel(p, "e", 2, 5, 3)
    p.vector("x", x.shape).array[...] = x
    record_loss(Program(dtype=np.float64, store=p.store))
    grads = {name: w.grad for name, w in p.store.items()}
    assert len(grads) == 5
    for name, w in p.store.items():
        for place in list(np.ndindex(w.shape))[:6]:
            found = []
            for step in (1e-6, -2e-6):
                w.array[place] += step
                found.append(record_loss(Program(dtype=np.float64, store=p.store)))
            w.array[place] += 1e-6
            grad = grads[name]
            assert grad is not None
            assert grad[place] == pytest.approx((found[0] - found[1]) / 2e-6, abs=1e-8), name


def test_an_impulse_gives_the_kernel() -> None:
    p = Program(dtype=np.float64)
    x = np.zeros((1, 7, 2))
    x[0, 0] = 1
    k = kernel(p, "e", 2, 7)
    assert np.allclose(convolved(p, "c", p.input(x.shape, x), k).array[0].T, k.array)


def _logits(p: Program, words: np.ndarray) -> np.ndarray:
    q = Program(store=p.store)
    return forward(q, ONE, words.ravel(), "faithful")[0].array


def test_no_token_changes_what_stands_before_it() -> None:
    p = Program()
    words = RNG.integers(0, 28, (2, 16))
    forward(p, ONE, words.ravel(), "faithful")
    before = _logits(p, words)
    for t in (3, 9, 15):
        other = words.copy()
        other[:, t] = (other[:, t] + 1) % 28
        after = _logits(p, other)
        assert np.allclose(after[:, :t], before[:, :t], atol=1e-5)
        assert not np.allclose(after[:, t], before[:, t], atol=1e-5)


def test_packing_keeps_order_and_every_active_token() -> None:
    p, chosen = Program(), RNG.random((2, 16)) < 0.4
    packed = pack(p, ONE, "l", chosen)
    assert packed.length % ONE.window == 0
    assert packed.place is not None
    for row, active in zip(packed.place, chosen, strict=True):
        assert row[row >= 0].tolist() == np.flatnonzero(active).tolist()
        assert (row[active.sum() :] == -1).all()
    assert p.profile["l.length"] == packed.length
    assert packed.length - chosen.sum(axis=1).max() < ONE.window
    assert pack(p, ONE, "l", np.zeros((2, 16), bool)).length == ONE.window


def _by_hand(p: Program, size: Size, x: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Attention of the active tokens to their last `window`, one query after the other."""
    w = {name: v.array.astype(float) for name, v in p.store.items()}
    z, hidden = size.narrow, 2 * size.width
    out = np.zeros(x.shape)
    for b in range(size.batch):
        places = np.flatnonzero(chosen[b])
        mixed = x[b, places].astype(float) @ w["l.mx"] + w["l.mx.bias"]
        mixed *= _sigmoid(mixed)
        narrow, gate, v = mixed[:, :z], mixed[:, z : z + hidden], mixed[:, z + hidden :]
        q, k = (narrow * w[f"l.{c}.gain"] + w[f"l.{c}.bias"] for c in "qk")
        for i, place in enumerate(places):
            seen = range(max(0, i - size.window + 1), i + 1)
            scores = [q[i] @ k[j] / z**0.5 + w["l.distance"][place - places[j]] for j in seen]
            a = ops.soft(np.array(scores))
            o = sum(a_j * v[j] for a_j, j in zip(a, seen, strict=True)) * gate[i]
            out[b, place] = o @ w["l.h"] + w["l.h.bias"]
    return out


@pytest.mark.parametrize(("window", "share"), [(4, 0.6), (4, 1.0), (16, 0.5), (4, 0.0)])
def test_attention_is_that_of_the_active_tokens_one_by_one(window: int, share: float) -> None:
    size, p = replace(ONE, window=window), Program()
    x = RNG.standard_normal((2, 16, 6)).astype(np.float32)
    chosen = RNG.random((2, 16)) < share
    attend(p, size, "l", p.input(x.shape, x), chosen, "faithful")
    for name, w in p.store.items():
        if len(w.shape) == 1:
            w.value = RNG.standard_normal(w.shape).astype(np.float32)
        assert name.startswith("l.")
    q = Program(store=p.store)
    found = attend(q, size, "l", q.input(x.shape, x), chosen, "faithful").array
    assert np.allclose(found, _by_hand(p, size, x, chosen), atol=1e-4)
    assert not found[~chosen].any()


def test_distances_are_those_in_the_text() -> None:
    chosen = np.zeros((1, 16), bool)
    chosen[0, [1, 4, 5, 9, 15]] = True
    away, seen = distances(pack(Program(), replace(ONE, batch=1), "l", chosen), 4)
    assert away.shape == seen.shape == (1, 2, 4, 8)
    assert away[0, 1, 0][seen[0, 1, 0]].tolist() == [11, 10, 6, 0]  # 15 sees 4, 5, 9 and itself
    assert seen[0, 1, 1:].sum(axis=1).tolist() == [4, 3, 2]  # padding: itself and what is real before it


def test_without_active_tokens_the_layer_is_its_linear_path() -> None:
    p, x = Program(), RNG.standard_normal((2, 16, 6)).astype(np.float32)
    y, chosen = layer(p, ONE, "l0", p.input(x.shape, x), "faithful", "none")
    assert chosen is not None
    assert not chosen.any()
    q = Program(store=p.store)
    v = q.input(x.shape, x)
    normed = ops.layer_norm(v, q.vector("l0.norm.gain", (6,)), q.vector("l0.norm.bias", (6,)))
    seen = averages(q, "l0.ema", normed).array
    s = seen @ p.store["l0.hx"].array[:, 2:] + p.store["l0.hx.bias"].array[2:] + x
    assert np.allclose(y.array, s * _sigmoid(s), atol=1e-5)


def test_the_confidence_scales_what_full_attention_adds() -> None:
    p, x = Program(), RNG.standard_normal((2, 16, 6)).astype(np.float32)
    layer(p, ONE, "l0", p.input(x.shape, x), "faithful", "all")
    p.store["l0.hx.bias"].array[:2] = [-40, 40]  # all active, confidence 1
    results = []
    for mode in ("learnt", "all"):
        q = Program(store=p.store)
        results.append(layer(q, ONE, "l0", q.input(x.shape, x), "faithful", mode)[0].array)  # type: ignore[arg-type]
    assert np.allclose(results[0], results[1], atol=1e-5)


def test_silu_of_large_negative_numbers_is_zero_without_a_warning() -> None:
    p = Program()
    p.vector("x", (3,)).array[...] = [-1000.0, -90.0, 2.0]
    with np.errstate(over="raise"):
        y = ops.silu(p.vector("x", (3,)))
        p.backward(ops.reshape(ops.mean(y, 0), ()))
    assert np.allclose(y.array, [0, 0, 2 / (1 + np.exp(-2))])
    grad = p.store["x"].grad
    assert grad is not None
    assert np.allclose(grad[:2], 0)


def test_gradients_of_heat_and_table() -> None:
    u, index = RNG.standard_normal((3, 2)), np.array([[0, 2], [2, 1]])
    p = Program(dtype=np.float64)
    p.vector("u", u.shape).array[...] = u
    p.vector("t", (1,)).array[...] = 0.7
    p.vector("table", (3,)).array[...] = [1.0, 2.0, 3.0]
    q = Program(dtype=np.float64, store=p.store)
    y = heated(q.vector("u", u.shape), q.vector("t", (1,)))
    assert np.allclose(y.array, u / np.exp(0.7))
    taken = looked_up(q.vector("table", (3,)), index, (2, 2))
    assert taken.array.tolist() == [[1, 3], [3, 2]]
    q.backward(ops.add(ops.reshape(ops.mean(ops.mean(y, 0), 0), ()), ops.reshape(ops.mean(ops.mean(taken, 0), 0), ())))
    assert np.allclose(p.store["t"].grad, -u.sum() / np.exp(0.7) / 6)  # type: ignore[arg-type]
    assert np.allclose(p.store["u"].grad, 1 / np.exp(0.7) / 6)  # type: ignore[arg-type]
    assert p.store["table"].grad.tolist() == [0.25, 0.25, 0.5]  # type: ignore[union-attr]


def test_the_task_needs_what_it_says() -> None:
    words, labels, needed = recall(replace(SMALL, batch=50), 1)
    assert needed.mean() == NEEDED
    for row, answer in zip(words, labels, strict=True):
        pairs = {int(t) // SIDE: int(t) % SIDE for t in row if t < SIDE * SIDE}
        assert sorted(pairs) == list(range(SIDE))
        asked = row[-SIDE:] - SIDE * SIDE - 8
        assert answer[-SIDE:].tolist() == [pairs[int(key)] for key in asked]
        assert (answer[:-SIDE] == -1).all()


@pytest.mark.parametrize(("share", "expected"), [(1.0, 633e9), (0.5, 338e9)])
def test_enwik8_has_the_work_of_the_fact_sheet(share: float, expected: float) -> None:
    p = Program(values=False, profile={f"l{i}.length": round(8192 * share) for i in range(14)})
    forward(p, ENWIK8, None, "faithful")
    layers = [q for q in p.tape.of(Stage.FF) if q.name != "head"]
    spent = sum(q.m * q.k * q.n * q.count for q in layers)
    assert spent == pytest.approx(expected, rel=3e-3)
    half = record("seqboat", "paper", "faithful").tape
    assert sum(q.macs_true for q in half.of(Stage.FF) if q.name != "head") == pytest.approx(338e9, rel=3e-3)
