"""Bottlenecks of Sparse-CBM (`algorithms.workloads.methods.sparse_cbm`) on images whose concepts are known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from nmsat.algorithms.workloads.engine import ops
from nmsat.algorithms.workloads.engine.program import Program
from nmsat.algorithms.workloads.engine.registry import Study, Variant
from nmsat.algorithms.workloads.engine.training import adam, clear
from nmsat.algorithms.workloads.methods.sparse_cbm_model import (
    LAMBDA,
    SCALE,
    Kind,
    bottleneck,
    concept_matrix_search,
    pair_loss,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nmsat.algorithms.workloads.engine.parameters import Parameter

KINDS: Final[tuple[Kind, ...]] = ("gumbel", "flat", "contrastive", "l1")
CONCEPTS: Final = 128
CLASSES: Final = 10
WIDTH: Final = 64
SIGNATURE: Final = 8
"""Concepts of a class."""

BATCH: Final = 32
EPOCHS: Final = 10


@dataclass(frozen=True, eq=False)
class Planted:
    """Scores psi[images, D] / s, labels and concepts bool[images, D] of 1000 + 500 images; classes: T[classes, D]."""

    scores: NDArray[np.float32]
    labels: NDArray[np.int64]
    present: NDArray[np.bool_]
    classes: NDArray[np.float32]


def planted(seed: int) -> Planted:
    """Return images that show each concept of their class with probability 0.7 and any other with 0.02.

    An embedding is the sum of the vectors of its concepts and noise; that of a class has all of its own.
    """
    rng = np.random.default_rng(500 + seed)
    vectors = rng.standard_normal((CONCEPTS, WIDTH))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    signatures = np.zeros((CLASSES, CONCEPTS), np.bool_)
    for row in signatures:
        row[rng.permutation(CONCEPTS)[:SIGNATURE]] = True
    labels = rng.integers(0, CLASSES, 1500)
    draw = rng.random((1500, CONCEPTS))
    present = np.where(signatures[labels], draw < 0.7, draw < 0.02)
    x = present @ vectors + 0.15 * rng.standard_normal((1500, WIDTH))

    def cosines(v: NDArray) -> NDArray[np.float32]:
        return (v / np.linalg.norm(v, axis=1, keepdims=True) @ vectors.T).astype(np.float32)

    return Planted(cosines(x), labels, present, cosines(signatures @ vectors))


def train(data: Planted, kind: Kind, seed: int, variant: Variant) -> dict[str, Parameter]:
    """Train bottleneck and head for ten epochs by Adam, 3e-4, batches of 32."""
    store: dict[str, Parameter] = {}
    rng = np.random.default_rng(seed)
    step = 0
    for _ in range(EPOCHS):
        order = rng.permutation(1000)
        for start in range(0, 1000 - BATCH + 1, BATCH):
            pick, step = order[start : start + BATCH], step + 1
            p = Program(store=store, rng=np.random.default_rng(seed))
            z, y = bottleneck(p, p.input((BATCH, CONCEPTS), SCALE * data.scores[pick]), CLASSES, variant)
            loss = ops.cross_entropy(y, data.labels[pick])
            p.backward(loss if kind == "l1" else ops.add(loss, pair_loss(z, kind, rng)))
            if kind == "l1":
                w = store["bottleneck"]
                p.add_gradient(w, (LAMBDA / CONCEPTS) * np.sign(w.array))
            adam(store.values(), 3e-4, step)
            clear(store.values())
    return store


def evaluate(data: Planted, store: dict[str, Parameter], variant: Variant) -> tuple[float, float]:
    """Return accuracy on the test images, and which share of their concepts is among as many of the largest z."""
    p = Program(store=store)
    z, y = bottleneck(p, p.input((500, CONCEPTS), SCALE * data.scores[1000:]), CLASSES, variant)
    accuracy = float((y.array.argmax(axis=1) == data.labels[1000:]).mean())
    return accuracy, recovered(z.array, data.present[1000:])


def recovered(z: NDArray, present: NDArray[np.bool_]) -> float:
    """Return the mean share of the concepts of an image that are among its so many largest entries of z."""
    shares = []
    for row, true in zip(z, present, strict=True):
        count = int(true.sum())
        if count:
            shares.append(true[np.argsort(-row, kind="stable")[:count]].mean())
    return float(np.mean(shares))


def study(variant: Variant) -> Study:
    """Train all bottlenecks on planted concepts, three seeds, beside CMS and the scores psi themselves.

    The claim holds if, with each seed, the Gumbel form of the paper classifies better and recovers more of the
    concepts than the l1 bottleneck of as many concepts.
    """
    found: dict[str, list[tuple[float, float]]] = {kind: [] for kind in (*KINDS, "cms")}
    for seed in range(3):
        data = planted(seed)
        for kind in KINDS:
            found[kind].append(evaluate(data, train(data, kind, seed, variant), variant))
        p = Program()
        scores = p.input((500, CONCEPTS), data.scores[1000:])
        match = concept_matrix_search(scores, p.input((CLASSES, CONCEPTS), data.classes)).array
        right = float((match.argmax(axis=1) == data.labels[1000:]).mean())
        found["cms"].append((right, recovered(data.scores[1000:], data.present[1000:])))
    measured: dict[str, float | int | str] = {}
    for kind, values in found.items():
        for seed, (accuracy, share) in enumerate(values):
            measured[f"accuracy_{kind}_seed{seed}"] = accuracy
            measured[f"concepts_{'psi' if kind == 'cms' else kind}_seed{seed}"] = share
    better = [a[0] > b[0] and a[1] > b[1] for a, b in zip(found["gumbel"], found["l1"], strict=True)]
    claim = "the Gumbel bottleneck classifies better and recovers more planted concepts than the l1 bottleneck"
    return Study(claim, all(better), measured)
