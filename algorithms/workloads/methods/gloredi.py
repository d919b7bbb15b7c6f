"""GloReDi: streaks of sparse-view tomography removed by Fourier convolutions that learn from twice the views.

Source: Z. Li et al., "Learning to Distill Global Representation for Sparse-View CT", ICCV 2023, arXiv 2308.08463, and
the code of its authors.
Known: network, losses and weights from that code; the headline tables could not be read.

    L_pixel  SmoothL1 of student and of teacher against the picture of all views
    L_RDD    mean of 1 - cos(z_s, z_t) along the first half of the channels of the latents            weight 0.1
    L_BPC    supervised contrastive: square ring of the 2-D DCT of those channels, unit length, temperature 0.07, pairs
             of student and teacher against each other and a bank of 300 older vectors                weight 1e-6

Faithful: network, losses, the teacher with an encoder of its own and the student's decoder, which learns from the
student alone; Adam. The student sees V views, the teacher 2 V.
On SAT: sparse are the views; every product is dense. The transforms are products with fixed matrices (`fourier_conv`;
the host's FFT is the other way), counted as such. Norms, activations and losses are the host's.
Assumed: a batch of 8 (a quarter of the paper's, so that its programs are timed in minutes); the latents of the
teacher are constants for RDD; the split of channels is 64 local and 192 global without the overlap of the code; zeros
beyond the border inside the network.
Ours (`nm`): all convolutions but the first and last are 2:8 along k and along n.
Study: the student with its teacher against the same network alone from the same start, error on phantoms not seen,
three seeds; back-projections of V and 2 V views beside them. Parallel beams instead of a fan.
Found here: after 60 steps of a network with 8 to 32 channels the student with a teacher is no nearer than the same
network alone (0.087 against 0.085), less than seeds differ: no. Both are hardly beyond their input (0.095; that of the
teacher is 0.045 away), so this says little about a network that has learnt; the paper trains 150 epochs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from nmsat.algorithms.core.tape import Pattern
from nmsat.algorithms.workloads.engine import ops
from nmsat.algorithms.workloads.engine.hostwork import fft
from nmsat.algorithms.workloads.engine.images import fold, reflect_pad
from nmsat.algorithms.workloads.engine.products import linear, matmul
from nmsat.algorithms.workloads.engine.program import Program
from nmsat.algorithms.workloads.engine.registry import Study, Variant, Workload, register
from nmsat.algorithms.workloads.engine.training import LOSS_SCALE, adam, clear
from nmsat.algorithms.workloads.methods import tomography
from nmsat.algorithms.workloads.methods.fourier_conv import Layers
from nmsat.algorithms.workloads.methods.radiance import sigmoid

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nmsat.algorithms.workloads.engine.parameters import Parameter
    from nmsat.algorithms.workloads.engine.program import Tensor

PATTERN: Final = Pattern(2, 8)
TEMPERATURE: Final = 0.07
DIRECTIONAL, CONTRASTIVE = 0.1, 1e-6
"""Weights of the two losses on latents."""

RING: Final = (0.1, 0.6)
"""Indices of the band as shares of the side: above the first, up to the second."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """image: side; base: channels behind the first layer; encoder, decoder: residual blocks; bank: old vectors."""

    batch: int
    image: int
    base: int
    encoder: int
    decoder: int
    bank: int
    views: int

    @property
    def latent(self) -> tuple[int, int]:
        """Side and channels of the latents."""
        return self.image // 4, 4 * self.base


class Batch(NamedTuple):
    """Pictures [B, S, S, 1] of V, of 2 V and of all views."""

    few: NDArray
    twice: NDArray
    target: NDArray


def run(p: Program, size: Size, variant: Variant) -> None:
    """Record one training step of student and teacher."""
    shape = (size.batch, size.image, size.image, 1)
    made = batch(size, 0) if p.values else Batch(*(None,) * 3)  # type: ignore[arg-type]
    few, twice, target = (p.input(shape, part) for part in made)
    length = len(ring(size.latent[0])) * size.latent[1] // 2
    old = np.random.default_rng(1).standard_normal((size.bank, length)) if p.values else None
    bank = p.input((size.bank, length), None if old is None else old / np.linalg.norm(old, axis=1, keepdims=True))
    p.backward(loss(p, size, few, twice, target, bank, variant), LOSS_SCALE)
    learnt = sum(w.size for w in p.store.values() if not w.frozen)
    p.host("update", "Adam", 13 * learnt, 32 * learnt)


def loss(p: Program, size: Size, few: Tensor, twice: Tensor, target: Tensor, bank: Tensor, variant: Variant) -> Tensor:
    """Return the loss of student and teacher."""
    latents, out = student(p, size, few, variant)
    above = encode(_layers(p, "teacher", variant), size, twice)
    led = decode(_layers(p, "decoder", variant, frozen=True), size, above)
    pixel = ops.add(smooth_l1(out, target), smooth_l1(led, target))
    pair = [ops.part(z, -1, 0, z.shape[-1] // 2) for z in (latents, above)]
    near = ops.scale(cosine_distance(pair[0], pair[1]), DIRECTIONAL)
    apart = ops.scale(contrastive(band(pair[0]), band(pair[1]), bank), CONTRASTIVE)
    return ops.add(pixel, ops.add(near, apart))


def student(p: Program, size: Size, x: Tensor, variant: Variant) -> tuple[Tensor, Tensor]:
    """Return latents and picture of the student."""
    z = encode(_layers(p, "student", variant), size, x)
    return z, decode(_layers(p, "decoder", variant), size, z)


def _layers(p: Program, name: str, variant: Variant, *, frozen: bool = False) -> Layers:
    return Layers(p, name, PATTERN if variant == "nm" else None, frozen)


def encode(net: Layers, size: Size, x: Tensor) -> Tensor:
    """Return the latents [B, S / 4, S / 4, 4 base] of x[B, S, S, 1]."""
    h = net.active("stem", net.conv("stem", reflect_pad(x, 3), size.base, 7, padding=0))
    for name, n in (("down0", 2 * size.base), ("down1", 4 * size.base)):
        h = net.active(name, net.conv(name, h, n, 3, 2))
    return _blocks(net, size, h, size.encoder)


def decode(net: Layers, size: Size, z: Tensor) -> Tensor:
    """Return the picture [B, S, S, 1] of latents."""
    h = _blocks(net, size, z, size.decoder)
    for name, n in (("up0", 2 * size.base), ("up1", size.base)):
        b, height, width, k = h.shape
        patches = linear(net.label(name), h, net.weight(name, (k, 9 * n)))
        h = net.active(name, fold(ops.reshape(patches, (b, height, width, 9, n)), 3, 2, 1, 1))
    return sigmoid(net.conv("out", reflect_pad(h, 3), 1, 7, padding=0))


def _blocks(net: Layers, size: Size, h: Tensor, count: int) -> Tensor:
    local, wide = ops.part(h, -1, 0, size.base), ops.part(h, -1, size.base, 4 * size.base)
    for index in range(count):
        local, wide = net.block(f"b{index}", local, wide)
    return ops.concat([local, wide], -1)


def smooth_l1(x: Tensor, target: Tensor) -> Tensor:
    """Mean of e^2 / 2 where |e| < 1, |e| - 1/2 elsewhere."""

    def forward(v: NDArray, t: NDArray) -> NDArray:
        e = np.abs(v - t)
        return np.asarray(np.where(e < 1, e * e / 2, e - 0.5).mean(), v.dtype)

    return x.program.apply(
        "SmoothL1",
        (x, target),
        (),
        forward,
        lambda d, _y, v, t: ((d * np.clip(v - t, -1, 1) / v.size).astype(v.dtype), None),
    )


def cosine_distance(x: Tensor, target: Tensor) -> Tensor:
    """Mean of 1 - cos(x, target) over all places, along the last axis; target is a constant."""

    def parts(v: NDArray, t: NDArray) -> tuple[NDArray, NDArray, NDArray]:
        lengths = [np.linalg.norm(a, axis=-1, keepdims=True) + 1e-8 for a in (v, t)]
        return v / lengths[0], t / lengths[1], lengths[0]

    def forward(v: NDArray, t: NDArray) -> NDArray:
        a, b, _ = parts(v, t)
        return np.asarray(1 - (a * b).sum(axis=-1).mean(), v.dtype)

    def backward(d: NDArray, _y: NDArray, v: NDArray, t: NDArray) -> tuple[NDArray, None]:
        a, b, length = parts(v, t)
        slope = (a * (a * b).sum(axis=-1, keepdims=True) - b) / length
        return (d * slope * v.shape[-1] / v.size).astype(v.dtype), None

    return x.program.apply("CosineDistance", (x, target), (), forward, backward)


def cosines(side: int) -> NDArray[np.float64]:
    """Return the orthonormal DCT-II as a matrix: rows are frequencies."""
    turn = np.pi * np.outer(np.arange(side), np.arange(side) + 0.5) / side
    return np.cos(turn) * np.where(np.arange(side) == 0, np.sqrt(1 / side), np.sqrt(2 / side))[:, None]


def ring(side: int) -> NDArray[np.int64]:
    """Return the flat places of a square ring of a side x side transform."""
    low, high = (int(share * side) for share in RING)
    inside = np.maximum(*np.meshgrid(np.arange(side), np.arange(side), indexing="ij"))
    return np.flatnonzero((inside <= high) & (inside > low))


def band(x: Tensor) -> Tensor:
    """Return the ring of the transform of each channel of x[B, H, H, C], at unit length: [B, ring * C]."""
    batch, side, _, channels = x.shape
    matrix, places = cosines(side), ring(side)

    def forward(v: NDArray) -> NDArray:
        whole = np.einsum("ih,bhwc,jw->bijc", matrix, v, matrix, optimize=True)
        return whole.reshape(batch, -1, channels)[:, places].reshape(batch, -1).astype(v.dtype)

    def backward(d: NDArray, _y: NDArray, v: NDArray) -> tuple[NDArray]:
        whole = np.zeros((batch, side * side, channels))
        whole[:, places] = d.reshape(batch, -1, channels)
        image = whole.reshape(batch, side, side, channels)
        return (np.einsum("ih,bijc,jw->bhwc", matrix, image, matrix, optimize=True).astype(v.dtype),)

    work = fft(side, count=2 * batch * channels * side, real=True)
    y = x.program.apply("DCT", (x,), (batch, len(places) * channels), forward, backward, spent=work, back_spent=work)
    return unit(y)


def unit(x: Tensor) -> Tensor:
    """Return the rows of x at unit length."""

    def length(v: NDArray) -> NDArray:
        return np.linalg.norm(v, axis=-1, keepdims=True) + 1e-12

    def backward(d: NDArray, y: NDArray, v: NDArray) -> tuple[NDArray]:
        return (((d - y * (d * y).sum(axis=-1, keepdims=True)) / length(v)).astype(v.dtype),)

    return x.program.apply("LpNormalization", (x,), x.shape, lambda v: (v / length(v)).astype(v.dtype), backward)


def contrastive(left: Tensor, right: Tensor, bank: Tensor) -> Tensor:
    """Return the contrastive loss of pairs left[B, K], right[B, K] with older vectors bank[N, K] as negatives.

    Each vector picks its partner among all others.
    """
    rows = left.shape[0]
    both = ops.concat([left, right], 0)
    every = both if not bank.shape[0] else ops.concat([both, bank], 0)
    scores = matmul("contrast", ops.reshape(both, (1, *both.shape)), _columns(every))
    scores = ops.scale(ops.reshape(scores, scores.shape[1:]), 1 / TEMPERATURE)
    others = np.arange(every.shape[0]) != np.arange(2 * rows)[:, None]
    partners = (np.arange(2 * rows) + rows) % (2 * rows)
    return ops.cross_entropy(ops.mask_fill(scores, others), partners)


def _columns(x: Tensor) -> Tensor:
    return ops.reshape(ops.transpose(x, (1, 0)), (1, x.shape[1], x.shape[0]))


@lru_cache(maxsize=8)
def _pictures(image: int, few: int, count: int, seed: int) -> tuple[NDArray, NDArray, NDArray]:
    rng = np.random.default_rng(seed)
    counts, cells = (few, 2 * few, 8 * few), round(1.5 * image)
    made = [tomography.reconstructions(tomography.random_phantom(rng), counts, cells, image) for _ in range(count)]
    parts = (np.array([pictures[i] for pictures in made])[..., None] for i in range(3))
    few_, twice, target = (part.astype(np.float32) for part in parts)
    return few_, twice, target


def batch(size: Size, seed: int, *, test: bool = False) -> Batch:
    """Return pictures of random phantoms: a draw from 64 of them, or those of the test."""
    few, twice, target = _pictures(size.image, size.views, TESTED if test else TRAINED, 1 if test else 0)
    pick = np.random.default_rng(seed).integers(0, len(few), size.batch) if not test else np.arange(len(few))
    return Batch(few[pick], twice[pick], target[pick])


def train(seed: int, variant: Variant, *, distilled: bool) -> dict[str, Parameter]:
    """Train the student, beside a teacher or alone."""
    store: dict[str, Parameter] = {}
    shape = (TOY.batch, TOY.image, TOY.image, 1)
    length = len(ring(TOY.latent[0])) * TOY.latent[1] // 2
    old = np.zeros((0, length), np.float32)
    for step in range(1, STEPS + 1):
        made = batch(TOY, 1000 * seed + step)
        p = Program(store=store, rng=np.random.default_rng([seed, 0]))
        few, twice, target = (p.input(shape, part) for part in made)
        if distilled:
            p.backward(loss(p, TOY, few, twice, target, p.input(old.shape, old), variant))
            fresh = [node.array for node in p.nodes if node.shape == (TOY.batch, length)][-2:]
            old = np.concatenate([old, *fresh])[-TOY.bank :]
        else:
            p.backward(smooth_l1(student(p, TOY, few, variant)[1], target))
        adam(store.values(), 5e-3 * 0.5 ** (3 * step // STEPS), step)
        clear(store.values())
    return store


def study(variant: Variant) -> Study:
    """Train students with and without the teacher from one start, three seeds; error on phantoms not seen."""
    made = batch(TOY, 0, test=True)
    measured: dict[str, float | int | str] = {
        "error_back_projection": _error(made.few, made.target),
        "error_back_projection_twice": _error(made.twice, made.target),
    }
    mean: dict[str, float] = {}
    size = replace(TOY, batch=len(made.few))
    for name, distilled in (("alone", False), ("distilled", True)):
        errors = []
        for seed in range(3):
            p = Program(store=train(seed, variant, distilled=distilled))
            errors.append(_error(student(p, size, p.input(made.few.shape, made.few), variant)[1].array, made.target))
            measured[f"error_{name}_seed{seed}"] = errors[-1]
        mean[name] = measured[f"error_{name}"] = float(np.mean(errors))
    claim = "with a teacher of twice the views the error is below that of the same network alone"
    return Study(claim, mean["distilled"] < mean["alone"], measured)


def _error(x: NDArray, target: NDArray) -> float:
    """Root mean square error."""
    return float(np.sqrt(np.mean((x - target) ** 2)))


SMALL: Final = Size(batch=2, image=16, base=4, encoder=1, decoder=1, bank=6, views=6)
TOY: Final = replace(SMALL, batch=4, image=32, base=8, bank=40)
STEPS: Final = 60
TRAINED, TESTED = 64, 24
"""Phantoms of training and test."""

PAPER: Final = Size(batch=8, image=256, base=64, encoder=7, decoder=2, bank=300, views=18)

register(
    Workload(
        name="gloredi",
        title="GloReDi",
        source="Li et al., ICCV 2023, arXiv 2308.08463",
        sparse="views (18 of 720); nothing in the products",
        variants={
            "faithful": "dense, transforms as products with fixed matrices",
            "nm": "ours: convolutions 2:8 along k and along n",
        },
        quoted="better than earlier networks at 18, 36 and 72 views (tables not read)",
        sizes={"small": SMALL, "paper": PAPER},
        run=run,
        study=study,
        about=__doc__,
    )
)
