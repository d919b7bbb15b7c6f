"""Encoders after BERT (Devlin et al., NAACL 2019): post-norm, GELU, learned positions; and attention over a memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nmsat.algorithms.workloads.engine import ops
from nmsat.algorithms.workloads.engine.products import matmul
from nmsat.algorithms.workloads.engine.transformer import dense, embedding, feed_forward, merge, norm, split, turn

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nmsat.algorithms.core.tape import Pattern
    from nmsat.algorithms.workloads.engine.program import Program, Tensor


@dataclass(frozen=True, kw_only=True)
class EncoderSize:
    """An encoder; positions: rows of its table of positions, 0 for none; segments: rows of its table of segments."""

    layers: int
    width: int
    heads: int
    hidden: int
    vocabulary: int
    positions: int
    segments: int = 0

    @property
    def weights(self) -> int:
        """Number of its parameters: tables, matrices, biases and norms (no pooler, no head)."""
        tables = (self.vocabulary + self.positions + self.segments) * self.width + 2 * self.width
        layer = 4 * (self.width + 1) * self.width + 2 * self.width * self.hidden + self.hidden + self.width
        return tables + self.layers * (layer + 4 * self.width)


def embedded(
    p: Program, name: str, size: EncoderSize, ids: NDArray[np.integer] | None, batch: int, tokens: int
) -> Tensor:
    """Return the normed sum of words, positions and segment 0: [batch, tokens, width]; ids: [batch, tokens]."""
    flat = None if ids is None else ids.reshape(-1)
    h = embedding(p, f"{name}.words", flat, (size.vocabulary, size.width), batch * tokens)
    h = ops.reshape(h, (batch, tokens, size.width))
    for table, rows in (("positions", size.positions), ("segments", size.segments)):
        if rows:
            places = np.arange(tokens) if table == "positions" else np.zeros(tokens, np.int64)
            row = embedding(p, f"{name}.{table}", places if p.values else None, (rows, size.width), tokens)
            h = ops.add(h, ops.reshape(row, (1, tokens, size.width)))
    return norm(p, f"{name}.norm", h)


def attention(
    p: Program,
    name: str,
    x: Tensor,
    memory: Tensor,
    heads: int,
    *,
    inner: int | None = None,
    keep: NDArray[np.bool_] | None = None,
    bias: Tensor | None = None,
    scaled: bool = True,
    biased: bool = True,
    pattern: Pattern | None = None,
) -> Tensor:
    """Return the attention of x[B, N, d] over memory[B, M, d'] through its four matrices.

    inner: heads times their width (default d); keep: bool[N, M], which pairs are seen; bias: added to the scores;
    scaled: divide scores by the root of the heads' width; biased: whether the matrices have biases.
    """
    inner = inner or x.shape[-1]

    def layer(label: str, value: Tensor, n: int) -> Tensor:
        return dense(p, f"{name}.{label}", value, n, bias=biased, ff=pattern, bp=pattern)

    q, k, v = (split(layer(label, t, inner), heads) for label, t in (("q", x), ("k", memory), ("v", memory)))
    scores = matmul(f"{name}.qk", q, turn(k))
    scores = ops.scale(scores, (inner // heads) ** -0.5) if scaled else scores
    scores = scores if bias is None else ops.add(scores, bias)
    a = ops.softmax(scores if keep is None else ops.mask_fill(scores, keep))
    return layer("o", merge(matmul(f"{name}.av", a, v)), x.shape[-1])


def encoder(p: Program, name: str, size: EncoderSize, h: Tensor, pattern: Pattern | None = None) -> Tensor:
    """Return h[B, N, width] through all layers; pattern: of every matrix along k, and along n in the backward pass."""

    def layer(label: str, value: Tensor, n: int) -> Tensor:
        return dense(p, label, value, n, ff=pattern, bp=pattern)

    for index in range(size.layers):
        at = f"{name}.l{index}"
        h = norm(p, f"{at}.norm1", ops.add(h, attention(p, at, h, h, size.heads, pattern=pattern)))
        h = norm(p, f"{at}.norm2", ops.add(h, feed_forward(p, at, h, size.hidden, layer)))
    return h
