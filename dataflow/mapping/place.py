"""Operands of a tile as they stand in the buffers of the array, and results back into their matrix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nmsat.dataflow.contract.config import INTERLEAVE

if TYPE_CHECKING:
    from nmsat.algorithms.core.packed import Packed
    from nmsat.dataflow.mapping.tiling import Tile, Tiling


@dataclass(frozen=True)
class TilePairs:
    """Packed weights of one tile per column: value float16[C, pairs], index uint8[C, pairs], filler bool[C, pairs]."""

    value: np.ndarray
    index: np.ndarray
    filler: np.ndarray


def activation_beats(a: np.ndarray, tile: Tile) -> np.ndarray:
    """Return float16[R, beats, lanes]: the activations of `tile` in the order in which each row reads them.

    a: float16[m, k]. What lies outside the matrix is +0; its partner is a filler or its result is dropped.
    """
    tiling, mapping = tile.tiling, tile.tiling.mapping
    rows, lanes = tiling.config.rows, tiling.config.act_lanes
    padded = np.zeros((tiling.row_tiles * tiling.tile_rows, tiling.groups * mapping.m), np.float16)
    padded[: a.shape[0], : a.shape[1]] = a
    part = padded[tile.row * tiling.tile_rows : (tile.row + 1) * tiling.tile_rows]
    if not mapping.ws:  # i, r, g, e -> r, g, i, e
        beats = part.reshape(mapping.a, rows, tiling.groups, mapping.m).transpose(1, 2, 0, 3)
        return np.ascontiguousarray(beats).reshape(rows, -1, lanes)
    by_group = part.reshape(tiling.blocks, mapping.a, tiling.groups, mapping.m).transpose(2, 0, 1, 3)
    spread = np.repeat(by_group, mapping.parts, axis=0)[tile.depth * rows : (tile.depth + 1) * rows]
    result = np.zeros((rows, *spread.shape[1:]), np.float16)
    result[: spread.shape[0]] = spread
    return result.reshape(rows, -1, lanes)


def weight_pairs(packed: Packed, tile: Tile) -> TilePairs:
    """Return the pairs of `tile` per column, in the order in which each column reads them.

    packed: the weights packed along K with the group of the tiling's mapping.
    """
    tiling, mapping = tile.tiling, tile.tiling.mapping
    if (packed.n, packed.m, packed.k) != (mapping.n, mapping.m, tiling.k):
        raise ValueError(
            f"packed weights are {packed.n}:{packed.m} over k = {packed.k}; the mapping takes {mapping.n}:{mapping.m} "
            f"over k = {tiling.k}"
        )
    wide = mapping.b * tiling.config.columns
    columns = slice(tile.column * wide, (tile.column + 1) * wide)
    parts = []
    for source, blank in ((packed.values, 0), (packed.index, 0), (packed.filler, True)):
        kept = source[:, :, columns]
        grid = np.full((tiling.groups, mapping.parts * mapping.slots, wide), blank, source.dtype)
        grid[:, : mapping.n, : kept.shape[2]] = kept
        parts.append(_by_column(grid, tile, blank))
    return TilePairs(*parts)


def _by_column(grid: np.ndarray, tile: Tile, blank: object) -> np.ndarray:
    """Order [groups, slots, columns] as [C, pairs]: per group (OS) or array row (WS), slot by slot, j innermost."""
    tiling, mapping = tile.tiling, tile.tiling.mapping
    columns = tiling.config.columns
    by_j = grid.reshape(tiling.groups * mapping.parts, mapping.slots, mapping.b, columns)
    rows = by_j.transpose(0, 1, 3, 2)
    if mapping.ws:
        loaded = rows[tile.depth * tiling.config.rows : (tile.depth + 1) * tiling.config.rows]
        rows = np.full((tiling.config.rows, *rows.shape[1:]), blank, grid.dtype)
        rows[: loaded.shape[0]] = loaded
    return np.ascontiguousarray(rows.transpose(2, 0, 1, 3)).reshape(columns, -1)


def place_results(tiling: Tiling, values: np.ndarray) -> np.ndarray:
    """Return the product's matrix from what the columns gave, in order.

    values: [C, results], all results of the product per column; returns the same dtype [m, n].
    """
    mapping, config = tiling.mapping, tiling.config
    a, b, columns = mapping.a, mapping.b, config.columns
    blocks = tiling.blocks if mapping.ws else config.rows
    shape = (columns, tiling.column_tiles, tiling.row_tiles, blocks, b, a)
    expected = int(np.prod(shape[1:]))
    if values.shape != (columns, expected):
        raise ValueError(f"values have shape {values.shape!r}; the product gives {(columns, expected)!r}")
    # OS: row tile, i, r | WS: row tile, block, i; then column tile, j, column
    rows = (2, 3, 5) if mapping.ws else (2, 5, 3)
    matrix = values.reshape(shape).transpose(*rows, 1, 4, 0)
    full = matrix.reshape(tiling.row_tiles * blocks * a, tiling.column_tiles * columns * b)
    return np.ascontiguousarray(full[: tiling.m, : tiling.n])


def results_per_column(tiling: Tiling) -> int:
    """Results that leave each column over the whole product."""
    blocks = tiling.blocks if tiling.mapping.ws else tiling.config.rows
    return tiling.column_tiles * tiling.row_tiles * blocks * INTERLEAVE
