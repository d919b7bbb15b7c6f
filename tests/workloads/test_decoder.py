"""Decoders: caches, groups of heads, padding, gradients, and the sizes of published ones."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from nmsat.algorithms.workloads.engine import ops
from nmsat.algorithms.workloads.engine.decoder import DecoderSize, decode
from nmsat.algorithms.workloads.engine.program import Program
from nmsat.algorithms.workloads.engine.zoo import CODE_MODELS, LANGUAGE_MODELS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nmsat.algorithms.workloads.engine.parameters import Parameter

SIZE = DecoderSize(layers=2, width=16, heads=4, kv=2, head=4, hidden=24, vocabulary=30)
FORMS = {
    "gated": SIZE,
    "parallel": replace(SIZE, gated=False, parallel=True, kv=4),
    "multi-query": replace(SIZE, gated=False, kv=1),
}
IDS = np.random.default_rng(0).integers(0, 30, (3, 9))


def _full(size: DecoderSize, ids: NDArray, store: dict[str, Parameter], padding: NDArray | None = None) -> NDArray:
    p = Program(dtype=np.float64, store=store)
    return decode(p, "lm", size, ids, ids.shape, logits=ids.shape[1], padding=padding)[0].array


@pytest.mark.parametrize("form", FORMS)
def test_token_by_token_behind_a_cache_is_the_whole_sequence(form: str) -> None:
    size, store = FORMS[form], {}
    whole = _full(size, IDS, store)
    p = Program(dtype=np.float64, store=store)
    found, cache = decode(p, "lm", size, IDS[:, :4], (3, 4), logits=4)
    assert np.allclose(found.array, whole[:, :4], atol=1e-12)
    for t in range(4, 9):
        found, cache = decode(p, "lm", size, IDS[:, t : t + 1], (3, 1), cache)
        assert np.allclose(found.array[:, 0], whole[:, t], atol=1e-12)
    assert cache.tokens == 9


def test_one_cache_serves_several_continuations() -> None:
    store: dict[str, Parameter] = {}
    p = Program(dtype=np.float64, store=store)
    ends = np.random.default_rng(1).integers(0, 30, (3, 4, 2))
    _, cache = decode(p, "lm", SIZE, IDS, IDS.shape)
    found, longer = decode(p, "lm", SIZE, ends.reshape(12, 2), (12, 2), cache, logits=2)
    joined = np.concatenate([np.repeat(IDS, 4, axis=0), ends.reshape(12, 2)], axis=1)
    whole = _full(SIZE, joined, store)
    assert np.allclose(found.array, whole[:, 9:], atol=1e-12)
    again, _ = decode(p, "lm", SIZE, ends.reshape(12, 2)[:, :1], (12, 1), longer)
    assert np.allclose(again.array[:, 0], _full(SIZE, np.c_[joined, ends.reshape(12, 2)[:, :1]], store)[:, -1])


def test_a_group_of_heads_is_multi_head_attention_with_repeated_keys() -> None:
    store: dict[str, Parameter] = {}
    grouped = _full(SIZE, IDS, store)
    wide = dict(store)
    for layer in range(SIZE.layers):
        for which in "kv":
            w = store[f"lm.l{layer}.{which}"]
            heads = w.array.reshape(SIZE.width, SIZE.kv, SIZE.head).repeat(SIZE.heads // SIZE.kv, axis=1)
            value = heads.reshape(SIZE.width, -1)
            wide[w.name] = replace(w, value=value, shape=value.shape, nonzeros=0)
    assert np.allclose(_full(replace(SIZE, kv=SIZE.heads), IDS, wide), grouped, atol=1e-12)


def test_a_batch_with_padding_is_each_sequence_alone() -> None:
    store: dict[str, Parameter] = {}
    padding = np.array([0, 2, 5])
    whole = _full(SIZE, IDS, store, padding)
    for row, skipped in enumerate(padding):
        alone = _full(SIZE, IDS[row : row + 1, skipped:], store)
        assert np.allclose(whole[row, skipped:], alone[0], atol=1e-12)
    p = Program(dtype=np.float64, store=store)
    _, cache = decode(p, "lm", SIZE, IDS[:, :7], (3, 7), padding=padding)
    found, _ = decode(p, "lm", SIZE, IDS[:, 7:], (3, 2), cache, logits=2)
    assert np.allclose(found.array, whole[:, 7:], atol=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_gradients_match_differences(form: str) -> None:
    def loss(p: Program, *, back: bool = False) -> float:
        found, _ = decode(p, "lm", FORMS[form], IDS[:2, :4], (2, 4), logits=4, learns=True)
        result = ops.cross_entropy(found, IDS[:2, 1:5])
        if back:
            p.backward(result, 4.0)
        return float(result.array)

    p = Program(dtype=np.float64)
    loss(p, back=True)
    for w in p.store.values():
        assert w.grad is not None, w.name
        place = np.unravel_index(int(np.abs(w.grad).argmax()), w.shape)
        ends = []
        for sign in (1, -1):
            w.array[place] += sign * 1e-6
            ends.append(loss(Program(dtype=np.float64, store=p.store)))
            w.array[place] -= sign * 1e-6
        assert w.grad[place] == pytest.approx((ends[0] - ends[1]) / 2e-6, abs=1e-7), w.name


@pytest.mark.parametrize("name", [*CODE_MODELS, *LANGUAGE_MODELS])
def test_the_weights_of_a_published_model_sum_to_its_size(name: str) -> None:
    size, billions = {**CODE_MODELS, **LANGUAGE_MODELS}[name]
    assert size.weights / 1e9 == pytest.approx(billions, rel=0.005)


def test_recorded_macs_are_those_of_the_shape() -> None:
    p = Program(values=False)
    _, cache = decode(p, "lm", SIZE, None, (2, 6))
    assert sum(q.macs_full for q in p.tape.products) == 2 * (
        6 * SIZE.linear_macs + SIZE.attention_macs(6, 6) + SIZE.width * SIZE.vocabulary
    )
    before = len(p.tape.products)
    decode(p, "lm", SIZE, None, (2, 1), cache)
    step = sum(q.macs_full for q in p.tape.products[before:])
    assert step == 2 * (SIZE.linear_macs + SIZE.attention_macs(1, 7) + SIZE.width * SIZE.vocabulary)
