"""The transformer of Sparsifiner (`algorithms.workloads.methods.sparsifiner`), its predictors, and a task for it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import numpy as np

from nmsat.algorithms.core.sparsity import Unstructured
from nmsat.algorithms.core.tape import Pattern
from nmsat.algorithms.workloads.engine import ops
from nmsat.algorithms.workloads.engine.hostcost import sort_operations
from nmsat.algorithms.workloads.engine.parameters import Parameter, kept_count
from nmsat.algorithms.workloads.engine.products import linear, matmul
from nmsat.algorithms.workloads.engine.transformer import (
    dense,
    feed_forward,
    merge,
    norm,
    split,
    top_groups,
    top_k,
    turn,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nmsat.algorithms.workloads.engine.program import Program, Tensor
    from nmsat.algorithms.workloads.engine.registry import Variant

Mode: TypeAlias = Literal["dense", "rebuild", "sparse", "random", "fixed"]

PATTERN: Final = Pattern(2, 8)
THRESHOLD: Final = 0.02


@dataclass(frozen=True, kw_only=True)
class Size:
    """A vision transformer with predictors.

    patches: per image; inputs: values of a patch; reduce: N over the number of bases; keep: share of keys per query and
    of coefficients per row; per_token: the classifier reads every token instead of the class token.
    """

    batch: int
    patches: int
    inputs: int
    width: int
    heads: int
    layers: int
    hidden: int
    classes: int
    reduce: int
    keep: float = 0.25
    per_token: bool = False

    @property
    def tokens(self) -> int:
        """N: patches and the class token."""
        return self.patches + 1

    @property
    def bases(self) -> int:
        """N_r."""
        return self.tokens // self.reduce

    @property
    def keys(self) -> int:
        """Keys kept per query."""
        return math.ceil(self.keep * self.tokens)

    @property
    def coefficients(self) -> int:
        """Coefficients kept per row."""
        return max(1, round(self.keep * self.bases))


def forward(p: Program, size: Size, x: Tensor, mode: Mode, variant: Variant) -> tuple[Tensor, list[Tensor]]:
    """Return the logits, and in mode 'rebuild' the error of each layer's predictor."""
    batch, width = size.batch, size.width
    h = dense(p, "embed", x, width)
    start = ops.add(p.vector("class", (1, 1, width)), p.input((batch, 1, 1), np.zeros((batch, 1, 1))))
    h = ops.add(ops.concat([start, h], 1), _positions(p, size))
    errors: list[Tensor] = []
    for layer in range(size.layers):
        y, error = attention(p, size, f"l{layer}", norm(p, f"l{layer}.norm1", h), mode, variant)
        errors += [] if error is None else [error]
        h = ops.add(h, y)
        h = ops.add(h, feed_forward(p, f"l{layer}.mlp", norm(p, f"l{layer}.norm2", h), size.hidden))
    h = norm(p, "norm", h)
    h = h if size.per_token else ops.reshape(ops.part(h, 1, 0, 1), (batch, width))
    return dense(p, "head", h, size.classes), errors


def attention(
    p: Program, size: Size, name: str, x: Tensor, mode: Mode, variant: Variant
) -> tuple[Tensor, Tensor | None]:
    """Return the attention of a layer and the predictor's error (None but for 'rebuild')."""
    width = size.width
    qkv = dense(p, f"{name}.qkv", x, 3 * width)
    q, k, v = (split(ops.part(qkv, 2, i * width, (i + 1) * width), size.heads) for i in range(3))
    keep = None
    if mode == "sparse":
        keep = connectivity(p, size, name, q, k, variant)
    elif mode == "random" and p.values:
        keep = top_k(p.rng.random((size.batch, size.heads, size.tokens, size.tokens)), size.keys)
    elif mode == "fixed":
        keep = np.broadcast_to(p.store[f"{name}.fixed"].array > 0, (size.batch, size.heads, size.tokens, size.tokens))
    sparse = mode == "sparse"
    mask = Unstructured("y", _pairs(size, variant), _copies(keep), static=False) if sparse else None
    share = _pairs(size, variant) / (size.batch * size.heads * size.tokens**2) if sparse else 1.0
    scores = matmul(f"{name}.qk", q, turn(k), sparsity=mask)
    scores = ops.scale(scores, (width // size.heads) ** -0.5, share)
    if mode in ("sparse", "random", "fixed"):
        scores = ops.mask_fill(scores, keep, share)
    a = ops.softmax(scores, share)
    y = _weighted_values(size, name, a, v, keep, variant) if sparse else matmul(f"{name}.av", a, v)
    error = rebuild_error(p, size, name, q, k, a, variant) if mode == "rebuild" else None
    return dense(p, f"{name}.proj", merge(y), width), error


def coefficients(p: Program, size: Size, name: str, q: Tensor, k: Tensor, variant: Variant) -> Tensor:
    """Return c[B, heads, rows, N_r] of the rows whose pairs are guessed."""
    reduced = size.width // size.heads // 2
    low_q = dense(p, f"{name}.pq", ops.part(q, 2, _first(variant), size.tokens), reduced)
    low_k = dense(p, f"{name}.pk", k, reduced)
    keys = linear(f"{name}.down", turn(low_k), p.weight(f"{name}.down", (size.tokens, size.bases), gain=1.0))
    return ops.softmax(ops.scale(matmul(f"{name}.cheap", low_q, keys), size.heads**-0.5))


def rebuild_error(p: Program, size: Size, name: str, q: Tensor, k: Tensor, a: Tensor, variant: Variant) -> Tensor:
    """Return the mean squared difference of c U and the attention, which gets no gradient, as does what feeds it."""
    q, k = (p.input(t.shape, t.data) for t in (q, k))
    guess = linear(f"{name}.up", coefficients(p, size, name, q, k, variant), _basis(p, size, name))
    target = p.input(guess.shape, None if a.data is None else a.data[:, :, _first(variant) :])
    return ops.squared_error(guess, target)


def connectivity(p: Program, size: Size, name: str, q: Tensor, k: Tensor, variant: Variant) -> NDArray[np.bool_] | None:
    """Record the predictor; return its mask bool[B, heads, N, N], None in a run of shapes."""
    c = coefficients(p, size, name, q, k, variant)
    rows = c.size // size.bases
    p.host(f"{name}.top", "TopK", sort_operations(rows, size.bases), rows * size.bases * 2)
    p.host(f"{name}.top", "TopK", sort_operations(rows, size.tokens), rows * size.tokens * 2)
    basis = _basis(p, size, name)
    kept = None
    if c.data is not None:
        best = top_groups(c.data, PATTERN.n, PATTERN.m) if variant == "nm" else top_k(c.data, size.coefficients)
        kept = np.where(best, c.data, 0).reshape(rows, size.bases)
    # A'^T = |U|^T c^T, with c^T as the weight operand.
    turned = p.input((size.tokens, size.bases), None if kept is None else _positive(basis.array).T)
    operand = p.input((size.bases, rows), None if kept is None else kept.T)
    if variant == "nm":
        guess = matmul(f"{name}.up", turned, operand, pattern=PATTERN)
    else:
        mask = Unstructured("w", rows * size.coefficients, None if kept is None else kept.T != 0, static=False)
        guess = matmul(f"{name}.up", turned, operand, sparsity=mask)
    if guess.data is None:
        return None
    found = guess.data.T.reshape(size.batch, size.heads, -1, size.tokens)
    if variant == "nm":
        return top_groups(found, PATTERN.n, PATTERN.m)
    everything = np.ones((size.batch, size.heads, 1, size.tokens), np.bool_)
    return np.concatenate([everything, top_k(found, size.keys)], axis=2)


def _weighted_values(
    size: Size, name: str, a: Tensor, v: Tensor, keep: NDArray[np.bool_] | None, variant: Variant
) -> Tensor:
    """Return A v with A^T as the weight operand: v^T[d, keys] @ A^T[keys, queries]."""
    if variant == "nm":
        return matmul(f"{name}.av", a, v, pattern=PATTERN, transpose=True)
    copies = _copies(keep)
    turned = None if copies is None else copies.swapaxes(1, 2)
    mask = Unstructured("w", _pairs(size, variant), turned, static=False)
    return matmul(f"{name}.av", a, v, sparsity=mask, transpose=True)


def pointer_images(size: Size, seed: int, noise: float = 0.0) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return images of 4 x 4 patches and the label of each token.

    A patch shows one of 4 contents and names one of 4 columns of the image; its label is the most frequent content of
    that column (the class token's is not asked: -1). So each query needs exactly the keys of one column. noise: normal,
    added to the images, so that contents and columns can be mistaken.
    """
    rng = np.random.default_rng(seed)
    side, kinds = 4, 4
    content = rng.integers(0, kinds, (size.batch, side * side))
    pointer = rng.integers(0, side, (size.batch, side * side))
    x = np.concatenate([np.eye(kinds)[content], np.eye(side)[pointer]], axis=2)
    x = x + noise * rng.standard_normal(x.shape) if noise else x
    columns = content.reshape(size.batch, side, side)
    votes = np.stack([(columns == kind).sum(axis=1) for kind in range(kinds)], axis=2)  # [B, column, kind]
    winner = votes.argmax(axis=2)
    labels = np.take_along_axis(winner, pointer, axis=1)
    return x.astype(np.float32), np.concatenate([np.full((size.batch, 1), -1), labels], axis=1)


def _basis(p: Program, size: Size, name: str) -> Parameter:
    return p.weight(f"{name}.up", (size.bases, size.tokens), gain=0.01)


def _positive(basis: NDArray) -> NDArray:
    """|U| with small entries dropped."""
    size = np.abs(basis)
    return np.where(size > THRESHOLD, size, 0)


def _positions(p: Program, size: Size) -> Tensor:
    shape = (1, size.tokens, size.width)
    leaf = p.vector("positions", shape)
    if p.values and not leaf.array.any():
        leaf.array[...] = p.rng.standard_normal(shape) * 0.3
    return leaf


def _first(variant: Variant) -> int:
    """First row whose pairs are guessed: the class token keeps all of its own, but for our variant."""
    return 0 if variant == "nm" else 1


def kept_keys(size: Size, variant: Variant) -> int:
    return kept_count((size.tokens, 1), PATTERN) if variant == "nm" else size.keys


def _pairs(size: Size, variant: Variant) -> int:
    """Pairs kept in all attention matrices of a layer."""
    first = _first(variant)
    return size.batch * size.heads * ((size.tokens - first) * kept_keys(size, variant) + first * size.tokens)


def _copies(keep: NDArray[np.bool_] | None) -> NDArray[np.bool_] | None:
    return None if keep is None else keep.reshape(-1, *keep.shape[2:])


SMALL: Final = Size(
    batch=4, patches=16, inputs=8, width=32, heads=2, layers=1, hidden=64, classes=4, reduce=2, per_token=True
)
