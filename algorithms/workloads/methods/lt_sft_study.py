"""LT-SFT (`algorithms.workloads.methods.lt_sft`) on generated languages that share a grammar.

Every language has words of its own for each tag, and one word a tag that all have. The network reads a word and the
two on either side of it: 5 embeddings, two hidden layers. It is pretrained on hidden words of all languages, of the
targets little; tags are taught in the source language alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from nmsat.algorithms.workloads.engine import ops
from nmsat.algorithms.workloads.engine.program import Program
from nmsat.algorithms.workloads.engine.registry import Study, Variant
from nmsat.algorithms.workloads.engine.training import adam, clear
from nmsat.algorithms.workloads.engine.transformer import dense, embedding
from nmsat.algorithms.workloads.methods.lt_sft_model import LANGUAGE_SHARE, PATTERN, TASK_SHARE
from nmsat.algorithms.workloads.methods.lt_sft_tuning import (
    composed,
    copied,
    largest,
    largest_in_groups,
    sparse_tuning,
    tune,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nmsat.algorithms.workloads.engine.program import Tensor
    from nmsat.algorithms.workloads.methods.lt_sft_tuning import Difference, Select, Step, Store, Tuned

TAGS: Final = 6
WORDS: Final = 4
"""Words of a tag and language that no other language has."""

LANGUAGES: Final = 4
"""The first is the source, the others are targets."""

SEEN: Final = (0.7, 0.1, 0.1, 0.1)
"""Shares of the languages in pretraining."""

COGNATE: Final = 0.5
"""Share of the tokens that are the word of their tag that all languages have."""

WINDOW: Final = 5
VOCABULARY: Final = 1 + TAGS + TAGS * WORDS * LANGUAGES
WIDTHS: Final = (16, 48, 32)
"""Of an embedding and of the hidden layers."""

MATRICES: Final = ("fc1", "fc2")
HEADS: Final = ("words", "words.bias"), ("tags", "tags.bias")
"""Heads for hidden words, whose difference nobody wants, and for tags, which are stored whole."""

BATCH: Final = 128
PRETRAINING: Final = 1200
PHASES: Final = (150, 150)
RATE: Final = 1e-2
PULL: Final = 0.1
SEEDS: Final = 3


@dataclass(frozen=True, eq=False)
class Grammar:
    """Tags follow each other in every language as `follow` [tag, next] says."""

    follow: NDArray[np.float64]

    def phrases(
        self, language: int | NDArray[np.int64], count: int, rng: np.random.Generator
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return words [count, WINDOW] and the tags of those in the middle; language: one, or one for each phrase.

        Word 0 hides others; 1 .. TAGS are those of all languages; then TAGS * WORDS of each language.
        """
        found = np.empty((count, WINDOW), np.int64)
        found[:, 0] = rng.choice(TAGS, count, p=np.linalg.matrix_power(self.follow, 64)[0])
        ends = self.follow.cumsum(axis=1)
        for place in range(1, WINDOW):
            before = ends[found[:, place - 1]]
            found[:, place] = (rng.random((count, 1)) * before[:, -1:] > before).sum(axis=1)
        first = 1 + TAGS + TAGS * WORDS * np.broadcast_to(np.asarray(language), (count,))[:, None]
        own = first + found * WORDS + rng.integers(0, WORDS, found.shape)
        return np.where(rng.random(found.shape) < COGNATE, 1 + found, own), found[:, WINDOW // 2]


def grammar(seed: int) -> Grammar:
    """Draw a grammar: some tags follow a tag often, others hardly ever."""
    return Grammar(np.random.default_rng(400 + seed).dirichlet(np.full(TAGS, 0.3), TAGS))


def network(p: Program, words: NDArray[np.int64], head: str, outputs: int) -> Tensor:
    """Return the logits [count, outputs] of words[count, WINDOW]."""
    count = len(words)
    x = embedding(p, "table", words.reshape(-1), (VOCABULARY, WIDTHS[0]), count * WINDOW)
    x = ops.relu(dense(p, "fc1", ops.reshape(x, (count, WINDOW * WIDTHS[0])), WIDTHS[1], gain=2.0))
    return dense(p, head, ops.relu(dense(p, "fc2", x, WIDTHS[2], gain=2.0)), outputs)


def pretrained(rules: Grammar, seed: int) -> Store:
    """Return a network that has guessed hidden words of all languages; their head freezes then."""
    store: Store = {}
    rng = np.random.default_rng((seed, 200))
    words, _ = rules.phrases(rng.choice(LANGUAGES, PRETRAINING * BATCH, p=SEEN), PRETRAINING * BATCH, rng)
    shown = hidden(words, rng)
    for step in range(1, PRETRAINING + 1):
        _guess(store, _batch(shown, step), _batch(words, step), seed)
        adam(store.values(), RATE * (1 - (step - 1) / PRETRAINING), step)
        clear(store.values())
    network(Program(store=store, rng=np.random.default_rng(seed)), np.zeros((1, WINDOW), np.int64), "tags", TAGS)
    for name in HEADS[0]:
        store[name].frozen = True
    return store


def tuned_language(store: Store, rules: Grammar, language: int, seed: int, select: Select) -> Tuned:
    """Return the difference of a language."""
    start = copied(store)
    for name in HEADS[1]:
        start[name].frozen = True
    rng = np.random.default_rng((seed, language))
    words, _ = rules.phrases(language, max(PHASES) * BATCH, rng)
    shown = hidden(words, rng)

    def step(now: Store, index: int) -> None:
        _guess(now, _batch(shown, index), _batch(words, index), seed)

    return sparse_tuning(start, step, PHASES, RATE, select, pull=PULL)


def tuned_task(store: Store, rules: Grammar, seed: int, select: Select) -> Tuned:
    """Return the difference and the head of tagging the source language."""
    return sparse_tuning(store, _tagging(rules, seed), PHASES, RATE, select, free=HEADS[1])


def tuned_head(store: Store, rules: Grammar, seed: int) -> Difference:
    """Return a head that learnt to tag the source language on a network that stays as it is."""
    start = copied(store)
    for name, w in start.items():
        w.frozen |= name not in HEADS[1]
    now = tune(start, _tagging(rules, seed), PHASES[1], RATE)
    return {name: now[name].array for name in HEADS[1]}


def accuracy(store: Store, rules: Grammar, language: int) -> float:
    """Return the share of right tags of the words that no other language has."""
    words, wanted = rules.phrases(language, 4096, np.random.default_rng(90_000))
    found = network(Program(store=store), words, "tags", TAGS).array.argmax(axis=1)
    return float((found == wanted)[words[:, WINDOW // 2] > TAGS].mean())


def hidden_loss(store: Store, rules: Grammar, language: int) -> float:
    """Return the cross entropy of hidden words of a language, in nats."""
    words, _ = rules.phrases(language, 4096, np.random.default_rng(91_000))
    shown = words.copy()
    shown[:, WINDOW // 2] = 0
    logits = network(Program(store=store), shown, "words", VOCABULARY)
    return float(ops.cross_entropy(logits, words[:, WINDOW // 2]).array)


def selection(variant: Variant, share: float) -> Select:
    """Return what selects: the share of all that moved most, or the largest of each group along k."""
    if variant == "nm":
        return lambda moved: largest_in_groups(moved, PATTERN, MATRICES)
    return lambda moved: largest(moved, round(share * sum(v.size for v in moved.values())))


def one_seed(seed: int, variant: Variant) -> dict[str, float]:
    """Return means over the target languages."""
    rules, of_task = grammar(seed), selection(variant, TASK_SHARE)
    base = pretrained(rules, seed)
    languages = [tuned_language(base, rules, i, seed, selection(variant, LANGUAGE_SHARE)) for i in range(LANGUAGES)]
    source = composed(base, [languages[0].sparse])
    task, alone = (tuned_task(start, rules, seed, of_task) for start in (source, base))
    # Full differences of as many steps: the masks keep everything.
    full = tuned_task(composed(base, [languages[0].full]), rules, seed, of_task)
    head, rows = tuned_head(source, rules, seed), []
    for target in range(1, LANGUAGES):
        sparse, whole = languages[target].sparse, languages[target].full
        networks = {
            "composed": composed(base, [sparse, task.sparse], task.heads),
            "task_alone": composed(base, [alone.sparse], alone.heads),
            "language_alone": composed(base, [sparse], head),
            "composed_full": composed(base, [whole, full.full], full.full_heads),
            "language_full": composed(base, [whole]),
            "base": base,
        }
        loss = {name: hidden_loss(store, rules, target) for name, store in networks.items()}
        row = {f"accuracy_{name}": accuracy(store, rules, target) for name, store in list(networks.items())[:4]}
        row |= {f"loss_{name}": loss[name] for name in ("base", "language_alone", "language_full")}
        row["interference_sparse"] = loss["composed"] - loss["language_alone"]
        row["interference_full"] = loss["composed_full"] - loss["language_full"]
        rows.append(row)
    means = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
    means["accuracy_source"] = accuracy(composed(source, [task.sparse], task.heads), rules, 0)
    return means


def study(variant: Variant) -> Study:
    """Tags of languages without labels, by differences composed, each alone, and full ones; three seeds."""
    found = [one_seed(seed, variant) for seed in range(SEEDS)]
    measured: dict[str, float | int | str] = {}
    for name in found[0]:
        values = [f[name] for f in found]
        measured[name] = float(np.mean(values))
        if name.startswith(("accuracy", "interference")):
            measured[f"{name}_seeds"] = ", ".join(f"{value:.3f}" for value in values)
    measured |= {"seeds": SEEDS, "targets": LANGUAGES - 1}
    holds = all(
        f["accuracy_composed"] > max(f["accuracy_task_alone"], f["accuracy_language_alone"])
        and f["interference_sparse"] < f["interference_full"]
        for f in found
    )
    claim = (
        "task and language composed tag unlabelled languages better than each alone; full differences interfere more"
    )
    return Study(claim, holds, measured)


def hidden(words: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Return phrases whose middle words are hidden (8 of 10), another word (1) or as they are (1)."""
    shown, how, middle = words.copy(), rng.random(len(words)), WINDOW // 2
    shown[:, middle] = np.where(how < 0.8, 0, words[:, middle])
    shown[:, middle] = np.where(how > 0.9, rng.integers(1, VOCABULARY, len(words)), shown[:, middle])
    return shown


def _guess(store: Store, shown: NDArray[np.int64], words: NDArray[np.int64], seed: int) -> None:
    p = Program(store=store, rng=np.random.default_rng(seed))
    p.backward(ops.cross_entropy(network(p, shown, "words", VOCABULARY), words[:, WINDOW // 2]))


def _tagging(rules: Grammar, seed: int) -> Step:
    words, wanted = rules.phrases(0, max(PHASES) * BATCH, np.random.default_rng((seed, 100)))

    def step(now: Store, index: int) -> None:
        p = Program(store=now)
        p.backward(ops.cross_entropy(network(p, _batch(words, index), "tags", TAGS), _batch(wanted, index)))

    return step


def _batch(data: NDArray[np.int64], index: int) -> NDArray[np.int64]:
    """Return the batch of a step, counted from 1."""
    return data[(index - 1) * BATCH : index * BATCH]
