"""EPIE: the random field, the tagger's shapes, spans and baselines; the oracles of its fact sheet."""

from __future__ import annotations

from itertools import pairwise, product
from typing import TYPE_CHECKING

import numpy as np
import pytest

from nmsat.algorithms.core.tape import Stage
from nmsat.algorithms.workloads.engine import ops
from nmsat.algorithms.workloads.engine.program import Program
from nmsat.algorithms.workloads.engine.registry import record
from nmsat.algorithms.workloads.methods import epie_crf as crf
from nmsat.algorithms.workloads.methods import epie_text as text
from nmsat.algorithms.workloads.methods.epie import BERT_BASE, PAPER, SMALL, emissions

if TYPE_CHECKING:
    from numpy.typing import NDArray

RNG = np.random.default_rng(0)
E, A = RNG.standard_normal((2, 5, 3)), RNG.standard_normal((3, 3)) + crf.FORBIDDEN
PATHS = np.array(list(product(range(3), repeat=5)))


def _path_scores(e: NDArray) -> NDArray:
    """Score of every tagging of one sequence, term by term."""
    found = []
    for path in PATHS:
        total = crf.START[path[0]] + sum(e[t, tag] for t, tag in enumerate(path))
        found.append(total + sum(A[a, b] for a, b in pairwise(path)))
    return np.array(found)


def test_the_field_agrees_with_all_its_paths() -> None:
    unary, pairs = crf.marginals(E, A)
    counted = np.zeros((3, 3))
    for row in range(2):
        every = _path_scores(E[row])
        assert crf.log_partition(E, A)[row] == pytest.approx(np.log(np.exp(every).sum()))
        assert crf.viterbi(E, A)[row].tolist() == PATHS[every.argmax()].tolist()
        assert crf.score(E, A, PATHS[[7, 100]])[row] == pytest.approx(every[[7, 100][row]])
        weight = np.exp(every) / np.exp(every).sum()
        for t in range(5):
            assert np.allclose([weight[PATHS[:, t] == tag].sum() for tag in range(3)], unary[row, t])
            if t:
                np.add.at(counted, (PATHS[:, t - 1], PATHS[:, t]), weight)
    assert np.allclose(unary.sum(axis=2), 1)
    assert np.allclose(counted, pairs)


def test_without_transitions_the_field_is_a_softmax_per_word() -> None:
    unary = crf.marginals(E, np.zeros((3, 3)))[0]
    assert np.allclose(unary[:, 1:], ops.soft(E)[:, 1:])
    assert np.allclose(crf.log_partition(E + 2.5, A), crf.log_partition(E, A) + 5 * 2.5)


def test_an_inside_never_follows_an_outside() -> None:
    e = np.zeros((1, 5, 3))
    e[..., crf.INSIDE] = 5.0
    assert crf.viterbi(e, crf.FORBIDDEN)[0].tolist() == [crf.BEGIN, *[crf.INSIDE] * 4]


def test_gradients_of_the_loss_match_differences() -> None:
    tags = np.array([[0, 1, 2, 2, 0], [1, 2, 0, 1, 2]])

    def loss(p: Program) -> float:
        e, a = p.vector("e", E.shape), p.vector("a", (3, 3))
        if not e.array.any():
            e.array[...], a.array[...] = E, A - crf.FORBIDDEN
        result = crf.crf_loss(e, a, tags)
        if not p.tape.products and p.store["e"].grad is None:
            p.backward(result, 4.0)
        return float(result.array)

    p = Program(dtype=np.float64)
    loss(p)
    for w in p.store.values():
        assert w.grad is not None
        for place in list(np.ndindex(w.shape))[::4]:
            ends = []
            for sign in (1, -1):
                w.array[place] += sign * 1e-6
                ends.append(loss(Program(dtype=np.float64, store=p.store)))
                w.array[place] -= sign * 1e-6
            assert w.grad[place] == pytest.approx((ends[0] - ends[1]) / 2e-6, abs=1e-6)


def test_reversed_sentences_swap_the_directions() -> None:
    words = text.sentences(0, SMALL.batch, SMALL.tokens, text.lexicon()).words
    p = Program(dtype=np.float64)
    straight = emissions(p, SMALL, words, "faithful").array
    swapped = dict(p.store)
    for part in ("w", "u", "w.bias"):
        for one, other in (("forward", "backward"), ("backward", "forward")):
            swapped[f"{one}.{part}"] = p.store[f"{other}.{part}"]
    emission = p.store["emission"].array
    half = SMALL.recurrent
    p.store["emission"].value = np.concatenate([emission[half:], emission[:half]])
    turned = emissions(Program(dtype=np.float64, store=swapped), SMALL, words[:, ::-1], "faithful").array
    assert np.allclose(turned[:, ::-1], straight, atol=1e-12)


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ([0, 1, 2, 0, 1], {(0, 1, 3), (0, 4, 5)}),
        ([1, 1, 2, 2, 2], {(0, 0, 1), (0, 1, 5)}),
        ([0, 2, 2, 0, 0], {(0, 1, 3)}),
        ([0, 0, 0, 0, 0], set()),
    ],
)
def test_spans_on_hand_cases(tags: list[int], expected: set[text.Span]) -> None:
    assert text.spans(np.array([tags])) == expected


def test_scores_count_exact_spans() -> None:
    gold = np.array([[0, 1, 2, 2, 0, 1, 2, 0]])
    short = np.array([[0, 1, 2, 0, 0, 1, 2, 0]])
    assert text.scores(gold, gold) == (1, 1, 1)
    assert text.scores(gold, short) == pytest.approx((0.5, 0.5, 0.5))
    assert text.scores(gold, np.zeros_like(gold)) == (0, 0, 0)


def test_baselines_have_their_known_scores() -> None:
    """All-O is right where no word is tagged; a dictionary misses inserts and takes literal uses for idioms."""
    types = text.lexicon()
    data = text.sentences(3, 800, 16, types[::2])
    tagged = np.mean(data.tags != 0)
    assert np.mean(np.zeros_like(data.tags) == data.tags) == 1 - tagged
    assert 0.1 < tagged < 0.25
    precision, recall, _ = text.scores(data.tags, text.dictionary(data.words, types[::2]))
    assert precision == pytest.approx(1 - text.LITERAL, abs=0.04)
    assert recall == pytest.approx(1 - text.FORMAL, abs=0.04)
    assert text.scores(data.tags, text.dictionary(data.words, types[1::2]))[2] < 0.02
    literal = np.any(data.words == text.LITERALLY, axis=1)
    assert not data.tags[literal].any()
    assert data.tags[~literal].any(axis=1).all()
    with pytest.raises(ValueError, match="needs 8"):
        text.sentences(0, 1, 7, types)


def test_the_paper_scale_has_the_macs_of_the_fact_sheet() -> None:
    tape = record("epie", "paper", "faithful").tape
    words = PAPER.batch * PAPER.tokens
    recurrent = [q for q in tape.products if q.name.startswith(("forward", "backward", "emission"))]
    per_word = {s: sum(q.macs_full for q in recurrent if q.stage is s) / words for s in (Stage.FF, Stage.WU)}
    assert per_word[Stage.FF] == pytest.approx(1.14e6, rel=0.005)
    assert per_word[Stage.WU] == per_word[Stage.FF]
    bert = [q for q in tape.of(Stage.FF) if q.name.startswith("bert") and not q.name.endswith((".qk", ".av"))]
    assert sum(q.macs_full for q in bert) / words == pytest.approx(85e6, rel=0.002)
    gradients = [(q.name, q.m, q.k, q.n) for q in tape.of(Stage.WU) if q.name in {"forward.w", "forward.u"}]
    assert sorted(gradients) == [("forward.u", 256, words, 1024), ("forward.w", 300, words, 1024)]
    assert BERT_BASE.weights == pytest.approx(108.9e6, rel=0.001)
