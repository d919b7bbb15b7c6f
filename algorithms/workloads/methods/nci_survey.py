"""A survey of neural code intelligence: models of code of each generation, trained and asked.

Source: Q. Sun et al., "A Survey of Neural Code Intelligence: Paradigms, Advances and Beyond", arXiv 2403.14734, and its
list of papers. A survey: it orders models in three eras and computes nothing itself.
Known: CodeGen-350M and StarCoder2-3B were read in their configurations, CodeBERT and CodeT5 are from memory and checked
by the sum of their weights (`engine.zoo` has 20 more). What is recorded here:

    neural language modelling   LSTM language model, training step and one word behind a carried state
    pre-trained models          CodeBERT (masked words), CodeT5-base (span denoising): a training step of each
    large language models       CodeGen-350M, training step on documents whose middle was moved to the end (FIM)
                                StarCoder2-3B, a context and two words behind its keys and values

Metric: pass@k on unit tests, here of code that is written with a known share of right programs (`nci_tasks`).
Faithful: the dense baseline of each. Left out: cached decoding of the encoder-decoder, dropout.
On SAT: all products, dense. Attention is dense, its causal part by mask; a decoded word fills one row per sequence.
Assumed: no model stands for the first era: two layers of 1024 and a vocabulary of 10,000; batches. CodeGen turns a part
of each head by its position, here all.
Ours (`nm`): all matrices but tables and heads 2:4 along k, and along n in the input gradient.
Study: each generation before and after training on documents of which two words tell the rest (the loss must halve);
pass@k of 4000 written programs against the share that is right, and against all draws; one seed.
Found here: all of that: yes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING, Final

import numpy as np

from nmsat.algorithms.core.tape import Pattern
from nmsat.algorithms.workloads.engine import ops
from nmsat.algorithms.workloads.engine.decoder import DecoderSize, decode
from nmsat.algorithms.workloads.engine.encoder import EncoderSize
from nmsat.algorithms.workloads.engine.program import Program
from nmsat.algorithms.workloads.engine.registry import Document, Study, Variant, Workload, register
from nmsat.algorithms.workloads.engine.training import LOSS_SCALE, adam, clear
from nmsat.algorithms.workloads.engine.zoo import CODE_MODELS
from nmsat.algorithms.workloads.methods import nci_models as models
from nmsat.algorithms.workloads.methods import nci_tasks as tasks

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nmsat.algorithms.workloads.engine.parameters import Parameter
    from nmsat.algorithms.workloads.engine.program import Tensor

PATTERN: Final = Pattern(2, 4)
GENERATIONS: Final = ("recurrent", "encoder", "pair", "decoder")
STEPS: Final = {"recurrent": 120, "encoder": 400, "pair": 120, "decoder": 120}
"""Training steps of the study. Masked places are two of fourteen words: after 120 steps the encoder is at 0.74."""

MASKED: Final = 0.15
"""Share of words that the encoder has to find."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """One model of each generation with its batch and lengths.

    pair_tokens: of source and target; served: a decoder that is asked, its batch, tokens of the context, new words.
    """

    recurrent: models.RecurrentSize
    recurrent_shape: tuple[int, int]
    encoder: EncoderSize
    encoder_shape: tuple[int, int]
    pair: models.PairSize
    pair_batch: int
    pair_tokens: tuple[int, int]
    decoder: DecoderSize
    decoder_shape: tuple[int, int]
    served: DecoderSize
    served_shape: tuple[int, int]
    words: int


def run(p: Program, size: Size, variant: Variant) -> None:
    """Record a training step of each generation, then words behind a state and behind a cache."""
    rng = np.random.default_rng(0)
    losses = [loss(p, size, generation, rng, variant) for generation in GENERATIONS]
    total = losses[0]
    for part in losses[1:]:
        total = ops.add(total, part)
    p.backward(total, LOSS_SCALE)
    learnt = sum(w.size for w in p.store.values() if not w.frozen)
    p.host("update", "Adam", 13 * learnt, 32 * learnt)
    pattern = PATTERN if variant == "nm" else None
    batch, width = size.recurrent_shape[0], size.recurrent.width
    word, zero = (np.zeros((batch, 1), np.int64), np.zeros((batch, width), p.dtype)) if p.values else (None, None)
    states = [models.State(zero, zero)] * size.recurrent.layers
    models.recurrent(p, size.recurrent, word, (batch, 1), states, pattern, label="recurrent.next")
    ids = rng.integers(0, size.served.vocabulary, size.served_shape) if p.values else None
    generate(p, size.served, ids, size.served_shape, size.words, pattern)


def generate(
    p: Program,
    size: DecoderSize,
    ids: NDArray[np.integer] | None,
    shape: tuple[int, int],
    words: int,
    pattern: Pattern | None = None,
) -> NDArray[np.int64] | None:
    """Return the likeliest words behind each context, [batch, words], each chosen behind the keys of all before."""
    found: list[NDArray] = []
    logits, cache = decode(p, "served", size, ids, shape, pattern=pattern, label="served.context")
    for _ in range(words):
        word = None if logits.data is None else logits.data[:, -1:].argmax(axis=2)
        p.host("choose", "ArgMin", shape[0] * size.vocabulary, 2 * shape[0] * size.vocabulary)
        found += [] if word is None else [word]
        logits, cache = decode(p, "served", size, word, (shape[0], 1), cache, pattern=pattern, label="served.word")
    return np.concatenate(found, axis=1) if found else None


def loss(p: Program, size: Size, generation: str, rng: np.random.Generator, variant: Variant) -> Tensor:
    """Return the loss of a generation on counting documents: each word is the one before plus a step of its own."""
    pattern = PATTERN if variant == "nm" else None
    if generation == "recurrent":
        batch, tokens = size.recurrent_shape
        ids = counting(rng, batch, tokens + 1, size.recurrent.vocabulary) if p.values else None
        seen, wanted = (None, None) if ids is None else (ids[:, :-1], ids[:, 1:])
        logits, _ = models.recurrent(p, size.recurrent, seen, size.recurrent_shape, None, pattern)
        return ops.cross_entropy(logits, wanted)
    if generation == "encoder":
        return _masked_loss(p, size, rng, pattern)
    if generation == "pair":
        return _span_loss(p, size, rng, pattern)
    batch, tokens = size.decoder_shape
    ids = None
    if p.values:
        documents = counting(rng, batch, tokens - 2, size.decoder.vocabulary - 3)
        sentinels = (size.decoder.vocabulary - 3, size.decoder.vocabulary - 2, size.decoder.vocabulary - 1)
        third = (tokens - 2) // 3
        ids = np.stack([tasks.fill_in_middle(d, third, 2 * third, sentinels) for d in documents])
    seen, wanted = (None, None) if ids is None else (ids[:, :-1], ids[:, 1:])
    return ops.cross_entropy(models.next_words(p, size.decoder, seen, size.decoder_shape, pattern), wanted)


def _masked_loss(p: Program, size: Size, rng: np.random.Generator, pattern: Pattern | None) -> Tensor:
    batch, tokens = size.encoder_shape
    count, mask = max(1, round(MASKED * tokens)) * batch, size.encoder.vocabulary - 1
    ids = places = wanted = None
    if p.values:
        ids = counting(rng, batch, tokens, mask)
        rows = np.stack([rng.choice(tokens, count // batch, replace=False) for _ in range(batch)])
        places = (rows + np.arange(batch)[:, None] * tokens).reshape(-1)
        wanted = ids.reshape(-1)[places]
        ids.reshape(-1)[places] = mask
    logits = models.masked_words(p, size.encoder, ids, size.encoder_shape, places, count, pattern)
    return ops.cross_entropy(logits, wanted)


def _span_loss(p: Program, size: Size, rng: np.random.Generator, pattern: Pattern | None) -> Tensor:
    """Two spans of a document; its length follows from those of source and target."""
    (length, asked), first = size.pair_tokens, size.pair.vocabulary - 1
    source = seen = wanted = None
    if p.values:
        lost = asked + 1 - 2
        halves = (lost // 2, lost - lost // 2)
        documents = counting(rng, size.pair_batch, length - 2 + lost, size.pair.vocabulary - 2)
        spans = [(2, 2 + halves[0]), (len(documents[0]) - 2 - halves[1], len(documents[0]) - 2)]
        both = [tasks.denoise(d, spans, first) for d in documents]
        source, target = np.stack([s for s, _ in both]), np.stack([t for _, t in both])
        seen, wanted = target[:, :-1], target[:, 1:]
    logits = models.spans(p, size.pair, source, seen, size.pair_batch, size.pair_tokens, pattern)
    return ops.cross_entropy(logits, wanted)


def counting(rng: np.random.Generator, batch: int, tokens: int, vocabulary: int) -> NDArray[np.int64]:
    """Return documents that count in steps of 1 or 2, modulo the vocabulary: two words tell all others."""
    start, step = rng.integers(0, vocabulary, (batch, 1)), rng.integers(1, 3, (batch, 1))
    return (start + step * np.arange(tokens)) % vocabulary


def learn(size: Size, generation: str, variant: Variant, steps: int) -> tuple[dict[str, Parameter], float, float]:
    """Train one generation; return its parameters, and its loss before and after as a share of log(vocabulary)."""
    store: dict[str, Parameter] = {}
    rng, found = np.random.default_rng(3), []
    for step in range(1, steps + 1):
        p = Program(store=store)
        value = loss(p, size, generation, rng, variant)
        p.backward(value)
        adam(store.values(), 1e-2 * min(1.0, 2 * (1 - step / steps)), step)
        clear(store.values())
        found.append(float(value.array))
    scale = float(np.log(getattr(size, generation).vocabulary))
    return store, found[0] / scale, float(np.mean(found[-5:])) / scale


def study(variant: Variant) -> Study:
    """Train each generation on documents that two words tell; score programs of known quality."""
    measured: dict[str, float | int | str] = {}
    store: dict[str, Parameter] = {}
    size = replace(SMALL, recurrent_shape=(16, 12), encoder_shape=(16, 14), pair_batch=16, decoder_shape=(16, 14))
    learnt = []
    for generation in GENERATIONS:
        trained, before, after = learn(size, generation, variant, STEPS[generation])
        store |= trained
        measured |= {f"loss_{generation}_untrained": before, f"loss_{generation}": after}
        learnt.append(after < before / 2)
    worst, rng = 0.0, np.random.default_rng(4)
    for symbol, skill in (("+", 0.1), ("-", 0.3), ("*", 0.6)):
        written = [tasks.passes(tasks.written(rng, symbol, skill), tasks.cases(symbol)) for _ in range(4000)]
        for k in (1, 10):
            parts = [tasks.pass_at_k(20, sum(written[i : i + 20]), k) for i in range(0, 4000, 20)]
            worst = max(worst, abs(float(np.mean(parts)) - (1 - (1 - skill) ** k)))
    drawn = [any(pick) for pick in combinations([True] * 3 + [False] * 5, 4)]
    exact = abs(tasks.pass_at_k(8, 3, 4) - float(np.mean(drawn)))
    measured |= {"pass_at_k_from_known": worst, "pass_at_k_from_all_draws": exact}
    claim = "known answers: each generation finds what two words tell, and pass@k the share of right programs"
    return Study(claim, all(learnt) and worst < 0.06 and exact < 1e-12, measured, store)


SMALL: Final = Size(
    recurrent=models.RecurrentSize(layers=1, width=16, vocabulary=16),
    recurrent_shape=(4, 6),
    encoder=EncoderSize(layers=1, width=16, heads=2, hidden=32, vocabulary=17, positions=16),
    encoder_shape=(4, 14),
    pair=models.PairSize(layers=1, width=16, heads=2, hidden=32, vocabulary=18),
    pair_batch=4,
    pair_tokens=(8, 7),
    decoder=DecoderSize(
        layers=1, width=16, heads=2, kv=2, head=8, hidden=32, vocabulary=19, gated=False, parallel=True
    ),
    decoder_shape=(4, 14),
    served=DecoderSize(layers=1, width=16, heads=4, kv=1, head=8, hidden=32, vocabulary=16, gated=False),
    served_shape=(2, 8),
    words=2,
)
CODEBERT: Final = EncoderSize(layers=12, width=768, heads=12, hidden=3072, vocabulary=50265, positions=514, segments=1)
CODET5_BASE: Final = models.PairSize(layers=12, width=768, heads=12, hidden=3072, vocabulary=32100)
PAPER: Final = Size(
    recurrent=models.RecurrentSize(layers=2, width=1024, vocabulary=10000),
    recurrent_shape=(64, 32),
    encoder=CODEBERT,
    encoder_shape=(8, 512),
    pair=CODET5_BASE,
    pair_batch=8,
    pair_tokens=(512, 256),
    decoder=CODE_MODELS["CodeGen-350M"][0],
    decoder_shape=(1, 2048),
    served=CODE_MODELS["StarCoder2-3B"][0],
    served_shape=(1, 4096),
    words=2,
)

register(
    Workload(
        name="nci-survey",
        title="Neural code intelligence, a survey",
        source="Sun et al., arXiv 2403.14734",
        sparse="nothing",
        variants={
            "faithful": "dense baseline: a training step of each generation, words behind a state and a cache",
            "nm": "ours: all matrices but tables and heads 2:4 along k and along n",
        },
        quoted="none of its own; it lists models and what their papers say",
        sizes={"small": SMALL, "paper": PAPER},
        run=run,
        study=study,
        about=__doc__,
        document=Document(
            kind="survey",
            protocol="next words, masked words, span denoising, fill in the middle; cached decoding; unit tests",
            models="LSTM, CodeBERT, CodeT5-base, CodeGen-350M, StarCoder2-3B; 20 more shapes in `engine.zoo`",
            metrics="loss, pass@k",
        ),
    )
)
