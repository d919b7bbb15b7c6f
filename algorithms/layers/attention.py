"""Transformer layers: embedding, positions, multi-head attention."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from nmsat.algorithms.core.tape import Stage
from nmsat.algorithms.layers.base import Layer, add
from nmsat.algorithms.layers.parameter import Parameter
from nmsat.algorithms.layers.products import Linear

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nmsat.algorithms.layers.base import Context


class Embedding(Layer):
    """Row of a table per token: int[B, T] to [B, T, features]. First layer: its input has no gradient."""

    def __init__(self, name: str, tokens: int, features: int, rng: np.random.Generator) -> None:
        value = (rng.standard_normal((tokens, features)) * 0.1).astype(np.float32)
        self.table = Parameter(f"{name}.table", value, decay=False)
        self._tokens: NDArray = np.empty(0, np.int64)

    def parameters(self) -> list[Parameter]:
        return [self.table]

    def forward(self, x: NDArray, ctx: Context) -> NDArray:
        del ctx
        self._tokens = x
        return self.table.copy[x]

    def backward(self, dy: NDArray, ctx: Context) -> NDArray:
        total = np.zeros(self.table.master.shape)
        np.add.at(total, self._tokens, dy)
        ctx.host("embedding", "Scatter", Stage.WU, dy, 1)
        self.table.grad = ctx.arithmetic.from_host(total)
        return np.empty(0, dy.dtype)


class Positions(Layer):
    """Add a learned vector per place: [B, T, features]."""

    def __init__(self, name: str, places: int, features: int, rng: np.random.Generator) -> None:
        value = (rng.standard_normal((places, features)) * 0.1).astype(np.float32)
        self.table = Parameter(f"{name}.table", value, decay=False)

    def parameters(self) -> list[Parameter]:
        return [self.table]

    def forward(self, x: NDArray, ctx: Context) -> NDArray:
        return add(x, self.table.copy[: x.shape[1]], ctx)

    def backward(self, dy: NDArray, ctx: Context) -> NDArray:
        total = np.zeros(self.table.master.shape)
        total[: dy.shape[1]] = dy.sum(axis=0, dtype=np.float64)
        self.table.grad = ctx.arithmetic.from_host(total)
        return dy


class Attention(Layer):
    """Multi-head self-attention over [B, T, features] (Vaswani et al., NeurIPS 2017, section 3.2).

    The projections are weight products like any other; the products of two activations (two forward, four backward) are
    dense. Softmax runs on the host in binary64 from the binary32 scores; the shares are rounded once.
    causal: a place sees itself and earlier ones only.
    """

    def __init__(
        self, name: str, features: int, heads: int, rng: np.random.Generator, *, causal: bool = False, bias: bool = True
    ) -> None:
        if features % heads:
            raise ValueError(f"heads is {heads!r}; it must divide features = {features}")
        self.name = name
        self.heads = heads
        self.causal = causal
        self.project = Linear(f"{name}.qkv", features, 3 * features, rng, bias=bias, gain=1.0)
        self.out = Linear(f"{name}.out", features, features, rng, bias=bias, gain=1.0)
        self._q = self._k = self._v = self._share = np.empty(0)

    def children(self) -> list[Layer]:
        return [self.project, self.out]

    def forward(self, x: NDArray, ctx: Context) -> NDArray:
        batch, places, features = x.shape
        qkv = self.project.forward(x, ctx).reshape(batch, places, 3, self.heads, features // self.heads)
        parts = qkv.transpose(2, 0, 3, 1, 4).reshape(3, batch * self.heads, places, -1)
        self._q, self._k, self._v = (np.ascontiguousarray(part) for part in parts)
        scores = ctx.batched(f"{self.name}.scores", Stage.FF, self._q, self._k.transpose(0, 2, 1))
        self._share = ctx.arithmetic.from_host(self._softmax(scores, ctx))
        mixed = ctx.arithmetic.narrow(ctx.batched(f"{self.name}.mix", Stage.FF, self._share, self._v))
        return self.out.forward(self._join(mixed, batch), ctx)

    def backward(self, dy: NDArray, ctx: Context) -> NDArray:
        batch, places, features = dy.shape
        joined = self.out.backward(dy, ctx).reshape(batch, places, self.heads, -1)
        d_mixed = np.ascontiguousarray(joined.transpose(0, 2, 1, 3)).reshape(batch * self.heads, places, -1)
        dv = ctx.batched(f"{self.name}.dv", Stage.BP, self._share.transpose(0, 2, 1), d_mixed)
        d_share = ctx.batched(f"{self.name}.dshare", Stage.BP, d_mixed, self._v.transpose(0, 2, 1))
        d_scores = self._softmax_gradient(d_share, ctx)
        dq = ctx.batched(f"{self.name}.dq", Stage.BP, d_scores, self._k)
        dk = ctx.batched(f"{self.name}.dk", Stage.BP, d_scores.transpose(0, 2, 1), self._q)
        parts = ctx.arithmetic.narrow(np.stack([dq, dk, dv])).reshape(3, batch, self.heads, places, -1)
        return self.project.backward(parts.transpose(1, 3, 0, 2, 4).reshape(batch, places, 3 * features), ctx)

    def _softmax(self, scores: NDArray, ctx: Context) -> NDArray:
        with np.errstate(all="ignore"):
            x = scores.astype(ctx.arithmetic.host) / ctx.arithmetic.host.type(np.sqrt(self._q.shape[-1]))
            ctx.host(self.name, "Softmax", Stage.FF, scores, 5)
            if self.causal:
                x = np.where(np.tri(x.shape[1], dtype=bool), x, x.dtype.type(-np.inf))
            x = np.exp(x - x.max(axis=-1, keepdims=True))
            return x / x.sum(axis=-1, keepdims=True)

    def _softmax_gradient(self, d_share: NDArray, ctx: Context) -> NDArray:
        with np.errstate(all="ignore"):
            share, wide = self._share.astype(ctx.arithmetic.host), d_share.astype(ctx.arithmetic.host)
            ctx.host(self.name, "Softmax", Stage.BP, d_share, 5)
            inner = (share * wide).sum(axis=-1, keepdims=True)
            return ctx.arithmetic.from_host(share * (wide - inner) / share.dtype.type(np.sqrt(self._q.shape[-1])))

    def _join(self, heads: NDArray, batch: int) -> NDArray:
        split = heads.reshape(batch, self.heads, heads.shape[1], -1)
        return np.ascontiguousarray(split.transpose(0, 2, 1, 3)).reshape(batch, heads.shape[1], -1)
