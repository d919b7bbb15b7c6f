"""THOR (`algorithms.workloads.methods.thor`): the network, its experts and both losses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np

from nmsat.algorithms.core.tape import Pattern
from nmsat.algorithms.workloads.engine import ops
from nmsat.algorithms.workloads.engine.parameters import Parameter
from nmsat.algorithms.workloads.engine.products import experts, matmul
from nmsat.algorithms.workloads.engine.program import Program, Tensor
from nmsat.algorithms.workloads.engine.transformer import (
    TransformerSize,
    causal,
    dense,
    embedding,
    merge,
    norm,
    split,
    turn,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nmsat.algorithms.workloads.engine.registry import Variant


PATTERN: Final = Pattern(2, 8)
CONSISTENCY: Final = 5.0
"""a."""

SMOOTHING: Final = 0.1
Mixture: TypeAlias = Callable[[str, Tensor], Tensor]
"""Takes x[batch, tokens, width] through the experts of the layer with that name."""


@dataclass(frozen=True, kw_only=True)
class Size(TransformerSize):
    """An encoder and a decoder of as many layers; decoder=False: an encoder that labels each token itself."""

    experts: int
    decoder: bool = True


def forward(
    p: Program,
    size: Size,
    source: NDArray[np.integer] | None,
    target: NDArray[np.integer] | None,
    mixture: Mixture,
    mark: str = "",
) -> Tensor:
    """Return the logits [batch, tokens, vocabulary] of flat tokens; mark: what its products' names begin with."""

    def block(name: str, h: Tensor, states: Tensor | None, index: int) -> Tensor:
        h = norm(p, f"{name}.norm1", ops.add(h, _attention(p, size, f"{name}.self", h, h, mark, name[0] == "d")))
        if states is not None:
            h = norm(p, f"{name}.norm2", ops.add(h, _attention(p, size, f"{name}.cross", h, states, mark)))
        if index % 2 == 0:
            y = mixture(name, h)
        else:
            up = ops.relu(dense(p, f"{name}.up", h, size.hidden, gain=2.0, label=f"{mark}{name}.up"))
            y = dense(p, f"{name}.down", up, size.width, label=f"{mark}{name}.down")
        return norm(p, f"{name}.norm3", ops.add(h, y))

    h = _embedded(p, size, source)
    for index in range(size.layers):
        h = block(f"e{index}", h, None, index)
    if size.decoder:
        states, h = h, _embedded(p, size, target)
        for index in range(size.layers):
            h = block(f"d{index}", h, states, index)
    return dense(p, "head", h, size.vocabulary, bias=False, label=f"{mark}head")


def one_expert(p: Program, size: Size, draws: np.random.Generator, variant: Variant, mark: str = "") -> Mixture:
    """Return a mixture that takes the whole batch through one expert, drawn anew for each layer."""

    def mixture(name: str, x: Tensor) -> Tensor:
        make_experts(p, size, name, variant)
        chosen = int(draws.integers(size.experts))
        up = ops.relu(dense(p, f"{name}.up{chosen}", x, size.hidden, label=f"{mark}{name}.up{chosen}"))
        return dense(p, f"{name}.down{chosen}", up, size.width, label=f"{mark}{name}.down{chosen}")

    return mixture


def per_sentence(p: Program, size: Size, draws: np.random.Generator, variant: Variant) -> Mixture:
    """Return a mixture that draws an expert for each sentence and gathers the sentences of each."""

    def mixture(name: str, x: Tensor) -> Tensor:
        make_experts(p, size, name, variant)
        owner = np.repeat(draws.integers(size.experts, size=size.batch), size.tokens)
        flat = ops.reshape(x, (size.batch * size.tokens, size.width))
        return ops.reshape(gathered(p, size, name, flat, owner), x.shape)

    return mixture


def gathered(p: Program, size: Size, name: str, x: Tensor, owner: NDArray[np.integer]) -> Tensor:
    """Return x[rows, width] with each row through the expert owner[row], without gradients of the experts."""
    rows = len(owner)
    place = np.argsort(owner, kind="stable")
    loads = tuple(int(c) for c in np.bincount(owner, minlength=size.experts))

    def layer(part: str, value: Tensor) -> Tensor:
        own = [p.store[f"{name}.{part}{e}"] for e in range(size.experts)]
        bias = [p.store[f"{name}.{part}{e}.bias"] for e in range(size.experts)]
        values = np.stack([w.array for w in own]) if p.values else None
        stacked = Parameter(f"{name}.{part}", (size.experts, *own[0].shape), values, ff=own[0].ff, frozen=True)
        y = experts(f"drawn.{name}.{part}", value, stacked, loads, rows)
        table = p.input((size.experts, y.shape[1]), lambda: np.stack([b.array for b in bias]))
        return ops.add(y, ops.gather(table, owner[place], rows))

    y = layer("down", ops.relu(layer("up", ops.gather(x, place, rows))))
    return ops.scatter_add(y, place, rows)


def make_experts(p: Program, size: Size, name: str, variant: Variant) -> None:
    """Make all experts of a layer on first use, also those that are not drawn."""
    pattern = PATTERN if variant == "nm" else None
    for e in range(size.experts):
        for part, k, n, gain in (("up", size.width, size.hidden, 2.0), ("down", size.hidden, size.width, 1.0)):
            p.weight(f"{name}.{part}{e}", (k, n), gain=gain, ff=pattern, bp=pattern)
            if f"{name}.{part}{e}.bias" not in p.store:
                p.vector(f"{name}.{part}{e}.bias", (n,))


def agreeing(one: Tensor, two: Tensor, labels: NDArray[np.integer] | None, strength: float) -> Tensor:
    """Return L of the logits of two passes."""
    loss = ops.add(smoothed(one, labels), smoothed(two, labels))
    return ops.add(loss, ops.scale(divergence(one, two), strength)) if strength else loss


def smoothed(logits: Tensor, labels: NDArray[np.integer] | None, epsilon: float = SMOOTHING) -> Tensor:
    """Return the mean cross entropy of labels of which a share epsilon is spread evenly over all words."""
    words = logits.shape[-1]

    def forward(v: NDArray) -> NDArray:
        log = _log_soft(v.reshape(-1, words))
        hit = log[np.arange(len(log)), ops.given(labels).ravel()]
        return np.asarray(-((1 - epsilon) * hit + epsilon * log.mean(axis=1)).mean(), v.dtype)

    def backward(d: NDArray, _y: NDArray, v: NDArray) -> tuple[NDArray]:
        grad = ops.soft(v.reshape(-1, words)) - epsilon / words
        grad[np.arange(len(grad)), ops.given(labels).ravel()] -= 1 - epsilon
        return ((grad * (d / len(grad))).astype(v.dtype).reshape(v.shape),)

    return logits.program.apply("SoftmaxCrossEntropyLoss", (logits,), (), forward, backward)


def divergence(one: Tensor, two: Tensor) -> Tensor:
    """Return half the sum of both KL divergences, mean over the rows."""

    def parts(u: NDArray, v: NDArray) -> tuple[NDArray, NDArray, NDArray]:
        lp, lq = _log_soft(u), _log_soft(v)
        return np.exp(lp), np.exp(lq), lp - lq

    def forward(u: NDArray, v: NDArray) -> NDArray:
        a, b, log = parts(u, v)
        return np.asarray(((a - b) * log).sum(axis=-1).mean() / 2, u.dtype)

    def backward(d: NDArray, _y: NDArray, u: NDArray, v: NDArray) -> tuple[NDArray, NDArray]:
        a, b, log = parts(u, v)
        share = d / (2 * (u.size // u.shape[-1]))
        left = a * (log - (a * log).sum(axis=-1, keepdims=True)) + a - b
        right = b * ((b * log).sum(axis=-1, keepdims=True) - log) + b - a
        return (share * left).astype(u.dtype), (share * right).astype(v.dtype)

    return one.program.apply("SymmetricDivergence", (one, two), (), forward, backward)


def _log_soft(v: NDArray) -> NDArray:
    shifted = v - v.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def _attention(p: Program, size: Size, name: str, x: Tensor, source: Tensor, mark: str, masked: bool = False) -> Tensor:
    q, k, v = (
        split(dense(p, f"{name}.{c}", value, size.width, label=f"{mark}{name}.{c}"), size.heads)
        for c, value in (("q", x), ("k", source), ("v", source))
    )
    scores = ops.scale(matmul(f"{mark}{name}.qk", q, turn(k)), (size.width // size.heads) ** -0.5)
    if masked:
        scores = ops.mask_fill(scores, causal(size.tokens, size.tokens))
    mixed = merge(matmul(f"{mark}{name}.av", ops.softmax(scores), v))
    return dense(p, f"{name}.out", mixed, size.width, label=f"{mark}{name}.out")


def _embedded(p: Program, size: Size, ids: NDArray[np.integer] | None) -> Tensor:
    """Return rows of the one table of both languages, with fixed positions added: [batch, tokens, width]."""
    h = embedding(p, "table", ids, (size.vocabulary, size.width), size.batch * size.tokens)

    def places() -> NDArray[np.float64]:
        angle = np.arange(size.tokens)[:, None] * 10000.0 ** (-np.arange(0, size.width, 2) / size.width)
        return np.concatenate([np.sin(angle), np.cos(angle)], axis=1)[None, :, : size.width]

    h = ops.reshape(h, (size.batch, size.tokens, size.width))
    return ops.add(h, p.input((1, size.tokens, size.width), places))


SMALL: Final = Size(batch=4, tokens=8, layers=1, width=32, heads=2, hidden=64, vocabulary=32, experts=2)
