"""Convolutions on the occupied voxels of a grid: a rule book by the host, one gathered product per kernel tap.

Source: B. Graham, M. Engelcke, L. van der Maaten, "3D Semantic Segmentation with Submanifold Sparse Convolutional
Networks", CVPR 2018. Rows of one tap are those of an expert: `products.experts` with as many experts as taps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nmsat.algorithms.workloads.engine import ops
from nmsat.algorithms.workloads.engine.products import experts

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nmsat.algorithms.workloads.engine.parameters import Parameter
    from nmsat.algorithms.workloads.engine.program import Program, Tensor

    Triple = tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class RuleBook:
    """sites[n, 3]: occupied voxels of the result; grid: its size; source, target: rows of each pair, tap after tap;
    loads: pairs of each tap."""

    sites: NDArray[np.int64]
    grid: Triple
    source: NDArray[np.int64]
    target: NDArray[np.int64]
    loads: tuple[int, ...]


def rule_book(
    sites: NDArray[np.int64],
    grid: Triple,
    kernel: Triple,
    stride: Triple,
    *,
    padding: Triple = (1, 1, 1),
    submanifold: bool = False,
) -> RuleBook:
    """Return which sites[n, 3] of a grid meet which results.

    A result is occupied where a tap meets a site; with submanifold (stride 1) only where a site is.
    """
    pad = np.array(padding)
    size = tuple((g + 2 * int(q) - k) // s + 1 for g, q, k, s in zip(grid, pad, kernel, stride, strict=True))
    sources, places = [], []
    for tap in np.ndindex(*kernel):
        at = sites + pad - tap
        met = np.all((at % stride == 0) & (at >= 0) & (at < np.array(size) * stride), axis=1)
        sources.append(np.flatnonzero(met))
        places.append(_flat(at[met] // stride, size))
    occupied = np.sort(_flat(sites, size)) if submanifold else np.unique(np.concatenate(places))
    order = np.argsort(_flat(sites, size), kind="stable") if submanifold else np.arange(len(occupied))
    source, target, loads = [], [], []
    for rows, flat in zip(sources, places, strict=True):
        found = np.minimum(np.searchsorted(occupied, flat), len(occupied) - 1)
        here = occupied[found] == flat
        source.append(rows[here])
        target.append(order[found[here]])
        loads.append(int(here.sum()))
    out = sites if submanifold else np.stack(np.unravel_index(occupied, size), axis=1)
    return RuleBook(out, (size[0], size[1], size[2]), np.concatenate(source), np.concatenate(target), tuple(loads))


def _flat(sites: NDArray, size: tuple[int, ...]) -> NDArray[np.int64]:
    return (sites[:, 0] * size[1] + sites[:, 1]) * size[2] + sites[:, 2]


def sparse_conv(
    p: Program, name: str, x: Tensor, w: Parameter, book: RuleBook | None, loads: tuple[int, ...], rows: int
) -> Tensor:
    """Return the convolution [rows, C_out] of x[sites, C_in] with W[taps, C_in, C_out]; loads: pairs of each tap."""
    pairs = sum(loads)
    # A hash of each pair's neighbour: multiply, add, look up, compare for three coordinates.
    p.host(name, "RuleBook", 12 * len(loads) * x.shape[0], 16 * pairs)
    gathered = ops.gather(x, None if book is None else book.source, pairs)
    return ops.scatter_add(experts(name, gathered, w, loads, rows), None if book is None else book.target, rows)
