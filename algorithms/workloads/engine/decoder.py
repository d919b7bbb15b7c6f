"""Decoders of language models with a cache of keys and values: GPT, CodeGen and LLaMA types.

Keys and values may have fewer heads than queries (Shazeer, arXiv 1911.02150; Ainslie et al., EMNLP 2023): the queries
of a group are rows of one product, so nothing is repeated. A cached sequence may also serve several continuations,
whose queries are rows of one product as well. Positions are rotary (Su et al., arXiv 2104.09864), so that a sequence
padded on its left differs from itself alone by a mask only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nmsat.algorithms.workloads.engine import ops
from nmsat.algorithms.workloads.engine.products import matmul
from nmsat.algorithms.workloads.engine.transformer import causal, dense, embedding, merge, norm, split, turn

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nmsat.algorithms.core.tape import Pattern
    from nmsat.algorithms.workloads.engine.program import Program, Tensor


@dataclass(frozen=True, kw_only=True)
class DecoderSize:
    """A decoder. kv: heads of keys and values; head: width of a head; gated: three matrices with SiLU and RMS norm
    (LLaMA) instead of two with GELU and layer norm; parallel: attention and feed-forward layer read one norm (GPT-J);
    tied: the head is the table of words."""

    layers: int
    width: int
    heads: int
    kv: int
    head: int
    hidden: int
    vocabulary: int
    gated: bool = True
    parallel: bool = False
    tied: bool = False

    @property
    def linear_macs(self) -> int:
        """Multiply-adds of a token in its matrices, head left out."""
        attention = 2 * self.width * (self.heads + self.kv) * self.head
        return self.layers * (attention + (3 if self.gated else 2) * self.width * self.hidden)

    @property
    def weights(self) -> int:
        """Elements of all matrices and tables."""
        return self.linear_macs + (1 if self.tied else 2) * self.vocabulary * self.width

    def attention_macs(self, queries: int, keys: int) -> int:
        """Multiply-adds of scores and contexts of `queries` tokens over `keys` tokens, all pairs, all layers."""
        return 2 * self.layers * self.heads * self.head * queries * keys


@dataclass(frozen=True, eq=False)
class Cache:
    """Keys and values [sequences, kv, tokens, head] of each layer; padding: tokens to skip at the left of each."""

    layers: tuple[tuple[Tensor, Tensor], ...]
    tokens: int
    padding: NDArray[np.int64] | None = None


def decode(
    p: Program,
    name: str,
    size: DecoderSize,
    ids: NDArray[np.integer] | None,
    shape: tuple[int, int],
    cache: Cache | None = None,
    *,
    logits: int = 1,
    padding: NDArray[np.int64] | None = None,
    pattern: Pattern | None = None,
    learns: bool = False,
    label: str = "",
    keep: bool = True,
) -> tuple[Tensor, Cache]:
    """Return the logits [sequences, logits, vocabulary] of the last tokens, and the cache with all tokens in it.

    ids: int[sequences, tokens], shape: that shape; cache: what came before, of as many sequences or of a divisor of
    them, each of which then serves several in a row; padding: of new sequences, int[sequences]; pattern: of all
    matrices but the head along k, and along n if the model learns; label: prefix of the products if not `name`; keep:
    False if nothing follows, then the cache that came is returned as it was.
    """
    batch, tokens = shape
    label = label or name

    def layer(which: str, x: Tensor, n: int) -> Tensor:
        bp = pattern if learns else None
        at = f"{label}.{which}"
        return dense(p, f"{name}.{which}", x, n, bias=False, ff=pattern, bp=bp, frozen=not learns, label=at)

    def normed(which: str, x: Tensor) -> Tensor:
        if not size.gated:
            return norm(p, f"{name}.{which}", x, frozen=not learns)
        return ops.rms_norm(x, p.vector(f"{name}.{which}.gain", (size.width,), 1.0, frozen=not learns))

    def feed(at: str, x: Tensor) -> Tensor:
        up = layer(f"{at}.up", x, size.hidden)
        h = ops.mul(ops.silu(layer(f"{at}.gate", x, size.hidden)), up) if size.gated else ops.gelu(up)
        return layer(f"{at}.down", h, size.width)

    start = 0 if cache is None else cache.tokens
    skipped = padding if cache is None else cache.padding
    flat = None if ids is None else ids.reshape(-1)
    h = embedding(p, f"{name}.words", flat, (size.vocabulary, size.width), batch * tokens, frozen=not learns)
    h = ops.reshape(h, (batch, tokens, size.width))
    kept: list[tuple[Tensor, Tensor]] = []
    for index in range(size.layers):
        at = f"l{index}"
        x = normed(f"{at}.norm1", h)
        q = ops.rotary(split(layer(f"{at}.q", x, size.heads * size.head), size.heads), start=start)
        k = ops.rotary(split(layer(f"{at}.k", x, size.kv * size.head), size.kv), start=start)
        v = split(layer(f"{at}.v", x, size.kv * size.head), size.kv)
        past = None if cache is None else cache.layers[index]
        y = layer(f"{at}.o", merge(_attend(f"{label}.{at}", q, k, v, past, skipped)), size.width)
        if keep:
            kept.append((k, v) if past is None else (_longer(past[0], k), _longer(past[1], v)))
        if size.parallel:
            h = ops.add(h, ops.add(y, feed(at, x)))
        else:
            h = ops.add(h, y)
            h = ops.add(h, feed(at, normed(f"{at}.norm2", h)))
    h = normed("norm", ops.part(h, 1, tokens - logits, tokens)) if logits < tokens else normed("norm", h)
    out = dense(p, f"{name}.head", h, size.vocabulary, bias=False, frozen=not learns, label=f"{label}.head")
    return out, Cache(tuple(kept), start + tokens, skipped) if keep or cache is None else cache


def _attend(
    name: str, q: Tensor, k: Tensor, v: Tensor, past: tuple[Tensor, Tensor] | None, padding: NDArray[np.int64] | None
) -> Tensor:
    """Return the causal attention [B, heads, N, d] over the tokens themselves and those before them."""
    batch, heads, tokens, width = q.shape
    kv = k.shape[1]
    rows = heads // kv * tokens
    q = ops.scale(ops.reshape(q, (batch, kv, rows, width)), width**-0.5)
    keep = _own_mask(tokens, heads // kv, padding, past is None) if q.program.values else None
    own = ops.mask_fill(matmul(f"{name}.qk", q, turn(k)), keep)
    if past is None:
        return ops.reshape(matmul(f"{name}.av", ops.softmax(own), v), (batch, heads, tokens, width))
    before = past[0].shape[2]
    scores = _apart(matmul(f"{name}.past.qk", _together(q, past[0].shape[0]), turn(past[0])), batch)
    if padding is not None:
        seen = np.arange(before) >= np.repeat(padding, batch // len(padding))[:, None, None, None]
        scores = ops.mask_fill(scores, seen)
    a = ops.softmax(ops.concat([scores, own], 3))
    y = matmul(f"{name}.past.av", _together(ops.part(a, 3, 0, before), past[0].shape[0]), past[1])
    y = ops.add(_apart(y, batch), matmul(f"{name}.av", ops.part(a, 3, before, before + tokens), v))
    return ops.reshape(y, (batch, heads, tokens, width))


def _own_mask(tokens: int, group: int, padding: NDArray[np.int64] | None, first: bool) -> NDArray[np.bool_]:
    """Return which of the new tokens each query sees: those up to it; a padded place sees itself."""
    keep = np.tile(causal(tokens, tokens), (group, 1))
    if padding is None or not first:
        return keep
    place = np.arange(tokens)
    seen = (place >= padding[:, None])[:, None, :] | (np.tile(place, group)[:, None] == place)
    return (keep & seen)[:, None]


def _together(x: Tensor, sequences: int) -> Tensor:
    """[B, kv, rows, n] to [sequences, kv, B / sequences * rows, n]: rows that read one cached sequence."""
    batch, kv, rows, n = x.shape
    if batch == sequences:
        return x
    apart = ops.reshape(x, (sequences, batch // sequences, kv, rows, n))
    return ops.reshape(ops.transpose(apart, (0, 2, 1, 3, 4)), (sequences, kv, batch // sequences * rows, n))


def _apart(x: Tensor, batch: int) -> Tensor:
    """Undo `_together`."""
    sequences, kv, rows, n = x.shape
    if batch == sequences:
        return x
    share = batch // sequences
    together = ops.reshape(x, (sequences, kv, share, rows // share, n))
    return ops.reshape(ops.transpose(together, (0, 2, 1, 3, 4)), (batch, kv, rows // share, n))


def _longer(past: Tensor, new: Tensor) -> Tensor:
    """Return a cache with new tokens behind it; one that serves several sequences is copied for each."""
    share = new.shape[0] // past.shape[0]
    if share > 1:
        sequences, *rest = past.shape
        wide = ops.expand(ops.reshape(past, (sequences, 1, *rest)), (sequences, share, *rest))
        past = ops.reshape(wide, (sequences * share, *rest))
    return ops.concat([past, new], 2)
