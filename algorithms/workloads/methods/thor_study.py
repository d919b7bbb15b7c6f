"""THOR (`algorithms.workloads.methods.thor`) beside itself without consistency and beside a switch router."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

import numpy as np

from nmsat.algorithms.workloads.engine import ops
from nmsat.algorithms.workloads.engine.products import experts, linear
from nmsat.algorithms.workloads.engine.program import Program, Tensor
from nmsat.algorithms.workloads.engine.registry import Study, Variant
from nmsat.algorithms.workloads.engine.training import adam, clear
from nmsat.algorithms.workloads.methods.thor_model import (
    CONSISTENCY,
    PATTERN,
    SMALL,
    Mixture,
    Size,
    agreeing,
    forward,
    one_expert,
    per_sentence,
    smoothed,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nmsat.algorithms.workloads.engine.parameters import Parameter

STUDY: Final = replace(SMALL, batch=32, layers=2, hidden=64, vocabulary=16, experts=2, decoder=False)
STEPS: Final = 300
SEEDS: Final = 2
TRAINED: Final = 256
NOISE: Final = 0.1
"""Sentences of the training set, and the share of their labels that is random."""

MARGIN: Final = 0.01
"""Accuracies closer than this are equal: the test has 1024 tokens."""

BALANCE: Final = 0.01
"""Weight of the balance of a switch router (Fedus et al., JMLR 2022)."""


def sentences(size: Size, seed: int, noise: float = 0.0) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return random sentences and, as labels, each one read backwards in a fixed cipher: int64[batch, tokens].

    noise: share of the labels that are random words instead.
    """
    rng = np.random.default_rng(seed)
    words, other = rng.integers(0, size.vocabulary, (2, size.batch, size.tokens))
    labels = np.random.default_rng(99).permutation(size.vocabulary)[words[:, ::-1]]
    return words, np.where(rng.random(words.shape) < noise, other, labels)


def switch(p: Program, size: Size, variant: Variant, shares: list[Tensor]) -> Mixture:
    """Return a mixture with a learnt router that sends each token to its best expert, scaled by its gate.

    shares: takes per layer E * sum of (share of the tokens of an expert) * (mean gate), whose least value is 1.
    """
    pattern = PATTERN if variant == "nm" else None

    def mixture(name: str, x: Tensor) -> Tensor:
        rows, count = size.batch * size.tokens, size.experts
        flat = ops.reshape(x, (rows, size.width))
        gates = ops.softmax(linear(f"{name}.router", flat, p.weight(f"{name}.router", (size.width, count), gain=1.0)))
        owner = gates.array.argmax(axis=1)
        loads = np.bincount(owner, minlength=count)
        share = p.input((1, count), (loads / rows)[None])
        shares.append(ops.scale(ops.mean(ops.mul(gates, share), (0, 1)), float(count * count)))
        place = np.argsort(owner, kind="stable")
        h = ops.gather(flat, place, rows)
        for part, k, n in (("up", size.width, size.hidden), ("down", size.hidden, size.width)):
            w = p.weight(f"{name}.{part}", (count, k, n), gain=2.0 if part == "up" else 1.0, ff=pattern, bp=pattern)
            y = experts(f"{name}.{part}", h, w, tuple(map(int, loads)), rows)
            y = ops.add(y, ops.gather(p.vector(f"{name}.{part}.bias", (count, n)), owner[place], rows))
            h = ops.relu(y) if part == "up" else y
        gate = ops.gather(ops.reshape(gates, (rows * count, 1)), place * count + owner[place], rows)
        return ops.reshape(ops.scatter_add(ops.mul(h, gate), place, rows), x.shape)

    return mixture


def train(kind: str, seed: int, variant: Variant, steps: int = STEPS) -> dict[str, Parameter]:
    """Train on a fixed set with noise; kind: 'thor', 'apart' (a = 0) or 'switch' (one pass, twice the batch)."""
    store: dict[str, Parameter] = {}
    draws = np.random.default_rng(1000 + seed)
    known = sentences(replace(STUDY, batch=TRAINED), 10 + seed, NOISE)
    size = replace(STUDY, batch=2 * STUDY.batch) if kind == "switch" else STUDY
    for step in range(1, steps + 1):
        pick = draws.integers(0, TRAINED, size.batch)
        words, labels = known[0][pick], known[1][pick]
        p = Program(store=store, rng=np.random.default_rng(seed))
        if kind == "switch":
            shares: list[Tensor] = []
            loss = smoothed(forward(p, size, words.ravel(), None, switch(p, size, variant, shares)), labels)
            for share in shares:
                loss = ops.add(loss, ops.scale(share, BALANCE))
        else:
            one, two = (forward(p, size, words.ravel(), None, one_expert(p, size, draws, variant)) for _ in range(2))
            loss = agreeing(one, two, labels, CONSISTENCY if kind == "thor" else 0.0)
        p.backward(loss)
        adam(store.values(), 4e-3 * min(1.0, step / 10, 1.5 * (1 - step / (steps + 1))), step)
        clear(store.values())
    return store


def evaluate(kind: str, store: dict[str, Parameter], variant: Variant, draws: int = 5) -> tuple[float, float]:
    """Return the mean accuracy on new sentences over draws of the experts, and how often two draws disagree."""
    size = replace(STUDY, batch=128)
    words, labels = sentences(size, 7)
    answers = []
    for draw in range(1 if kind == "switch" else draws):
        p = Program(store=store)
        rng = np.random.default_rng(draw)
        mixture = switch(p, size, variant, []) if kind == "switch" else per_sentence(p, size, rng, variant)
        answers.append(forward(p, size, words.ravel(), None, mixture).array.argmax(axis=2))
    pairs = [(a != b).mean() for i, a in enumerate(answers) for b in answers[:i]]
    return float(np.mean([(a == labels).mean() for a in answers])), float(np.mean(pairs)) if pairs else 0.0


def study(variant: Variant) -> Study:
    """Train an encoder of two experts per layer three ways on sentences in cipher, SEEDS seeds, at equal multiply-adds.

    The claim holds if, with each seed, draws disagree less often than without consistency and the accuracy is at most
    MARGIN below that of the switch router.
    """
    measured: dict[str, float | int | str] = {}
    holds = True
    for seed in range(SEEDS):
        found = {kind: evaluate(kind, train(kind, seed, variant), variant) for kind in ("thor", "apart", "switch")}
        for kind, (accuracy, disagreement) in found.items():
            measured[f"accuracy_{kind}_seed{seed}"] = accuracy
            if kind != "switch":
                measured[f"disagreement_{kind}_seed{seed}"] = disagreement
        agree = found["thor"][1] < found["apart"][1]
        holds = holds and agree and found["thor"][0] > found["switch"][0] - MARGIN
    claim = "consistency makes draws of experts agree, and random experts are not worse than a router's at equal work"
    return Study(claim, holds, measured)
