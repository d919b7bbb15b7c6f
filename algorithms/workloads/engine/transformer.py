"""Pieces that the transformer programs share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nmsat.algorithms.workloads.engine import ops
from nmsat.algorithms.workloads.engine.products import linear

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from nmsat.algorithms.core.tape import Pattern
    from nmsat.algorithms.workloads.engine.program import Program, Tensor


@dataclass(frozen=True, kw_only=True)
class TransformerSize:
    """A transformer at work on sequences. width: of the stream; hidden: of a feed-forward block; vocabulary: tokens."""

    batch: int
    tokens: int
    layers: int
    width: int
    heads: int
    hidden: int
    vocabulary: int


def dense(
    p: Program,
    name: str,
    x: Tensor,
    n: int,
    *,
    bias: bool = True,
    gain: float = 1.0,
    density: float = 1.0,
    ff: Pattern | None = None,
    bp: Pattern | None = None,
    frozen: bool = False,
    masked_gradient: bool = False,
    label: str = "",
) -> Tensor:
    """Return x through a linear layer called `name` with n outputs; options as of `Program.weight`.

    label: name of its products, if that is another one.
    """
    w = p.weight(
        name,
        (x.shape[-1], n),
        gain=gain,
        density=density,
        ff=ff,
        bp=bp,
        frozen=frozen,
        masked_gradient=masked_gradient,
    )
    return linear(label or name, x, w, p.vector(f"{name}.bias", (n,), frozen=frozen) if bias else None)


def norm(p: Program, name: str, x: Tensor, *, frozen: bool = False) -> Tensor:
    """Layer normalisation with its own gain and bias."""
    width = x.shape[-1:]
    gain = p.vector(f"{name}.gain", width, 1.0, frozen=frozen)
    return ops.layer_norm(x, gain, p.vector(f"{name}.bias", width, frozen=frozen))


def split(x: Tensor, heads: int) -> Tensor:
    """[B, N, heads * d] to [B, heads, N, d]."""
    batch, tokens, width = x.shape
    return ops.transpose(ops.reshape(x, (batch, tokens, heads, width // heads)), (0, 2, 1, 3))


def merge(x: Tensor) -> Tensor:
    """[B, heads, N, d] to [B, N, heads * d]."""
    batch, heads, tokens, width = x.shape
    return ops.reshape(ops.transpose(x, (0, 2, 1, 3)), (batch, tokens, heads * width))


def turn(x: Tensor) -> Tensor:
    """The last two axes swapped."""
    axes = tuple(range(len(x.shape)))
    return ops.transpose(x, (*axes[:-2], axes[-1], axes[-2]))


def feed_forward(
    p: Program, name: str, x: Tensor, hidden: int, layer: Callable[[str, Tensor, int], Tensor] | None = None
) -> Tensor:
    """Two linear layers with GELU between them, `name.up` and `name.down`; layer: what makes them."""
    make = (lambda label, value, n: dense(p, label, value, n)) if layer is None else layer
    return make(f"{name}.down", ops.gelu(make(f"{name}.up", x, hidden)), x.shape[-1])


def causal(queries: int, keys: int) -> NDArray[np.bool_]:
    """Which keys each query sees when the last query is the last key: bool[queries, keys]."""
    return np.tri(queries, keys, keys - queries, dtype=bool)


def embedding(
    p: Program,
    name: str,
    ids: NDArray[np.integer] | None,
    shape: tuple[int, int],
    rows: int,
    *,
    frozen: bool = False,
) -> Tensor:
    """Rows `ids` of a host table [vocabulary, width]; rows: number of ids."""
    table = p.vector(name, shape, frozen=frozen)
    if p.values and not table.array.any():
        table.array[...] = p.rng.standard_normal(shape) * 0.5
    return ops.gather(table, ids, rows)


def top_k(x: NDArray, k: int) -> NDArray[np.bool_]:
    """Mask of the k largest of the last axis; a tie goes to the first."""
    order = np.argsort(-x, axis=-1, kind="stable")[..., :k]
    keep = np.zeros(x.shape, np.bool_)
    np.put_along_axis(keep, order, True, axis=-1)
    return keep


def top_groups(x: NDArray, n: int, m: int) -> NDArray[np.bool_]:
    """Mask of the n largest of each m consecutive entries of the last axis (the last group may be short)."""
    pad = -x.shape[-1] % m
    padded = np.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, pad)], constant_values=-np.inf)
    keep = top_k(padded.reshape(*x.shape[:-1], -1, m), n).reshape(padded.shape)
    return keep[..., : x.shape[-1]]
