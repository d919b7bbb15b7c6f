"""Sparse model soups: after each pruning several copies are retrained apart and averaged, which keeps their one mask.

Source: M. Zimmer, C. Spiegel, S. Pokutta, "Sparse Model Soups: A Recipe for Improved Pruning via Model Averaging", ICLR
2024, arXiv 2306.16788, and the code of its authors.
Known: all equations from that code; which of the paper's tables its setting belongs to was not read.

    p = 1 - (1 - s)^(1 / P)        share of the remaining weights that each of P phases removes
    mask                           the largest |theta| over all matrices together
    theta_j, j = 1..m              copies, retrained under the mask with other orders of the data
    theta = mean_j theta_j         uniform soup; the greedy one takes a copy if the validation does not fall
    eta(t)                         LLR: 10 % warm-up along half a cosine, then linear to 0

m = 1 is iterative magnitude pruning (IMP).
Faithful: all of it. Resetting the statistics of batch normalisation has no counterpart, as normalisation takes those of
the batch here; momentum is plain, theirs is Nesterov's where weights decay.
On SAT: a retraining step of all members, each on a batch of its own, under one stream of indices (`engine.shared`):
forward products by cover along k, input gradients along n, weight gradients dense. Averaging is the host's.
Assumed: ResNet-18 on CIFAR-100 at 90 % with 3 members; places of the mask drawn at random.
Ours (`nm`): phases are 4:8, 2:8, 1:8 along k (and along n in the input gradient); stem and classifier stay dense.
Study: the soup of three members against its best member (by images held out of the training), IMP, and IMP with as
many steps as all members together, at one density; accuracy of a perceptron on digits, three seeds, and whether all
masks are identical.
Found here: at 90 % the soup is above its members, the best of them included (0.970 against 0.966), and above IMP, but
not above IMP with as many steps (0.972; `nm` 0.955 against 0.969): no.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import numpy as np

from nmsat.algorithms.core.tape import Pattern
from nmsat.algorithms.training.data import Dataset, digits
from nmsat.algorithms.workloads.engine import ops
from nmsat.algorithms.workloads.engine.networks import MlpSize, ResNetSize, features, normalised
from nmsat.algorithms.workloads.engine.program import Program
from nmsat.algorithms.workloads.engine.registry import Study, Variant, Workload, register
from nmsat.algorithms.workloads.engine.shared import shared_conv2d, shared_linear, shared_weight
from nmsat.algorithms.workloads.engine.training import LOSS_SCALE, sgd
from nmsat.algorithms.workloads.methods.dropgrow import global_magnitude, narrow_nm

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from nmsat.algorithms.workloads.engine.parameters import Parameter
    from nmsat.algorithms.workloads.engine.program import Tensor

PHASES: Final = (Pattern(4, 8), Pattern(2, 8), Pattern(1, 8))


@lru_cache(maxsize=1)
def images() -> Dataset:
    """Read the digits once."""
    return digits()


@lru_cache(maxsize=1)
def held_out() -> Dataset:
    """Return what members learn from, and as its test the fifth of the training images on which one is chosen."""
    return images().validation()


@dataclass(frozen=True, kw_only=True)
class Size:
    """A network, the density of its last phase, and how many members are retrained."""

    network: MlpSize | ResNetSize
    density: float
    members: int


def phase_densities(sparsity: float, phases: int) -> list[float]:
    """Return the density after each phase: (1 - s)^(i / P)."""
    return [(1 - sparsity) ** (i / phases) for i in range(1, phases + 1)]


def retraining_rate(step: int, steps: int, peak: float) -> float:
    """Return LLR at a step from 0: warm-up along half a cosine over a tenth of the steps, then linear to 0."""
    warm = max(1, round(0.1 * steps))
    if step < warm:
        return peak * 0.5 * (1 - math.cos(math.pi * (step + 1) / warm))
    return peak * (steps - step) / (steps - warm)


def adaptive_peak(norm: float, pruned_norm: float, sparsity: float, share: float, peak: float) -> float:
    """Return the highest rate of ALLR: peak r / sqrt(p), at least peak * share, at most peak.

    norm, pruned_norm: of theta before and after the pruning, r = sqrt(|norm^2 - pruned_norm^2|) / norm; sparsity: p;
    share: retraining over training steps.
    """
    r = math.sqrt(abs(norm**2 - pruned_norm**2)) / norm
    return min(max(peak * r / math.sqrt(sparsity), peak * min(share, 1.0)), peak)


def average(store: dict[str, Parameter], members: int) -> dict[str, Parameter]:
    """Return one network: every matrix and vector the mean of those of the members; masks are kept as they are."""
    out = {}
    for name, w in store.items():
        mean = w.array.reshape(members, -1).mean(axis=0)
        shape = (1, *w.shape[1:]) if len(w.shape) == 3 else (w.size // members,)
        out[name] = _like(w, mean.reshape(shape))
    return out


def copied(store: dict[str, Parameter], members: int) -> dict[str, Parameter]:
    """Return `members` copies of a network side by side."""
    out = {}
    for name, w in store.items():
        wide = np.repeat(w.array, members, axis=0) if len(w.shape) == 3 else np.tile(w.array, members)
        out[name] = _like(w, wide)
    return out


def greedy(store: dict[str, Parameter], members: int, score: Callable[[dict[str, Parameter]], float]) -> list[int]:
    """Return the members of the greedy soup: best first, each taken if the mean with it scores no less."""
    alone = [score(chosen(store, members, [j])) for j in range(members)]
    order = sorted(range(members), key=lambda j: -alone[j])
    taken, best = [order[0]], alone[order[0]]
    for j in order[1:]:
        if (found := score(chosen(store, members, [*taken, j]))) >= best:
            taken, best = [*taken, j], found
    return taken


def chosen(store: dict[str, Parameter], members: int, which: Sequence[int]) -> dict[str, Parameter]:
    """Return the mean of some of the members."""
    picked = {}
    for name, w in store.items():
        parts = w.array.reshape(members, -1)[list(which)]
        shape = (len(which), *w.shape[1:]) if len(w.shape) == 3 else (parts.size,)
        picked[name] = _like(w, parts.reshape(shape))
    return average(picked, len(which))


def run(p: Program, size: Size, variant: Variant) -> None:
    """Record one retraining step of all members at the last density."""
    rng, network, members = np.random.default_rng(0), size.network, size.members
    if isinstance(network, MlpSize):
        shape: tuple[int, ...] = (network.batch, members * network.widths[0])
    else:
        shape = (network.batch, network.image, network.image, members * network.channels)
    picks = [rng.integers(0, len(images().x_train), network.batch) for _ in range(members)] if p.values else []
    x = p.input(shape, lambda: _side_by_side(images().x_train, picks, shape))
    logits = forward(p, size, x, variant)
    labels = np.stack([images().y_train[pick] for pick in picks], axis=1) if p.values else None
    p.backward(_loss(logits, labels, members), LOSS_SCALE)


def forward(p: Program, size: Size, x: Tensor, variant: Variant) -> Tensor:
    """Return the logits [batch, members * classes] of all members, whose inputs stand side by side in x."""
    network, members = size.network, size.members

    def matrix(name: str, shape: tuple[int, int], *, dense: bool) -> Parameter:
        if variant == "nm":
            return shared_weight(p, name, members, shape, pattern=None if dense else PHASES[-1])
        return shared_weight(p, name, members, shape, density=size.density)

    def biased(name: str, y: Tensor, n: int, *, dense: bool) -> Tensor:
        y = shared_linear(name, y, matrix(name, (y.shape[-1] // members, n), dense=dense))
        return ops.add(y, p.vector(f"{name}.bias", (members * n,)))

    if isinstance(network, MlpSize):
        last = len(network.widths) - 2
        for layer, n in enumerate(network.widths[1:]):
            x = biased(f"fc{layer}", ops.relu(x) if layer else x, n, dense=layer == last)
        return x

    def unit(name: str, x: Tensor, channels: int, kernel: int, stride: int) -> Tensor:
        shape = (kernel * kernel * x.shape[-1] // members, channels // members)
        w = matrix(name, shape, dense=name == "stem")
        return normalised(p, name, shared_conv2d(name, x, w, kernel, stride))

    wide = replace(network, stem=members * network.stem, widths=tuple(members * width for width in network.widths))
    return biased("classifier", features(wide, x, unit, unit), network.classes, dense=True)


def train(store: dict[str, Parameter], size: Size, steps: int, seeds: Sequence[int], *, retrain: bool) -> None:
    """Train all members by momentum SGD on digits, each with its own order of the data; masks stay.

    retrain: with the schedule of the retraining, else at a constant rate that is a tenth in the last third.
    """
    data, members = held_out(), size.members
    rngs = [np.random.default_rng(seed) for seed in seeds]
    batch = size.network.batch
    for step in range(steps):
        picks = [rng.integers(0, len(data.x_train), batch) for rng in rngs]
        p = Program(store=store, rng=np.random.default_rng(seeds[0]))
        shape = (batch, members * 64)
        logits = forward(p, size, p.input(shape, _side_by_side(data.x_train, picks, shape)), "faithful")
        labels = np.stack([data.y_train[pick] for pick in picks], axis=1)
        p.backward(_loss(logits, labels, members))
        rate = retraining_rate(step, steps, PEAK) if retrain else PEAK * (1 if step < 2 * steps / 3 else 0.1)
        sgd(store.values(), rate, decay=1e-4)


def prune(store: dict[str, Parameter], phase: int, size: Size, variant: Variant) -> None:
    """Mask a network of one member for a phase from 0, by magnitude over all matrices or in groups of 8."""
    matrices = [w for w in store.values() if len(w.shape) == 3]
    masks = [np.ones(w.shape[1:], np.bool_) if w.keep is None else w.keep for w in matrices]
    if variant == "nm":
        pattern, last = PHASES[phase], matrices.pop()
        found = [narrow_nm(w.array[0], keep, pattern) for w, keep in zip(matrices, masks, strict=False)]
        last.masked_gradient = False
        for w in matrices:
            w.ff = w.bp = pattern
    else:
        density = phase_densities(1 - size.density, len(PHASES))[phase]
        count = round(density * sum(w.size for w in matrices))
        found = global_magnitude([w.array[0] for w in matrices], masks, count)
    for w, keep in zip(matrices, found, strict=True):
        w.mask(keep)
        w.masked_gradient = True
        w.value = np.where(keep, w.array, 0)


def soup(
    seed: int, members: int, steps: int, variant: Variant, *, density: float = 0.1, dense_steps: int = 300
) -> tuple[dict[str, Parameter], dict[str, Parameter]]:
    """Run all phases; returns the members of the last phase and their average.

    steps: of a retraining; density: after the last phase; dense_steps: of the training before.
    """
    one = replace(SMALL, members=1, density=density)
    store: dict[str, Parameter] = {}
    many = store
    train(store, replace(one, density=1.0), dense_steps, [seed], retrain=False)
    for phase in range(len(PHASES)):
        prune(store, phase, one, variant)
        many = copied(store, members)
        seeds = [1000 * (phase + 1) + 10 * seed + j for j in range(members)]
        train(many, replace(one, members=members), steps, seeds, retrain=True)
        store = average(many, members)
    return many, store


def accuracy(store: dict[str, Parameter], members: int, data: Dataset | None = None) -> list[float]:
    """Return the accuracy of every member on the test images of `data`, by default those of the digits."""
    data = images() if data is None else data
    size, shape = replace(SMALL, members=members), (len(data.x_test), members * 64)
    p = Program(store=store)
    x = np.tile(data.x_test.reshape(len(data.x_test), -1), (1, members))
    logits = forward(p, size, p.input(shape, x), "faithful").array.reshape(shape[0], members, -1)
    return [float(a) for a in (logits.argmax(axis=-1) == data.y_test[:, None]).mean(axis=0)]


def study(variant: Variant) -> Study:
    """Soup, its members, IMP and IMP with as many steps as all members together, on digits at one density."""
    members, seeds = SMALL.members, 3
    rows, same, many = [], True, {}
    for seed in range(seeds):
        many, mean = soup(seed, members, STEPS, variant)
        apart = accuracy(many, members)
        best = int(np.argmax(accuracy(many, members, held_out())))
        longer = accuracy(soup(seed, 1, members * STEPS, variant)[1], 1)[0]
        plain = accuracy(soup(seed, 1, STEPS, variant)[1], 1)[0]
        rows.append((accuracy(mean, 1)[0], apart[best], float(np.mean(apart)), plain, longer))
        same &= all(
            mean[name].keep is None or np.array_equal(mean[name].array[0] != 0, (w.array != 0).any(axis=0))
            for name, w in many.items()
        )
    names = ("soup", "best_member", "mean_member", "imp", "imp_as_long")
    means = dict(zip(names, np.mean(rows, axis=0), strict=True))
    measured: dict[str, float | int | str] = {f"accuracy_{name}": float(value) for name, value in means.items()}
    measured |= {"members": members, "seeds": seeds, "masks_identical": str(same)}
    matrices = [w for w in many.values() if len(w.shape) == 3]
    measured["density"] = sum(w.nonzeros for w in matrices) / sum(w.size for w in matrices)
    holds = same and means["soup"] > max(means["best_member"], means["imp"], means["imp_as_long"])
    claim = "the soup is above its best member and above IMP, also as long, at equal density; masks are identical"
    return Study(claim, holds, measured, many)


def _loss(logits: Tensor, labels: NDArray[np.int64] | None, members: int) -> Tensor:
    """Sum over the members of their mean cross entropies, so that each learns as it would alone."""
    batch = logits.shape[0]
    apart = ops.reshape(logits, (batch, members, logits.shape[-1] // members))
    return ops.scale(ops.cross_entropy(apart, labels), float(members))


def _side_by_side(x: NDArray, picks: Sequence[NDArray], shape: tuple[int, ...]) -> NDArray:
    """Return a batch of every member, channels side by side."""
    parts = [x[pick] if len(shape) == 4 else x[pick].reshape(len(pick), -1) for pick in picks]
    return np.concatenate(parts, axis=-1)


def _like(w: Parameter, value: NDArray) -> Parameter:
    out = replace(w, shape=value.shape, value=value.copy(), grad=None, state={}, keep=None, nonzeros=0)
    if w.keep is not None:
        out.mask(w.keep)
    return out


PEAK: Final = 0.1
STEPS: Final = 80
SMALL: Final = Size(network=MlpSize(batch=32, widths=(64, 96, 48, 10)), density=0.1, members=3)
RESNET18_CIFAR: Final = ResNetSize(
    batch=128, image=32, channels=3, classes=100, stem=64, widths=(64, 128, 256, 512), blocks=(2, 2, 2, 2)
)

register(
    Workload(
        name="model-soups",
        title="Sparse model soups",
        source="Zimmer, Spiegel, Pokutta, ICLR 2024, arXiv 2306.16788",
        sparse="weights, unstructured, one mask for all members (10 %)",
        variants={
            "faithful": "lossless cover along k and along n, chosen once for all members",
            "nm": "ours: 4:8, 2:8, 1:8 by phase, along k and along n in the backward pass",
        },
        quoted="consistent gains over IMP and over training one model as long (tables not read)",
        sizes={"small": SMALL, "paper": Size(network=RESNET18_CIFAR, density=0.1, members=3)},
        run=run,
        study=study,
        about=__doc__,
    )
)
