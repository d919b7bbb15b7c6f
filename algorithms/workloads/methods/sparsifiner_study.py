"""Sparsifiner (`algorithms.workloads.methods.sparsifiner`) beside dense attention, random and fixed masks."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

import numpy as np

from nmsat.algorithms.core.tape import Tape
from nmsat.algorithms.workloads.engine import ops
from nmsat.algorithms.workloads.engine.parameters import Parameter
from nmsat.algorithms.workloads.engine.program import Program
from nmsat.algorithms.workloads.engine.registry import Study, Variant
from nmsat.algorithms.workloads.engine.training import adam, clear
from nmsat.algorithms.workloads.engine.transformer import (
    top_k,
)
from nmsat.algorithms.workloads.methods.sparsifiner_model import SMALL, Mode, forward, kept_keys, pointer_images

if TYPE_CHECKING:
    from numpy.typing import NDArray


NOISE: Final = 0.2
"""Of the study: so that the dense model stays below its ceiling."""

SEEDS: Final = 2
STEPS: Final = (250, 250, 100)
"""Steps of dense training, of the predictor, and of tuning with masks."""


def study(variant: Variant) -> Study:
    """Train dense, teach the predictor, tune with its masks, random and fixed ones of the same size; two seeds."""
    rows: list[dict[str, float]] = []
    tuned: dict[str, Parameter] = {}
    for seed in range(SEEDS):
        row, tuned = one_seed(seed, variant)
        rows.append(row)
    mean = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
    measured: dict[str, float | int | str] = {f"accuracy_{name}": value for name, value in mean.items()}
    for name in mean:
        measured[f"accuracy_{name}_seeds"] = ", ".join(f"{row[name]:.3f}" for row in rows)
    measured |= {"keys_per_query": kept_keys(SMALL, variant), "keys": SMALL.tokens, "seeds": SEEDS}
    others = all(row["masked"] > max(row["random_mask"], row["fixed_mask"]) for row in rows)
    claim = "a quarter of the pairs, chosen by image, loses at most 0.03 of accuracy; fixed or random ones lose more"
    return Study(claim, others and mean["masked"] >= mean["dense_tuned"] - 0.03, measured, tuned)


def one_seed(seed: int, variant: Variant) -> tuple[dict[str, float], dict[str, Parameter]]:
    """Return accuracies on noisy images, and the parameters tuned with masks of the predictor."""
    store: dict[str, Parameter] = {}
    _train(store, "dense", variant, STEPS[0], seed, 3e-3)
    accuracy = {"dense": _accuracy(store, "dense", variant, seed)}
    fixed, whole = _copy(store), _copy(store)
    for name, mask in fixed_masks(store, variant, seed).items():
        fixed[name] = Parameter(name, mask.shape, mask.astype(np.float32), frozen=True)
    _train(store, "rebuild", variant, STEPS[1], seed, 3e-3)
    accuracy["masked_untuned"] = _accuracy(store, "sparse", variant, seed)
    tuned = _copy(store)
    ways: tuple[tuple[str, Mode, dict[str, Parameter]], ...] = (
        ("masked", "sparse", tuned),
        ("random_mask", "random", store),
        ("fixed_mask", "fixed", fixed),
        ("dense_tuned", "dense", whole),
    )
    for name, mode, now in ways:
        _train(now, mode, variant, STEPS[2], seed, 1e-3)
        accuracy[name] = _accuracy(now, mode, variant, seed)
    return accuracy, tuned


def fixed_masks(store: dict[str, Parameter], variant: Variant, seed: int) -> dict[str, NDArray[np.bool_]]:
    """Return one mask of each layer for all images [heads, N, N]: the keys that get most attention on average."""
    size, p = replace(SMALL, batch=256), Program(tape=Tape(values=True), store=store)
    x, _ = pointer_images(size, 20_000 + seed, NOISE)
    forward(p, size, p.input(x.shape, x), "dense", variant)
    out = {}
    for q in p.tape.products:
        if q.name.endswith(".av") and q.a is not None:
            mean = q.a.reshape(size.batch, size.heads, size.tokens, size.tokens).mean(axis=0)
            out[q.name.removesuffix(".av") + ".fixed"] = top_k(mean, size.keys)
    return out


def _train(store: dict[str, Parameter], mode: Mode, variant: Variant, steps: int, seed: int, rate: float) -> None:
    size = replace(SMALL, batch=32)
    for step in range(1, steps + 1):
        x, labels = pointer_images(size, 1_000_000 * seed + step, NOISE)
        p = Program(store=store, rng=np.random.default_rng((seed, step if mode == "random" else 0)))
        logits, errors = forward(p, size, p.input(x.shape, x), mode, variant)
        if mode == "rebuild":
            loss = errors[0]
            for error in errors[1:]:
                loss = ops.add(loss, error)
        else:
            loss = ops.cross_entropy(logits, labels)
        p.backward(loss)
        adam(store.values(), rate, step)
        clear(store.values())


def _accuracy(store: dict[str, Parameter], mode: Mode, variant: Variant, seed: int) -> float:
    big = replace(SMALL, batch=256)
    x, labels = pointer_images(big, 10_000_000 + seed, NOISE)
    p = Program(store=store, rng=np.random.default_rng(7))
    logits, _ = forward(p, big, p.input(x.shape, x), mode, variant)
    return float((logits.array.argmax(axis=2) == labels)[:, 1:].mean())


def _copy(store: dict[str, Parameter]) -> dict[str, Parameter]:
    return {name: replace(w, value=w.array.copy(), state={}, grad=None) for name, w in store.items()}
