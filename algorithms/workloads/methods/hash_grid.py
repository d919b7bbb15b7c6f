"""A radiance field behind grids of several resolutions, looked up by the host.

Source: T. Mueller et al., "Instant Neural Graphics Primitives", SIGGRAPH 2022, arXiv 2201.05989: a level with more
corners than the table has rows shares them by a hash, x_1 xor x_2 * 2654435761 xor x_3 * 805459861.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from nmsat.algorithms.core.sparsity import Gathered
from nmsat.algorithms.workloads.engine import ops
from nmsat.algorithms.workloads.engine.products import linear
from nmsat.algorithms.workloads.methods.radiance import encoded, encoding_operations, sigmoid, softplus

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nmsat.algorithms.workloads.engine.program import Program, Tensor

PRIMES: Final = (1, 2654435761, 805459861)


@dataclass(frozen=True, kw_only=True)
class GridSize:
    """levels: grids of coarse, coarse * growth, ... cells a side; rows: of the table of a level; features: of a row."""

    dims: int
    levels: int
    coarse: int
    growth: float
    rows: int
    features: int

    @property
    def width(self) -> int:
        """Features of a place."""
        return self.levels * self.features


@dataclass(frozen=True, kw_only=True)
class FieldSize:
    """A field: width: of hidden layers; geometry: features between density and colour; view_degree: of directions."""

    grid: GridSize
    width: int
    geometry: int
    view_degree: int


def corners(size: GridSize, places: NDArray) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return row and weight [N, levels, 2^dims] of the corners around places[N, dims] in 0..1."""
    found, shares = [], []
    for level in range(size.levels):
        cells = int(size.coarse * size.growth**level)
        at = np.clip(places, 0, 1) * cells
        base = np.minimum(at.astype(np.int64), cells - 1)
        rest = at - base
        rows, weights = [], []
        for corner in np.ndindex(*(2,) * size.dims):
            node = base + corner
            rows.append(_row(node, cells, size.rows) + level * size.rows)
            weights.append(np.prod(np.where(corner, rest, 1 - rest), axis=1))
        found.append(np.stack(rows, axis=1))
        shares.append(np.stack(weights, axis=1))
    return np.stack(found, axis=1), np.stack(shares, axis=1)


def _row(node: NDArray[np.int64], cells: int, rows: int) -> NDArray[np.int64]:
    dims = node.shape[1]
    if (cells + 1) ** dims <= rows:
        return node @ (cells + 1) ** np.arange(dims)
    mixed = np.zeros(len(node), np.int64)
    for axis in range(dims):
        mixed ^= node[:, axis] * PRIMES[axis]
    return mixed % rows


def looked_up(p: Program, size: GridSize, places: NDArray | None, count: int) -> Tensor:
    """Return the features [count, levels * features] of places (None in a run of shapes); the table learns."""
    table = p.vector("grid", (size.levels * size.rows, size.features))
    if p.values and not table.array.any():
        table.array[...] = 0.1 * p.rng.standard_normal(table.shape)
    rows, weights = (None, None) if places is None else corners(size, places)

    def known() -> tuple[NDArray, NDArray]:
        if rows is None or weights is None:
            raise RuntimeError("a run with values needs places")
        return rows, weights

    def forward(v: NDArray) -> NDArray:
        r, w = known()
        return (v[r] * w[..., None]).sum(axis=2).reshape(count, size.width).astype(v.dtype)

    def backward(d: NDArray, _y: NDArray, v: NDArray) -> tuple[NDArray]:
        r, w = known()
        pushed = d.reshape(count, size.levels, 1, size.features) * w[..., None]
        flat, index = np.zeros_like(v), r.ravel()
        for feature in range(size.features):
            flat[:, feature] = np.bincount(index, pushed[..., feature].ravel(), len(v))
        return (flat,)

    share = count * size.width / max(table.size, count * size.width)
    return p.apply("GridLookup", (table,), (count, size.width), forward, backward, share)


def field(
    p: Program, size: FieldSize, places: NDArray | None, directions: NDArray | None, count: int, whole: int
) -> tuple[Tensor, Tensor]:
    """Return density [count, 1] and colour [count, 3] of places in 0..1; whole: rows with the empty ones."""
    dims, degree = size.grid.dims, size.view_degree
    x = looked_up(p, size.grid, places, count)

    def layer(name: str, h: Tensor, n: int) -> Tensor:
        w = p.weight(name, (h.shape[-1], n))
        gathered = Gathered("rows", (whole, h.shape[-1], n)) if count < whole else None
        return linear(name, h, w, p.vector(f"{name}.bias", (n,)), gathered=gathered)

    h = layer("field.out", ops.relu(layer("field.in", x, size.width)), size.geometry)

    def views() -> NDArray:
        at = ops.given(directions)
        unit = at / np.linalg.norm(at, axis=1, keepdims=True)
        return encoded(unit, np.zeros_like(unit), degree)

    p.host("encoding", "PositionalEncoding", encoding_operations(count, degree, dims), 4 * count * degree * dims)
    h_view = ops.concat([h, p.input((count, 2 * degree * dims), views)], 1)
    c = ops.relu(layer("colour.in", h_view, size.width))
    c = layer("colour.out", ops.relu(layer("colour.mid", c, size.width)), 3)
    return softplus(ops.part(h, 1, 0, 1)), sigmoid(c)
