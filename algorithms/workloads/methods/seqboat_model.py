"""SeqBoat (`algorithms.workloads.methods.seqboat`): the layer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import numpy as np

from nmsat.algorithms.core.sparsity import Gathered
from nmsat.algorithms.core.tape import Pattern
from nmsat.algorithms.workloads.engine import ops
from nmsat.algorithms.workloads.engine.products import linear, matmul
from nmsat.algorithms.workloads.engine.transformer import dense, embedding, norm, turn
from nmsat.algorithms.workloads.methods.seqboat_ema import averages

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nmsat.algorithms.workloads.engine.program import Program, Tensor
    from nmsat.algorithms.workloads.engine.registry import Variant


Mode: TypeAlias = Literal["learnt", "all", "none"]
"""Which tokens are active: what the router says, all (confidence 1) or none."""

PATTERN: Final = Pattern(2, 8)
HEAT: Final = 0.5
"""tau over sqrt(D) at the start (0.3 to 1 in the scripts)."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """A stack of layers: narrow: z; window: w, a divisor of tokens."""

    batch: int
    tokens: int
    layers: int
    width: int
    narrow: int
    window: int
    vocabulary: int


@dataclass(frozen=True, eq=False)
class Packed:
    """Where the active tokens of a batch went: place int[batch, length] in the text, -1 for padding."""

    length: int
    place: NDArray[np.int64] | None

    @property
    def real(self) -> NDArray[np.bool_]:
        """Which entries are tokens."""
        return ops.given(self.place) >= 0


def forward(
    p: Program, size: Size, ids: NDArray[np.integer] | None, variant: Variant, mode: Mode = "learnt"
) -> tuple[Tensor, list[NDArray[np.bool_] | None]]:
    """Return the logits [batch, tokens, vocabulary] of flat tokens and the active ones of each layer."""
    h = embedding(p, "table", ids, (size.vocabulary, size.width), size.batch * size.tokens)
    h, active = ops.reshape(h, (size.batch, size.tokens, size.width)), []
    for index in range(size.layers):
        h, chosen = layer(p, size, f"l{index}", h, variant, mode)
        active.append(chosen)
    return dense(p, "head", norm(p, "norm", h), size.vocabulary), active


def layer(
    p: Program, size: Size, name: str, x: Tensor, variant: Variant, mode: Mode = "learnt"
) -> tuple[Tensor, NDArray[np.bool_] | None]:
    """Return y and which tokens were active, bool[batch, tokens]."""
    seen = averages(p, f"{name}.ema", norm(p, f"{name}.norm", x))
    both = _matrix(p, f"{name}.hx", seen, 2 + size.width, variant)
    pi = ops.softmax(heated(ops.part(both, 2, 0, 2), p.vector(f"{name}.heat", (1,), math.log(HEAT * size.width**0.5))))
    chosen = None
    if pi.data is not None:
        chosen = {"learnt": pi.data[..., 1] > pi.data[..., 0]}.get(mode, np.full(pi.shape[:2], mode == "all"))
    p.host(f"{name}.route", "CumSum", 2 * pi.size, 4 * pi.size)
    y = ops.add(ops.part(both, 2, 2, 2 + size.width), x)
    if mode != "none":
        o = attend(p, size, name, seen, chosen, variant)
        if mode == "learnt":
            gate = p.input((*pi.shape[:2], 1), None if chosen is None else chosen[..., None].astype(float))
            o = ops.mul(o, ops.mul(ops.part(pi, 2, 1, 2), gate))
        y = ops.add(y, o)
    return ops.silu(y), chosen


def pack(p: Program, size: Size, name: str, chosen: NDArray[np.bool_] | None) -> Packed:
    """Return the places of the active tokens, padded to whole blocks of the longest sequence."""
    most = 0 if chosen is None else int(chosen.sum(axis=1).max())
    length = p.statistic(
        f"{name}.length",
        lambda: size.window * max(1, -(-most // size.window)),
        lambda: size.window * max(1, size.tokens // (2 * size.window)),
    )
    if chosen is None:
        return Packed(length, None)
    place = np.full((size.batch, length), -1)
    for row, active in zip(place, chosen, strict=True):
        found = np.flatnonzero(active)
        row[: len(found)] = found
    return Packed(length, place)


def attend(p: Program, size: Size, name: str, x: Tensor, chosen: NDArray[np.bool_] | None, variant: Variant) -> Tensor:
    """Return the gated attention of the active tokens at their places, 0 elsewhere: [batch, tokens, width]."""
    packed = pack(p, size, name, chosen)
    batch, tokens, width, z = size.batch, size.tokens, size.width, size.narrow
    rows, hidden = batch * packed.length, 2 * width
    index = None
    if packed.place is not None:
        index = (np.maximum(packed.place, 0) + tokens * np.arange(batch)[:, None]).ravel()
    real = p.input((rows, 1), lambda: packed.real.reshape(rows, 1).astype(float))
    kept = ops.mul(ops.gather(ops.reshape(x, (batch * tokens, width)), index, rows), real)
    whole = Gathered("rows", (batch * tokens, width, z + 2 * hidden))
    mixed = ops.silu(_matrix(p, f"{name}.mx", kept, z + 2 * hidden, variant, whole))
    narrow, gate, v = (ops.part(mixed, 1, *cut) for cut in ((0, z), (z, z + hidden), (z + hidden, z + 2 * hidden)))
    q, k = (
        ops.add(ops.mul(narrow, p.vector(f"{name}.{c}.gain", (z,), 1.0)), p.vector(f"{name}.{c}.bias", (z,)))
        for c in "qk"
    )
    blocks = packed.length // size.window
    q = ops.reshape(q, (batch, blocks, size.window, z))
    keys, values = (_with_before(ops.reshape(t, (batch, blocks, size.window, t.shape[1]))) for t in (k, v))
    scores = ops.scale(matmul(f"{name}.qk", q, turn(keys)), z**-0.5)
    away, window = (None, None) if packed.place is None else distances(packed, size.window)
    scores = ops.add(scores, looked_up(p.vector(f"{name}.distance", (tokens,)), away, scores.shape))
    a = ops.softmax(ops.mask_fill(scores, window))
    o = ops.mul(ops.reshape(matmul(f"{name}.av", a, values), (rows, hidden)), gate)
    o = _matrix(p, f"{name}.h", o, width, variant, Gathered("rows", (batch * tokens, hidden, width)))
    return ops.reshape(ops.scatter_add(ops.mul(o, real), index, batch * tokens), (batch, tokens, width))


def distances(packed: Packed, window: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return how far each key is behind its query in the text, and which keys a query sees.

    Both [batch, blocks, window, 2 window]: the keys of a block are the block before and its own. A query sees the last
    `window` active tokens, itself included; padding sees itself, so that no row is empty.
    """
    place = np.maximum(ops.given(packed.place), 0)
    slots = np.arange(packed.length).reshape(-1, window)
    keys = np.concatenate([slots - window, slots], axis=1)  # [blocks, 2 window]
    behind = slots[:, :, None] - keys[:, None, :]
    inside = (behind >= 0) & (behind < window) & (keys[:, None, :] >= 0)
    real = packed.real[:, np.maximum(keys, 0)][:, :, None, :]
    away = place[:, slots][..., None] - place[:, np.maximum(keys, 0)][:, :, None, :]
    return np.maximum(away, 0), (inside & real) | (behind == 0)


def heated(u: Tensor, t: Tensor) -> Tensor:
    """Return u / exp(t) of one learnt t."""

    def backward(d: NDArray, y: NDArray, _u: NDArray, v: NDArray) -> tuple[NDArray, NDArray]:
        return (d * np.exp(-v)).astype(d.dtype), np.array([-(d * y).sum()], d.dtype)

    return u.program.apply("Mul", (u, t), u.shape, lambda a, v: (a * np.exp(-v)).astype(a.dtype), backward)


def looked_up(table: Tensor, index: NDArray[np.integer] | None, shape: tuple[int, ...]) -> Tensor:
    """Return table[index] of a table of numbers."""

    def backward(d: NDArray, _y: NDArray, v: NDArray) -> tuple[NDArray]:
        return (np.bincount(ops.given(index).ravel(), d.ravel(), len(v)).astype(v.dtype),)

    return table.program.apply("Gather", (table,), shape, lambda v: v[ops.given(index)], backward)


def _with_before(x: Tensor) -> Tensor:
    """Return each block with the block before it, zeros before the first: [batch, blocks, 2 window, width]."""
    batch, blocks, window, width = x.shape
    gap = x.program.input((batch, 1, window, width), lambda: np.zeros((batch, 1, window, width)))
    before = gap if blocks == 1 else ops.concat([gap, ops.part(x, 1, 0, blocks - 1)], 1)
    return ops.concat([before, x], 2)


def _matrix(p: Program, name: str, x: Tensor, n: int, variant: Variant, gathered: Gathered | None = None) -> Tensor:
    pattern = PATTERN if variant == "nm" else None
    w = p.weight(name, (x.shape[-1], n), gain=1.0, ff=pattern, bp=pattern)
    return linear(name, x, w, p.vector(f"{name}.bias", (n,)), gathered=gathered)


SMALL: Final = Size(batch=2, tokens=32, layers=1, width=32, narrow=16, window=8, vocabulary=28)
