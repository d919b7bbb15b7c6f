"""The study of SparseFusion: candidates of two sensors with complementary faults, fused or alone.

The scenes are lists of candidates, not points and pixels: both sensors miss objects and see things that are not there;
LiDAR places well and hardly tells classes, a camera tells classes and misjudges distance. What the transfers of the
paper look up in maps is looked up in the lists here: each candidate takes what the other sensor says on its line of
sight. Rules that learn nothing stand beside the detectors.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from nmsat.algorithms.core.tape import Pattern
from nmsat.algorithms.workloads.engine import ops
from nmsat.algorithms.workloads.engine.program import Program
from nmsat.algorithms.workloads.engine.registry import Study, Variant
from nmsat.algorithms.workloads.engine.training import adam, bracketed, clear
from nmsat.algorithms.workloads.methods.branches import Branch
from nmsat.algorithms.workloads.methods.fusion import BOX, Found, Truth, detection_loss, fused, heads
from nmsat.algorithms.workloads.methods.fusion_sizes import FusionSize

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TypeAlias

    from numpy.typing import NDArray

    from nmsat.algorithms.workloads.engine.parameters import Parameter

    Sensors: TypeAlias = Literal["lidar", "camera", "both"]

SIZE: Final = FusionSize(width=32, heads=4, hidden=64, classes=4, candidates=6)
OBJECTS, BATCH, STEPS, POOL = 4, 24, 400, 3000
SEEDS, TESTED = 3, 60
SEEN: Final = 0.85
"""Chance that a sensor sees an object."""

EYE: Final = (0.0, -1.5)
"""Where both sensors stand."""

LINE: Final = 0.03
"""Radians by which two candidates on one line of sight differ."""

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
            # the camera misjudges distance alone, which is the direction away from where it stands
            away = at - EYE
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


def turned(rng: np.random.Generator, said: dict[str, NDArray], truth: Truth) -> tuple[dict[str, NDArray], Truth]:
    """Return scenes with their classes renamed and half of them mirrored: what is true of one is true of the other."""
    count = len(truth.classes)
    order = rng.permuted(np.tile(np.arange(SIZE.classes), (count, 1)), axis=1)
    side = rng.choice((-1.0, 1.0), (count, 1))
    found = {}
    for name, rows in said.items():
        found[name] = rows.copy()
        found[name][..., 0] *= side
        found[name][..., 2:-1] = np.take_along_axis(rows[..., 2:-1], order[:, None], 2)
    boxes = truth.boxes.copy()
    boxes[..., 0] *= side
    return found, Truth(np.take_along_axis(np.argsort(order, axis=1), truth.classes, 1), boxes)


def gaps(rows: NDArray, other: NDArray) -> NDArray[np.float64]:
    """Return the angles between candidates rows[B, N, ...] and other[B, K, ...] as both are seen; inf where one is not.

    Radians, [B, N, K].
    """
    left, right = (np.arctan2(*np.moveaxis(x[..., :2] - EYE, -1, 0)) for x in (rows, other))
    real = (rows[..., -1] > 0)[:, :, None] & (other[..., -1] > 0)[:, None]
    return np.where(real, np.abs(left[:, :, None] - right[:, None]), np.inf)


def transferred(rows: NDArray, other: NDArray) -> NDArray[np.float64]:
    """Return rows[B, N, 2 + classes + 1] and behind them what another sensor says on their line of sight.

    That is the mean of its candidates, weighted by a Gaussian of the angle between: place from here, evidence for each
    class, 1; zeros where it says nothing there.
    """
    weights = np.exp(-((gaps(rows, other) / LINE) ** 2) / 2)
    whole = weights.sum(axis=2, keepdims=True)
    mean = weights @ other / np.maximum(whole, 1e-9)
    mean[..., :2] -= rows[..., :2]
    return np.concatenate([rows, mean * np.minimum(whole, 1)], axis=2)


def detector(p: Program, said: dict[str, NDArray], sensors: Sensors, variant: Variant) -> Found:
    """Return boxes and classes of the candidates of the sensors that are there.

    Classes are told from the evidence, through one linear layer, as centres are from the places.
    """
    net = Branch(p, "fusion", Pattern(2, 8) if variant == "nm" else None)
    names = ("lidar", "camera") if sensors == "both" else (sensors,)
    others = {"lidar": "camera", "camera": "lidar"}
    rows = {name: transferred(said[name], said[others[name]]) if len(names) == 2 else said[name] for name in names}
    known = {name: p.input(x.shape, x) for name, x in rows.items()}
    sets = [net.hidden(name, x, SIZE.width, SIZE.width) for name, x in known.items()]
    places = np.concatenate([said[name][..., :2] for name in names], axis=1)
    found = heads(net, fused(net, SIZE, *sets), SIZE.classes, p.input(places.shape, places))
    told = [net.dense(f"told.{name}", x, SIZE.classes) for name, x in known.items()]
    return Found(found.boxes, ops.add(found.logits, told[0] if len(told) == 1 else ops.concat(told, 1)))


def train(seed: int, sensors: Sensors, variant: Variant, rate: float) -> dict[str, Parameter]:
    """Train a detector by Adam; rate: after a warm-up of 20 steps, from where it falls to 0."""
    store: dict[str, Parameter] = {}
    rng, (every, known) = np.random.default_rng(seed), _pool()
    for step in range(1, STEPS + 1):
        pick = rng.integers(0, POOL, BATCH)
        scene = {name: rows[pick] for name, rows in every.items()}, Truth(known.classes[pick], known.boxes[pick])
        said, truth = turned(rng, *scene)
        p = Program(store=store, rng=np.random.default_rng(seed))
        p.backward(detection_loss(p, detector(p, said, sensors, variant), truth, OBJECTS))
        adam(store.values(), rate * min(1.0, step / 20) * (1 - step / (STEPS + 1)), step)
        clear(store.values())
    return store


def ruled(said: dict[str, NDArray], sensors: Sensors) -> tuple[NDArray, NDArray]:
    """Return scores [B, N, classes] and places [B, N, 2] without learning.

    Of one sensor: its candidates as they are. Of both: those of LiDAR, each with the evidence of the camera candidate
    whose direction is nearest, up to 2 LINE, or its own less 9, which is behind all others.
    """
    rows = said["lidar" if sensors == "both" else sensors]
    own = np.where(rows[..., -1:] > 0, rows[..., 2:-1], -1e3)
    if sensors != "both":
        return own, rows[..., :2]
    apart = gaps(rows, said["camera"])
    taken = np.take_along_axis(said["camera"][..., 2:-1], apart.argmin(axis=2)[..., None], 1)
    return np.where(apart.min(axis=2)[..., None] <= 2 * LINE, taken, own - 9), rows[..., :2]


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


def precision(store: dict[str, Parameter], sensors: Sensors, variant: Variant, seed: int) -> float:
    """Return the mean average precision of a detector on scenes of a seed."""
    said, truth = _others(seed)
    found = detector(Program(store=store), said, sensors, variant)
    return average_precision(found.logits.array, found.boxes.array[..., :2], truth)


@lru_cache(maxsize=2)
def _others(seed: int) -> tuple[dict[str, NDArray[np.float64]], Truth]:
    return scenes(np.random.default_rng(seed), TESTED)


def measure(sensors: Sensors, variant: Variant) -> dict[str, float]:
    """Return the precision of detectors with the best rate of 10^(i / 2), of each seed and on average, of the rule, and
    that rate.

    The rate is chosen on scenes of validation with seed 0; none of its neighbours is better (`bracketed`).
    """
    first: dict[int, dict[str, Parameter]] = {}

    def losses(exponents: Sequence[int]) -> list[float]:
        first.update((i, train(0, sensors, variant, 10 ** (i / 2))) for i in exponents)
        return [-precision(first[i], sensors, variant, VALIDATION) for i in exponents]

    best = bracketed(range(-5, -2), losses, (-9, 1))
    stores = [first[best], *(train(seed, sensors, variant, 10 ** (best / 2)) for seed in range(1, SEEDS))]
    values = [precision(store, sensors, variant, TEST) for store in stores]
    said, truth = _others(TEST)
    return {
        **{f"precision_{sensors}_seed{seed}": value for seed, value in enumerate(values)},
        f"precision_{sensors}": float(np.mean(values)),
        f"precision_rule_{sensors}": average_precision(*ruled(said, sensors), truth),
        f"rate_{sensors}": 10 ** (best / 2),
    }


def study(variant: Variant) -> Study:
    """Train a detector on each sensor and on both, three seeds; mean average precision on other scenes.

    The claim holds if both are above either sensor, be it by its detector or by its rule.
    """
    kinds: tuple[Sensors, ...] = ("lidar", "camera", "both")
    found = {name: value for sensors in kinds for name, value in measure(sensors, variant).items()}
    alone = [found[f"precision_{how}{sensor}"] for how in ("", "rule_") for sensor in ("lidar", "camera")]
    holds = found["precision_both"] > max(alone)
    claim = "fused candidates are detected better than those of either sensor, by a detector or as they are"
    return Study(claim, holds, {"steps": STEPS, "seeds": SEEDS, **found})


TEST, VALIDATION = 99, 97
"""Seeds of scenes that no detector learnt from."""
