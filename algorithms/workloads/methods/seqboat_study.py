"""SeqBoat (`algorithms.workloads.methods.seqboat`) on a task whose needed tokens are known."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

import numpy as np

from nmsat.algorithms.workloads.engine import ops
from nmsat.algorithms.workloads.engine.program import Program
from nmsat.algorithms.workloads.engine.registry import Study, Variant
from nmsat.algorithms.workloads.engine.training import adam, clear
from nmsat.algorithms.workloads.methods.seqboat_model import SMALL, Mode, Size, forward

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nmsat.algorithms.workloads.engine.parameters import Parameter

SIDE: Final = 4
"""Keys and values; tokens: 16 pairs of both, 8 fillers, 4 questions."""

STUDY: Final = replace(SMALL, batch=16, window=SMALL.tokens)
"""Its window holds every token, so that nothing but the choice of tokens limits attention."""

NEEDED: Final = 2 * SIDE / SMALL.tokens
"""Share of the tokens that the task needs: the pairs and the questions."""

STEPS: Final = 300
MARGIN: Final = 0.05
"""How much worse the loss may be in nats, and how much of the unneeded tokens may be active."""


def recall(size: Size, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """Return tokens, labels (-1: not asked) and the tokens that are needed, [batch, tokens] each.

    Every key comes once, as one token with its value, somewhere among fillers; at the end each key is asked for once.
    """
    rng = np.random.default_rng(seed)
    shape, asked = (size.batch, size.tokens), size.tokens - SIDE
    words = rng.integers(SIDE * SIDE, SIDE * SIDE + 8, shape)
    labels, needed = np.full(shape, -1), np.zeros(shape, np.bool_)
    rows = np.arange(size.batch)[:, None]
    place = rng.permuted(np.tile(np.arange(asked), (size.batch, 1)), axis=1)[:, :SIDE]
    values = rng.integers(0, SIDE, (size.batch, SIDE))
    words[rows, place] = SIDE * np.arange(SIDE) + values
    questions = rng.permuted(np.tile(np.arange(SIDE), (size.batch, 1)), axis=1)
    words[:, asked:] = SIDE * SIDE + 8 + questions
    labels[:, asked:] = values[rows, questions]
    needed[:, asked:] = True
    needed[rows, place] = True
    return words, labels, needed


def train(mode: Mode, seed: int, variant: Variant, steps: int = STEPS) -> dict[str, Parameter]:
    """Train on fresh sequences."""
    store: dict[str, Parameter] = {}
    for step in range(1, steps + 1):
        words, labels, _ = recall(STUDY, 100_000 * (seed + 1) + step)
        p = Program(store=store, rng=np.random.default_rng(seed))
        p.backward(ops.cross_entropy(forward(p, STUDY, words.ravel(), variant, mode)[0], labels))
        adam(store.values(), 5e-3 * min(1.0, step / 10, 1.5 * (1 - step / (steps + 1))), step)
        clear(store.values())
    return store


def evaluate(mode: Mode, store: dict[str, Parameter], variant: Variant) -> dict[str, float]:
    """Return loss and accuracy of the answers, and which share of the needed and of the other tokens is active."""
    size = replace(STUDY, batch=128)
    words, labels, needed = recall(size, 5)
    logits, active = forward(Program(store=store), size, words.ravel(), variant, mode)
    right = logits.array.argmax(axis=2) == labels
    chosen = active[0]
    if chosen is None:
        raise RuntimeError("the layer chose no tokens; it must run with values")
    return {
        "loss": float(ops.cross_entropy(logits, labels).array),
        "accuracy": float(right[labels >= 0].mean()),
        "active_needed": float(chosen[needed].mean()),
        "active_others": float(chosen[~needed].mean()),
    }


def study(variant: Variant) -> Study:
    """Answer four questions per sequence with learnt, full and no attention, two seeds.

    The claim holds if with each seed the learnt choice loses at most MARGIN nats to full attention, and at most the
    share MARGIN of the tokens that nothing depends on is active.
    """
    measured: dict[str, float | int | str] = {"needed": NEEDED}
    holds, store = True, {}
    modes: tuple[Mode, ...] = ("all", "none", "learnt")
    for seed in range(2):
        found = {}
        for mode in modes:
            store = train(mode, seed, variant)
            found[mode] = evaluate(mode, store, variant)
            measured[f"loss_{mode}_seed{seed}"] = found[mode]["loss"]
            measured[f"accuracy_{mode}_seed{seed}"] = found[mode]["accuracy"]
        for share in ("active_needed", "active_others"):
            measured[f"{share}_seed{seed}"] = found["learnt"][share]
        close = found["learnt"]["loss"] < found["all"]["loss"] + MARGIN
        holds = holds and close and found["learnt"]["active_others"] < MARGIN
    return Study("the loss of full attention with no more of it than the task needs", holds, measured, store)
