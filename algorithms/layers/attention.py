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
    causal: a place sees itself and earlier ones only; out: what the second projection is called.
    """

    def __init__(
        self,
        name: str,
        features: int,
        heads: int,
        rng: np.random.Generator,
        *,
        causal: bool = False,
        bias: bool = True,
        out: str = "out",
    ) -> None:
        if features % heads:
            raise ValueError(f"heads is {heads!r}; it must divide features = {features}")
        self.name = name
        self.heads = heads
        self.causal = causal
        self.project = Linear(f"{name}.qkv", features, 3 * features, rng, bias=bias, gain=1.0)
        self.out = Linear(f"{name}.{out}", features, features, rng, bias=bias, gain=1.0)
        self._q = self._k = self._v = self._share = np.empty(0)

    def children(self) -> list[Layer]:
        return [self.project, self.out]

    def forward(self, x: NDArray, ctx: Context) -> NDArray:
        batch = len(x)
        q, k, v = self.split(self.project.forward(x, ctx))
        scores = ctx.batched(f"{self.name}.scores", Stage.FF, q, k.transpose(0, 2, 1))
        share = self.shares(scores, ctx)
        mixed = ctx.arithmetic.narrow(ctx.batched(f"{self.name}.mix", Stage.FF, share, v))
        return self.out.forward(self.join(mixed, batch), ctx)

    def backward(self, dy: NDArray, ctx: Context) -> NDArray:
        batch = len(dy)
        d_mixed = self.split_heads(self.out.backward(dy, ctx))
        dv = ctx.batched(f"{self.name}.dv", Stage.BP, self._share.transpose(0, 2, 1), d_mixed)
        d_share = ctx.batched(f"{self.name}.dshare", Stage.BP, d_mixed, self._v.transpose(0, 2, 1))
        d_scores = self.scores_gradient(d_share, ctx)
        dq = ctx.batched(f"{self.name}.dq", Stage.BP, d_scores, self._k)
        dk = ctx.batched(f"{self.name}.dk", Stage.BP, d_scores.transpose(0, 2, 1), self._q)
        return self.project.backward(self.join_gradients(ctx.arithmetic.narrow(np.stack([dq, dk, dv])), batch), ctx)

    def split(self, qkv: NDArray) -> tuple[NDArray, NDArray, NDArray]:
        """Return queries, keys and values of [B, T, 3 features] as [B * heads, T, features of a head]; keeps them."""
        batch, places, features = qkv.shape
        parts = qkv.reshape(batch, places, 3, self.heads, features // (3 * self.heads)).transpose(2, 0, 3, 1, 4)
        heads = parts.reshape(3, batch * self.heads, places, -1)
        self._q, self._k, self._v = (np.ascontiguousarray(part) for part in heads)
        return self._q, self._k, self._v

    def shares(self, scores: NDArray, ctx: Context) -> NDArray:
        """Return the softmax of the scores [B * heads, T, T], rounded; keeps it."""
        self._share = ctx.arithmetic.from_host(self._softmax(scores, ctx))
        return self._share

    def scores_gradient(self, d_share: NDArray, ctx: Context) -> NDArray:
        """Return the gradient of the scores from that of the shares."""
        return self._softmax_gradient(d_share, ctx)

    def split_heads(self, x: NDArray) -> NDArray:
        """Return [B, T, features] as [B * heads, T, features of a head]."""
        batch, places, features = x.shape
        split = x.reshape(batch, places, self.heads, features // self.heads)
        return np.ascontiguousarray(split.transpose(0, 2, 1, 3)).reshape(batch * self.heads, places, -1)

    def join(self, heads: NDArray, batch: int) -> NDArray:
        """Return [B * heads, T, features of a head] as [B, T, features]."""
        split = heads.reshape(batch, self.heads, heads.shape[1], -1)
        return np.ascontiguousarray(split.transpose(0, 2, 1, 3)).reshape(batch, heads.shape[1], -1)

    def join_gradients(self, parts: NDArray, batch: int) -> NDArray:
        """Return the gradients of queries, keys, values [3, B * heads, T, features of a head] as [B, T, 3 features]."""
        places = parts.shape[2]
        split = parts.reshape(3, batch, self.heads, places, -1)
        return split.transpose(1, 3, 0, 2, 4).reshape(batch, places, -1)

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
