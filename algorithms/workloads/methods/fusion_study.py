"""The study of SparseFusion: candidates of two sensors with complementary faults, fused or alone.

The scenes are lists of candidates, not points and pixels: both sensors miss objects and see things that are not there;
LiDAR places well and hardly tells classes, a camera tells classes and misjudges distance.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from nmsat.algorithms.core.tape import Pattern
from nmsat.algorithms.workloads.engine.program import Program
from nmsat.algorithms.workloads.engine.registry import Study, Variant
from nmsat.algorithms.workloads.engine.training import adam, clear
from nmsat.algorithms.workloads.methods.branches import Branch
from nmsat.algorithms.workloads.methods.fusion import BOX, Found, Truth, detection_loss, fused, heads
from nmsat.algorithms.workloads.methods.fusion_sizes import FusionSize

if TYPE_CHECKING:
    from typing import TypeAlias

    from numpy.typing import NDArray

    from nmsat.algorithms.workloads.engine.parameters import Parameter

    Sensors: TypeAlias = Literal["lidar", "camera", "both"]

SIZE: Final = FusionSize(width=32, heads=4, hidden=64, classes=4, candidates=6)
OBJECTS, BATCH, STEPS, POOL = 4, 24, 300, 1500
SEEN: Final = 0.85
"""Chance that a sensor sees an object."""

NEAR: Final = 0.1
"""A detection is right if it is no farther from an object of its class; the scene is the square -1..1."""


def scenes(rng: np.random.Generator, count: int) -> tuple[dict[str, NDArray[np.float64]], Truth]:
    """Return what each sensor says of `count` scenes, [count, candidates, 2 + classes + 1], and the truth.

    Of a candidate: place, evidence for each class, 1; zeros where a sensor has no further candidate.
    """
    places = rng.uniform(-1, 1, (count, OBJECTS, 2))
    classes = rng.integers(0, SIZE.classes, (count, OBJECTS))
    boxes = np.zeros((count, OBJECTS, BOX))
    boxes[..., :2] = places
    found = {}
    for name, distance, evidence in (("lidar", 0.02, 1.5), ("camera", 0.25, 0.3)):
        said = np.zeros((count, SIZE.candidates, SIZE.classes + 3))
        for scene in range(count):
            real = np.flatnonzero(rng.random(OBJECTS) < SEEN)
            false = rng.integers(0, SIZE.candidates - len(real) + 1)
            at = np.concatenate([places[scene, real], rng.uniform(-1, 1, (false, 2))])
            told = np.concatenate([np.eye(SIZE.classes)[classes[scene, real]], np.zeros((false, SIZE.classes))])
            # the camera misjudges distance alone, which is the direction away from (0, -1.5)
            away = at - (0.0, -1.5)
            away /= np.linalg.norm(away, axis=1, keepdims=True)
            noise = rng.normal(0, 0.02, at.shape) + away * rng.normal(0, distance, (len(at), 1))
            rows = np.concatenate(
                [at + noise, told + rng.normal(0, evidence, told.shape), np.ones((len(at), 1))], axis=1
            )
            said[scene, : len(rows)] = rows[rng.permutation(len(rows))]
        found[name] = said
    return found, Truth(classes, boxes)


@lru_cache(maxsize=1)
def _pool() -> tuple[dict[str, NDArray[np.float64]], Truth]:
    return scenes(np.random.default_rng(98), POOL)


def detector(p: Program, said: dict[str, NDArray], sensors: Sensors, variant: Variant) -> Found:
    """Return boxes and classes of the candidates of the sensors that are there."""
    net = Branch(p, "fusion", Pattern(2, 8) if variant == "nm" else None)
    names = ("lidar", "camera") if sensors == "both" else (sensors,)
    sets = [net.hidden(name, p.input(said[name].shape, said[name]), SIZE.width, SIZE.width) for name in names]
    places = np.concatenate([said[name][..., :2] for name in names], axis=1)
    return heads(net, fused(net, SIZE, *sets), SIZE.classes, p.input(places.shape, places))


def train(seed: int, sensors: Sensors, variant: Variant) -> dict[str, Parameter]:
    """Train a detector."""
    store: dict[str, Parameter] = {}
    rng, (every, known) = np.random.default_rng(seed), _pool()
    for step in range(1, STEPS + 1):
        pick = rng.integers(0, POOL, BATCH)
        said, truth = {name: rows[pick] for name, rows in every.items()}, Truth(known.classes[pick], known.boxes[pick])
        p = Program(store=store, rng=np.random.default_rng(seed))
        p.backward(detection_loss(p, detector(p, said, sensors, variant), truth, OBJECTS))
        adam(store.values(), 5e-3 * 0.1 ** (step / STEPS), step)
        clear(store.values())
    return store


def average_precision(scores: NDArray, places: NDArray, truth: Truth) -> float:
    """Return the mean over classes of the area under precision by recall; scores[B, N, classes], places[B, N, 2].

    The best first, each detection takes the nearest object of its class within NEAR that none has taken.
    """
    found = []
    for label in range(scores.shape[2]):
        flat = scores[..., label].reshape(-1)
        taken = np.zeros(truth.classes.shape, np.bool_)
        right = []
        for index in np.argsort(-flat, kind="stable"):
            scene, row = divmod(int(index), scores.shape[1])
            far = np.linalg.norm(truth.boxes[scene, :, :2] - places[scene, row], axis=1)
            far = np.where((truth.classes[scene] == label) & ~taken[scene], far, np.inf)
            best = int(np.argmin(far))
            right.append(far[best] <= NEAR)
            taken[scene, best] |= right[-1]
        hits = np.cumsum(right)
        precision = hits / np.arange(1, len(right) + 1)
        found.append(np.sum(precision * right) / max(1, int(np.sum(truth.classes == label))))
    return float(np.mean(found))


def study(variant: Variant) -> Study:
    """Train a detector on each sensor and on both, three seeds; mean average precision on other scenes."""
    measured: dict[str, float | int | str] = {}
    mean: dict[str, float] = {}
    said, truth = scenes(np.random.default_rng(99), 60)
    for sensors in ("lidar", "camera", "both"):
        values = []
        for seed in range(3):
            found = detector(Program(store=train(seed, sensors, variant)), said, sensors, variant)
            values.append(average_precision(found.logits.array, found.boxes.array[..., :2], truth))
            measured[f"precision_{sensors}_seed{seed}"] = values[-1]
        mean[sensors] = measured[f"precision_{sensors}"] = float(np.mean(values))
    holds = mean["both"] > max(mean["lidar"], mean["camera"])
    return Study("fused candidates are detected better than those of either sensor", holds, measured)
