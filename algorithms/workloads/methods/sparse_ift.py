"""Sparse-IFT: sparse layers that are larger at the multiply-adds of the dense layer they replace.

Source: V. Thangarasa et al., "Sparse-IFT: Sparse Iso-FLOP Transformations for Maximizing Training Efficiency", ICML
2024, arXiv 2303.11525, and the code of its authors.
Known: equations from the paper's section 3 and the code; its figures from a review. With sparsity s, k = round(1 / (1 -
s)) and a layer of taps t, inputs i and outputs o:

    wide        all widths times sqrt(k), inner layers at density 1 - s
    parallel    k sparse branches of full size with a normalisation each, summed
    factorized  U: t i -> r, V: r -> o, both sparse, r = ceil(t i o / ((1 - s) (t i + o))), normalised and ReLU between
    doped       S(x) + V(U(x)): S sparse, U and V dense of rank r = floor(s t i o / (t i + o))

Faithful: the four families; uniform unstructured masks; RigL every 50 steps until 75 % of training (fraction 0.3 along
a cosine, growth by the dense gradient); stem and classifier dense. In the study momentum is plain and weights do not
decay.
On SAT: forward products by cover along k, input gradients along n, weight gradients dense; the low-rank products of
`doped` are dense. The recorded step is one without growth.
Assumed: ResNet-18 on CIFAR at s = 0.75; places of the masks drawn at random.
Ours (`nm`): masks are N:M along k (1:4 at s = 0.75, so wide is exactly iso-FLOP at twice the width), drop and grow stay
inside a group, the backward copy is pruned to the same pattern along n, and ranks are multiples of M.
Study: the transformed student against the dense one of no fewer multiply-adds, from a planted sparse teacher; error,
and the ratio of the work of both; three seeds.
Found here: as published all four err less; in our form wide and doped do, parallel and factorized do not: yes, but no
for those two `nm`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import numpy as np

from nmsat.algorithms.core.tape import Pattern
from nmsat.algorithms.training.data import digits
from nmsat.algorithms.workloads.engine import ops
from nmsat.algorithms.workloads.engine.networks import ResNetSize, normalised, resnet
from nmsat.algorithms.workloads.engine.planted import Regression, sparse_network
from nmsat.algorithms.workloads.engine.products import conv2d, linear
from nmsat.algorithms.workloads.engine.program import Program
from nmsat.algorithms.workloads.engine.registry import Study, Variant, Workload, register
from nmsat.algorithms.workloads.engine.training import LOSS_SCALE, sgd
from nmsat.algorithms.workloads.methods.dropgrow import cosine, narrow_nm, regenerate, regenerate_nm

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from nmsat.algorithms.workloads.engine.networks import Unit
    from nmsat.algorithms.workloads.engine.parameters import Parameter
    from nmsat.algorithms.workloads.engine.program import Tensor

    Make: TypeAlias = Callable[[str, tuple[int, int], bool], Parameter]

Family: TypeAlias = Literal["wide", "parallel", "factorized", "doped"]

HIDDEN: Final = 24
"""Width of the dense student of the study."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """The dense network that is transformed, the family, and the sparsity s."""

    network: ResNetSize
    family: Family
    sparsity: float = 0.75


def branches(sparsity: float) -> int:
    """Return k = round(1 / (1 - s))."""
    return round(1 / (1 - sparsity))


def wide_width(width: int, sparsity: float) -> int:
    """Return int(width sqrt(k))."""
    return int(width * math.sqrt(branches(sparsity)))


def factorized_rank(k: int, n: int, sparsity: float, multiple: int = 1) -> int:
    """Return the rank r at which two sparse factors of a k x n matrix cost as much as the matrix.

    multiple: 1 rounds up as the paper does, above that r is the nearest multiple.
    """
    exact = k * n / ((1 - sparsity) * (k + n))
    return math.ceil(exact) if multiple == 1 else max(1, round(exact / multiple)) * multiple


def doped_rank(k: int, n: int, sparsity: float) -> int:
    """Return the rank r of two dense factors that cost the share s of a k x n matrix."""
    return math.floor(sparsity * k * n / (k + n))


def pattern_of(sparsity: float) -> Pattern:
    """Return the N:M of our variant: 1:k for k = 2, 4, 8 or 16; ValueError for another k."""
    return Pattern(1, branches(sparsity))


def run(p: Program, size: Size, variant: Variant) -> None:
    """Record one training step of the transformed network."""
    network = widened(size.network, size.sparsity) if size.family == "wide" else size.network
    side, batch = network.image, network.batch
    x = p.input((batch, side, side, network.channels), lambda: digits().x_train[:batch])
    make = maker(p, size.sparsity, variant)

    def stem(name: str, x: Tensor, channels: int, kernel: int, stride: int) -> Tensor:
        w = p.weight(name, (kernel * kernel * x.shape[-1], channels))
        return normalised(p, name, conv2d(name, x, w, kernel, stride))

    logits = resnet(p, network, x, stem, convolution(p, size, variant, make), p.weight)
    labels = digits().y_train[:batch] if p.values else None
    p.backward(ops.cross_entropy(logits, labels), LOSS_SCALE)


def widened(network: ResNetSize, sparsity: float) -> ResNetSize:
    """Return the network with all widths times sqrt(k)."""
    widths = tuple(wide_width(width, sparsity) for width in network.widths)
    return replace(network, stem=wide_width(network.stem, sparsity), widths=widths)


def maker(p: Program, sparsity: float, variant: Variant) -> Make:
    """Return what makes a matrix of the transformed layers: make(name, (k, n), is it a sparse one)."""

    def make(name: str, shape: tuple[int, int], sparse: bool) -> Parameter:
        if not sparse:
            return p.weight(name, shape)
        if variant == "nm":
            pattern = pattern_of(sparsity)
            return p.weight(name, shape, ff=pattern, bp=pattern, masked_gradient=True)
        return p.weight(name, shape, density=1 - sparsity, masked_gradient=True)

    return make


def unit_of(variant: Variant, sparsity: float) -> int:
    """Return what ranks are multiples of: M in our variant."""
    return branches(sparsity) if variant == "nm" else 1


def convolution(p: Program, size: Size, variant: Variant, make: Make) -> Unit:
    """Return the convolution of a family, normalised."""

    def plain(name: str, x: Tensor, n: int, kernel: int, stride: int, *, sparse: bool = True) -> Tensor:
        return conv2d(name, x, make(name, (kernel * kernel * x.shape[-1], n), sparse), kernel, stride)

    def unit(name: str, x: Tensor, channels: int, kernel: int, stride: int) -> Tensor:
        k, n, s = kernel * kernel * x.shape[-1], channels, size.sparsity
        if size.family == "wide":
            return normalised(p, name, plain(name, x, n, kernel, stride))
        if size.family == "parallel":
            labels = [f"{name}.{i}" for i in range(branches(s))]
            return _sum([normalised(p, label, plain(label, x, n, kernel, stride)) for label in labels])
        if size.family == "factorized":
            u = plain(f"{name}.u", x, factorized_rank(k, n, s, unit_of(variant, s)), kernel, stride)
            u = ops.relu(normalised(p, f"{name}.u", u))
            return normalised(p, f"{name}.v", plain(f"{name}.v", u, n, 1, 1))
        u = plain(f"{name}.u", x, doped_rank(k, n, s), kernel, stride, sparse=False)
        v = plain(f"{name}.v", u, n, 1, 1, sparse=False)
        return normalised(p, name, ops.add(plain(name, x, n, kernel, stride), v))

    return unit


def student(p: Program, x: Tensor, family: Family | None, sparsity: float, make: Make, outputs: int = 4) -> Tensor:
    """Return the outputs of a perceptron with two hidden layers, dense (None) or with a transformed middle layer.

    Wide also widens the middle layer's neighbours, whose density falls so that they too cost what they did.
    """
    p, h = x.program, HIDDEN

    def layer(name: str, x: Tensor, n: int, *, density: float = 1.0, sparse: bool = False) -> Tensor:
        w = make(name, (x.shape[-1], n), True) if sparse else p.weight(name, (x.shape[-1], n), density=density)
        return linear(name, x, w, p.vector(f"{name}.bias", (n,)))

    if family == "wide":
        wide = wide_width(h, sparsity)
        x = ops.relu(layer("in", x, wide, density=h / wide))
        return layer("out", ops.relu(layer("mid", x, wide, sparse=True)), outputs, density=h / wide)
    x = ops.relu(layer("in", x, h))
    if family is None:
        y = layer("mid", x, h)
    elif family == "parallel":
        y = _sum([layer(f"mid.{i}", x, h, sparse=True) for i in range(branches(sparsity))])
    elif family == "factorized":
        u = ops.relu(layer("mid.u", x, factorized_rank(h, h, sparsity), sparse=True))
        y = layer("mid.v", u, h, sparse=True)
    else:
        u = layer("mid.u", x, doped_rank(h, h, sparsity))
        y = ops.add(layer("mid", x, h, sparse=True), layer("mid.v", u, h))
    return layer("out", ops.relu(y), outputs)


def student_error(
    seed: int, family: Family | None, variant: Variant, steps: int = 1500, sparsity: float = 0.75
) -> float:
    """Return the test error (share of variance) of a student trained with RigL on a planted sparse network."""
    data, store = sparse_network(seed), {}
    rng, init = np.random.default_rng(seed), np.random.default_rng(seed)
    for step in range(steps):
        pick = rng.integers(0, len(data.x_train), 64)
        p = Program(store=store, rng=init)
        y = student(p, p.input((64, 32), data.x_train[pick]), family, sparsity, maker(p, sparsity, variant))
        p.backward(ops.squared_error(y, p.input((64, 4), data.y_train[pick])))
        grads = {name: w.grad for name, w in store.items()}
        if not step:
            for w in store.values():
                _start_inside_pattern(w)
        sgd(store.values(), cosine(step, steps, 0.05))
        if (step + 1) % 50 == 0 and step < 0.75 * steps:
            for name, w in store.items():
                rigl(w, grads[name], cosine(step, steps, 0.3))
    return _error(data, store, family, variant, sparsity)


def rigl(w: Parameter, grad: NDArray | None, fraction: float) -> None:
    """One drop and grow of a masked matrix; grown weights start at 0, momentum is masked."""
    if w.keep is None or grad is None:
        return
    grow = (w.array, w.keep, grad, fraction)
    keep, grown = regenerate(*grow) if w.ff is None else regenerate_nm(*grow, w.ff)
    w.mask(keep)
    w.value = np.where(keep & ~grown, w.array, 0)
    w.state["velocity"] = np.where(keep, w.state["velocity"], 0)


def study(family: Family, variant: Variant) -> Study:
    """The transformed student against the dense one at equal multiply-adds on a planted sparse network, three seeds."""
    measured: dict[str, float | int | str] = {}
    totals = {"dense": 0.0, family: 0.0}
    kinds: tuple[tuple[str, Family | None], ...] = (("dense", None), (family, family))
    for seed in range(3):
        for name, kind in kinds:
            error = student_error(seed, kind, variant)
            measured[f"error_{name}_seed{seed}"] = error
            totals[name] += error / 3
    measured |= {f"error_{name}": error for name, error in totals.items()}
    work = student_macs(family, variant) / student_macs(None, variant)
    measured |= {"macs_over_dense": work, "seeds": 3}
    claim = f"a student with Sparse {family} beats the dense one at no more multiply-adds"
    return Study(claim, work <= 1 and totals[family] < totals["dense"], measured)


def student_macs(family: Family | None, variant: Variant, sparsity: float = 0.75) -> int:
    """Return the multiply-adds that a sample needs in the forward pass of the study's student."""
    p = Program(values=False)
    student(p, p.input((1, 32)), family, sparsity, maker(p, sparsity, variant))
    return sum(q.macs_true for q in p.tape.products)


def iso_flop_ratio(family: Family, k: int, n: int, sparsity: float) -> float:
    """Return the multiply-adds of a transformed k x n layer over those of the dense one."""
    density = 1 - sparsity
    if family == "wide":
        return wide_width(k, sparsity) * wide_width(n, sparsity) * density / (k * n)
    if family == "parallel":
        return branches(sparsity) * density
    if family == "factorized":
        return factorized_rank(k, n, sparsity) * (k + n) * density / (k * n)
    return density + doped_rank(k, n, sparsity) * (k + n) / (k * n)


def _start_inside_pattern(w: Parameter) -> None:
    """Give an N:M matrix the mask of its largest initial weights, which drop and grow then move."""
    if w.ff is not None and w.keep is None:
        keep = narrow_nm(w.array, np.ones(w.shape, np.bool_), w.ff)
        w.mask(keep)
        w.value = np.where(keep, w.array, 0)


def _error(
    data: Regression, store: dict[str, Parameter], family: Family | None, variant: Variant, sparsity: float
) -> float:
    p = Program(store=store)
    x = p.input(data.x_test.shape, data.x_test)
    y = student(p, x, family, sparsity, maker(p, sparsity, variant))
    return float(np.mean((y.array - data.y_test) ** 2))


def _sum(parts: list[Tensor]) -> Tensor:
    out = parts[0]
    for part in parts[1:]:
        out = ops.add(out, part)
    return out


SMALL: Final = ResNetSize(batch=8, image=8, channels=1, classes=10, stem=8, widths=(8, 16), blocks=(1, 1))
RESNET18_CIFAR: Final = ResNetSize(
    batch=128, image=32, channels=3, classes=100, stem=64, widths=(64, 128, 256, 512), blocks=(2, 2, 2, 2)
)


def _register(family: Family) -> None:
    register(
        Workload(
            name=f"sparse-ift-{family}",
            title=f"Sparse-IFT, {family}",
            source="Thangarasa et al., ICML 2024, arXiv 2303.11525",
            sparse="weights, unstructured, 75 %, dynamic (RigL), in layers enlarged at equal multiply-adds",
            variants={
                "faithful": "unstructured masks, lossless cover; 'dense' is the enlarged layer without its zeros",
                "nm": "ours: 1:4 along k and along n, exactly iso-FLOP",
            },
            quoted="ResNet-18 ImageNet 70.9 dense, 74.4 Sparse Wide at s = 0.9 (top-1, from a review)",
            sizes={
                "small": Size(network=SMALL, family=family),
                "paper": Size(network=RESNET18_CIFAR, family=family),
            },
            run=run,
            study=lambda variant: study(family, variant),
            about=__doc__,
        )
    )


for _family in ("wide", "parallel", "factorized", "doped"):
    _register(_family)
