"""SAE circuits: autoencoder, codes, scores, counts; the oracles of its fact sheet."""

from __future__ import annotations

import numpy as np
import pytest

from nmsat.algorithms.core.sparsity import Unstructured
from nmsat.algorithms.core.tape import Stage
from nmsat.algorithms.workloads.engine.program import Program
from nmsat.algorithms.workloads.engine.registry import record
from nmsat.algorithms.workloads.methods.sae_circuits import GPT2_SMALL
from nmsat.algorithms.workloads.methods.sae_circuits_model import (
    SMALL,
    attention,
    codes,
    decode_sparse,
    edge_scores,
    encode,
    loss,
    node_scores,
    ranked_area,
)
from nmsat.algorithms.workloads.methods.sae_circuits_study import (
    FEATURES,
    PROMPTS,
    WIDTH,
    find,
    planted,
    precision,
    train,
    without_radial,
)

RNG = np.random.default_rng(0)


def _value(store: dict[str, np.ndarray], x: np.ndarray, strength: float) -> float:
    """The loss, written out."""
    f = np.maximum((x - store["b"]) @ store["encode"] + store["encode.bias"], 0)
    rebuilt = f @ store["decode"] + store["b"]
    return float(((rebuilt - x) ** 2).mean() + strength * np.abs(f).sum(axis=1).mean())


def test_gradients_of_the_autoencoder_are_those_of_finite_differences() -> None:
    x = RNG.standard_normal((5, 6))
    p = Program(dtype=np.float64)
    loss(p, p.input(x.shape, x), 7, "faithful", 0.3)
    for name in ("b", "encode.bias"):
        p.store[name].value = 0.3 * RNG.standard_normal(p.store[name].shape)
    q = Program(dtype=np.float64, store=p.store)
    found = loss(q, q.input(x.shape, x), 7, "faithful", 0.3)
    values = {name: w.array.copy() for name, w in p.store.items()}
    assert float(found.array) == pytest.approx(_value(values, x, 0.3))
    q.backward(found)
    for name, w in p.store.items():
        for place in list(np.ndindex(w.shape))[:12]:
            high, low = ({k: v.copy() for k, v in values.items()} for _ in range(2))
            high[name][place] += 1e-6
            low[name][place] -= 1e-6
            slope = (_value(high, x, 0.3) - _value(low, x, 0.3)) / 2e-6
            assert w.grad is not None
            assert w.grad[place] == pytest.approx(slope, abs=1e-7), name


def test_columns_keep_their_length_and_gradients_leave_it() -> None:
    x, _ = planted(0)
    store = train(x.reshape(-1, WIDTH)[:40], 0, "faithful", 3)
    for name in ("encode", "decode"):
        assert np.allclose(np.linalg.norm(store[name].array, axis=0), 1, atol=1e-6)
    w, gradient = store["encode"].array, RNG.standard_normal((WIDTH, FEATURES))
    assert np.allclose((without_radial(gradient, w) * w).sum(axis=0), 0, atol=1e-6)


def test_a_heavy_penalty_kills_the_codes() -> None:
    x = RNG.standard_normal((30, WIDTH)).astype(np.float32)
    store: dict = {}
    for _ in range(60):
        p = Program(store=store)
        p.backward(loss(p, p.input(x.shape, x), FEATURES, "faithful", 10.0))
        for w in store.values():
            w.value, w.grad = w.array - 0.05 * w.grad, None
    p = Program(store=store)
    assert not encode(p, p.input(x.shape, x), FEATURES).array.any()
    assert not codes(np.zeros((3, 4, 5))).any()  # all features 0: code 0


def test_node_scores_are_set_arithmetic() -> None:
    positive, negative = np.array([[1, 5], [2, 5], [2, 5]]), np.array([[2, 5], [3, 5], [3, 5]])
    assert node_scores(positive, negative).tolist() == [1 / 3, 0]  # {1} of {1, 2, 3}
    one = np.zeros((4, 6), int)
    assert not node_scores(one, one).any()


def test_pairs_of_codes_are_those_of_the_one_hot_gram() -> None:
    positive, negative = RNG.integers(0, 3, (2, 8, 4))
    eye = np.eye(3, dtype=int)

    def gram(c: np.ndarray) -> np.ndarray:
        flat = eye[c].reshape(len(c), -1)
        return (flat.T @ flat).reshape(4, 3, 4, 3)

    expected = ((gram(positive) > 0) & (gram(negative) == 0)).sum(axis=(1, 3))
    assert np.array_equal(edge_scores(positive, negative), expected)


def test_area_and_precision_count_equal_scores_half() -> None:
    wanted = np.array([1, 1, 0, 0, 0], bool)
    assert ranked_area(np.array([3.0, 2, 1, 0, 0]), wanted) == 1
    assert ranked_area(np.zeros(5), wanted) == 0.5
    assert precision(np.zeros(5), wanted) == pytest.approx(2 / 5)
    assert precision(np.array([3.0, 1, 2, 1, 0]), wanted) == pytest.approx(0.5)
    assert precision(np.array([3.0, 1, 1, 1, 0]), wanted) == pytest.approx((1 + 1 / 3) / 2)


def test_planted_heads_alone_differ_and_shuffled_prompts_say_nothing() -> None:
    x, wanted = planted(3)
    assert x.shape == (2 * PROMPTS, 32, WIDTH)
    own = np.tile(np.arange(32), (2 * PROMPTS, 1))
    own[:PROMPTS, wanted] += 100  # codes that tell the classes apart
    assert ranked_area(node_scores(own[:PROMPTS], own[PROMPTS:]), wanted) == 1
    mixed = own[[0, 5, 1, 6, 2, 7, 3, 8, 4, 9]]
    assert ranked_area(node_scores(mixed[:PROMPTS], mixed[PROMPTS:]), wanted) == 0.5
    scores, features = find(x, train(x.reshape(-1, WIDTH), 3, "faithful", 5))
    assert scores.shape == (32,)
    assert 0 < features <= FEATURES


def test_heads_add_up_to_the_output_of_the_layer() -> None:
    p = Program()
    x = p.input((4, 6, 32), RNG.standard_normal((4, 6, 32)).astype(np.float32))
    total, heads = attention(p, SMALL, "l0", x)
    assert np.allclose(heads.array.sum(axis=1), total.array.mean(axis=1), atol=1e-5)
    products = {q.name: q for q in p.tape.products}
    assert (products["l0.out"].count, products["l0.out"].k, products["l0.out"].n) == (2, 16, 32)


@pytest.mark.parametrize("variant", ["faithful", "nm"])
def test_the_sparse_reconstruction_is_the_dense_one_of_what_is_left(variant: str) -> None:
    p = Program()
    f = np.maximum(RNG.standard_normal((9, 16)) - 0.5, 0).astype(np.float32)
    y = decode_sparse(p, p.input(f.shape, f), 12, variant).array  # type: ignore[arg-type]
    if variant == "nm":
        groups = f.reshape(9, 2, 8)
        f = np.where(groups >= np.sort(groups, axis=2)[:, :, -2:-1], groups, 0).reshape(9, 16)
    assert np.allclose(y, f @ p.store["decode"].array, atol=1e-5)
    (product,) = p.tape.products
    assert (product.m, product.k, product.n) == (12, 16, 9)
    assert (str(product.pattern) == "2:8") if variant == "nm" else isinstance(product.sparsity, Unstructured)


def test_the_work_is_that_of_the_fact_sheet() -> None:
    tape = record("sae-circuits", "paper", "faithful").tape
    step = [q for q in tape.products if q.name in ("encode", "decode")]
    assert [(q.stage, q.m, q.k, q.n) for q in step] == [
        (Stage.FF, 1440, 768, 200),
        (Stage.FF, 1440, 200, 768),
        (Stage.WU, 200, 1440, 768),
        (Stage.BP, 1440, 768, 200),
        (Stage.WU, 768, 1440, 200),
        (Stage.BP, 1440, 200, 768),  # not on the sheet: the tied b stands before the encoder
    ]
    assert 500 * sum(q.macs_full for q in step[:5]) == pytest.approx(553e9, rel=1e-3)
    capture = [q for q in tape.products if q.name.startswith("l")]
    assert 50 * sum(q.macs_full for q in capture) == pytest.approx(0.85e12, rel=0.05)
    assert GPT2_SMALL.layers * GPT2_SMALL.heads == 144
