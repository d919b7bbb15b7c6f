"""SAE circuits (`algorithms.workloads.methods.sae_circuits`): capture, autoencoder, codes and scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from nmsat.algorithms.core.sparsity import Unstructured
from nmsat.algorithms.core.tape import Pattern
from nmsat.algorithms.workloads.engine import ops
from nmsat.algorithms.workloads.engine.products import linear, matmul
from nmsat.algorithms.workloads.engine.transformer import (
    causal,
    dense,
    embedding,
    feed_forward,
    norm,
    split,
    top_groups,
    turn,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nmsat.algorithms.workloads.engine.parameters import Parameter
    from nmsat.algorithms.workloads.engine.program import Program, Tensor
    from nmsat.algorithms.workloads.engine.registry import Variant


PATTERN: Final = Pattern(2, 8)
LAMBDA: Final = 0.02
DENSITY: Final = 0.05
"""Share of the features that are not 0, assumed where none are there to count."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """A decoder and the autoencoder of its heads; prompts: for training; hidden = 0: attention alone."""

    prompts: int
    tokens: int
    layers: int
    width: int
    heads: int
    hidden: int
    vocabulary: int
    features: int

    @property
    def vectors(self) -> int:
        """Heads of all layers on all prompts."""
        return self.prompts * self.layers * self.heads


def head_outputs(p: Program, size: Size, ids: NDArray[np.integer] | None) -> Tensor:
    """Return what each head adds to the stream, mean over the tokens: [prompts, layers, heads, width]."""
    shape = (size.prompts, size.tokens, size.width)
    h = embedding(p, "table", ids, (size.vocabulary, size.width), size.prompts * size.tokens, frozen=True)
    h = ops.add(ops.reshape(h, shape), p.vector("places", (1, *shape[1:]), frozen=True))
    found = []
    for index in range(size.layers):
        name = f"l{index}"
        y, heads = attention(p, size, name, norm(p, f"{name}.norm1", h, frozen=True))
        found.append(ops.reshape(heads, (size.prompts, 1, size.heads, size.width)))
        h = ops.add(h, y)
        if size.hidden:
            seen = norm(p, f"{name}.norm2", h, frozen=True)
            h = ops.add(h, feed_forward(p, name, seen, size.hidden, lambda n, v, k: dense(p, n, v, k, frozen=True)))
    return ops.concat(found, 1)


def attention(p: Program, size: Size, name: str, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the output of a layer's attention, and those of its heads as means over tokens [prompts, heads, width]."""
    width, head = size.width, size.width // size.heads
    qkv = dense(p, f"{name}.qkv", x, 3 * width, frozen=True)
    q, k, v = (split(ops.part(qkv, 2, i * width, (i + 1) * width), size.heads) for i in range(3))
    scores = ops.mask_fill(ops.scale(matmul(f"{name}.qk", q, turn(k)), head**-0.5), causal(size.tokens, size.tokens))
    mixed = matmul(f"{name}.av", ops.softmax(scores), v)
    w = p.weight(f"{name}.out", (width, width), gain=1.0, frozen=True)
    parts = ops.transpose(mixed, (1, 0, 2, 3))  # [heads, prompts, tokens, head]
    rows = size.prompts * size.tokens
    each = p.input((size.heads, head, width), None if w.value is None else w.value.reshape(size.heads, head, width))
    results = matmul(f"{name}.out", ops.reshape(parts, (size.heads, rows, head)), each)
    shape = (size.heads, size.prompts, size.tokens, width)
    results = ops.reshape(results, shape)
    total = ops.reshape(ops.scale(ops.mean(results, 0), float(size.heads)), shape[1:])
    return total, ops.transpose(ops.reshape(ops.mean(results, 2), (size.heads, size.prompts, width)), (1, 0, 2))


def encode(p: Program, x: Tensor, features: int, label: str = "encode") -> Tensor:
    """Return f[vectors, features]."""
    shift = p.vector("b", (x.shape[1],))
    w = p.weight("encode", (x.shape[1], features), value=lambda: unit(p.rng.standard_normal((x.shape[1], features)), 0))
    return ops.relu(linear(label, ops.add(x, ops.scale(shift, -1.0)), w, p.vector("encode.bias", (features,))))


def decoder(p: Program, features: int, width: int) -> Parameter:
    """Return Wd[features, width] with columns of length 1."""
    return p.weight("decode", (features, width), value=lambda: unit(p.rng.standard_normal((features, width)), 0))


def loss(p: Program, x: Tensor, features: int, variant: Variant, strength: float = LAMBDA) -> Tensor:
    """Return L of vectors x[vectors, width]."""
    f = encode(p, x, features)
    if variant == "nm":
        f = ops.mul(f, p.input(f.shape, None if f.data is None else best(f.data).astype(f.data.dtype)))
    rebuilt = linear("decode", f, decoder(p, features, x.shape[1]), p.vector("b", (x.shape[1],)))
    size = ops.reshape(ops.mean(ops.mean(f, 1), 0), ())
    return ops.add(ops.squared_error(rebuilt, x), ops.scale(size, strength * features))


def decode_sparse(p: Program, f: Tensor, width: int, variant: Variant) -> Tensor:
    """Return the reconstruction without b [vectors, width] from codes f, the weight operand."""
    w = decoder(p, f.shape[1], width)
    values = p.input(w.shape, w.value)
    if variant == "nm":
        kept = None if f.data is None else np.where(best(f.data), f.data, 0)
        return matmul("codes.decode", p.input(f.shape, kept), values, pattern=PATTERN, transpose=True)
    keep = None if f.data is None else f.data > 0
    count = p.statistic(
        "codes.nonzeros",
        lambda: 0 if keep is None else max(1, int(np.count_nonzero(keep))),
        lambda: round(DENSITY * f.size),
    )
    mask = Unstructured("w", count, None if keep is None else np.ascontiguousarray(keep.T), static=False)
    return matmul("codes.decode", f, values, sparsity=mask, transpose=True)


def best(f: NDArray) -> NDArray[np.bool_]:
    """Return which features are among the 2 largest of their 8."""
    return top_groups(f, PATTERN.n, PATTERN.m)


def unit(x: NDArray, axis: int) -> NDArray:
    """Return x with lengths of 1 along an axis."""
    return x / np.maximum(np.sqrt((x * x).sum(axis=axis, keepdims=True)), 1e-12)


def codes(f: NDArray) -> NDArray[np.int64]:
    """Return the strongest feature of each vector f[..., features], the first of equal ones."""
    return f.argmax(axis=-1)


def node_scores(positive: NDArray[np.integer], negative: NDArray[np.integer]) -> NDArray[np.float64]:
    """Return per head the share of its codes that are on positive prompts alone; codes: [prompts, heads]."""
    scores = []
    for ours, others in zip(positive.T, negative.T, strict=True):
        here, there = set(ours.tolist()), set(others.tolist())
        scores.append(len(here - there) / len(here | there))
    return np.array(scores)


def edge_scores(positive: NDArray[np.integer], negative: NDArray[np.integer]) -> NDArray[np.int64]:
    """Return for each pair of heads how many pairs of codes are on positive prompts alone: [heads, heads]."""
    heads = positive.shape[1]
    found = np.zeros((heads, heads), np.int64)
    for i in range(heads):
        for j in range(heads):
            here, there = ({(a, b) for a, b in zip(c[:, i], c[:, j], strict=True)} for c in (positive, negative))
            found[i, j] = len(here - there)
    return found


def ranked_area(scores: NDArray, wanted: NDArray[np.bool_]) -> float:
    """Return the area under the ROC curve: the chance that a wanted head is above another, half for equal ones."""
    gap = scores[wanted][:, None] - scores[~wanted][None]
    return float(((gap > 0) + 0.5 * (gap == 0)).mean())


SMALL: Final = Size(prompts=4, tokens=6, layers=2, width=32, heads=2, hidden=64, vocabulary=40, features=40)
