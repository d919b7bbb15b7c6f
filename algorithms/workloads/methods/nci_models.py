"""One model of each generation of models of code, with the loss that it is trained with.

    recurrent         words -> LSTM layers -> words; the next word
    encoder           BERT; the words at masked places, through a layer with GELU and a norm (RoBERTa)
    encoder-decoder   T5: pre-norm, relative biases shared by the layers of a stack, ReLU, no biases, scores not scaled
    decoder           `engine.decoder`; the next word, of a document or of one whose middle was moved to its end

Tables of words and heads that published models tie stand apart here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nmsat.algorithms.workloads.engine import ops
from nmsat.algorithms.workloads.engine.decoder import decode
from nmsat.algorithms.workloads.engine.encoder import EncoderSize, attention, embedded, encoder
from nmsat.algorithms.workloads.engine.recurrent import State, lstm
from nmsat.algorithms.workloads.engine.transformer import causal, dense, embedding, norm

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from nmsat.algorithms.core.tape import Pattern
    from nmsat.algorithms.workloads.engine.decoder import DecoderSize
    from nmsat.algorithms.workloads.engine.program import Program, Tensor


@dataclass(frozen=True, kw_only=True)
class RecurrentSize:
    """A language model of LSTM layers, all as wide as its words."""

    layers: int
    width: int
    vocabulary: int


@dataclass(frozen=True, kw_only=True)
class PairSize:
    """An encoder and a decoder of `layers` each; buckets: relative distances that are told apart."""

    layers: int
    width: int
    heads: int
    hidden: int
    vocabulary: int
    buckets: int = 32

    @property
    def weights(self) -> int:
        """Elements of its matrices and of the table of words, which is also its head."""
        both = 12 * self.width**2 + 4 * self.width * self.hidden
        return self.layers * both + self.vocabulary * self.width


def recurrent(
    p: Program,
    size: RecurrentSize,
    ids: NDArray[np.integer] | None,
    shape: tuple[int, int],
    states: Sequence[State] | None = None,
    pattern: Pattern | None = None,
    label: str = "recurrent",
) -> tuple[Tensor, list[State]]:
    """Return logits [batch, tokens, vocabulary] and the states after the last word; states: to begin with."""
    flat = None if ids is None else ids.reshape(-1)
    h = embedding(p, "recurrent.words", flat, (size.vocabulary, size.width), shape[0] * shape[1])
    h, last = ops.reshape(h, (*shape, size.width)), []
    for index in range(size.layers):
        at, gates = f"l{index}", 4 * size.width
        x = dense(p, f"recurrent.{at}.w", h, gates, ff=pattern, bp=pattern, label=f"{label}.{at}.w")
        u = p.weight(f"recurrent.{at}.u", (size.width, gates), gain=1.0, ff=pattern, bp=pattern)
        h, state = lstm(f"{label}.{at}.u", x, u, state=None if states is None else states[index])
        last.append(state)
    return dense(p, "recurrent.head", h, size.vocabulary, label=f"{label}.head"), last


def masked_words(
    p: Program,
    size: EncoderSize,
    ids: NDArray[np.integer] | None,
    shape: tuple[int, int],
    places: NDArray[np.integer] | None,
    count: int,
    pattern: Pattern | None = None,
) -> Tensor:
    """Return logits [count, vocabulary] of the masked places; places: their numbers among all tokens of the batch."""
    h = encoder(p, "encoder", size, embedded(p, "encoder", size, ids, *shape), pattern)
    h = ops.gather(ops.reshape(h, (shape[0] * shape[1], size.width)), places, count)
    h = norm(p, "encoder.norm2", ops.gelu(dense(p, "encoder.mask", h, size.width, ff=pattern, bp=pattern)))
    return dense(p, "encoder.head", h, size.vocabulary)


def spans(
    p: Program,
    size: PairSize,
    source: NDArray[np.integer] | None,
    target: NDArray[np.integer] | None,
    batch: int,
    lengths: tuple[int, int],
    pattern: Pattern | None = None,
) -> Tensor:
    """Return logits [batch, lengths[1], vocabulary] of the words behind those of `target`, having read `source`."""
    table = (size.vocabulary, size.width)

    def read(ids: NDArray[np.integer] | None, length: int) -> Tensor:
        flat = None if ids is None else ids.reshape(-1)
        return ops.reshape(embedding(p, "pair.words", flat, table, batch * length), (batch, length, size.width))

    def normed(name: str, x: Tensor) -> Tensor:
        return ops.rms_norm(x, p.vector(f"{name}.gain", (size.width,), 1.0))

    def feed(name: str, x: Tensor) -> Tensor:
        up = dense(p, f"{name}.up", normed(f"{name}.norm", x), size.hidden, bias=False, ff=pattern, bp=pattern)
        return ops.add(x, dense(p, f"{name}.down", ops.relu(up), size.width, bias=False, ff=pattern, bp=pattern))

    def attend(
        name: str, x: Tensor, memory: Tensor | None, bias: Tensor | None, keep: NDArray[np.bool_] | None
    ) -> Tensor:
        q = normed(f"{name}.norm", x)
        seen = q if memory is None else memory
        y = attention(p, name, q, seen, size.heads, keep=keep, bias=bias, scaled=False, biased=False, pattern=pattern)
        return ops.add(x, y)

    h, bias = read(source, lengths[0]), relative_bias(p, "pair.source", size, lengths[0], both=True)
    for index in range(size.layers):
        h = feed(f"pair.e{index}.ff", attend(f"pair.e{index}.self", h, None, bias, None))
    memory = normed("pair.source", h)
    h, bias = read(target, lengths[1]), relative_bias(p, "pair.target", size, lengths[1], both=False)
    for index in range(size.layers):
        h = attend(f"pair.d{index}.self", h, None, bias, causal(lengths[1], lengths[1]))
        h = feed(f"pair.d{index}.ff", attend(f"pair.d{index}.cross", h, memory, None, None))
    return dense(p, "pair.head", normed("pair.target", h), size.vocabulary, bias=False)


def relative_bias(p: Program, name: str, size: PairSize, tokens: int, *, both: bool) -> Tensor:
    """Return the biases [1, heads, tokens, tokens] of the distances of keys from queries; both: also to the right."""
    distance = np.arange(tokens)[None] - np.arange(tokens)[:, None]
    index = bucket(distance, size.buckets, both=both).reshape(-1) if p.values else None
    table = p.vector(f"{name}.distances", (size.buckets, size.heads))
    rows = ops.reshape(ops.gather(table, index, tokens * tokens), (1, tokens, tokens, size.heads))
    return ops.transpose(rows, (0, 3, 1, 2))


def bucket(distance: NDArray[np.int64], buckets: int, *, both: bool, most: int = 128) -> NDArray[np.int64]:
    """Return T5's bucket of key minus query: near ones apart, far ones by the logarithm up to `most`."""
    base = np.zeros_like(distance)
    if both:
        buckets //= 2
        base = np.where(distance > 0, buckets, 0)
        distance = np.abs(distance)
    else:
        distance = np.maximum(-distance, 0)
    near = buckets // 2
    far = np.log(np.maximum(distance, 1) / near) / math.log(most / near) * (buckets - near)
    return base + np.where(distance < near, distance, np.minimum(near + far.astype(np.int64), buckets - 1))


def next_words(
    p: Program, size: DecoderSize, ids: NDArray[np.integer] | None, shape: tuple[int, int], pattern: Pattern | None
) -> Tensor:
    """Return logits [batch, tokens, vocabulary] of a decoder that learns."""
    return decode(p, "decoder", size, ids, shape, logits=shape[1], pattern=pattern, learns=True, keep=False)[0]
