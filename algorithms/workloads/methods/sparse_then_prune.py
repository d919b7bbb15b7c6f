"""Sparse then Prune: a vision transformer is fine-tuned with a term on its attention, then pruned without retraining.

Source: Prasetyo, Yudistira and Widodo, "Sparse then Prune: Toward Efficient Vision Transformers", arXiv 2307.11988,
and the code of its authors.
Known: equations from that code; of the paper its beginning alone was read, its gains are second-hand.

    L = cross entropy + 0.01 R
    R = mean over batch, heads, queries, keys of log(1 + A^2), A = softmax(q k^T / sqrt(d))
    prune: of all matrices and of the gains of the blocks' norms, the smallest `rate` by |w|, one threshold for all

Rows of A add up to 1 and log(1 + A^2) is convex there, so R is least for an even row: it does not make attention
sparse, whatever its name. Ours: a strength below 0, which does.
Faithful: in the authors' code each layer overwrites R, so that the last one counts, as here, and everything pruned
(patches, q, k, v, out, both feed-forward matrices, classifier, the two gains of each block; no biases) and the rate of
10 %. Left out: dropout of the fine-tuning.
On SAT: a step of the fine-tuning, dense, then the forward pass of the pruned network on the same batch, by cover, which
at 10 % is dense. Softmax, norms, R and the threshold are the host's.
Assumed: every matrix loses the same share, no gain is lost.
Ours (`nm`): the magnitudes choose 4 of each 8 along k instead (half of the weights, native); gains stay.
Study: pruned after tuning with R against pruned after tuning without, and with the sign turned; accuracy on the digits
8 and 9 after training on those below, at five rates, three seeds; the mean gain must be above 0 with each.
Found here: no. With the weight of the paper the term changes next to nothing, accuracy and entropy of attention stay
within what seeds differ by, and so does ours.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import numpy as np

from nmsat.algorithms.core.tape import Pattern
from nmsat.algorithms.training.data import Dataset, digits
from nmsat.algorithms.workloads.engine import ops
from nmsat.algorithms.workloads.engine.hostcost import sort_operations
from nmsat.algorithms.workloads.engine.parameters import Parameter
from nmsat.algorithms.workloads.engine.products import linear, matmul
from nmsat.algorithms.workloads.engine.program import Program
from nmsat.algorithms.workloads.engine.registry import Study, Variant, Workload, register
from nmsat.algorithms.workloads.engine.training import LOSS_SCALE, adam, clear, sgd
from nmsat.algorithms.workloads.engine.transformer import merge, split, turn

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nmsat.algorithms.workloads.engine.program import Tensor

PATTERN: Final = Pattern(4, 8)
STRENGTH: Final = 0.01
"""Weight of R in the loss."""

RATES: Final = (0.1, 0.3, 0.5, 0.6, 0.7)
COUNTS: Final = (7, 6, 5, 4, 3)
"""What the study prunes: shares that go, or how many of each 8 stay."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """A vision transformer: patches per image, inputs of each, rate: share of the weights that is pruned."""

    batch: int
    patches: int
    inputs: int
    width: int
    heads: int
    layers: int
    hidden: int
    classes: int
    rate: float = 0.1


def run(p: Program, size: Size, variant: Variant) -> None:
    """Record one step of the fine-tuning and the forward pass of the pruned network."""
    x, labels = (None, None)
    if p.values:
        x, labels = patches()[0][: size.batch], _digits().y_train[: size.batch]
    images = p.input((size.batch, size.patches, size.inputs), x)
    p.backward(loss(p, size, images, labels, STRENGTH), LOSS_SCALE)
    pattern = PATTERN if variant == "nm" else None
    forward(p, size, images, prune(p, size.rate, pattern))


def loss(p: Program, size: Size, x: Tensor, labels: NDArray[np.integer] | None, strength: float) -> Tensor:
    """Return cross entropy + strength * R of the last layer."""
    logits, attention = forward(p, size, x)
    found = ops.cross_entropy(logits, labels)
    return ops.add(found, ops.scale(evenness(attention), strength)) if strength else found


def evenness(a: Tensor) -> Tensor:
    """Return R = mean of log(1 + a^2)."""

    def backward(d: NDArray, _y: NDArray, v: NDArray) -> tuple[NDArray]:
        return ((d * 2 * v / ((1 + v * v) * v.size)).astype(v.dtype),)

    return a.program.apply("LogSquare", (a,), (), lambda v: np.asarray(np.log1p(v * v).mean(), v.dtype), backward)


def forward(p: Program, size: Size, x: Tensor, pruned: dict[str, Parameter] | None = None) -> tuple[Tensor, Tensor]:
    """Return the logits [batch, classes] of patches x[batch, patches, inputs] and the attention of the last layer.

    pruned: matrices and gains to take instead of those of the store, by name; the products are called `pruned.NAME`.
    """

    def layer(name: str, value: Tensor, n: int, gain: float = 1.0) -> Tensor:
        bias = p.vector(f"{name}.bias", (n,))
        if pruned is not None:
            return linear(f"pruned.{name}", value, pruned[name], bias)
        return linear(name, value, p.weight(name, (value.shape[-1], n), gain=gain), bias)

    def norm(name: str, value: Tensor) -> Tensor:
        gain, bias = p.vector(f"{name}.gain", (size.width,), 1.0), p.vector(f"{name}.bias", (size.width,))
        kept = None if pruned is None else pruned.get(f"{name}.gain")
        return ops.layer_norm(value, gain if kept is None else p.input(kept.shape, kept.value), bias)

    mark = "" if pruned is None else "pruned."
    batch, width = size.batch, size.width
    start = ops.expand(_drawn(p, "class", (1, 1, width)), (batch, 1, width))
    h = ops.add(ops.concat([start, layer("embed", x, width)], 1), _drawn(p, "places", (1, size.patches + 1, width)))
    a = h
    for index in range(size.layers):
        name = f"l{index}"
        seen = norm(f"{name}.norm1", h)
        q, k, v = (split(layer(f"{name}.{part}", seen, width), size.heads) for part in "qkv")
        scores = matmul(f"{mark}{name}.qk", q, turn(k))
        a = ops.softmax(ops.scale(scores, (width // size.heads) ** -0.5))
        h = ops.add(h, layer(f"{name}.out", merge(matmul(f"{mark}{name}.av", a, v)), width))
        up = ops.gelu(layer(f"{name}.up", norm(f"{name}.norm2", h), size.hidden, 2.0))
        h = ops.add(h, layer(f"{name}.down", up, width))
    h = ops.reshape(ops.part(norm("norm", h), 1, 0, 1), (batch, width))
    return layer("head", h, size.classes), a


def _drawn(p: Program, name: str, shape: tuple[int, ...]) -> Tensor:
    leaf = p.vector(name, shape)
    if p.values and not leaf.array.any():
        leaf.array[...] = p.rng.standard_normal(shape) * 0.3
    return leaf


def prunable(store: dict[str, Parameter]) -> list[Parameter]:
    """Return what one threshold is laid over: all matrices and the gains of the blocks."""
    gains = (".norm1.gain", ".norm2.gain")
    return [w for name, w in store.items() if len(w.shape) == 2 or name.endswith(gains)]


def prune(p: Program, rate: float, pattern: Pattern | None) -> dict[str, Parameter]:
    """Return the pruned matrices and gains by name; the store stays as it is.

    rate: share of them that is lost, by magnitude and over all together, the first of equal ones; pattern: N:M along k
    of each matrix instead, with every gain kept.
    """
    chosen = prunable(p.store)
    total = sum(w.size for w in chosen)
    p.host("prune", "TopK", sort_operations(1, total), 2 * total)
    if pattern is not None:
        return {w.name: Parameter(w.name, w.shape, w.value, ff=_fitting(w, pattern), frozen=True) for w in chosen}
    keep = np.ones(total, np.bool_)
    if p.values:
        magnitudes = np.concatenate([np.abs(w.array).ravel() for w in chosen])
        keep[np.argsort(magnitudes, kind="stable")[: round(rate * total)]] = False
    found, end = {}, 0
    for w in chosen:
        end += w.size
        twin = Parameter(w.name, w.shape, frozen=True)
        mask = keep[end - w.size : end].reshape(w.shape)
        if p.values:
            twin.value = np.where(mask, w.array, 0)
        if len(w.shape) == 2:
            twin.nonzeros = p.statistic(
                f"{w.name}.nonzeros",
                lambda mask=mask: int(np.count_nonzero(mask)),
                lambda w=w: round((1 - rate) * w.size),
            )
            twin.keep = mask if p.values and twin.nonzeros < w.size else None
        found[w.name] = twin
    return found


def _fitting(w: Parameter, pattern: Pattern) -> Pattern | None:
    return pattern if len(w.shape) == 2 and pattern.m <= w.shape[0] else None


@lru_cache(maxsize=1)
def _digits() -> Dataset:
    return digits()


@lru_cache(maxsize=1)
def patches() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the digits as 16 patches of 2 x 2 pixels, for training and for the test: [images, 16, 4]."""
    found = []
    for images in (_digits().x_train, _digits().x_test):
        cut = np.asarray(images, np.float32).reshape(-1, 4, 2, 4, 2).transpose(0, 1, 3, 2, 4)
        found.append(np.ascontiguousarray(cut.reshape(-1, 16, 4)))
    return found[0], found[1]


def tune(
    store: dict[str, Parameter], seed: int, steps: int, rate: float, strength: float = 0.0, *, fresh: bool = False
) -> dict[str, Parameter]:
    """Return a copy of the parameters after momentum SGD with a rate that rises and falls.

    fresh: Adam on the digits below 8 instead, in place of the training before the fine-tuning.
    """
    own = {name: replace(w, value=w.array.copy(), state={}, grad=None) for name, w in store.items()}
    x, labels = patches()[0], _digits().y_train
    if fresh:
        x, labels = x[labels < 8], labels[labels < 8]
    rng = np.random.default_rng(seed)
    size = replace(SMALL, batch=32)
    for step in range(steps):
        pick = rng.integers(0, len(x), size.batch)
        p = Program(store=own, rng=np.random.default_rng(seed))
        p.backward(loss(p, size, p.input((size.batch, 16, 4), x[pick]), labels[pick], strength))
        now = rate * min(1.0, (step + 1) / 10, 1.25 * (1 - step / steps))
        if fresh:
            adam(own.values(), now, step + 1)
            clear(own.values())
        else:
            sgd(own.values(), now, decay=1e-4)
    return own


def accuracy(store: dict[str, Parameter], rate: float = 0.0, pattern: Pattern | None = None) -> tuple[float, float]:
    """Return the accuracy on the test after pruning, and the entropy of its last attention over log(keys)."""
    p, x = Program(store=store), patches()[1]
    size = replace(SMALL, batch=len(x))
    logits, a = forward(p, size, p.input(x.shape, x), prune(p, rate, pattern))
    bits = -(a.array * np.log(a.array + 1e-12)).sum(axis=-1).mean() / np.log(a.shape[-1])
    return float((logits.array.argmax(axis=1) == _digits().y_test).mean()), float(bits)


def study(variant: Variant) -> Study:
    """Fine-tune one trained network with and without R, prune both alike, three seeds; also with the sign turned.

    The network is trained on the digits below 8 first. A gain is the difference of accuracies in points, mean over all
    rates; the claim holds if it is above 0 with each seed.
    """
    kinds = {"none": 0.0, "paper": STRENGTH, "turned": -STRENGTH}
    scores: dict[str, list[list[float]]] = {kind: [] for kind in kinds}
    entropy: dict[str, list[float]] = {kind: [] for kind in kinds}
    last: dict[str, Parameter] = {}
    for seed in range(3):
        start: dict[str, Parameter] = {}
        p = Program(store=start, rng=np.random.default_rng(seed))
        forward(p, SMALL, p.input((SMALL.batch, 16, 4), patches()[0][: SMALL.batch]))
        start = tune(start, seed, 120, 5e-3, fresh=True)
        for kind, strength in kinds.items():
            own = tune(start, 10 + seed, 50, 0.05, strength)
            last = own if kind == "paper" else last
            entropy[kind].append(accuracy(own)[1])
            cuts: list[tuple[float, Pattern | None]] = [(rate, None) for rate in RATES]
            if variant == "nm":
                cuts = [(0.0, Pattern(n, 8)) for n in COUNTS]
            scores[kind].append([accuracy(own)[0], *(accuracy(own, *cut)[0] for cut in cuts)])
    measured: dict[str, float | int | str] = {}
    steps = [f"{n}:8" for n in COUNTS] if variant == "nm" else [f"{rate:.0%}" for rate in RATES]
    for kind in kinds:
        mean = np.mean(scores[kind], axis=0)
        measured |= {f"accuracy_{kind}_{step}": float(v) for step, v in zip(["whole", *steps], mean, strict=True)}
        measured[f"entropy_{kind}"] = float(np.mean(entropy[kind]))
    gains = {
        kind: [100 * float(np.mean(np.subtract(a, b)[1:])) for a, b in zip(scores[kind], scores["none"], strict=True)]
        for kind in ("paper", "turned")
    }
    for kind, values in gains.items():
        measured |= {f"gain_{kind}_seed{seed}": value for seed, value in enumerate(values)}
    claim = "pruned after tuning with the term on attention it is more accurate than pruned after tuning without"
    return Study(claim, min(gains["paper"]) > 0, measured, last)


SMALL: Final = Size(batch=4, patches=16, inputs=4, width=32, heads=2, layers=2, hidden=64, classes=10)
VIT_B_384: Final = Size(batch=16, patches=576, inputs=768, width=768, heads=12, layers=12, hidden=3072, classes=100)

register(
    Workload(
        name="sparse-then-prune",
        title="Sparse then Prune",
        source="Prasetyo et al., arXiv 2307.11988",
        sparse="weights, unstructured, 10 % pruned by one threshold after fine-tuning",
        variants={
            "faithful": "fine-tuning dense; the pruned forward pass by lossless cover",
            "nm": "ours: 4:8 along k in the pruned forward pass",
        },
        quoted="after pruning +0.568 / +1.764 / +0.256 points on CIFAR-10, CIFAR-100, ImageNet-100 (second-hand)",
        sizes={"small": SMALL, "paper": VIT_B_384},
        run=run,
        study=study,
        about=__doc__,
    )
)
