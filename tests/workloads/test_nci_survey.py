"""The survey of models of code: objectives, pass@k, each generation's shapes; the oracles of its fact sheet."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from nmsat.algorithms.core.tape import Stage
from nmsat.algorithms.workloads.engine.decoder import decode
from nmsat.algorithms.workloads.engine.program import Program
from nmsat.algorithms.workloads.engine.registry import record
from nmsat.algorithms.workloads.methods import nci_models as models
from nmsat.algorithms.workloads.methods import nci_survey as nci
from nmsat.algorithms.workloads.methods import nci_tasks as tasks

DOCUMENT = np.arange(20) * 7 % 23


@pytest.mark.parametrize(("start", "stop"), [(0, 5), (4, 11), (13, 20), (6, 6)])
def test_a_middle_that_was_moved_comes_back(start: int, stop: int) -> None:
    moved = tasks.fill_in_middle(DOCUMENT, start, stop, (90, 91, 92))
    assert len(moved) == len(DOCUMENT) + 3
    assert moved[len(moved) - (stop - start) :].tolist() == DOCUMENT[start:stop].tolist()
    assert tasks.from_middle(moved, (90, 91, 92)).tolist() == DOCUMENT.tolist()


def test_spans_that_were_lost_come_back() -> None:
    source, target = tasks.denoise(DOCUMENT, [(1, 4), (9, 11), (15, 20)], 99)
    assert source.tolist() == [DOCUMENT[0], 99, *DOCUMENT[4:9], 98, *DOCUMENT[11:15], 97]
    assert target.tolist() == [99, *DOCUMENT[1:4], 98, *DOCUMENT[9:11], 97, *DOCUMENT[15:20]]
    assert tasks.from_spans(source, target, 99, 3).tolist() == DOCUMENT.tolist()


@pytest.mark.parametrize(("samples", "correct"), [(7, 0), (7, 2), (7, 6), (7, 7)])
def test_pass_at_k_is_the_share_of_all_draws(samples: int, correct: int) -> None:
    outcome = [True] * correct + [False] * (samples - correct)
    for k in range(1, samples + 1):
        drawn = [any(pick) for pick in combinations(outcome, k)]
        assert tasks.pass_at_k(samples, correct, k) == pytest.approx(np.mean(drawn))
    assert tasks.pass_at_k(samples, correct, 1) == pytest.approx(correct / samples)
    assert tasks.pass_at_k(samples, correct, samples) == (correct > 0)
    with pytest.raises(ValueError, match="must be 1"):
        tasks.pass_at_k(samples, correct, 0)


@pytest.mark.parametrize(
    ("code", "right"),
    [
        ("lambda a, b: a + b", True),
        ("lambda a, b: b + 2 * a - a", True),
        ("lambda a, b: a - b", False),
        ("lambda b, a: a + b", False),
        ("lambda a, b: a +", False),
        ("lambda a, b: __import__('os')", False),
        ("lambda a, b: a ** b", False),
        ("a + b", False),
    ],
)
def test_unit_tests_run_generated_code(code: str, right: bool) -> None:
    assert tasks.passes(code, tasks.cases("+")) is right


def test_distances_fall_into_the_buckets_of_t5() -> None:
    """Of 32: 16 per direction, 8 of them exact, the others by the logarithm up to 128."""
    distance = np.array([0, -1, -7, -8, -127, -500, 1, 7, 8, 500])
    assert models.bucket(distance, 32, both=True).tolist() == [0, 1, 7, 8, 15, 15, 17, 23, 24, 31]
    assert models.bucket(distance, 32, both=False).tolist() == [0, 1, 7, 8, 31, 31, 0, 0, 0, 0]


def test_words_behind_a_cache_are_those_of_whole_passes() -> None:
    size, p = nci.SMALL.served, Program(dtype=np.float64)
    ids = np.random.default_rng(0).integers(0, size.vocabulary, (2, 8))
    found = nci.generate(p, size, ids, (2, 8), 4)
    assert found is not None
    for step in range(4):
        seen = np.concatenate([ids, found[:, :step]], axis=1)
        whole = decode(Program(dtype=np.float64, store=p.store), "served", size, seen, seen.shape)[0].array
        assert whole[:, -1].argmax(axis=1).tolist() == found[:, step].tolist()


def test_a_carried_state_gives_the_words_of_the_whole_text() -> None:
    size, p = nci.SMALL.recurrent, Program(dtype=np.float64)
    ids = np.random.default_rng(0).integers(0, size.vocabulary, (2, 6))
    whole, _ = models.recurrent(p, size, ids, (2, 6))
    _, states = models.recurrent(p, size, ids[:, :5], (2, 5))
    last, _ = models.recurrent(p, size, ids[:, 5:], (2, 1), states)
    assert np.allclose(last.array[:, 0], whole.array[:, 5], atol=1e-12)


@pytest.mark.parametrize("generation", nci.GENERATIONS)
def test_gradients_match_differences(generation: str) -> None:
    p = Program(dtype=np.float64)
    value = nci.loss(p, nci.SMALL, generation, np.random.default_rng(1), "faithful")
    p.backward(value, 4.0)
    vocabulary = getattr(nci.SMALL, generation).vocabulary
    assert float(value.array) == pytest.approx(np.log(vocabulary), rel=0.8)
    gradients = {w.name: w.grad for w in p.store.values()}
    for w in list(p.store.values()):
        grad = gradients[w.name]
        assert grad is not None, w.name
        place = np.unravel_index(int(np.abs(grad).argmax()), w.shape)
        ends = []
        for sign in (1, -1):
            w.array[place] += sign * 1e-6
            q = Program(dtype=np.float64, store=p.store)
            ends.append(float(nci.loss(q, nci.SMALL, generation, np.random.default_rng(1), "faithful").array))
            w.array[place] -= sign * 1e-6
        assert grad[place] == pytest.approx((ends[0] - ends[1]) / 2e-6, abs=1e-6, rel=1e-4), w.name


def test_published_sizes_and_macs_at_paper_scale() -> None:
    assert nci.CODEBERT.weights == pytest.approx(124e6, rel=0.01)
    assert nci.CODET5_BASE.weights == pytest.approx(222.9e6, rel=0.002)
    tape = record("nci-survey", "paper", "faithful").tape
    parts = ("recurrent", "encoder", "pair", "decoder")
    of = {name: [q for q in tape.products if q.name.startswith(name)] for name in parts}
    size = nci.PAPER
    words = size.decoder_shape[1]
    decoder = {s: sum(q.macs_full for q in of["decoder"] if q.stage is s) for s in Stage}
    linear = size.decoder.linear_macs + size.decoder.vocabulary * size.decoder.width
    assert decoder[Stage.FF] == words * linear + size.decoder.attention_macs(words, words)
    assert decoder[Stage.BP] + decoder[Stage.WU] == 2 * decoder[Stage.FF]
    tokens = size.encoder_shape[0] * size.encoder_shape[1]
    bert = [q for q in of["encoder"] if q.stage is Stage.FF and ".l" in q.name]
    assert sum(q.macs_full for q in bert if not q.name.endswith((".qk", ".av"))) == tokens * 12 * 12 * 768**2
    word = [q for q in tape.products if q.name.startswith("served.word")]
    served = size.served
    each = served.linear_macs + served.vocabulary * served.width
    keys = sum(served.attention_macs(1, size.served_shape[1] + step) for step in (1, 2))
    assert sum(q.macs_full for q in word) == 2 * each + keys
    assert {q.m for q in word if q.name.endswith(".past.qk")} == {served.heads // served.kv}
