"""The smallest N:M pattern that holds every non-zero of a mask, per tile, so that unstructured masks run exactly.

A group is M consecutive elements along k. A tile (some rows by some columns of the mask) needs N = the largest number
of non-zeros in any of its groups. Groups with fewer are filled up with absent entries, which cost time and change
nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nmsat.algorithms.core.ranges import GROUP_SIZES
from nmsat.algorithms.core.tape import ConvShape, Pattern, Product, Stage

if TYPE_CHECKING:
    from numpy.typing import NDArray

COVER_SIZES = (8, 16)
"""Group sizes tried for a pattern per tile."""

DEFAULT_TILE = 32
"""Columns of a tile unless the caller says otherwise: one column per column of a 32-wide array."""


@dataclass(frozen=True, eq=False)
class Cover:
    """Patterns N:M that hold a mask[k, columns].

    k, columns: shape of the mask; m: group size; run: rows after which groups start anew (the channels of one kernel
    tap; k if groups run through); n: uint8[tiles along k, tiles along columns], 0 where a tile is empty; tile_k: rows
    of a tile including padding, tile_n: columns of a tile; nonzeros: of the mask; native: one pattern serves the whole
    matrix and tiles could not do with less.
    """

    k: int
    columns: int
    m: int
    run: int
    n: NDArray[np.uint8]
    tile_k: int
    tile_n: int
    nonzeros: int
    native: bool

    @property
    def rows(self) -> int:
        """Rows with every run padded to whole groups."""
        return self.k // self.run * _round_up(self.run, self.m)

    @property
    def pattern(self) -> Pattern | None:
        """The narrowest single pattern that holds the whole mask (at least 1:M); None if it is dense."""
        widest = max(int(self.n.max()), 1)
        return Pattern(widest, self.m) if widest < self.m else None

    @property
    def slots(self) -> int:
        """Places the packed mask has: N per group and column."""
        groups = _parts(self.rows // self.m, self.tile_k // self.m)
        return int(groups @ self.n.astype(np.int64) @ _parts(self.columns, self.tile_n))

    @property
    def density(self) -> float:
        """Non-zeros over elements: what an ideal machine would spend, as a share of dense."""
        return self.nonzeros / (self.k * self.columns)

    @property
    def cover_density(self) -> float:
        """Slots over elements: what the cover spends, as a share of dense (can exceed 1 by the padding of k)."""
        return self.slots / (self.k * self.columns)

    @property
    def fill(self) -> float:
        """Non-zeros over slots (1 when the mask is empty)."""
        return self.nonzeros / self.slots if self.slots else 1.0

    @property
    def ideal_speedup(self) -> float:
        """1 / density; infinite for an empty mask."""
        return 1 / self.density if self.nonzeros else float("inf")

    @property
    def reached_speedup(self) -> float:
        """1 / cover density; infinite for an empty mask."""
        return 1 / self.cover_density if self.slots else float("inf")

    def products(
        self, name: str, stage: Stage, rows: int, count: int = 1, conv: ConvShape | None = None
    ) -> tuple[Product, ...]:
        """Return one product per tile row and distinct N: Y[rows, columns with that N]; empty tiles cost nothing.

        With more than one tile along k the products of the same columns add up in ascending k.
        """
        out = []
        widths = _parts(self.columns, self.tile_n)
        for part, needs in enumerate(self.n):
            k = self._rows_of(part)
            for need in np.unique(needs[needs > 0])[::-1]:
                n = int(widths[needs == need].sum())
                pattern = Pattern(int(need), self.m) if need < self.m else None
                out.append(Product(name, stage, rows, k, n, pattern, count, conv))
        return tuple(out)

    def describe(self) -> str:
        """Return one line: patterns found, true density beside that of the cover, ideal beside reached."""
        values, tiles = np.unique(self.n, return_counts=True)
        found = ", ".join(f"{int(v)}:{self.m} x {int(t)}" for v, t in zip(values, tiles, strict=True))
        return (
            f"{'native' if self.native else 'cover'} {found}; density {self.density:.4f}, "
            f"cover {self.cover_density:.4f}, ideal {self.ideal_speedup:.2f}x, reached {self.reached_speedup:.2f}x"
        )

    def _rows_of(self, part: int) -> int:
        if self.n.shape[0] == 1:
            return self.k if self.run == self.k else self.rows
        left = (self.k if self.run == self.k else self.rows) - part * self.tile_k
        return min(left, self.tile_k)


def cover_mask(
    mask: NDArray[np.bool_],
    *,
    tile_n: int = DEFAULT_TILE,
    tile_k: int | None = None,
    run: int | None = None,
    sizes: tuple[int, ...] = COVER_SIZES,
) -> Cover:
    """Return the cheapest lossless cover of a mask.

    mask: bool[k, columns], groups along k; tile_n: columns of a tile; tile_k: rows of a tile, a multiple of every size
    (None: all rows); run: groups do not cross multiples of this (None: k); sizes: legal M for tiles.
    One pattern for the whole matrix (M of 2, 4, 8, 16) is taken if it costs no more slots than the tiles do, the
    smallest M first. Raises TypeError for another dtype, ValueError for sizes that do not fit.
    """
    run = _check(mask, tile_n, tile_k, run, sizes)
    counts = _group_counts(mask, run)
    nonzeros = int(np.count_nonzero(mask))
    best: Cover | None = None
    for m in GROUP_SIZES:
        whole = _tiled(mask, counts[m], m, run, tile_k=None, tile_n=mask.shape[1], nonzeros=nonzeros, native=True)
        if best is None or whole.slots < best.slots:
            best = whole
    for m in sizes:
        tiled = _tiled(mask, counts[m], m, run, tile_k=tile_k, tile_n=tile_n, nonzeros=nonzeros, native=False)
        if best is None or tiled.slots < best.slots:
            best = tiled
    if best is None:
        raise ValueError("no group size to try")
    return best


def _tiled(
    mask: NDArray[np.bool_],
    counts: NDArray[np.uint8],
    m: int,
    run: int,
    *,
    tile_k: int | None,
    tile_n: int,
    nonzeros: int,
    native: bool,
) -> Cover:
    """Reduce the counts per group and column to the maximum of each tile."""
    groups, columns = counts.shape
    step = groups if tile_k is None else min(tile_k // m, groups)
    need = np.maximum.reduceat(counts, np.arange(0, groups, step), axis=0)
    need = np.maximum.reduceat(need, np.arange(0, columns, tile_n), axis=1)
    k = mask.shape[0]
    return Cover(k, columns, m, run, need, step * m, min(tile_n, columns), nonzeros, native)


def _group_counts(mask: NDArray[np.bool_], run: int) -> dict[int, NDArray[np.uint8]]:
    """Return for each M the non-zeros uint8[groups, columns]; each size is added up from the one before."""
    k, columns = mask.shape
    runs = k // run
    level = np.zeros((runs, _round_up(run, 16), columns), np.uint8)
    level[:, :run] = mask.reshape(runs, run, columns)
    out = {}
    for m in GROUP_SIZES:
        level = level[:, 0::2] + level[:, 1::2]
        out[m] = level[:, : -(-run // m)].reshape(-1, columns)
    return out


def _parts(total: int, step: int) -> NDArray[np.int64]:
    """Return the sizes of the pieces when `total` is cut every `step`."""
    starts = np.arange(0, total, step)
    return np.minimum(total - starts, step)


def _round_up(value: int, unit: int) -> int:
    return -(-value // unit) * unit


def _check(mask: NDArray[np.bool_], tile_n: int, tile_k: int | None, run: int | None, sizes: tuple[int, ...]) -> int:
    if mask.dtype != np.bool_:
        raise TypeError(f"mask has dtype {mask.dtype}; it must be bool (use weights != 0)")
    if mask.ndim != 2 or 0 in mask.shape:
        raise ValueError(f"mask has shape {mask.shape}; it must be [k, columns] with both at least 1")
    if tile_n < 1:
        raise ValueError(f"tile_n is {tile_n!r}; it must be at least 1")
    if not sizes or any(m not in GROUP_SIZES for m in sizes):
        raise ValueError(f"sizes is {sizes!r}; it must name group sizes from {GROUP_SIZES}")
    if tile_k is not None and (tile_k < 1 or any(tile_k % m for m in sizes)):
        raise ValueError(f"tile_k is {tile_k!r}; it must be a multiple of the group sizes {sizes}")
    length = mask.shape[0] if run is None else run
    if length < 1 or mask.shape[0] % length:
        raise ValueError(f"run is {run!r}; it must divide the rows of the mask, {mask.shape[0]}")
    return length
