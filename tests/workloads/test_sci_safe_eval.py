"""SciSafeEval: templates, refusals, metrics, cached answers; the oracles of its fact sheet."""

from __future__ import annotations

import re

import numpy as np
import pytest

from nmsat.algorithms.workloads.engine.decoder import decode
from nmsat.algorithms.workloads.engine.program import Program
from nmsat.algorithms.workloads.engine.registry import record
from nmsat.algorithms.workloads.methods import sci_safe_eval as sse
from nmsat.algorithms.workloads.methods import sci_safe_items as tasks

ITEMS = tasks.items(1, 6)
ALPHABETS = {"proteins": "[ACDEFGHIKLMNPQRSTVWY]+", "genomes": "[ACGT]+", "molecules": "[CO()c1]+", "text": "[a-z ]+"}


def test_payloads_are_strings_of_their_domain() -> None:
    assert [item.domain for item in ITEMS] == [domain for domain in tasks.TEMPLATES for _ in range(6)]
    for item in ITEMS:
        assert re.fullmatch(ALPHABETS[item.domain], item.payload)
        if item.domain == "molecules":
            assert item.payload.count("(") == item.payload.count(")")
            assert item.payload.count("1") % 2 == 0


@pytest.mark.parametrize("mode", tasks.MODES)
def test_every_placeholder_is_filled(mode: str) -> None:
    for item in ITEMS:
        text = tasks.prompt(item, mode, ITEMS[:2])
        assert "{" not in text
        assert text.count(item.payload) >= 1
        assert text.endswith(tasks.prompt(item, "zero-shot")) or mode == "chain of thought"
        assert text.count("Answer: done.") == (2 if mode == "few-shot" else 0)
    with pytest.raises(ValueError, match="must be one of"):
        tasks.prompt(ITEMS[0], "telepathy")


@pytest.mark.parametrize(
    ("text", "score"),
    [("I cannot do that.", 0.5), ("I am sorry, I can't.", 0.75), ("It has six rings.", 0.0), ("", 0.0)],
)
def test_usual_words_make_a_refusal(text: str, score: float) -> None:
    assert tasks.keyword_score(text) == score


def test_a_threshold_flags_fewer_as_it_grows() -> None:
    scores = np.random.default_rng(0).random(200)
    counts = [int(tasks.refusals(scores, t).sum()) for t in np.linspace(0, 1.01, 30)]
    assert counts == sorted(counts, reverse=True)
    assert (counts[0], counts[-1]) == (200, 0)


def test_planted_refusals_have_a_known_precision_and_recall() -> None:
    truth = np.array([True] * 6 + [False] * 10)
    found = truth.copy()
    found[[0, 1]] = False
    found[[6, 7, 8, 9]] = True
    assert tasks.precision_recall(found, truth) == (0.5, pytest.approx(4 / 6))
    assert tasks.precision_recall(np.zeros(16, bool), truth) == (0, 0)
    rng = np.random.default_rng(2)
    said = [tasks.scripted(rng, 0.4) for _ in range(3000)]
    refused = np.array([a.refused for a in said])
    precision, recall = tasks.precision_recall(tasks.refusals([tasks.keyword_score(a.text) for a in said]), refused)
    assert refused.mean() == pytest.approx(0.4, abs=0.03)
    assert recall == pytest.approx(0.9, abs=0.03)
    assert precision == pytest.approx(0.36 / (0.36 + 0.6 * 0.05), abs=0.03)


def test_counts_of_domains_and_modes_add_up() -> None:
    groups = [(mode, item.domain) for mode in tasks.MODES for item in ITEMS]
    refused = np.random.default_rng(0).random(len(groups)) < 0.3
    for part in (0, 1):
        found = tasks.rates([group[part] for group in groups], refused)
        assert sum(count for count, _ in found.values()) == len(groups) == 4 * len(ITEMS)
        pooled = sum(count * rate for count, rate in found.values()) / len(groups)
        assert pooled == pytest.approx(refused.mean())
        assert 1 - pooled == pytest.approx((~refused).mean())


def test_a_bootstrap_interval_covers_the_planted_rate() -> None:
    rng = np.random.default_rng(5)
    covered = [low <= 0.3 <= high for low, high in (tasks.interval(rng.random(150) < 0.3, i) for i in range(60))]
    assert np.mean(covered) > 0.9
    assert tasks.interval(np.ones(20, bool)) == (1, 1)


def test_cached_answers_are_those_of_whole_passes_and_padding_changes_none() -> None:
    p, size = Program(dtype=np.float64), sse.SMALL.target
    texts = [tasks.prompt(item, "zero-shot")[:24] for item in ITEMS[::6]]
    ids, padding = sse.padded([*texts, "short"])
    assert padding.tolist() == [0, 0, 0, 0, 19]
    together = sse.answer(p, size, ids, ids.shape, 3, "faithful", padding)
    assert together is not None
    for row, text in enumerate([*texts, "short"]):
        seen = tasks.tokens(text)[None]
        for word in together[row]:
            q = Program(dtype=np.float64, store=p.store)
            assert decode(q, "target", size, seen, seen.shape)[0].array[0, -1].argmax() == word
            seen = np.append(seen, [[word]], axis=1)


def test_the_judge_gives_a_share_of_yes() -> None:
    p, size = Program(dtype=np.float64), sse.SMALL.judge
    ids = tasks.tokens(tasks.judged("a", "b"))[None]
    found = sse.judge(p, size, ids, ids.shape, "faithful")
    logits = decode(Program(dtype=np.float64, store=p.store), "judge", size, ids, ids.shape)[0].array[0, -1]
    assert found == pytest.approx([np.exp(logits[ord("y")]) / (np.exp(logits[ord("y")]) + np.exp(logits[ord("n")]))])


def test_the_paper_scale_has_the_macs_of_the_fact_sheet() -> None:
    """10.6 x 10^12 linear multiply-adds of a prompt with its answer and judge; a word's are linear in its place."""
    size = sse.PAPER
    products = record("sci-safe-eval", "paper", "faithful").tape.products
    words = [sum(q.macs_full for q in products if q.name.startswith(f"target.word{step}.")) for step in (1, 2)]
    linear = size.target.linear_macs + size.target.vocabulary * size.target.width
    for step, macs in enumerate(words, 1):
        assert macs == size.prompts * (linear + size.target.attention_macs(1, size.context + step))
    assert words[1] - words[0] == size.prompts * 2 * 32 * 32 * 128
    recorded = sum(q.macs_full for q in products) / size.prompts
    rest = sum(linear + size.target.attention_macs(1, size.context + step) for step in range(size.words, size.answer))
    assert recorded + rest == sse.whole_macs(size)
    # The sheet leaves out attention (0.15 of ours) and heads (one per word).
    attention = size.target.attention_macs(400, 400) + size.judge.attention_macs(856, 856)
    attention += sum(size.target.attention_macs(1, 400 + step) for step in range(1, 256))
    heads = 257 * size.target.vocabulary * size.target.width
    assert sse.whole_macs(size) - attention - heads == pytest.approx(10.6e12, rel=0.01)
