"""Sparse-CBM (`algorithms.workloads.methods.sparse_cbm`): towers, bottleneck, losses and Concept Matrix Search."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import numpy as np

from nmsat.algorithms.core.tape import Pattern
from nmsat.algorithms.workloads.engine import ops
from nmsat.algorithms.workloads.engine.hostcost import sort_operations
from nmsat.algorithms.workloads.engine.parameters import Parameter
from nmsat.algorithms.workloads.engine.products import linear, matmul
from nmsat.algorithms.workloads.engine.transformer import (
    causal,
    dense,
    embedding,
    feed_forward,
    merge,
    norm,
    split,
    turn,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nmsat.algorithms.workloads.engine.program import Program, Tensor
    from nmsat.algorithms.workloads.engine.registry import Variant


Kind: TypeAlias = Literal["gumbel", "flat", "contrastive", "l1"]
PATTERN: Final = Pattern(2, 8)
SCALE: Final = 100.0
"""s: what CLIP has learnt."""

LAMBDA: Final = 1e-3
DENSITY: Final = 0.1
"""Share of Wc that is left after training."""


@dataclass(frozen=True, kw_only=True)
class Tower:
    """A transformer of CLIP; out: width of the embeddings."""

    tokens: int
    width: int
    layers: int
    heads: int
    hidden: int
    out: int


@dataclass(frozen=True, kw_only=True)
class Size:
    """images: of a batch; inputs: values of a patch; concepts: D."""

    images: int
    inputs: int
    tower: Tower
    concepts: int
    classes: int


def bottleneck(p: Program, psi: Tensor, classes: int, variant: Variant) -> tuple[Tensor, Tensor]:
    """Return z[images, D] and y[images, classes] of concept scores psi[images, D]."""
    concepts, pattern = psi.shape[-1], PATTERN if variant == "nm" else None
    w = p.weight("bottleneck", (concepts, concepts), gain=1 / 3, ff=pattern, bp=pattern)
    z = linear("bottleneck", psi, w)
    return z, linear("head", z, p.weight("head", (concepts, classes), gain=1 / 3))


def dropped(p: Program, variant: Variant, density: float = DENSITY) -> Parameter:
    """Return Wc as it is used: the largest weights alone, or our pattern."""
    w = p.store["bottleneck"]
    if variant == "nm":
        return Parameter(w.name, w.shape, w.value, ff=w.ff, frozen=True)
    p.host("drop", "TopK", sort_operations(1, w.size), 2 * w.size)
    found = Parameter(w.name, w.shape, w.value, frozen=True)
    found.nonzeros = round(density * w.size)
    if w.value is not None:
        keep = np.zeros(w.size, np.bool_)
        keep[np.argsort(-np.abs(w.value).ravel(), kind="stable")[: found.nonzeros]] = True
        found.mask(keep.reshape(w.shape))
    return found


def pair_loss(z: Tensor, kind: Kind, rng: np.random.Generator, tau: float = 1.0) -> Tensor:
    """Return the bottleneck loss of z[images, D] (not of 'l1', which is of the weights); rng: draws the noise."""

    noise = None if kind == "contrastive" else z.program.input(z.shape, lambda: rng.gumbel(size=z.shape))
    g = z if noise is None else ops.scale(ops.add(z, noise), 1 / tau)
    if kind == "flat":
        return _log_loss(g, None)
    pairs = min(z.shape)
    mine = ops.part(g, 0, 0, pairs)
    along = _log_loss(mine, np.arange(pairs))
    across = _log_loss(ops.part(turn(g), 0, 0, pairs), np.arange(pairs))
    return ops.scale(ops.add(along, across), 0.5)


def _log_loss(v: Tensor, labels: NDArray[np.integer] | None) -> Tensor:
    """Return the mean of -log softmax over the last axis, at the labels or (None) everywhere."""
    if labels is not None:
        return ops.cross_entropy(v, labels if v.program.values else None)
    rows, width = v.shape

    def forward(a: NDArray) -> NDArray:
        top = a.max(axis=1, keepdims=True)
        log = np.log(np.exp(a - top).sum(axis=1)) + top[:, 0]
        return np.asarray((log - a.mean(axis=1)).mean(), a.dtype)

    def backward(d: NDArray, _y: NDArray, a: NDArray) -> tuple[NDArray]:
        return ((d * (ops.soft(a) - 1 / width) / rows).astype(a.dtype),)

    return v.program.apply("SoftmaxCrossEntropyLoss", (v,), (), forward, backward)


def concept_matrix_search(images: Tensor, classes: Tensor) -> Tensor:
    """Return cos(V_i, T_c) [images, classes] of V[images, D] and T[classes, D]."""
    return matmul("cms.match", unit(images), turn(unit(classes)))


def unit(x: Tensor) -> Tensor:
    """Rows of length 1."""

    def forward(v: NDArray) -> NDArray:
        return (v / np.maximum(np.sqrt((v * v).sum(axis=-1, keepdims=True)), 1e-12)).astype(v.dtype)

    return x.program.apply("LpNormalization", (x,), x.shape, forward)


def image_tower(p: Program, tower: Tower, x: Tensor) -> Tensor:
    """Return the embeddings [images, out] of patches [images, tokens - 1, inputs]; nothing learns."""
    images = x.shape[0]
    h = dense(p, "i.patch", x, tower.width, bias=False, frozen=True)
    first = p.vector("i.class", (1, 1, tower.width), 0.1, frozen=True)
    h = ops.concat([ops.expand(first, (images, 1, tower.width)), h], 1)
    h = norm(p, "i.before", ops.add(h, p.vector("i.places", (1, *h.shape[1:]), frozen=True)), frozen=True)
    return _encoded(p, "i", tower, h, 0)


def text_tower(p: Program, tower: Tower, ids: NDArray[np.integer] | None, texts: int, vocabulary: int) -> Tensor:
    """Return the embeddings [texts, out] of flat tokens; the last token of a text speaks for it."""
    h = embedding(p, "t.table", ids, (vocabulary, tower.width), texts * tower.tokens, frozen=True)
    h = ops.reshape(h, (texts, tower.tokens, tower.width))
    h = ops.add(h, p.vector("t.places", (1, tower.tokens, tower.width), frozen=True))
    return _encoded(p, "t", tower, h, tower.tokens - 1)


def _encoded(p: Program, mark: str, tower: Tower, h: Tensor, reader: int) -> Tensor:
    count, tokens, width = h.shape

    def layer(name: str, value: Tensor, n: int) -> Tensor:
        return dense(p, name, value, n, frozen=True)

    for index in range(tower.layers):
        name = f"{mark}{index}"
        qkv = layer(f"{name}.qkv", norm(p, f"{name}.norm1", h, frozen=True), 3 * width)
        q, k, v = (split(ops.part(qkv, 2, i * width, (i + 1) * width), tower.heads) for i in range(3))
        scores = ops.scale(matmul(f"{name}.qk", q, turn(k)), (width // tower.heads) ** -0.5)
        if mark == "t":
            scores = ops.mask_fill(scores, causal(tokens, tokens))
        h = ops.add(h, layer(f"{name}.out", merge(matmul(f"{name}.av", ops.softmax(scores), v)), width))
        h = ops.add(h, feed_forward(p, name, norm(p, f"{name}.norm2", h, frozen=True), tower.hidden, layer))
    h = norm(p, f"{mark}.after", ops.reshape(ops.part(h, 1, reader, reader + 1), (count, width)), frozen=True)
    return dense(p, f"{mark}.project", h, tower.out, bias=False, frozen=True)


def unit_columns(rng: np.random.Generator, height: int, width: int) -> NDArray:
    """Return random columns of length 1."""
    x = rng.standard_normal((height, width))
    return x / np.sqrt((x * x).sum(axis=0))


SMALL: Final = Size(
    images=8,
    inputs=12,
    tower=Tower(tokens=5, width=32, layers=1, heads=2, hidden=64, out=32),
    concepts=48,
    classes=10,
)
