"""GraNet: gradual magnitude pruning with zero-cost regeneration.

Source: S. Liu et al., "Sparse Training via Boosting Pruning Plasticity with Neuroregeneration", NeurIPS 2021, arXiv
2106.10404, and the code of its authors.
Known: equations as in the paper's section 4 and the code; accuracies of the paper are second-hand. Every `every` steps,
up to event `stop`:

    d_t  = d_f + (d_i - d_f) (1 - t / t_f)^3             keep the d_t share of largest |w| over all layers
    r_t  = cosine from 0.5 to 0.005                      per layer: drop that share of the smallest |w| and grow as many
                                                         where |dL/dw| is largest; grown weights start at 0

Regeneration goes on after the pruning has stopped. Gradual magnitude pruning (GMP) is the same with r_t = 0.
Faithful: schedule, global pruning, per-layer drop and grow with the minibatch's dense gradient, masked momentum (plain,
theirs is Nesterov's).
On SAT: forward products by lossless cover along k, input gradients along n; weight gradients dense, of which the kept
elements alone are wanted between events; the recorded step is such a step. Sorting and growth are the host's.
Assumed: ERK densities at 10 % in ResNet-50 for CIFAR, places drawn at random, as no trained mask exists there.
Ours (`nm`): the density falls as N of 8 (8, 4, 2, 1) along k, what is dropped grows again inside the same group, and
the backward copy is pruned to the same N:8 along n; stem and classifier stay dense.
Study: GraNet against GMP at one density and as many steps: error on a planted sparse teacher, three seeds, and accuracy
on digits, one seed.
Found here: with each seed GraNet is nearer the teacher, in our form by less: yes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np

from nmsat.algorithms.core.tape import Pattern
from nmsat.algorithms.training.data import digits
from nmsat.algorithms.workloads.engine import ops
from nmsat.algorithms.workloads.engine.networks import MlpSize, ResNetSize, convolutions, mlp, normalised, resnet
from nmsat.algorithms.workloads.engine.planted import sparse_teacher
from nmsat.algorithms.workloads.engine.products import conv2d
from nmsat.algorithms.workloads.engine.program import Program
from nmsat.algorithms.workloads.engine.registry import Study, Variant, Workload, register
from nmsat.algorithms.workloads.engine.training import LOSS_SCALE, sgd
from nmsat.algorithms.workloads.methods.dropgrow import (
    cosine,
    cubic_density,
    erk_densities,
    global_magnitude,
    narrow_nm,
    regenerate,
    regenerate_nm,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from nmsat.algorithms.workloads.engine.networks import Maker
    from nmsat.algorithms.workloads.engine.parameters import Parameter
    from nmsat.algorithms.workloads.engine.program import Tensor

    Loss: TypeAlias = Callable[[Program, np.random.Generator], Tensor]

PATTERN: Final = Pattern(1, 8)


@dataclass(frozen=True, kw_only=True)
class Size:
    """A network and the density it is pruned to."""

    network: MlpSize | ResNetSize
    density: float


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """When and how far to prune. fraction: r at the start, 0 for gradual magnitude pruning; stop: step of t_f."""

    steps: int
    every: int
    stop: int
    initial: float = 1.0
    final: float
    fraction: float = 0.5
    lr: float

    def learning_rate(self, step: int) -> float:
        """Learning rate of a step: divided by 10 at 60 % and by 5 more at 85 % of the run."""
        return self.lr * (1 if step < 0.6 * self.steps else 0.1 if step < 0.85 * self.steps else 0.02)


def run(p: Program, size: Size, variant: Variant) -> None:
    """Record one training step at the final density: logits, cross entropy, both gradients."""
    network, make = size.network, maker(p, size, variant)
    if isinstance(network, MlpSize):
        x = p.input((network.batch, network.widths[0]), lambda: _sample(network.batch)[0])
        logits = mlp(p, network, x, make)
    else:
        side = network.image
        x = p.input((network.batch, side, side, network.channels), lambda: _images(p, network))

        def unit(name: str, x: Tensor, channels: int, kernel: int, stride: int) -> Tensor:
            w = make(name, (kernel * kernel * x.shape[-1], channels))
            return normalised(p, name, conv2d(name, x, w, kernel, stride))

        logits = resnet(p, network, x, unit, unit, make)
    labels = _sample(network.batch)[1] if p.values else None
    p.backward(ops.cross_entropy(logits, labels), LOSS_SCALE)


def maker(p: Program, size: Size, variant: Variant) -> Maker:
    """Return what makes the matrix of a layer: ERK density (faithful) or 1:8 (nm)."""
    if variant == "nm":
        dense = {"stem", "classifier", "fc0"} if isinstance(size.network, ResNetSize) else {_last(size.network)}

        def patterned(name: str, shape: tuple[int, int]) -> Parameter:
            pattern = None if name in dense else PATTERN
            return p.weight(name, shape, ff=pattern, bp=pattern, masked_gradient=True)

        return patterned
    densities = layer_densities(size)

    def masked(name: str, shape: tuple[int, int]) -> Parameter:
        return p.weight(name, shape, density=densities[name], masked_gradient=True)

    return masked


def layer_densities(size: Size) -> dict[str, float]:
    """Return the ERK density of each layer; a kernel's axes count one by one."""
    network = size.network
    if isinstance(network, MlpSize):
        pairs = zip(network.widths, network.widths[1:], strict=False)
        shapes: dict[str, tuple[int, ...]] = {f"fc{i}": pair for i, pair in enumerate(pairs)}
    else:
        shapes = {}
        for name, k, n in convolutions(network):
            side = network.stem_kernel if name == "stem" else 3 if _is_wide(network, name) else 1
            shapes[name] = (k // side**2, n, side, side)
    found = erk_densities(list(shapes.values()), size.density)
    return dict(zip(shapes, found, strict=True))


def train(
    store: dict[str, Parameter], loss: Loss, names: list[str], schedule: Schedule, seed: int, *, nm: bool = False
) -> list[float]:
    """Train under a schedule; returns the global density after every event.

    loss: builds the program of one step and returns its loss; names: matrices that are pruned.
    """
    rng, init = np.random.default_rng(seed), np.random.default_rng(seed + 1)
    densities = []
    for step in range(schedule.steps):
        p = Program(store=store, rng=init)
        p.backward(loss(p, rng))
        weights = [store[name] for name in names]
        grads = [w.grad for w in weights]
        sgd(store.values(), schedule.learning_rate(step), decay=5e-4)
        if (step + 1) % schedule.every == 0:
            (prune_and_grow_nm if nm else prune_and_grow)(weights, grads, schedule, step + 1)
            densities.append(sum(w.nonzeros for w in weights) / sum(w.size for w in weights))
    return densities


def prune_and_grow(weights: list[Parameter], grads: list[NDArray | None], schedule: Schedule, step: int) -> None:
    """One event: global pruning until `stop`, then drop and grow per layer; weights and momentum are masked."""
    if step <= schedule.stop:
        density = cubic_density(step, 0, schedule.stop, schedule.initial, schedule.final)
        values, masks = [w.array for w in weights], [_mask(w) for w in weights]
        count = int(density * sum(w.size for w in weights))
        for w, keep in zip(weights, global_magnitude(values, masks, count), strict=True):
            w.mask(keep)
    fraction = cosine(step, schedule.steps, schedule.fraction, min(schedule.fraction, 0.005))
    for w, grad in zip(weights, grads, strict=True):
        if fraction and grad is not None:
            keep, grown = regenerate(w.array, _mask(w), grad, fraction)
            w.mask(keep)
            w.value = np.where(grown, 0, w.array)
        _apply_mask(w)


def prune_and_grow_nm(weights: list[Parameter], grads: list[NDArray | None], schedule: Schedule, step: int) -> None:
    """One event of our variant: the largest N of 1, 2, 4, 8 that the density asks for, then swaps inside groups."""
    density = cubic_density(step, 0, schedule.stop, 1.0, schedule.final)
    n = min(level for level in (1, 2, 4, 8) if level / 8 >= density - 1e-9)
    if n == 8:
        return
    pattern = Pattern(n, 8)
    fraction = cosine(step, schedule.steps, schedule.fraction, min(schedule.fraction, 0.005))
    for w, grad in zip(weights, grads, strict=True):
        w.mask(narrow_nm(w.array, _mask(w), pattern))
        if fraction and grad is not None:
            keep, grown = regenerate_nm(w.array, _mask(w), grad, fraction, pattern)
            w.mask(keep)
            w.value = np.where(grown, 0, w.array)
        w.ff = w.bp = pattern
        _apply_mask(w)


def study(variant: Variant) -> Study:
    """GraNet against GMP at equal density: a planted sparse teacher (error, three seeds), and digits (accuracy)."""
    nm = variant == "nm"
    measured: dict[str, float | int | str] = {}
    pairs = []
    for seed in range(3):
        errors = [teacher_error(seed, fraction, nm=nm) for fraction in (0.5, 0.0)]
        pairs.append(errors)
        measured[f"teacher_error_granet_seed{seed}"], measured[f"teacher_error_gmp_seed{seed}"] = errors
    store: dict[str, Parameter] = {}
    for name, fraction in (("gmp", 0.0), ("granet", 0.5)):
        store = {}
        measured[f"digits_accuracy_{name}"] = digits_accuracy(store, 0, fraction, nm=nm)
    measured["density"] = sum(w.nonzeros for w in _matrices(store)) / sum(w.size for w in _matrices(store))
    for w in _matrices(store):
        w.masked_gradient = True
    holds = all(ours < theirs for ours, theirs in pairs)
    return Study(
        "GraNet beats gradual magnitude pruning at equal density (planted sparse teacher)", holds, measured, store
    )


def teacher_error(seed: int, fraction: float, *, nm: bool = False) -> float:
    """Return the test error (share of variance) of a student pruned to 5 % (1:8 for nm)."""
    data = sparse_teacher(seed)
    size = MlpSize(batch=64, widths=(64, 128, 4))
    schedule = Schedule(steps=1000, every=25, stop=500, final=0.125 if nm else 0.05, fraction=fraction, lr=0.05)

    def loss(p: Program, rng: np.random.Generator) -> Tensor:
        pick = rng.integers(0, len(data.x_train), size.batch)
        y = mlp(p, size, p.input((size.batch, 64), data.x_train[pick]), p.weight)
        return ops.squared_error(y, p.input((size.batch, 4), data.y_train[pick]))

    store: dict[str, Parameter] = {}
    train(store, loss, ["fc0"] if nm else ["fc0", "fc1"], schedule, seed, nm=nm)
    p = Program(store=store)
    y = mlp(p, replace(size, batch=len(data.x_test)), p.input(data.x_test.shape, data.x_test), p.weight)
    return float(np.mean((y.array - data.y_test) ** 2))


def digits_accuracy(store: dict[str, Parameter], seed: int, fraction: float, *, nm: bool = False) -> float:
    """Train the small network on digits to its density; returns the test accuracy, 0..1."""
    size = SMALL_NETWORK
    schedule = Schedule(steps=600, every=20, stop=300, final=SMALL.density, fraction=fraction, lr=0.1)
    data = digits()

    def loss(p: Program, rng: np.random.Generator) -> Tensor:
        pick = rng.integers(0, len(data.x_train), 64)
        x = p.input((64, 64), data.x_train[pick].reshape(64, 64))
        return ops.cross_entropy(mlp(p, size, x, p.weight), data.y_train[pick])

    names = [f"fc{i}" for i in range(len(size.widths) - 1)]
    train(store, loss, names[:-1] if nm else names, schedule, seed, nm=nm)
    p = Program(store=store)
    x = p.input((len(data.x_test), 64), data.x_test.reshape(-1, 64))
    return float(np.mean(mlp(p, size, x, p.weight).array.argmax(axis=1) == data.y_test))


def _mask(w: Parameter) -> NDArray[np.bool_]:
    return np.ones(w.shape, np.bool_) if w.keep is None else w.keep


def _apply_mask(w: Parameter) -> None:
    keep = _mask(w)
    w.value = np.where(keep, w.array, 0)
    if "velocity" in w.state:
        w.state["velocity"] = np.where(keep, w.state["velocity"], 0)


def _matrices(store: dict[str, Parameter]) -> list[Parameter]:
    return [w for w in store.values() if len(w.shape) == 2]


def _last(network: MlpSize) -> str:
    return f"fc{len(network.widths) - 2}"


def _is_wide(network: ResNetSize, name: str) -> bool:
    """Whether a layer of the network has a 3 x 3 kernel."""
    return name.endswith(".b") or (name.endswith(".a") and not network.bottleneck)


def _sample(batch: int) -> tuple[NDArray, NDArray[np.int64]]:
    data = digits()
    return data.x_train[:batch].reshape(batch, 64), data.y_train[:batch]


def _images(p: Program, network: ResNetSize) -> NDArray:
    """Digits at their own size, else noise."""
    if (network.image, network.channels) == (8, 1):
        return digits().x_train[: network.batch]
    shape = (network.batch, network.image, network.image, network.channels)
    return p.rng.standard_normal(shape).astype(np.float32)


SMALL_NETWORK: Final = MlpSize(batch=32, widths=(64, 300, 100, 10))
SMALL: Final = Size(network=SMALL_NETWORK, density=0.05)
RESNET50_CIFAR: Final = ResNetSize(
    batch=128,
    image=32,
    channels=3,
    classes=100,
    stem=64,
    widths=(64, 128, 256, 512),
    blocks=(3, 4, 6, 3),
    bottleneck=True,
)

register(
    Workload(
        name="granet",
        title="GraNet",
        source="Liu et al., NeurIPS 2021, arXiv 2106.10404",
        sparse="weights, unstructured, dynamic (5 % small, 10 % paper)",
        variants={
            "faithful": "unstructured masks, lossless cover along k and along n",
            "nm": "ours: 1:8 along k by drop and grow inside groups, 1:8 along n in the backward pass",
        },
        quoted="CIFAR-100 ResNet-50 at 90 %: GMP 76.91, RigL 76.50, GraNet 77.29, dense 78.23 (top-1, second-hand)",
        sizes={"small": SMALL, "paper": Size(network=RESNET50_CIFAR, density=0.1)},
        run=run,
        study=study,
        about=__doc__,
    )
)
