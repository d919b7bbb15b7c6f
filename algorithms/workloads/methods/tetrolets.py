"""The tetrolet transform: 4 x 4 blocks cut into four tetrominoes, a Haar transform on each.

Source: J. Krommweh, "Tetrolet transform: a new adaptive Haar wavelet algorithm for sparse image representation",
J. Visual Communication and Image Representation, 2010. Of the 117 tilings of a block, the one with the least sum of
|high-pass| is taken; its four low-pass values form a 2 x 2 block of the next level's image.

As products: every placement of a tetromino that occurs in a tiling gives four basis vectors with 4 of 16 pixels, so the
transform of all placements is X[blocks, 16] @ T[16, 356], exactly 4:16. The cost of a tiling is the sum over its four
placements; placements that share a cell never occur together, so in groups of eight of them the matrix G[96, 117] is
exactly 1:8.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Cells: TypeAlias = frozenset[int]

SIDE: Final = 4
HAAR: Final = 0.5 * np.array([[1, 1, 1, 1], [1, 1, -1, -1], [1, -1, 1, -1], [1, -1, -1, 1]])
"""Rows of the Haar transform of four pixels; the first is the low-pass."""

SQUARES: Final = tuple(frozenset({c, c + 1, c + 4, c + 5}) for c in (0, 2, 8, 10))
"""The four 2 x 2 squares, in the order of the next level's pixels."""

GROUP: Final = 8
"""Placements of one group of G: they share a cell."""


@dataclass(frozen=True, eq=False)
class Tables:
    """Everything that does not depend on an image.

    placements: cells of each of the 89 used placements, ascending; slots: row of G of each placement; groups: number of
    groups of G; tilings: int[117, 4], placements of each tiling in the order of the squares they are nearest to;
    transform: T[16, 356], vectors of a placement side by side; cost: G[8 groups, 117].
    """

    placements: tuple[tuple[int, ...], ...]
    slots: NDArray[np.int64]
    groups: int
    tilings: NDArray[np.int64]
    transform: NDArray[np.float32]
    cost: NDArray[np.float32]


def orientations() -> set[frozenset[tuple[int, int]]]:
    """Return the 19 oriented tetrominoes as (row, column) cells, each moved to the upper left."""
    shapes = {frozenset({(0, 0)})}
    for _ in range(3):
        shapes = {_corner(shape | {cell}) for shape in shapes for cell in _neighbours(shape)}
    return shapes


def placements() -> list[Cells]:
    """Return the 113 ways to put a tetromino into the block, as sets of pixels 0..15."""
    found: set[Cells] = set()
    for shape in orientations():
        for y in range(SIDE - max(r for r, _ in shape)):
            for x in range(SIDE - max(c for _, c in shape)):
                found.add(frozenset((r + y) * SIDE + c + x for r, c in shape))
    return sorted(found, key=sorted)


@lru_cache(maxsize=1)
def tilings() -> tuple[frozenset[Cells], ...]:
    """Return the 117 tilings of the block, by always covering the first free cell."""
    pieces = placements()

    def extend(free: Cells, chosen: tuple[Cells, ...]) -> list[frozenset[Cells]]:
        if not free:
            return [frozenset(chosen)]
        first = min(free)
        return [
            t for piece in pieces if first in piece and piece <= free for t in extend(free - piece, (*chosen, piece))
        ]

    return tuple(extend(frozenset(range(SIDE * SIDE)), ()))


@lru_cache(maxsize=1)
def tables() -> Tables:
    """Return the constant matrices of the transform."""
    used = sorted({piece for tiling in tilings() for piece in tiling}, key=sorted)
    number = {piece: i for i, piece in enumerate(used)}
    transform = np.zeros((16, 4 * len(used)), np.float32)
    for i, piece in enumerate(used):
        transform[sorted(piece), 4 * i : 4 * i + 4] = HAAR.T
    ordered = np.array([[number[piece] for piece in _by_square(tiling)] for tiling in tilings()])
    groups = _groups(used)
    slots = np.zeros(len(used), np.int64)
    for g, members in enumerate(groups):
        for place, piece in enumerate(members):
            slots[number[piece]] = GROUP * g + place
    cost = np.zeros((GROUP * len(groups), len(ordered)), np.float32)
    for column, pieces in enumerate(ordered):
        cost[slots[pieces], column] = 1
    return Tables(tuple(tuple(sorted(p)) for p in used), slots, len(groups), ordered, transform, cost)


def split_blocks(images: NDArray) -> NDArray:
    """Return images[n, side, side] as blocks [n * (side / 4)^2, 16], block rows first."""
    n, side, _ = images.shape
    cut = images.reshape(n, side // SIDE, SIDE, side // SIDE, SIDE)
    return cut.transpose(0, 1, 3, 2, 4).reshape(-1, SIDE * SIDE)


def join_low_pass(low: NDArray, n: int, side: int) -> NDArray:
    """Return low-pass values [blocks, 4] as the next level's images [n, side / 2, side / 2]."""
    blocks = side // SIDE
    return low.reshape(n, blocks, blocks, 2, 2).transpose(0, 1, 3, 2, 4).reshape(n, side // 2, side // 2)


def _by_square(tiling: frozenset[Cells]) -> tuple[Cells, ...]:
    """Order the tetrominoes of a tiling so that they overlap the four squares most; the first of equal orders."""
    pieces = sorted(tiling, key=sorted)
    return max(permutations(pieces), key=lambda order: sum(len(p & s) for p, s in zip(order, SQUARES, strict=True)))


def _groups(used: list[Cells]) -> list[list[Cells]]:
    """Put the placements into groups of at most 8 that share a cell, few groups: the fullest cell first."""
    left, groups = list(used), []
    while left:
        counts = {cell: [p for p in left if cell in p] for cell in range(SIDE * SIDE)}
        # Of equally useful cells the one whose placements have the least choice: corners before the middle.
        fullness = {cell: min(len(ps), GROUP) for cell, ps in counts.items()}
        cell = min(counts, key=lambda c: (-fullness[c], len(counts[c])))
        chosen = sorted(counts[cell], key=lambda p: (sum(len(counts[c]) for c in p), sorted(p)))[:GROUP]
        groups.append(chosen)
        left = [p for p in left if p not in chosen]
    return groups


def _corner(cells: frozenset[tuple[int, int]]) -> frozenset[tuple[int, int]]:
    top, left = min(r for r, _ in cells), min(c for _, c in cells)
    return frozenset((r - top, c - left) for r, c in cells)


def _neighbours(shape: frozenset[tuple[int, int]]) -> set[tuple[int, int]]:
    beside = {(r + y, c + x) for r, c in shape for y, x in ((-1, 0), (0, -1), (0, 1), (1, 0))}
    return beside - shape
