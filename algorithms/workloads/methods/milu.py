"""MILU: multiple choice in eleven languages, answered by the log-likelihood of each option.

Source: S. Verma et al., "MILU: A Multi-task Indic Language Understanding Benchmark", NAACL 2025, arXiv 2411.02538, and
the code of its authors, a fork of lm-evaluation-harness. A benchmark: nothing in it is sparse.
Known: the protocol from that code; the shape of Llama-3.1-8B from memory, checked by the sum of its weights.

    context       "Question: ...", "Choices:", "A. ..." to "D. ...", "Answer:"; solved questions before (0, 1, 5 shots)
    score(option) = sum over its tokens of log p(token | context, tokens before)     a blank and the option's text
    answer        = the option of the largest score, not divided by its length

Faithful: that protocol, and the accuracy per language, averaged by numbers of questions. Their code runs the context
once per option; here it runs once (`shared_scores`) and each option is read behind its keys and values, which gives
the same scores for about a quarter of the work (`separate_scores` is theirs).
On SAT: all products, dense; only rows that are scored reach the head. Attention is dense, its causal part by mask.
Assumed: Llama-3.1-8B, 8 questions at once, 700 tokens of context and 8 of an option; both depend on the tokenizer.
Ours (`nm`): all matrices but the head 2:4 along k.
Study: the protocol against known answers: a look-up table that must be right in all languages, a model without
knowledge that must take the shortest option, an untrained network that must be at chance, a shared context against
separate passes. Then networks that were trained on 88 questions: they must know nine tenths of them, and 2:4 of the
largest weights (`nm`) must keep more of their answers than 2:4 at random places, with each of three seeds. Questions
are generated (`milu_items`), those of the benchmark are not part of this project.
Found here: all of that: yes. The networks know 98 to 100 % of their questions; of their answers 2:4 of the largest
weights keeps 70 to 81 %, 2:4 at random places 38 to 53 %.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from nmsat.algorithms.core.tape import Pattern
from nmsat.algorithms.workloads.engine import ops
from nmsat.algorithms.workloads.engine.decoder import DecoderSize, decode
from nmsat.algorithms.workloads.engine.ops import given
from nmsat.algorithms.workloads.engine.program import Program
from nmsat.algorithms.workloads.engine.registry import Document, Study, Variant, Workload, register
from nmsat.algorithms.workloads.engine.training import adam, clear
from nmsat.algorithms.workloads.methods import milu_items

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from nmsat.algorithms.workloads.engine.parameters import Parameter
    from nmsat.algorithms.workloads.engine.program import Tensor

PATTERN: Final = Pattern(2, 4)
OPTIONS: Final = 4


@dataclass(frozen=True, kw_only=True)
class Size:
    """Questions that are answered at once. context, option: tokens of a question and of each of its options."""

    questions: int
    context: int
    option: int
    model: DecoderSize


def run(p: Program, size: Size, variant: Variant) -> None:
    """Record the scores of a batch of questions of one length: contexts once, then the options behind them."""
    rng = np.random.default_rng(0)
    shape = (size.questions, size.context)
    context = rng.integers(0, size.model.vocabulary, shape) if p.values else None
    options = rng.integers(0, size.model.vocabulary, (*shape[:1], OPTIONS, size.option)) if p.values else None
    shared_scores(p, size, context, options, variant)


def shared_scores(
    p: Program, size: Size, context: NDArray[np.integer] | None, options: NDArray[np.integer] | None, variant: Variant
) -> Tensor:
    """Return log-likelihoods [questions, 4, option] of the tokens of the options; below 0 in `options`: no token.

    context: int[questions, context]; options: int[questions, 4, option], padded at the end.
    """
    count, length, pattern = size.questions, size.option, PATTERN if variant == "nm" else None
    first, cache = decode(p, "lm", size.model, context, (count, size.context), pattern=pattern)
    opening = log_likelihood(first, None if options is None else options[:, None, :, 0], OPTIONS)
    if length == 1:
        return opening
    flat = None if options is None else options.reshape(-1, length)
    rest, _ = decode(
        p,
        "lm",
        size.model,
        None if flat is None else np.maximum(flat[:, :-1], 0),
        (count * OPTIONS, length - 1),
        cache,
        logits=length - 1,
        pattern=pattern,
        label="lm.options",
        keep=False,
    )
    later = log_likelihood(rest, None if flat is None else flat[:, 1:, None], 1)
    return p.apply(
        "Concat",
        (opening, later),
        (count, OPTIONS, length),
        lambda a, b: np.concatenate([a.reshape(count, OPTIONS, 1), b.reshape(count, OPTIONS, length - 1)], axis=2),
    )


def log_likelihood(logits: Tensor, wanted: NDArray[np.integer] | None, count: int) -> Tensor:
    """Return log p of `count` tokens of each row of logits[B, rows, vocabulary]; 0 for those below 0."""

    def forward(v: NDArray) -> NDArray:
        ids = given(wanted)
        top = v.max(axis=-1, keepdims=True)
        total = np.log(np.exp(v - top).sum(axis=-1, keepdims=True)) + top
        return np.where(ids < 0, 0, np.take_along_axis(v, np.maximum(ids, 0), -1) - total).astype(v.dtype)

    return logits.program.apply("SoftmaxCrossEntropyLoss", (logits,), (*logits.shape[:-1], count), forward)


def separate_scores(
    p: Program, model: DecoderSize, context: NDArray[np.integer], option: NDArray[np.integer], variant: Variant
) -> Tensor:
    """Return log-likelihoods [1, option, 1] of one option by one pass over context and option, as the harness does."""
    ids, length = np.concatenate([context, option[:-1]]), len(option)
    pattern = PATTERN if variant == "nm" else None
    logits, _ = decode(p, "lm", model, ids[None], (1, len(ids)), logits=length, pattern=pattern)
    return log_likelihood(logits, option[None, :, None], 1)


def option_scores(
    model: DecoderSize,
    store: dict[str, Parameter],
    context: NDArray[np.int64],
    options: Sequence[NDArray[np.int64]],
    variant: Variant,
) -> NDArray:
    """Return the scores of the four options of one question with one shared context."""
    longest = max(len(option) for option in options)
    padded = np.full((1, OPTIONS, longest), -1)
    for row, option in enumerate(options):
        padded[0, row, : len(option)] = option
    size = Size(questions=1, context=len(context), option=longest, model=model)
    p = Program(store=store)
    return shared_scores(p, size, context[None], padded, variant).array[0].sum(axis=1)


def learnt(seed: int, questions: Sequence[milu_items.Item]) -> dict[str, Parameter]:
    """Return a small decoder that was trained to write the right option behind the context of each question.

    A batch has sequences of one length, so that nothing is padded.
    """
    alike: dict[tuple[int, int], list[NDArray[np.int64]]] = {}
    for item in questions:
        answer = milu_items.continuations(item)[item.answer]
        whole = np.concatenate([milu_items.tokens(milu_items.prompt(item)), answer])
        alike.setdefault((len(whole), len(answer)), []).append(whole)
    kinds, shares = list(alike), np.array([len(found) for found in alike.values()]) / len(questions)
    store: dict[str, Parameter] = {}
    rng = np.random.default_rng(seed)
    for step in range(1, STEPS + 1):
        length, answered = kind = kinds[rng.choice(len(kinds), p=shares)]
        rows = np.stack(alike[kind])[rng.integers(0, len(alike[kind]), BATCH)]
        p = Program(store=store, rng=np.random.default_rng(seed))
        logits, _ = decode(p, "lm", SMALL.model, rows[:, :-1], (BATCH, length - 1), logits=answered, learns=True)
        p.backward(ops.cross_entropy(logits, rows[:, -answered:]))
        adam(store.values(), 7e-3 * (1 - (step - 1) / STEPS), step)
        clear(store.values())
    return store


def pruned(store: dict[str, Parameter], rng: np.random.Generator | None = None) -> dict[str, Parameter]:
    """Return a copy whose layers are 2:4 along k: the two largest of each four stay, or with `rng` two at random."""
    found = {name: replace(w, state={}, grad=None) for name, w in store.items()}
    for w in found.values():
        if len(w.shape) == 2 and w.name.startswith("lm.l"):
            w.ff = PATTERN
            if rng is not None:
                order = rng.random((w.shape[0] // PATTERN.m, PATTERN.m, w.shape[1])).argsort(axis=1).argsort(axis=1)
                w.value = np.where((order < PATTERN.n).reshape(w.shape), w.array, 0)
    return found


def chosen(questions: Sequence[milu_items.Item], store: dict[str, Parameter], variant: Variant) -> NDArray[np.int64]:
    """Return the options that a network takes."""
    return milu_items.answers(questions, lambda c, o: list(option_scores(SMALL.model, store, c, o, variant)))


def study(variant: Variant) -> Study:
    """Answer generated questions of all languages by models whose answers are known, and by networks.

    A network that was trained on its questions knows them; 2:4 of its largest weights (`nm`) must keep more of its
    answers than 2:4 at random places, with each of three seeds.
    """
    questions = [item for name in milu_items.LANGUAGES for item in milu_items.items(0, name, 8)]
    equal = [item for name in milu_items.LANGUAGES for item in milu_items.items(1, name, 8, equal=True)]
    right = {milu_items.prompt(item): milu_items.continuations(item)[item.answer].tolist() for item in questions}
    knows = {tuple(milu_items.tokens(text).tolist()): answer for text, answer in right.items()}

    def planted(context: NDArray[np.int64], options: list[NDArray[np.int64]]) -> list[float]:
        """A look-up table: each right token has probability 0.9, all others share the rest."""
        answer = knows[tuple(context.tolist())]
        return [
            sum(np.log(0.9 if t < len(answer) and token == answer[t] else 0.1 / 255) for t, token in enumerate(option))
            for option in options
        ]

    def uniform(_context: NDArray[np.int64], options: list[NDArray[np.int64]]) -> list[float]:
        return [-len(option) * float(np.log(256)) for option in options]

    store: dict[str, Parameter] = {}
    run(Program(store=store), SMALL, "faithful")
    untrained = chosen(equal, store, "faithful")
    shared, separate = [], []
    for item in questions[::8]:
        context, options = milu_items.tokens(milu_items.prompt(item)), milu_items.continuations(item)
        shared += list(option_scores(SMALL.model, store, context, options, "faithful"))
        passes = (
            separate_scores(Program(store=store), SMALL.model, context, option, "faithful") for option in options
        )
        separate += [float(scored.array.sum()) for scored in passes]
    table = milu_items.accuracies(questions, milu_items.answers(questions, planted))
    blind = milu_items.answers(questions, uniform)
    shortest = [int(np.argmin([len(o) for o in milu_items.continuations(item)])) for item in questions]
    found = milu_items.accuracies(equal, untrained)
    truth = np.array([item.answer for item in equal])
    pooled = float(np.mean(truth == untrained))
    measured: dict[str, float | int | str] = {
        "questions": len(questions) + len(equal),
        "accuracy_planted_lowest": min(table.values()),
        "uniform_takes_the_shortest": float(np.mean(blind == shortest)),
        "shared_from_separate": float(np.abs(np.array(shared) - np.array(separate)).max()),
        "accuracy_untrained": pooled,
        "weighted_from_pooled": abs(milu_items.weighted(found, dict.fromkeys(found, 8)) - pooled),
    }
    knowing = keeping = True
    for seed in range(SEEDS):
        store = learnt(seed, equal)
        dense = chosen(equal, store, "faithful")
        measured[f"accuracy_learnt_seed{seed}"] = float(np.mean(dense == truth))
        knowing &= np.mean(dense == truth) > KNOWN
        if variant == "nm":
            random = pruned(store, np.random.default_rng(50 + seed))
            store = pruned(store)
            agreed = [float(np.mean(chosen(equal, one, "nm") == dense)) for one in (store, random)]
            measured[f"agreement_largest_seed{seed}"], measured[f"agreement_random_seed{seed}"] = agreed
            keeping &= agreed[0] > agreed[1]
    chance = 3 * (0.1875 / len(equal)) ** 0.5
    holds = (
        measured["accuracy_planted_lowest"] == measured["uniform_takes_the_shortest"] == 1
        and float(measured["shared_from_separate"]) < 1e-3
        and abs(pooled - 0.25) < chance
        and float(measured["weighted_from_pooled"]) < 1e-9
        and bool(knowing)
        and bool(keeping)
    )
    claim = "known answers: a planted table is right in all languages, no knowledge takes the shortest option"
    more = "; 2:4 of the largest weights keeps more answers than 2:4 at random places" if variant == "nm" else ""
    return Study(f"{claim}, a shared context scores as separate passes do{more}", holds, measured, store)


SEEDS: Final = 3
STEPS: Final = 260
BATCH: Final = 8
KNOWN: Final = 0.9
"""Share of its questions that a trained network must answer."""

SMALL: Final = Size(
    questions=2,
    context=24,
    option=4,
    model=DecoderSize(layers=2, width=32, heads=4, kv=2, head=8, hidden=64, vocabulary=256),
)
LLAMA_8B: Final = DecoderSize(layers=32, width=4096, heads=32, kv=8, head=128, hidden=14336, vocabulary=128256)

register(
    Workload(
        name="milu",
        title="MILU",
        source="Verma et al., NAACL 2025, arXiv 2411.02538",
        sparse="nothing",
        variants={
            "faithful": "dense baseline: contexts once, then four options behind each",
            "nm": "ours: all matrices but the head 2:4 along k",
        },
        quoted="GPT-4o best, 74 % on average; models for Indic languages near chance",
        sizes={"small": SMALL, "paper": Size(questions=8, context=700, option=8, model=LLAMA_8B)},
        run=run,
        study=study,
        about=__doc__,
        document=Document(
            kind="benchmark",
            protocol="four options of a question scored by log-likelihood behind a shared context; 0, 1 or 5 shots",
            models="Llama-3.1-8B; shapes of nine in `engine.zoo`",
            metrics="accuracy per language of eleven, and weighted by their numbers of questions",
        ),
    )
)
