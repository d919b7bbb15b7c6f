"""Sparsifiner: attention masks that depend on the image, guessed from low-rank queries and keys.

Source: C. Wei, B. Duke et al., "Sparsifiner: Learning Sparse Instance-Dependent Attention for Efficient Vision
Transformers", CVPR 2023, arXiv 2303.13755, and the code of its authors. Per head, with N tokens (paper, section 3.2):

    q' = q P_q,  k' = k P_k                    d -> d / 2, shared by the heads
    c  = softmax(q' (k'^T D) / sqrt(heads))    basis coefficients over N_r = N / reduce, not for the class token
    A' = c U                                   training: U signed; then |U| above 0.02 and the largest quarter of c
    mask: the ceil(0.25 N) largest of each row of A', everything for the class token
    Y  = softmax(q k^T / sqrt(d) on the mask) v

Faithful: all of it, the scale 1 / sqrt(heads) of the code included; the predictor learns to rebuild the attention of
the dense model, then masks are used. q k^T wants only masked results, which a systolic array cannot skip one by one:
dense. The basis starts near 0 (ours), since what stays of a random start turns into false pairs under |U|.
Ours (`nm`): the mask takes the best 2 of each 8 consecutive keys and c the best 2 of each 8, for the class token's row
too, so A v and c U are native 2:8 with A^T and c^T as the weight operand.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import numpy as np

from nmsat.algorithms.core.sparsity import Unstructured
from nmsat.algorithms.core.tape import Pattern
from nmsat.algorithms.workloads.engine import ops
from nmsat.algorithms.workloads.engine.hostcost import sort_operations
from nmsat.algorithms.workloads.engine.parameters import kept_count
from nmsat.algorithms.workloads.engine.products import linear, matmul
from nmsat.algorithms.workloads.engine.program import Program
from nmsat.algorithms.workloads.engine.registry import Study, Variant, Workload, register
from nmsat.algorithms.workloads.engine.training import adam, clear
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

    from nmsat.algorithms.workloads.engine.parameters import Parameter
    from nmsat.algorithms.workloads.engine.program import Tensor

Mode: TypeAlias = Literal["dense", "rebuild", "sparse", "random"]

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


def run(p: Program, size: Size, variant: Variant) -> None:
    """Record one forward pass with sparse attention."""
    data = pointer_images(size, 0)[0] if p.values else None
    forward(p, size, p.input((size.batch, size.patches, size.inputs), data), "sparse", variant)


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
    sparse = mode == "sparse"
    mask = Unstructured("y", _pairs(size, variant), _copies(keep), static=False) if sparse else None
    share = _pairs(size, variant) / (size.batch * size.heads * size.tokens**2) if sparse else 1.0
    scores = matmul(f"{name}.qk", q, turn(k), sparsity=mask)
    scores = ops.scale(scores, (width // size.heads) ** -0.5, share)
    if mode in ("sparse", "random"):
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


def pointer_images(size: Size, seed: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return images of 4 x 4 patches and the label of each token.

    A patch shows one of 4 contents and names one of 4 columns of the image; its label is the most frequent content of
    that column (the class token's is not asked: -1). So each query needs exactly the keys of one column.
    """
    rng = np.random.default_rng(seed)
    side, kinds = 4, 4
    content = rng.integers(0, kinds, (size.batch, side * side))
    pointer = rng.integers(0, side, (size.batch, side * side))
    x = np.concatenate([np.eye(kinds)[content], np.eye(side)[pointer]], axis=2)
    columns = content.reshape(size.batch, side, side)
    votes = np.stack([(columns == kind).sum(axis=1) for kind in range(kinds)], axis=2)  # [B, column, kind]
    winner = votes.argmax(axis=2)
    labels = np.take_along_axis(winner, pointer, axis=1)
    return x.astype(np.float32), np.concatenate([np.full((size.batch, 1), -1), labels], axis=1)


def study(variant: Variant) -> Study:
    """Train dense, teach the predictor, tune with masks; compare with random masks of the same size."""
    size, store = SMALL, {}
    for step in range(1, 251):
        _train_step(replace(size, batch=32), store, "dense", variant, step)
    accuracy = {"dense": _accuracy(size, store, "dense", variant)}
    for step in range(1, 301):
        _train_step(replace(size, batch=32), store, "rebuild", variant, step)
    accuracy["masked_untuned"] = _accuracy(size, store, "sparse", variant)
    tuned = _copy(store)
    for step in range(1, 101):
        _train_step(replace(size, batch=32), tuned, "sparse", variant, step)
        _train_step(replace(size, batch=32), store, "random", variant, step)
    accuracy["masked"] = _accuracy(size, tuned, "sparse", variant)
    accuracy["random_mask"] = _accuracy(size, store, "random", variant)
    measured: dict[str, float | int | str] = {f"accuracy_{name}": value for name, value in accuracy.items()}
    measured["keys_per_query"] = _kept_keys(size, variant)
    measured["keys"] = size.tokens
    holds = accuracy["masked"] > accuracy["dense"] - 0.03 and accuracy["masked"] > accuracy["random_mask"] + 0.1
    return Study("a quarter of the pairs, chosen by the predictor, loses little accuracy", holds, measured, tuned)


def _train_step(size: Size, store: dict[str, Parameter], mode: Mode, variant: Variant, step: int) -> None:
    x, labels = pointer_images(size, step)
    p = Program(store=store, rng=np.random.default_rng(step if mode == "random" else 1))
    logits, errors = forward(p, size, p.input(x.shape, x), mode, variant)
    if mode == "rebuild":
        loss = errors[0]
        for error in errors[1:]:
            loss = ops.add(loss, error)
    else:
        loss = ops.cross_entropy(logits, labels)
    p.backward(loss)
    adam(store.values(), 3e-3 if mode in ("dense", "rebuild") else 1e-3, step)
    clear(store.values())


def _accuracy(size: Size, store: dict[str, Parameter], mode: Mode, variant: Variant) -> float:
    big = replace(size, batch=256)
    x, labels = pointer_images(big, 10_000)
    p = Program(store=store, rng=np.random.default_rng(7))
    logits, _ = forward(p, big, p.input(x.shape, x), mode, variant)
    return float((logits.array.argmax(axis=2) == labels)[:, 1:].mean())


def _copy(store: dict[str, Parameter]) -> dict[str, Parameter]:
    return {name: replace(w, value=w.array.copy(), state={}, grad=None) for name, w in store.items()}


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


def _kept_keys(size: Size, variant: Variant) -> int:
    return kept_count((size.tokens, 1), PATTERN) if variant == "nm" else size.keys


def _pairs(size: Size, variant: Variant) -> int:
    """Pairs kept in all attention matrices of a layer."""
    first = _first(variant)
    return size.batch * size.heads * ((size.tokens - first) * _kept_keys(size, variant) + first * size.tokens)


def _copies(keep: NDArray[np.bool_] | None) -> NDArray[np.bool_] | None:
    return None if keep is None else keep.reshape(-1, *keep.shape[2:])


SMALL: Final = Size(
    batch=4, patches=16, inputs=8, width=32, heads=2, layers=1, hidden=64, classes=4, reduce=2, per_token=True
)
DEIT_S: Final = Size(
    batch=1, patches=196, inputs=768, width=384, heads=6, layers=12, hidden=1536, classes=1000, reduce=6
)

register(
    Workload(
        name="sparsifiner",
        title="Sparsifiner",
        source="Wei, Duke et al., CVPR 2023, arXiv 2303.13755",
        sparse="attention, 25 % of the pairs, chosen per image, head and layer",
        variants={
            "faithful": "A v by lossless cover of the row masks, q k^T dense",
            "nm": "ours: 2 of each 8 consecutive keys, A v native 2:8",
        },
        quoted="48 to 69 % of the attention's FLOPs removed at up to 0.4 % lower accuracy (paper)",
        sizes={"small": SMALL, "paper": DEIT_S},
        run=run,
        study=study,
    )
)
