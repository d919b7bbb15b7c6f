"""LT-SFT: selection, rewinding, composition, the file form, closed forms of linear regression; its fact sheet."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pytest

from nmsat.algorithms.core.sparsity import Unstructured
from nmsat.algorithms.core.tape import Pattern, Product, Stage
from nmsat.algorithms.workloads.engine import ops
from nmsat.algorithms.workloads.engine.encoder import EncoderSize, embedded, encoder
from nmsat.algorithms.workloads.engine.parameters import Parameter
from nmsat.algorithms.workloads.engine.products import linear
from nmsat.algorithms.workloads.engine.program import Program
from nmsat.algorithms.workloads.engine.registry import VARIANTS, Variant, record
from nmsat.algorithms.workloads.engine.transformer import dense
from nmsat.algorithms.workloads.methods.lt_sft import MBERT
from nmsat.algorithms.workloads.methods.lt_sft_model import LANGUAGE_SHARE, PATTERN, SMALL, TASK_SHARE, beside, parts
from nmsat.algorithms.workloads.methods.lt_sft_study import TAGS, WINDOW, WORDS, grammar, hidden
from nmsat.algorithms.workloads.methods.lt_sft_tuning import (
    composed,
    copied,
    decode,
    encode,
    largest,
    largest_in_groups,
    sparse_tuning,
    tune,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nmsat.algorithms.workloads.methods.lt_sft_tuning import Select, Step, Store

RNG = np.random.default_rng(0)
FREE = ("head",)


def _store() -> Store:
    shapes = {"fc": (32, 8), "head": (8, 3)}
    return {name: Parameter(name, shape, RNG.standard_normal(shape)) for name, shape in shapes.items()}


def _learn(now: Store, index: int) -> None:
    """Gradients of a classifier on the batch of a step."""
    rng = np.random.default_rng(index)
    p = Program(store=now, dtype=np.float64)
    h = ops.relu(linear("fc", p.input((16, 32), rng.standard_normal((16, 32))), now["fc"]))
    p.backward(ops.cross_entropy(linear("head", h, now["head"]), rng.integers(0, 3, 16)))


def _count(count: int) -> Select:
    return partial(largest, count=count)


def test_the_largest_are_selected_over_all_tensors() -> None:
    moved = {"a": RNG.standard_normal((6, 5)), "b": 3 * RNG.standard_normal(40)}
    everything = np.sort(np.abs(np.concatenate([moved["a"].ravel(), moved["b"]])))
    for count in (1, 17, 70):
        masks = largest(moved, count)
        assert sum(int(keep.sum()) for keep in masks.values()) == count
        kept = np.concatenate([np.abs(moved[name])[keep] for name, keep in masks.items()])
        assert np.allclose(np.sort(kept), everything[-count:])
    assert not any(keep.any() for keep in largest(moved, 0).values())
    tied = largest({"a": np.array([2.0, -2.0, 1.0])}, 1)["a"]
    assert tied.tolist() == [True, True, False]  # as many as are not smaller


def test_groups_keep_their_own_largest() -> None:
    moved = {"w": RNG.standard_normal((32, 5)).astype(np.float32), "bias": RNG.standard_normal(64)}
    masks = largest_in_groups(moved, Pattern(1, 16), ["w"])
    for group in range(2):
        rows = slice(16 * group, 16 * group + 16)
        assert masks["w"][rows].argmax(axis=0).tolist() == np.abs(moved["w"][rows]).argmax(axis=0).tolist()
    assert masks["w"].sum() == 10
    assert set(np.flatnonzero(masks["bias"])) == set(np.argsort(np.abs(moved["bias"]))[-4:])


def test_all_selected_is_full_fine_tuning_and_none_is_none() -> None:
    store = _store()
    everything = sparse_tuning(store, _learn, (6, 6), 0.05, _count(256), free=FREE)
    assert np.array_equal(everything.sparse["fc"], everything.full["fc"])
    assert np.array_equal(everything.heads["head"], everything.full_heads["head"])
    nothing = sparse_tuning(store, _learn, (6, 6), 0.05, _count(0), free=FREE)
    assert not nothing.sparse["fc"].any()
    assert not np.array_equal(nothing.heads["head"], store["head"].array)


def test_a_difference_lies_in_its_mask_and_the_network_stays_as_it_was() -> None:
    store = _store()
    before = {name: w.array.copy() for name, w in store.items()}
    found = sparse_tuning(store, _learn, (6, 9), 0.05, _count(20), free=FREE)
    assert found.masks["fc"].sum() == 20
    assert np.array_equal(found.sparse["fc"] != 0, found.masks["fc"])
    assert "head" not in found.sparse
    assert all(np.array_equal(store[name].array, value) for name, value in before.items())
    assert store["fc"].learnt is None


def test_differences_add_up_in_any_order_and_can_be_taken_back() -> None:
    store, place = _store(), RNG.random((32, 8))
    first, second = ({"fc": RNG.standard_normal((32, 8)) * keep} for keep in (place < 0.1, place > 0.9))
    both = composed(store, [first, second])["fc"].array
    assert np.allclose(both, composed(store, [second, first])["fc"].array)
    moved = both - store["fc"].array
    assert np.allclose(moved[place < 0.1], first["fc"][place < 0.1])  # apart, so neither moves the other's
    assert np.allclose(moved[place > 0.9], second["fc"][place > 0.9])
    back = composed(composed(store, [first]), [{"fc": -first["fc"]}])["fc"].array
    assert np.allclose(back, store["fc"].array)
    head = {"head": np.ones((8, 3))}
    assert np.array_equal(composed(store, [], head)["head"].array, head["head"])


def test_the_file_form_comes_back() -> None:
    for shape, share in (((7, 9), 0.2), ((5,), 1.0), ((4, 4), 0.0)):
        difference = RNG.standard_normal(shape) * (RNG.random(shape) < share)
        steps, values = encode(difference)
        assert (steps[1:] > 0).all()
        assert len(values) == np.count_nonzero(difference)
        assert np.array_equal(decode(steps, values, shape), difference)


def _orthogonal(theta: NDArray) -> Step:
    """Gradients of 1/2 |theta - target|^2 over the number of parameters: an orthonormal design."""

    def step(now: Store, index: int) -> None:
        del index
        w = now["w"]
        w.grad = (w.array - theta) / w.size

    return step


def test_regression_selects_the_true_support_and_fits_it() -> None:
    start, target = np.zeros((12, 1)), np.zeros((12, 1))
    target[[2, 5, 11]] = np.array([[2.0], [-1.0], [0.5]])
    store = {"w": Parameter("w", (12, 1), start)}
    found = sparse_tuning(store, _orthogonal(target), (150, 300), 0.1, _count(3))
    assert np.flatnonzero(found.masks["w"]).tolist() == [2, 5, 11]
    assert np.allclose(found.sparse["w"], target, atol=1e-2)
    design = RNG.standard_normal((60, 12))
    y = design @ target + 0.1 * RNG.standard_normal((60, 1))

    def step(now: Store, index: int) -> None:
        del index
        now["w"].grad = design.T @ (design @ now["w"].array - y) / 60

    again = sparse_tuning(store, step, (150, 600), 0.1, _count(4))
    kept = np.flatnonzero(again.masks["w"])
    best = np.linalg.lstsq(design[:, kept], y, rcond=None)[0]
    assert np.allclose(again.sparse["w"][kept], best, atol=1e-3)


def test_the_pull_is_a_soft_threshold_and_holds_everything_when_large() -> None:
    start, target = RNG.standard_normal((2, 12, 1))
    store = {"w": Parameter("w", (12, 1), start)}
    for pull in (0.4, 50.0):
        moved = tune(store, _orthogonal(target), 600, 0.05, pull=pull)["w"].array - start
        gap = target - start
        assert np.allclose(moved, np.sign(gap) * np.maximum(np.abs(gap) - pull, 0), atol=0.02)


def test_elements_that_do_not_learn_get_no_gradient_and_products_keep_them() -> None:
    store = _store()
    plain, masked = copied(store), copied(store)
    keep = RNG.random((32, 8)) < 0.3
    masked["fc"].learnt = Unstructured("y", int(keep.sum()), keep)
    for now in (plain, masked):
        _learn(now, 1)
    assert plain["fc"].grad is not None
    assert np.allclose(masked["fc"].grad, np.where(keep, plain["fc"].grad, 0))  # type: ignore[arg-type]
    assert np.allclose(masked["head"].grad, plain["head"].grad)  # type: ignore[arg-type]


def test_differences_beside_a_matrix_are_differences_in_it() -> None:
    size = EncoderSize(layers=2, width=32, heads=2, hidden=64, vocabulary=20, positions=6)
    ids, p = RNG.integers(0, 20, (3, 6)), Program(dtype=np.float64)
    y = encoder(p, "net", size, embedded(p, "net", size, ids, 3, 6), layer=beside(p, ("one", "two"), PATTERN)).array
    q = Program(dtype=np.float64, store=copied({n: w for n, w in p.store.items() if not n.endswith((".one", ".two"))}))
    for name, w in q.store.items():
        for label in ("one", "two"):
            if f"{name}.{label}" in p.store:
                other = p.store[f"{name}.{label}"].forward().values
                assert other is not None
                assert (np.count_nonzero(other.reshape(-1, 16, other.shape[1]), axis=1) == 1).all()
                w.value = w.array + other
    assert np.allclose(y, encoder(q, "net", size, embedded(q, "net", size, ids, 3, 6)).array, atol=1e-10)
    assert len(p.tape.products) == len(q.tape.products) + 2 * 6 * 2


def test_an_encoder_takes_its_patterns_without_a_layer_of_ones_own() -> None:
    size = EncoderSize(layers=1, width=32, heads=2, hidden=64, vocabulary=20, positions=6)
    p = Program(values=False)
    encoder(p, "net", size, p.input((2, 6, 32)), Pattern(2, 8))
    q = Program(values=False)
    encoder(q, "net", size, q.input((2, 6, 32)), layer=lambda name, x, n: dense(q, name, x, n, ff=Pattern(2, 8)))
    wanted = {f"net.l0.{label}": Pattern(2, 8) for label in ("q", "k", "v", "o", "up", "down")}
    for tape in (p.tape, q.tape):
        assert {r.name: r.pattern for r in tape.products if r.name in wanted} == wanted


def test_parts_are_all_of_the_encoder() -> None:
    assert sum(int(np.prod(part.shape)) for part in parts(MBERT, "m")) == MBERT.weights == 177_262_848
    program = record("lt-sft", "small", "faithful")
    made = {name for name in program.store if name.startswith("language.") and ".decoder" not in name}
    assert made == {part.name for part in parts(SMALL.network, "language", masked=True)}


def test_languages_share_their_grammar_and_few_words() -> None:
    rules = grammar(0)
    follow = np.zeros((TAGS, TAGS))
    for language in (0, 2):
        words, tags = rules.phrases(language, 4000, np.random.default_rng(language))
        own = words > TAGS
        inside = (words - 1 - TAGS)[own] // (TAGS * WORDS)
        assert (inside == language).all()
        told = np.where(own, (words - 1 - TAGS) % (TAGS * WORDS) // WORDS, words - 1)
        assert np.array_equal(told[:, WINDOW // 2], tags)
        assert own.mean() == pytest.approx(0.5, abs=0.01)
        np.add.at(follow, (told[:, :-1], told[:, 1:]), 1)
    seen = follow.sum(axis=1) > 1000
    assert np.allclose((follow / follow.sum(axis=1, keepdims=True))[seen], rules.follow[seen], atol=0.03)
    shown = hidden(words, np.random.default_rng(3))
    changed = shown != words
    assert not changed[:, [0, 1, 3, 4]].any()
    assert (shown[:, 2] == 0).mean() == pytest.approx(0.8, abs=0.03)


def _of(tape: list[Product], name: str) -> list[Product]:
    return [q for q in tape if q.name.startswith(name)]


@pytest.mark.parametrize("variant", VARIANTS)
def test_multilingual_bert_has_the_work_of_the_fact_sheet(variant: Variant) -> None:
    program = record("lt-sft", "paper", variant)
    tape = program.tape
    ahead = _of(tape.of(Stage.FF), "language.")
    head = [q for q in ahead if q.name in ("language.transform", "language.decoder")]
    pairs = [q for q in ahead if q.name.endswith((".qk", ".av"))]
    body = [q for q in ahead if q not in head and q not in pairs]
    for found, wanted in ((body, 84.9e6), (pairs, 4.7e6), (head[1:], 91.8e6)):
        assert sum(q.macs_true for q in found) / 1024 == pytest.approx(wanted, rel=5e-3)
    assert not _of(tape.of(Stage.WU), "language.decoder")  # frozen
    assert _of(tape.products, "zero")
    assert all(q.stage is Stage.FF for q in _of(tape.products, "zero"))
    masked = [q for q in tape.of(Stage.WU) if q.name.startswith("task.l")]
    share = sum(q.macs_true for q in masked) / sum(q.macs_full for q in masked)
    assert share == pytest.approx(1 / 16 if variant == "nm" else TASK_SHARE, rel=1e-3)
    side = [q for q in _of(tape.products, "zero.l") if q.name.endswith((".task", ".language"))]
    plain = [q for q in _of(tape.products, "zero.l") if q not in side and not q.name.endswith((".qk", ".av"))]
    beside_share = sum(q.macs_true for q in side) / sum(q.macs_true for q in plain)
    assert beside_share == (1 / 8 if variant == "nm" else 0)


def test_shares_are_those_of_the_scripts() -> None:
    assert round(MBERT.weights * LANGUAGE_SHARE) == pytest.approx(7_667_712, rel=1e-3)
    assert round(MBERT.weights * TASK_SHARE) == pytest.approx(14_155_776, rel=1e-3)
