"""Codes of SAE circuits (`algorithms.workloads.methods.sae_circuits`) on heads of which some are planted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from nmsat.algorithms.workloads.engine.program import Program
from nmsat.algorithms.workloads.engine.registry import Study, Variant
from nmsat.algorithms.workloads.engine.training import adam, clear
from nmsat.algorithms.workloads.methods.sae_circuits_model import codes, encode, loss, node_scores, ranked_area, unit

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nmsat.algorithms.workloads.engine.parameters import Parameter

HEADS: Final = 32
CIRCUIT: Final = 8
"""Heads in all (four layers of eight), and those of the circuit."""

WIDTH: Final = 64
FEATURES: Final = 40
PROMPTS: Final = 5
"""Positive prompts, and as many negative ones."""

STEPS: Final = 500


def planted(seed: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return head outputs [prompts, heads, width], positive prompts first, and which heads are the circuit.

    Each head writes its own direction with noise half as long, at its own strength (log-normal); one of the circuit
    writes another direction on positive prompts.
    """
    rng = np.random.default_rng(600 + seed)
    wanted = np.zeros(HEADS, np.bool_)
    wanted[rng.permutation(HEADS)[:CIRCUIT]] = True
    usual, other = unit(rng.standard_normal((2, HEADS, WIDTH)), 2)
    noise = 0.5 * rng.standard_normal((2 * PROMPTS, HEADS, WIDTH)) / np.sqrt(WIDTH)
    positive = (np.arange(2 * PROMPTS) < PROMPTS)[:, None, None]
    x = np.where(positive & wanted[None, :, None], other, usual) + noise
    strength = np.sqrt(WIDTH) * np.exp(0.5 * rng.standard_normal(HEADS))  # elements of size 1, else lambda is too much
    return (x * strength[:, None]).astype(np.float32), wanted


def train(x: NDArray[np.float32], seed: int, variant: Variant, steps: int = STEPS) -> dict[str, Parameter]:
    """Train the autoencoder on vectors x[vectors, width], columns held at length 1."""
    store: dict[str, Parameter] = {}
    for step in range(1, steps + 1):
        p = Program(store=store, rng=np.random.default_rng(seed))
        p.backward(loss(p, p.input(x.shape, x), FEATURES, variant))
        for name in ("encode", "decode"):
            w = store[name]
            if w.grad is not None:
                w.grad = without_radial(w.grad, w.array)
        adam(store.values(), 1e-3, step)
        for name in ("encode", "decode"):
            store[name].value = unit(store[name].array, 0)
        clear(store.values())
    return store


def without_radial(gradient: NDArray, w: NDArray) -> NDArray:
    """Return the gradient of each column without its part along that column, whose length is 1."""
    return gradient - w * (gradient * w).sum(axis=0, keepdims=True)


def find(x: NDArray[np.float32], store: dict[str, Parameter]) -> tuple[NDArray[np.float64], float]:
    """Return the scores of the heads of x[prompts, heads, width], and how many features a code has."""
    p = Program(store=store)
    f = encode(p, p.input((len(x) * HEADS, WIDTH), x.reshape(-1, WIDTH)), FEATURES).array
    found = codes(f.reshape(len(x), HEADS, -1))
    return node_scores(found[:PROMPTS], found[PROMPTS:]), float((f > 0).sum(axis=1).mean())


def precision(scores: NDArray, wanted: NDArray[np.bool_]) -> float:
    """Return the share of the circuit among as many heads of the largest scores (so precision is recall).

    Where equal scores straddle the last place, the expected share of a random choice among them.
    """
    count = int(wanted.sum())
    edge = np.sort(scores)[-count]
    above, equal = scores > edge, scores == edge
    return float((wanted[above].sum() + wanted[equal].mean() * (count - above.sum())) / count)


def study(variant: Variant) -> Study:
    """Find eight planted heads of 32 from five positive and five negative prompts, three seeds.

    Beside it two baselines of magnitude from the same prompts: the length of the difference of a head's means, and of
    its mean output. The claim holds if with each seed the codes have the better precision (and recall) than both.
    """
    measured: dict[str, float | int | str] = {}
    holds = True
    for seed in range(3):
        x, wanted = planted(seed)
        scores, features = find(x, train(x.reshape(-1, WIDTH), seed, variant))
        positive, negative = x[:PROMPTS].mean(axis=0), x[PROMPTS:].mean(axis=0)
        rivals = {
            "difference": np.linalg.norm(positive - negative, axis=1),
            "magnitude": np.linalg.norm(positive, axis=1),
        }
        found = {"codes": scores, **rivals}
        for name, values in found.items():
            measured[f"precision_{name}_seed{seed}"] = precision(values, wanted)
            measured[f"area_{name}_seed{seed}"] = ranked_area(values, wanted)
        measured[f"features_per_code_seed{seed}"] = features
        best = max(precision(values, wanted) for values in rivals.values())
        holds = holds and precision(scores, wanted) > best
    return Study("codes name more of the planted heads than magnitudes do, from ten prompts", holds, measured)
