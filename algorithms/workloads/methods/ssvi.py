"""Sparse subspace variational inference: a Gaussian network whose means and variances share one moving sparse mask.

Source: J. Li, Z. Miao, Q. Qiu, R. Zhang, "Training Bayesian Neural Networks with Sparse Subspace Variational
Inference", ICLR 2024, arXiv 2402.11025, and the code found for it.
Known: equations from that code; the paper's tables were not read.

    q(w) = N(mu, sigma^2), sigma = softplus(rho)         prior N(0, 0.005^2); absent weights are 0
    y    = X mu + sqrt(X^2 sigma^2 + 1e-8) xi            local reparametrisation, xi ~ N(0, 1)
    loss = cross entropy + kappa w KL, kappa = 0.01 / |train|, over the weights that are present
    SNR  = E|theta| / sd|theta|                          moments of the folded normal
    every dT steps, until 75 % of the training: drop the share alpha = 0.3 (1 + cos(pi t / T)) / 2 of lowest SNR, add as
    many of largest |dL / dmu|, with mu = 0 and rho = the mean of those present

Faithful: all of that, but: the optimizer steps at a change of the mask as well; mu starts at N(0, 2 / (k density)) and
not at N(0, 0.01^2); weights do not decay (5e-4 there, not of rho). The study besides: 400 steps of 64 images; kappa is
0.01 / 50 000 as for CIFAR, not 0.01 over its own 1347 images; the rate begins at 0.1 and not at 0.01 (both so that
dense VI learns at all); the mask changes every 20 steps and not every 100.
On SAT: X mu and X^2 sigma^2 are one product of two value sets under one stream of indices (`engine.shared`), by cover;
so are both input gradients; weight gradients are dense. sigma^2 is about 4e-7, below binary16: (2^10 sigma)^2 is
multiplied and 2^-20 taken out of the sums. The first convolution is dense. Noise, scores and the optimizer of mu and
rho are the host's.
Assumed: ResNet-18 on CIFAR at a density of 10 %, places drawn at random.
Ours (`nm`): 1:8 along k, dropped and grown inside groups (and along n in the input gradient).
Study: at a tenth of the weights against dense VI and against a mask that stays; accuracy, calibration error and
log-likelihood of a perceptron on digits, sparse in every layer; three seeds.
Found here: far above a mask that stays, calibrated as well as dense VI, but 3.3 points below it; so the claim (within
3) does not hold, in our form less (6 points, and its calibration is worse too: error 0.175 against 0.111): no.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import numpy as np

from nmsat.algorithms.core.tape import Pattern
from nmsat.algorithms.training.data import Dataset, digits
from nmsat.algorithms.workloads.engine import ops
from nmsat.algorithms.workloads.engine.hostwork import elementwise
from nmsat.algorithms.workloads.engine.networks import MlpSize, ResNetSize, features, normalised
from nmsat.algorithms.workloads.engine.parameters import Parameter, kept_count, nm_mask
from nmsat.algorithms.workloads.engine.program import Program
from nmsat.algorithms.workloads.engine.registry import Study, Variant, Workload, register
from nmsat.algorithms.workloads.engine.shared import shared_conv2d, shared_linear
from nmsat.algorithms.workloads.engine.training import LOSS_SCALE
from nmsat.algorithms.workloads.methods.dropgrow import cosine, regenerate, regenerate_nm

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from nmsat.algorithms.workloads.engine.program import Tensor

PATTERN: Final = Pattern(1, 8)
PRIOR: Final = 0.005
SCALE: Final = 2.0**20
"""What sigma^2 is multiplied with before a product."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """A network and the share of its weights that is present."""

    network: MlpSize | ResNetSize
    density: float


@lru_cache(maxsize=1)
def images() -> Dataset:
    """Read the digits once."""
    return digits()


def softplus(rho: NDArray) -> NDArray:
    """log(1 + exp(rho))."""
    return np.logaddexp(0, rho)


def folded_moments(mu: NDArray, sigma: NDArray) -> tuple[NDArray, NDArray]:
    """Return mean and standard deviation of |N(mu, sigma^2)|."""
    from scipy.special import erf

    ratio = mu / sigma
    mean = mu * erf(ratio / np.sqrt(2)) + sigma * np.sqrt(2 / np.pi) * np.exp(-(ratio**2) / 2)
    return mean, np.sqrt(np.maximum(mu**2 + sigma**2 - mean**2, 0))


def divergence(mu: NDArray, sigma: NDArray) -> NDArray:
    """Return KL(N(mu, sigma^2) | prior) of each weight."""
    return np.log(PRIOR / sigma) + (sigma**2 + mu**2) / (2 * PRIOR**2) - 0.5


def gaussian(
    p: Program, name: str, shape: tuple[int, int], density: float, variant: Variant, *, dense: bool = False
) -> Parameter:
    """Return [mu, 2^20 sigma^2] as two matrices under one mask; name.mu and name.rho are what learns."""
    k, n = shape
    pattern = PATTERN if variant == "nm" and not dense and PATTERN.m <= k else None
    back = pattern if pattern is not None and pattern.m <= n else None
    kept = k * n if dense or variant == "nm" else max(1, round(density * k * n))
    kept = kept if pattern is None else kept_count(shape, pattern)
    if name not in p.store:
        both = Parameter(name, (2, k, n), None, None, 2 * kept, pattern, back, masked_gradient=True)
        p.store[name] = both
        mu, rho = Parameter(f"{name}.mu", shape), Parameter(f"{name}.rho", shape)
        p.store[mu.name], p.store[rho.name] = mu, rho
        if p.values:
            gain = np.sqrt(2 / (k * (density if not dense else 1.0)))
            sigma = np.maximum(np.abs(p.rng.normal(0.0006, 0.0005, shape)), 1e-5)
            mu.value, rho.value = p.rng.normal(0, gain, shape), np.log(np.expm1(sigma))
            keep = np.ones(shape, np.bool_)
            if pattern is not None:
                keep = nm_mask(mu.array, pattern, 0)
            elif kept < k * n:
                keep = np.zeros(k * n, np.bool_)
                keep[p.rng.permutation(k * n)[:kept]] = True
                keep = keep.reshape(shape)
            both.mask(keep)
    both = p.store[name]
    # Softplus, square, mask of both.
    p.host(f"{name}.values", "Gaussian", *elementwise(both.nonzeros, 3, 2, word=2))
    if p.values:
        mu, sigma = p.store[f"{name}.mu"].array, softplus(p.store[f"{name}.rho"].array)
        both.value = np.where(_present(both), np.stack([mu, SCALE * sigma**2]), 0).astype(p.dtype)
    return both


def sample(p: Program, moments: Tensor, noise: bool) -> Tensor:
    """Return mean + sqrt(variance + 1e-8) xi of [..., mean channels | 2^20 variance channels]."""
    n = moments.shape[-1] // 2
    mean, variance = ops.part(moments, -1, 0, n), ops.part(moments, -1, n, 2 * n)
    if not noise:
        return mean

    def deviation(v: NDArray) -> NDArray:
        return np.sqrt(np.maximum(v, 0) / v.dtype.type(SCALE) + v.dtype.type(1e-8))

    spread = p.apply(
        "Sqrt",
        (variance,),
        variance.shape,
        deviation,
        lambda d, y, _v: ((d / (2 * y * y.dtype.type(SCALE))),),
        spent=elementwise(variance.size, 3, 2, word=2),
        back_spent=elementwise(variance.size, 2, 3, word=2),
    )
    xi = p.input(mean.shape, lambda: p.rng.standard_normal(mean.shape))
    return ops.add(mean, ops.mul(spread, xi))


def forward(p: Program, size: Size, x: Tensor, variant: Variant, *, noise: bool = True) -> Tensor:
    """Return the logits of one draw of the network (of its mean without noise)."""
    network = size.network

    def moments(y: Tensor) -> Tensor:
        return ops.concat([y, ops.mul(y, y)], -1)

    def layer(name: str, y: Tensor, n: int) -> Tensor:
        w = gaussian(p, name, (y.shape[-1], n), size.density, variant)
        return ops.add(sample(p, shared_linear(name, moments(y), w), noise), p.vector(f"{name}.bias", (n,)))

    if isinstance(network, MlpSize):
        for i, n in enumerate(network.widths[1:]):
            x = layer(f"fc{i}", ops.relu(x) if i else x, n)
        return x

    def unit(name: str, x: Tensor, channels: int, kernel: int, stride: int) -> Tensor:
        shape = (kernel * kernel * x.shape[-1], channels)
        w = gaussian(p, name, shape, size.density, variant, dense=name == "stem")
        return normalised(p, name, sample(p, shared_conv2d(name, moments(x), w, kernel, stride), noise))

    return layer("classifier", features(network, x, unit, unit), network.classes)


def run(p: Program, size: Size, variant: Variant) -> None:
    """Record one training step."""
    network = size.network
    if isinstance(network, MlpSize):
        x = p.input((network.batch, 64), lambda: images().x_train[: network.batch].reshape(-1, 64))
    else:
        x = p.input((network.batch, network.image, network.image, network.channels))
    labels = images().y_train[: network.batch] if p.values else None
    p.backward(ops.cross_entropy(forward(p, size, x, variant), labels), LOSS_SCALE)
    learnt = sum(w.nonzeros for w in p.store.values() if len(w.shape) == 3)
    # Chain rule to rho, the divergence's gradient, momentum, step.
    p.host("update", "MomentumSGD", *elementwise(learnt, 12, 6))


def learn(store: dict[str, Parameter], rate: float, weight: float) -> dict[str, NDArray]:
    """Take a step of momentum SGD on mu, rho and the biases; returns the dense gradients of mu.

    weight: of the divergence, kappa w.
    """
    slopes = {}
    for name, w in store.items():
        if w.grad is None:
            continue
        if len(w.shape) != 3:
            _descend(w, w.grad, rate, None)
            continue
        mu, rho, keep = store[f"{name}.mu"], store[f"{name}.rho"], _present(w)
        sigma = softplus(rho.array)
        slopes[name] = w.grad[0]
        to_sigma = 2 * SCALE * sigma * w.grad[1] + weight * (sigma / PRIOR**2 - 1 / sigma)
        _descend(mu, w.grad[0] + weight * mu.array / PRIOR**2, rate, keep)
        _descend(rho, to_sigma / (1 + np.exp(-rho.array)), rate, keep)
        w.grad = None
    return slopes


def move_mask(store: dict[str, Parameter], slopes: dict[str, NDArray], fraction: float, variant: Variant) -> None:
    """Drop the lowest SNR and add the largest |dL / dmu| in each layer, in groups of 8 for nm."""
    for name, slope in slopes.items():
        w, mu, rho = store[name], store[f"{name}.mu"], store[f"{name}.rho"]
        keep = _present(w)
        mean, deviation = folded_moments(mu.array, softplus(rho.array))
        score = mean / np.maximum(deviation, 1e-300)
        if w.ff is not None:
            new, _ = regenerate_nm(score, keep, slope, fraction, w.ff)
        else:
            new, _ = regenerate(score, keep, slope, fraction)
        grown = new & ~keep
        mu.value = np.where(grown, 0, mu.array)
        rho.value = np.where(grown, rho.array[keep].mean(), rho.array)
        for q in (mu, rho):
            q.state["velocity"] = np.where(new & keep, q.state["velocity"], 0)
        w.mask(new)


def train(seed: int, density: float, variant: Variant, fraction: float, steps: int) -> dict[str, Parameter]:
    """Train a perceptron on digits; fraction: alpha at the start (0: the mask stays as drawn)."""
    data, rng, store = images(), np.random.default_rng(seed), {}
    size, x = Size(network=SMALL_NETWORK, density=density), data.x_train.reshape(-1, 64)
    for step in range(1, steps + 1):
        pick = rng.integers(0, len(x), 64)
        p = Program(store=store, rng=rng)
        logits = forward(p, size, p.input((64, 64), x[pick]), variant)
        p.backward(ops.cross_entropy(logits, data.y_train[pick]), LOSS_SCALE)
        slopes = learn(store, cosine(step, steps, RATE), KAPPA * min(2 * step / steps, 1.0))
        if fraction and step % 20 == 0 and step <= 0.75 * steps:
            move_mask(store, slopes, cosine(step, round(0.75 * steps), fraction), variant)
    return store


def probabilities(store: dict[str, Parameter], size: Size, x: NDArray, draws: int) -> NDArray[np.float64]:
    """Return the mean of the class probabilities of `draws` networks, [rows, classes]."""
    rng, total = np.random.default_rng(17), 0.0
    for _ in range(draws):
        p = Program(store=store, rng=rng)
        total = total + ops.soft(forward(p, size, p.input(x.shape, x), "faithful").array.astype(np.float64))
    return np.asarray(total) / draws


def calibration_error(probability: NDArray, labels: NDArray, bins: int = 15) -> float:
    """Return the expected calibration error: |accuracy - confidence| over equal bins, weighted by their share."""
    confidence, right = probability.max(axis=1), probability.argmax(axis=1) == labels
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    return float(
        sum(
            abs(right[place == b].mean() - confidence[place == b].mean()) * np.mean(place == b)
            for b in np.unique(place)
        )
    )


def study(variant: Variant) -> Study:
    """Accuracy, calibration and log-likelihood at a tenth of the weights, beside dense VI and a mask that stays."""
    data, store = images(), {}
    x = data.x_test.reshape(-1, 64)
    kinds: dict[str, Callable[[int], dict[str, Parameter]]] = {
        "dense": lambda seed: train(seed, 1.0, "faithful", 0.0, STEPS),
        "static": lambda seed: train(seed, 0.1, variant, 0.0, STEPS),
        "ssvi": lambda seed: train(seed, 0.1, variant, 0.3, STEPS),
    }
    measured: dict[str, float | int | str] = {"seeds": 3}
    for kind, make in kinds.items():
        rows = []
        for seed in range(3):
            store = make(seed)
            found = probabilities(store, Size(network=SMALL_NETWORK, density=0.1), x, 8)
            likelihood = -np.log(found[np.arange(len(x)), data.y_test]).mean()
            accuracy = np.mean(found.argmax(axis=1) == data.y_test)
            rows.append((accuracy, calibration_error(found, data.y_test), likelihood))
        for name, value in zip(("accuracy", "ece", "nll"), np.mean(rows, axis=0), strict=True):
            measured[f"{name}_{kind}"] = float(value)
    both = [w for w in store.values() if len(w.shape) == 3]
    measured["density"] = sum(w.nonzeros for w in both) / sum(w.size for w in both)
    accuracy, ece = ({k: float(measured[f"{name}_{k}"]) for k in kinds} for name in ("accuracy", "ece"))
    holds = (
        accuracy["ssvi"] >= accuracy["dense"] - 0.03
        and accuracy["ssvi"] > accuracy["static"]
        and ece["ssvi"] <= ece["dense"] + 0.01
    )
    claim = "at a tenth of the weights: within 3 points of dense VI, calibrated as well, and above a mask that stays"
    return Study(claim, holds, measured, store)


def _present(w: Parameter) -> NDArray[np.bool_]:
    return np.ones(w.shape[1:], np.bool_) if w.keep is None else w.keep


def _descend(w: Parameter, slope: NDArray, rate: float, keep: NDArray[np.bool_] | None) -> None:
    speed = 0.9 * w.state.get("velocity", np.zeros(w.shape)) + slope
    w.state["velocity"] = speed if keep is None else np.where(keep, speed, 0)
    w.value = w.array - rate * w.state["velocity"]
    w.grad = None


STEPS: Final = 400
RATE: Final = 0.1
KAPPA: Final = 0.01 / 50_000
"""Weight of the divergence, as of 50,000 images (CIFAR) and not of those of the study; the paper's rate is 0.01.

Rate and this were set so that dense VI learns at all."""
SMALL_NETWORK: Final = MlpSize(batch=32, widths=(64, 96, 10))
SMALL: Final = Size(network=SMALL_NETWORK, density=0.1)
RESNET18_CIFAR: Final = ResNetSize(
    batch=128, image=32, channels=3, classes=10, stem=64, widths=(64, 128, 256, 512), blocks=(2, 2, 2, 2)
)

register(
    Workload(
        name="ssvi",
        title="Sparse subspace variational inference",
        source="Li, Miao, Qiu, Zhang, ICLR 2024, arXiv 2402.11025",
        sparse="weights, mean and variance under one mask, unstructured, dynamic (10 %)",
        variants={
            "faithful": "lossless cover along k and along n, chosen once for mean and variance",
            "nm": "ours: 1:8 by drop and grow inside groups, 1:8 along n in the backward pass",
        },
        quoted="10 to 20 times smaller at less than 3 % drop, up to 20 times fewer training FLOPs than dense VI",
        sizes={"small": SMALL, "paper": Size(network=RESNET18_CIFAR, density=0.1)},
        run=run,
        study=study,
        about=__doc__,
    )
)
