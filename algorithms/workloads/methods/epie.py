"""EPIE: sentences whose possible idioms are tagged; a step of the two taggers that it asks for.

Source: P. Saxena and S. Paul, "EPIE Dataset: A Corpus For Possible Idiomatic Expressions", TSD 2020, arXiv 2006.09479.
A data set: nothing in it is sparse but its labels.
Known: facts of the corpus (25,027 sentences, 728,224 words, mean 29) were counted in its files; the paper says 25,206.
Not verified: the architecture of the paper's tagger and its scores. From memory: h = 256, batches of 32, Adam.

    BiLSTM-CRF    word vectors of 300 -> LSTM of h per direction -> 2 h to 3 -> log Z - score(gold) (`epie_crf`)
    transformer   BERT-base, width to 3 per word, cross entropy

Metrics: precision, recall and F1 of exact spans, accuracy of words, and the same on types of idioms never seen.
Faithful: the dense baseline, a training step of each, its recurrent products one after the other, the weight gradient
of a recurrence as one product.
On SAT: all products, dense; those of the recurrence have a row per sentence and wait for each other. The forward and
backward sums of the CRF (tables of 3 x 3), gates and look-ups are the host's.
Assumed: frozen word vectors, sentences of one length (29), no dropout.
Ours (`nm`): all matrices but the last of each tagger 2:4 along k, and along n in the input gradient.
Study: both taggers on half of the types of a lexicon, against a dictionary of those types and 'no word is an idiom', on
500 sentences of known types and 500 of unseen ones; one seed. Sentences are generated (`epie_text`); the corpus is not
part of this project. What must come out: 'nothing' is right for most words and has F1 0, the dictionary has F1 0 on
other types, taggers learn known types (F1 above 0.5) and lose more than half of that on others.
Found here: all of that: yes. How taggers fare against the dictionary on known types is measured and not claimed: the
BiLSTM is about as good, the transformer worse.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from nmsat.algorithms.core.tape import Pattern
from nmsat.algorithms.workloads.engine import ops
from nmsat.algorithms.workloads.engine.encoder import EncoderSize, embedded, encoder
from nmsat.algorithms.workloads.engine.program import Program
from nmsat.algorithms.workloads.engine.recurrent import lstm
from nmsat.algorithms.workloads.engine.registry import Document, Study, Variant, Workload, register
from nmsat.algorithms.workloads.engine.training import LOSS_SCALE, adam, clear
from nmsat.algorithms.workloads.engine.transformer import dense, embedding
from nmsat.algorithms.workloads.methods import epie_text
from nmsat.algorithms.workloads.methods.epie_crf import FORBIDDEN, crf_loss, viterbi

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nmsat.algorithms.workloads.engine.parameters import Parameter
    from nmsat.algorithms.workloads.engine.program import Tensor

PATTERN: Final = Pattern(2, 4)
TAGS: Final = 3


@dataclass(frozen=True, kw_only=True)
class Size:
    """Both taggers. vocabulary, vectors: rows and width of the word vectors; recurrent: h of a direction."""

    batch: int
    tokens: int
    vocabulary: int
    vectors: int
    recurrent: int
    encoder: EncoderSize


def run(p: Program, size: Size, variant: Variant) -> None:
    """Record one training step of both taggers."""
    found = epie_text.sentences(0, size.batch, size.tokens, epie_text.lexicon()) if p.values else None
    words, tags = (None, None) if found is None else (found.words, found.tags)
    recurrent = crf_loss(emissions(p, size, words, variant), _transitions(p), tags)
    p.backward(ops.add(recurrent, ops.cross_entropy(encoded(p, size, words, variant), tags)), LOSS_SCALE)
    learnt = sum(w.size for w in p.store.values() if not w.frozen)
    p.host("update", "Adam", 13 * learnt, 32 * learnt)


def emissions(p: Program, size: Size, words: NDArray[np.integer] | None, variant: Variant) -> Tensor:
    """Return what the BiLSTM says of each word: [batch, tokens, 3]."""
    pattern = PATTERN if variant == "nm" else None
    rows, hidden = size.batch * size.tokens, size.recurrent
    flat = None if words is None else words.reshape(-1)
    x = embedding(p, "vectors", flat, (size.vocabulary, size.vectors), rows, frozen=True)
    x = ops.reshape(x, (size.batch, size.tokens, size.vectors))
    both = []
    for name, reverse in (("forward", False), ("backward", True)):
        gates = dense(p, f"{name}.w", x, 4 * hidden, ff=pattern, bp=pattern)
        u = p.weight(f"{name}.u", (hidden, 4 * hidden), gain=1.0, ff=pattern, bp=pattern)
        both.append(lstm(f"{name}.u", gates, u, reverse=reverse)[0])
    return dense(p, "emission", ops.concat(both, 2), TAGS)


def encoded(p: Program, size: Size, words: NDArray[np.integer] | None, variant: Variant) -> Tensor:
    """Return what the transformer says of each word: [batch, tokens, 3]."""
    h = embedded(p, "bert", size.encoder, words, size.batch, size.tokens)
    return dense(p, "tag", encoder(p, "bert", size.encoder, h, PATTERN if variant == "nm" else None), TAGS)


def tag(size: Size, store: dict[str, Parameter], words: NDArray[np.int64], variant: Variant, model: str) -> NDArray:
    """Return the tags that a trained tagger gives, 'bilstm' (Viterbi) or 'transformer' (largest)."""
    p, size = Program(store=store), replace(size, batch=len(words))
    if model == "transformer":
        return encoded(p, size, words, variant).array.argmax(axis=2)
    return viterbi(emissions(p, size, words, variant).array, _transitions(p).array + FORBIDDEN)


def train(size: Size, variant: Variant, model: str, steps: int, known: list[epie_text.Idiom]) -> dict[str, Parameter]:
    """Train one tagger on sentences with the idioms `known`."""
    store: dict[str, Parameter] = {}
    data = epie_text.sentences(1, 3000, size.tokens, known)
    rng = np.random.default_rng(2)
    for step in range(1, steps + 1):
        pick = rng.integers(0, len(data.words), size.batch)
        words, tags, p = data.words[pick], data.tags[pick], Program(store=store)
        if model == "transformer":
            loss = ops.cross_entropy(encoded(p, size, words, variant), tags)
        else:
            loss = crf_loss(emissions(p, size, words, variant), _transitions(p), tags)
        p.backward(loss)
        adam(store.values(), 1e-2 * min(1.0, 2 * (1 - step / steps)), step)
        clear(store.values())
    return store


def study(variant: Variant) -> Study:
    """Train both taggers on half of the types; score them, a dictionary and 'nothing is an idiom' on both halves."""
    types = epie_text.lexicon()
    known, unseen = types[::2], types[1::2]
    measured: dict[str, float | int | str] = {}
    tests = {
        "seen": epie_text.sentences(8, 500, SMALL.tokens, known),
        "unseen": epie_text.sentences(9, 500, SMALL.tokens, unseen),
    }
    gold = tests["seen"].tags
    measured["accuracy_all_o"] = float(np.mean(gold == 0))
    measured["f1_all_o"] = epie_text.scores(gold, np.zeros_like(gold))[2]
    for kind, data in tests.items():
        measured[f"f1_{kind}_dictionary"] = epie_text.scores(data.tags, epie_text.dictionary(data.words, known))[2]
    store: dict[str, Parameter] = {}
    for model, steps in STEPS.items():
        trained = train(replace(SMALL, batch=32), variant, model, steps, known)
        store |= trained
        for kind, data in tests.items():
            found = epie_text.scores(data.tags, tag(SMALL, trained, data.words, variant, model))
            measured |= {f"{m}_{kind}_{model}": v for m, v in zip(("precision", "recall", "f1"), found, strict=True)}
    of = {key: float(value) for key, value in measured.items()}
    learnt = all(of[f"f1_seen_{model}"] > 0.5 for model in STEPS)
    leak = all(of[f"f1_unseen_{model}"] < of[f"f1_seen_{model}"] / 2 for model in STEPS)
    nothing = of["f1_all_o"] == of["f1_unseen_dictionary"] == 0
    claim = "known answers: 'nothing' is accurate and finds no span; a dictionary finds no unseen idiom, taggers few"
    return Study(claim, learnt and leak and nothing, measured, store)


def _transitions(p: Program) -> Tensor:
    return p.vector("transitions", (TAGS, TAGS))


STEPS: Final = {"bilstm": 200, "transformer": 250}
"""Training steps of the study."""

SMALL: Final = Size(
    batch=8,
    tokens=16,
    vocabulary=epie_text.VOCABULARY,
    vectors=24,
    recurrent=16,
    encoder=EncoderSize(layers=1, width=32, heads=2, hidden=64, vocabulary=epie_text.VOCABULARY, positions=16),
)
BERT_BASE: Final = EncoderSize(layers=12, width=768, heads=12, hidden=3072, vocabulary=30522, positions=512, segments=2)
PAPER: Final = Size(batch=32, tokens=29, vocabulary=35700, vectors=300, recurrent=256, encoder=BERT_BASE)

register(
    Workload(
        name="epie",
        title="EPIE",
        source="Saxena and Paul, TSD 2020, arXiv 2006.09479",
        sparse="nothing; a tenth of the words has a label",
        variants={
            "faithful": "dense baseline: training steps of a BiLSTM-CRF and of BERT-base as taggers",
            "nm": "ours: matrices of both taggers 2:4 along k and along n",
        },
        quoted="25,206 sentences with 717 idioms; scores of its tagger not verified",
        sizes={"small": SMALL, "paper": PAPER},
        run=run,
        study=study,
        about=__doc__,
        document=Document(
            kind="data set",
            protocol="tag each word as outside, begin or inside of an idiom; split by types of idioms, seen and unseen",
            models="BiLSTM-CRF (300, 2 x 256), BERT-base",
            metrics="precision, recall, F1 of exact spans; accuracy of words",
        ),
    )
)
