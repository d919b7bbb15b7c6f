"""MILU: prompts, scores, known answers, accuracies; the oracles of its fact sheet."""

from __future__ import annotations

import unicodedata

import numpy as np
import pytest

from nmsat.algorithms.workloads.engine.program import Program
from nmsat.algorithms.workloads.engine.registry import VARIANTS, Variant, record, workload
from nmsat.algorithms.workloads.engine.zoo import LANGUAGE_MODELS
from nmsat.algorithms.workloads.methods import milu, milu_items

MODEL = milu.SMALL.model
ITEMS = milu_items.items(0, "English", 30) + milu_items.items(0, "Tamil", 10)


def test_a_prompt_is_that_of_the_benchmark() -> None:
    item = milu_items.Item("English", "1 + 1", ("1", "2", "3", "11"), 1)
    alone = "Question: 1 + 1\nChoices:\nA. 1\nB. 2\nC. 3\nD. 11\nAnswer:"
    assert milu_items.prompt(item) == alone
    assert milu_items.prompt(item, [item]) == f"{alone} 2\n\n{alone}"
    assert [bytes(c.tolist()).decode() for c in milu_items.continuations(item)] == [" 1", " 2", " 3", " 11"]


def test_languages_differ_in_tokens_only() -> None:
    for language in milu_items.LANGUAGES:
        for item in milu_items.items(3, language, 5):
            left, right = (int("".join(str(unicodedata.digit(c)) for c in word)) for word in item.question.split(" + "))
            values = [int("".join(str(unicodedata.digit(c)) for c in option)) for option in item.options]
            assert values[item.answer] == left + right
            assert len(set(values)) == 4
            assert len(milu_items.tokens(item.options[0])) == len(item.options[0]) * (1 if language == "English" else 3)
    assert sum(count for _, count in milu_items.LANGUAGES.values()) == 79617


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_shared_context_scores_as_four_passes(variant: Variant) -> None:
    rng = np.random.default_rng(1)
    context, options = rng.integers(0, 256, (2, 24)), rng.integers(0, 256, (2, 4, 4))
    p = Program(dtype=np.float64)
    found = milu.shared_scores(p, milu.SMALL, context, options, variant).array
    for row in range(2):
        for option in range(4):
            alone = milu.separate_scores(
                Program(dtype=np.float64, store=p.store), MODEL, context[row], options[row, option], variant
            )
            assert np.allclose(found[row, option], alone.array[0, :, 0], atol=1e-10)
            assert found[row, option].sum() == pytest.approx(np.log(np.prod(np.exp(alone.array))))


def test_an_option_that_is_shorter_ends_earlier() -> None:
    store = {}
    context = milu_items.tokens(milu_items.prompt(ITEMS[0]))
    options = [milu_items.tokens(text) for text in (" 5", " 51", " 519", " 7")]
    milu.run(Program(store=store, dtype=np.float64), milu.SMALL, "faithful")
    together = milu.option_scores(MODEL, store, context, options, "faithful")
    alone = [
        milu.separate_scores(Program(store=store), MODEL, context, option, "faithful").array.sum() for option in options
    ]
    assert np.allclose(together, alone, atol=1e-4)


def test_text_and_letters_give_different_answers() -> None:
    """A model that likes the letter B and the text of option A."""
    item = milu_items.Item("English", "?", ("7", "9", "8", "6"), 0)

    def score(_: object, continuations: list[np.ndarray]) -> list[float]:
        liked = {" 7": 0.4, " 9": 0.1, " B": 0.4, " A": 0.1}
        return [float(np.log(liked.get(bytes(c.tolist()).decode(), 0.01))) for c in continuations]

    by_text = milu_items.answers([item], score)
    by_letter = int(np.argmax(score(None, [milu_items.tokens(f" {letter}") for letter in milu_items.LETTERS])))
    assert (by_text.tolist(), by_letter) == ([0], 1)


def test_no_knowledge_takes_the_shortest_option_and_equal_lengths_are_chance() -> None:
    chosen = milu_items.answers(ITEMS, lambda _, options: [-len(o) * np.log(256) for o in options])
    assert chosen.tolist() == [int(np.argmin([len(o) for o in item.options])) for item in ITEMS]
    rng = np.random.default_rng(0)
    many = milu_items.items(5, "English", 1500)
    blind = milu_items.answers(many, lambda _, options: rng.random(len(options)).tolist())
    assert milu_items.accuracies(many, blind)["English"] == pytest.approx(0.25, abs=1.96 * (0.1875 / 1500) ** 0.5)


def test_the_weighted_mean_is_the_pooled_accuracy() -> None:
    chosen = np.array([item.answer if i % 3 else 3 - item.answer for i, item in enumerate(ITEMS)])
    by_language = milu_items.accuracies(ITEMS, chosen)
    pooled = np.mean([item.answer == c for item, c in zip(ITEMS, chosen, strict=True)])
    assert milu_items.weighted(by_language, {"English": 30, "Tamil": 10}) == pytest.approx(pooled)
    assert by_language["English"] != pytest.approx(pooled)


def test_the_paper_scale_has_the_macs_of_the_fact_sheet() -> None:
    """Llama-3.1-8B: 0.39 x 10^18 for all questions at 700 tokens and a shared context, 1.58 with four passes."""
    size = workload("milu").sizes["paper"]
    products = record("milu", "paper", "faithful").tape.products
    assert size.model == LANGUAGE_MODELS["Llama-3.1-8B"][0]
    assert size.model.linear_macs == pytest.approx(6.979e9, rel=1e-3)
    first = sum(q.macs_full for q in products if ".options." not in q.name)
    whole = sum(q.macs_full for q in products)
    # The sheet counts pairs up to the diagonal; the options behind the context are not in its figure.
    causal = size.model.attention_macs(700, 700) / 2
    assert (first / size.questions - causal) * 79617 == pytest.approx(0.39e18, rel=0.02)
    tokens = size.context + size.option - 1
    separate = 4 * (tokens * size.model.linear_macs + size.model.attention_macs(tokens, tokens))
    separate += 4 * size.option * size.model.width * size.model.vocabulary
    assert separate * 79617 == pytest.approx(1.62e18, rel=0.02)
    assert whole / size.questions / separate == pytest.approx(0.26, abs=0.01)
