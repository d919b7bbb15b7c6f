"""What detectors with few candidates share: peaks of a heat map, deformable attention, matching to known boxes.

Source: J. Xie et al. (SparseFusion, arXiv 2304.14340); X. Zhu et al., "Deformable DETR", ICLR 2021, equation 3; T. Lin
et al., "Focal Loss", ICCV 2017.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from nmsat.algorithms.workloads.engine import ops
from nmsat.algorithms.workloads.engine.hostwork import hungarian, select
from nmsat.algorithms.workloads.engine.images import sample
from nmsat.algorithms.workloads.engine.products import matmul
from nmsat.algorithms.workloads.engine.transformer import merge, split, turn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from nmsat.algorithms.workloads.engine.program import Program, Tensor
    from nmsat.algorithms.workloads.methods.branches import Branch

GAMMA, ALPHA = 2.0, 0.25
"""Exponent and weight of positives of the focal loss."""


def peaks(heat: NDArray, count: int, free: Sequence[int] = ()) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return cell and class of the `count` largest local maxima (3 x 3) of heat[H, W, classes], largest first.

    free: classes whose cells need not be maxima (1 x 1). A tie goes to the first in the order of cells, then classes.
    """
    height, width, classes = heat.shape
    wide = np.pad(heat, ((1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
    around = np.max([wide[i : i + height, j : j + width] for i in range(3) for j in range(3)], axis=0)
    top = heat >= around
    top[..., list(free)] = True
    order = np.argsort(-np.where(top, heat, -np.inf).reshape(-1), kind="stable")[:count]
    return order // classes, order % classes


def found_peaks(
    p: Program, name: str, logits: Tensor, count: int
) -> tuple[NDArray[np.int64] | None, NDArray[np.int64] | None]:
    """Return `peaks` of the first image of logits[1, H, W, classes] (None in a run of shapes) and count their cost."""
    p.host(name, "TopK", *select(1, logits.size).plus(select(1, logits.size)))
    p.host(name, "MaxPool", 9 * logits.size, 4 * logits.size)
    return (None, None) if logits.data is None else peaks(logits.data[0], count)


def attend(net: Branch, name: str, x: Tensor, source: Tensor, heads: int) -> Tensor:
    """Return what the rows of x[B, N, d] take from those of source[B, M, d]: multi-head attention."""
    width = x.shape[-1]
    q, k, v = (
        split(net.dense(f"{name}.{part}", s, width), heads) for part, s in (("q", x), ("k", source), ("v", source))
    )
    scores = ops.softmax(ops.scale(matmul(f"{net.name}.{name}.scores", q, turn(k)), (width // heads) ** -0.5))
    return net.dense(f"{name}.o", merge(matmul(f"{net.name}.{name}.mix", scores, v)), width)


def deformable(
    net: Branch, name: str, x: Tensor, where: NDArray | None, maps: Sequence[Tensor], heads: int, points: int
) -> Tensor:
    """Return what queries x[V, Q, d] take from maps [V, H, W, d], one per level, around where[V, Q, 2].

    where: row and column as shares of the image; each query, head and level reads `points` places at learnt offsets
    (in cells of the level), with weights that add up to 1.
    """
    p, (views, count, width) = x.program, x.shape
    levels, each = len(maps), width // heads
    offsets = net.dense(f"{name}.offsets", x, heads * levels * points * 2)
    offsets = _by_head(ops.reshape(offsets, (views, count, heads, levels * points * 2)))
    shares = ops.reshape(
        net.dense(f"{name}.weights", x, heads * levels * points), (views, count, heads, levels * points)
    )
    shares = _by_head(ops.softmax(shares))
    total = None
    for level, grid in enumerate(maps):
        _, height, wide, _ = grid.shape
        values = ops.reshape(grid, (views, height * wide, heads, each))
        values = ops.reshape(_by_head(values), (views * heads, height, wide, each))
        start = level * points
        moved = ops.reshape(ops.part(offsets, -1, 2 * start, 2 * (start + points)), (views * heads, count * points, 2))
        base = p.input(
            (views * heads, count * points, 2), lambda size=(height, wide): _places(where, size, heads, points)
        )
        read = ops.reshape(sample(values, ops.add(base, moved)), (views * heads, count, points, each))
        share = ops.reshape(ops.part(shares, -1, start, start + points), (views * heads, count, points, 1))
        taken = ops.scale(ops.mean(ops.mul(read, share), 2), float(points))
        total = taken if total is None else ops.add(total, taken)
    if total is None:
        raise ValueError(f"maps of {name!r} are empty; attention needs a level")
    joined = merge(ops.reshape(total, (views, heads, count, each)))
    return net.dense(f"{name}.o", joined, width)


def _places(where: NDArray | None, size: tuple[int, int], heads: int, points: int) -> NDArray[np.float64]:
    """Return where each query looks, in cells of a level: [V * heads, Q * points, 2]."""
    if where is None:
        raise RuntimeError("a run with values needs places")
    at = where * size - 0.5
    return np.repeat(np.repeat(at, points, axis=1), heads, axis=0)


def _by_head(x: Tensor) -> Tensor:
    """[V, Q, heads, d] to [V, heads, Q, d]."""
    return ops.transpose(x, (0, 2, 1, 3))


def focal(logits: Tensor, target: NDArray | None, weight: float = 1.0) -> Tensor:
    """Return weight / max(1, positives) * sum of alpha_t (1 - p_t)^gamma (-log p_t); target: bool of logits' shape."""

    def parts(v: NDArray, wanted: NDArray) -> tuple[NDArray, NDArray, NDArray, float]:
        z = np.where(wanted, v, -v).astype(np.float64)  # p_t = sigmoid(z)
        return z, 1 / (1 + np.exp(-z)), np.where(wanted, ALPHA, 1 - ALPHA), weight / max(1, int(wanted.sum()))

    def forward(v: NDArray) -> NDArray:
        z, q, a, scale = parts(v, ops.given(target))
        return np.asarray(scale * np.sum(a * (1 - q) ** GAMMA * np.logaddexp(0, -z)), v.dtype)

    def backward(d: NDArray, _y: NDArray, v: NDArray) -> tuple[NDArray]:
        z, q, a, scale = parts(v, ops.given(target))
        slope = -a * (1 - q) ** GAMMA * (GAMMA * q * np.logaddexp(0, -z) + 1 - q)
        return ((d * scale * slope * np.where(ops.given(target), 1, -1)).astype(v.dtype),)

    return logits.program.apply("FocalLoss", (logits,), (), forward, backward)


def absolute(x: Tensor, target: NDArray | None, weight: float) -> Tensor:
    """Return weight * mean of |x - target| over all elements."""

    def backward(d: NDArray, _y: NDArray, v: NDArray) -> tuple[NDArray]:
        return ((d * weight / v.size * np.sign(v - ops.given(target))).astype(v.dtype),)

    return x.program.apply(
        "AbsoluteError",
        (x,),
        (),
        lambda v: np.asarray(weight * np.abs(v - ops.given(target)).mean(), v.dtype),
        backward,
    )


def matched(
    p: Program, logits: Tensor, boxes: Tensor, classes: NDArray | None, known: NDArray | None, count: int
) -> NDArray[np.int64] | None:
    """Return which candidate each of `count` known boxes is given to: the least cost in all.

    logits[N, classes], boxes[N, d]; cost: -sigmoid of the right class, and 0.25 of the sum of |differences|.
    """
    candidates = logits.shape[0]
    p.host("matching", "Hungarian", *hungarian(candidates, count))
    p.host("costs", "Abs", 3 * candidates * count * boxes.shape[1], 4 * candidates * count)
    if logits.data is None or boxes.data is None or classes is None or known is None:
        return None
    from scipy.optimize import linear_sum_assignment

    chance = 1 / (1 + np.exp(-logits.data.astype(np.float64)))
    cost = -chance[:, classes] + 0.25 * np.abs(boxes.data[:, None] - known[None]).sum(axis=2)
    rows, columns = linear_sum_assignment(cost)
    return rows[np.argsort(columns)]


def scatter_max(x: Tensor, index: NDArray[np.integer] | None, rows: int) -> Tensor:
    """Largest of the rows of x[N, d] that go to each of `rows` rows; 0 where none does."""

    def forward(v: NDArray) -> NDArray:
        out = np.full((rows, v.shape[1]), -np.inf, v.dtype)
        np.maximum.at(out, ops.given(index), v)
        return np.where(np.isfinite(out), out, 0).astype(v.dtype)

    def backward(d: NDArray, y: NDArray, v: NDArray) -> tuple[NDArray]:
        return ((d[ops.given(index)] * (y[ops.given(index)] == v)).astype(v.dtype),)

    return x.program.apply("ScatterElements", (x,), (rows, x.shape[1]), forward, backward)
