"""How a recorded product meets the array: native N:M, cover, tile skipping, gather or dense.

A product is cut into pieces, each a dense or N:M matrix product of its own. Every result of the product that is wanted
comes from exactly one piece, which walks its whole chain, so cutting changes no bit (docs/arithmetic.md). Cycles are
those of the array with operands on chip; pieces with one pattern follow each other in one chain
(`dataflow.mapping.chain`), a product begins and ends with an empty array. A sparse product may run as a dense
one with fillers in place of what is absent: a wide group allows fewer mappings, which can cost more than it saves.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

import numpy as np

from nmsat.algorithms.core.sparsity import Blocks, Gathered, Unstructured
from nmsat.dataflow.mapping.chain import chain_cycles
from nmsat.dataflow.program.levels import assumed_levels, balanced_rows, cover_levels

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from nmsat.algorithms.core.tape import Pattern, Product
    from nmsat.dataflow.contract.config import SatConfig
    from nmsat.dataflow.program.levels import Level


class How(StrEnum):
    """The ways to the array."""

    NATIVE = "native"
    COVER = "cover"
    SKIP = "skip"
    GATHER = "gather"
    DENSE = "dense"


@dataclass(frozen=True, eq=False)
class OperandPart:
    """Which part of the operands a piece takes: indices of rows, of the reduction and of columns (None: all of them).

    copy: which of the `count` matrices; depth need not ascend if the rows of W were reordered.
    """

    copy: int = 0
    rows: NDArray[np.int64] | None = None
    depth: NDArray[np.int64] | None = None
    columns: NDArray[np.int64] | None = None
    expert: int | None = None


@dataclass(frozen=True, eq=False)
class Piece:
    """One product on the array: Y[m, n] = A[m, k] @ W[k, n], `count` times; pattern: None when dense.

    cuts: where the operands come from, `count` of them, or none if the product holds no values.
    """

    m: int
    k: int
    n: int
    pattern: Pattern | None
    count: int
    cuts: tuple[OperandPart, ...] = ()

    @property
    def macs(self) -> int:
        """Multiply-adds of all slots, those of fillers included."""
        if self.pattern is None:
            return self.m * self.k * self.n * self.count
        groups, tail = divmod(self.k, self.pattern.m)
        return self.m * self.n * self.count * (groups * self.pattern.n + min(self.pattern.n, tail))


@dataclass(frozen=True, eq=False)
class Lowered:
    """A product and its pieces on one configuration; how: the way that took the fewest cycles."""

    product: Product
    config: SatConfig
    how: How
    pieces: tuple[Piece, ...]

    @property
    def macs(self) -> int:
        """Multiply-adds that the array spends, fillers included."""
        return sum(piece.macs for piece in self.pieces)

    @cached_property
    def cycles(self) -> int:
        """Cycles of all pieces, one after the other."""
        return total_cycles(self.config, self.pieces)

    @cached_property
    def cycles_dense(self) -> int:
        """Cycles of the same work with nothing left out."""
        return total_cycles(self.config, (whole(self.product),))


@dataclass(frozen=True)
class Options:
    """What the lowering may do.

    columns: put columns of a static mask together by need; rows: reorder the rows of a static mask too, which changes
    the order of the chain; only: the ways to consider (None: all).
    """

    columns: bool = True
    rows: bool = False
    only: tuple[How, ...] | None = None


def lower(product: Product, config: SatConfig, options: Options | None = None) -> Lowered:
    """Return the way with the fewest cycles; dense wins a tie.

    Raises ValueError when `options.only` leaves no way.
    """
    options = Options() if options is None else options
    ways = [way for way in _ways(product, config, options) if options.only is None or way.how in options.only]
    if not ways:
        raise ValueError(f"only is {options.only!r}; product {product.name!r} has none of these ways")
    return min(ways, key=lambda way: way.cycles)


def whole(product: Product) -> Piece:
    """Return the product with nothing left out: dense, all rows, ranks and experts."""
    known = product.sparsity
    if isinstance(known, Gathered):
        return Piece(*known.whole, None, product.count * max(1, len(known.loads)))
    return Piece(product.m, product.k, product.n, None, product.count)


def total_cycles(config: SatConfig, pieces: Iterable[Piece]) -> int:
    """Return the cycles of pieces that run one after the other, those with one pattern in a row."""
    rows: dict[Pattern | None, list[tuple[int, int, int, int]]] = {}
    for piece in pieces:
        rows.setdefault(piece.pattern, []).append((piece.m, piece.k, piece.n, piece.count))
    return sum(chain_cycles(config, tuple(shapes), pattern) for pattern, shapes in rows.items())


def _ways(product: Product, config: SatConfig, options: Options) -> list[Lowered]:
    known, pattern = product.sparsity, product.pattern
    if pattern is not None and pattern.n == pattern.m:
        pattern = None
    if isinstance(known, Gathered):
        pieces = _gathered(product, known)
        cheaper = tuple(_cheaper(config, piece, pattern) for piece in pieces)
        return [Lowered(product, config, How.GATHER, cheaper)]
    found = [Lowered(product, config, How.DENSE, (_all(product, None),))]
    if pattern is not None:
        found.append(Lowered(product, config, How.NATIVE, (_all(product, pattern),)))
    elif isinstance(known, Unstructured) and known.role == "w":
        found.append(Lowered(product, config, How.COVER, _covered(product, known, config, options)))
    elif isinstance(known, Blocks):
        found.append(Lowered(product, config, How.SKIP, _skipped(product, known)))
        if known.role == "w":
            mask = _elements(known, product.k, product.n)
            found.append(Lowered(product, config, How.COVER, _covered(product, mask, config, options)))
    return found


def _all(product: Product, pattern: Pattern | None) -> Piece:
    cuts = tuple(OperandPart(copy) for copy in range(product.count)) if product.a is not None else ()
    return Piece(product.m, product.k, product.n, pattern, product.count, cuts)


def _cheaper(config: SatConfig, piece: Piece, pattern: Pattern | None) -> Piece:
    """Return the piece with the pattern unless it takes more cycles so: a wide group allows fewer mappings."""
    if pattern is None:
        return piece
    shapes = ((piece.m, piece.k, piece.n, piece.count),)
    slower = chain_cycles(config, shapes, pattern) > chain_cycles(config, shapes, None)
    return piece if slower else replace(piece, pattern=pattern)


def _gathered(product: Product, known: Gathered) -> tuple[Piece, ...]:
    """Experts one by one; gathered rows and ranks are a product like any other."""
    if not known.loads:
        return (_all(product, None),)
    ends = np.cumsum(known.loads)
    pieces = []
    for load in sorted(set(known.loads) - {0}, reverse=True):
        which = [i for i, other in enumerate(known.loads) if other == load]
        cuts = tuple(OperandPart(rows=np.arange(ends[i] - load, ends[i]), expert=i) for i in which)
        pieces.append(Piece(load, product.k, product.n, None, len(which), cuts if product.a is not None else ()))
    return tuple(pieces)


def _covered(product: Product, known: Unstructured, config: SatConfig, options: Options) -> tuple[Piece, ...]:
    sort = options.columns and known.static
    if known.keep is None:
        density = known.nonzeros / (product.k * product.n * product.count)
        levels = assumed_levels(config, product.m, product.k, product.n, density, sort=sort)
        return tuple(_level_piece(product, level, None, product.count) for level in levels)
    masks = known.keep if known.keep.ndim == 3 else known.keep[None]
    shared = len(masks) == 1 and product.count > 1
    pieces = []
    for copy, keep in enumerate(masks):
        order = balanced_rows(keep, 16) if options.rows and known.static else None
        levels = cover_levels(config, product.m, keep if order is None else keep[order], sort=sort)
        copies = range(product.count) if shared else (copy,)
        cuts = [OperandPart(c, depth=order) for c in copies] if product.a is not None else None
        pieces += [_level_piece(product, level, cuts, len(copies)) for level in levels]
    return tuple(pieces)


def _level_piece(product: Product, level: Level, cuts: list[OperandPart] | None, count: int) -> Piece:
    pattern = level.pattern if level.pattern.n < level.pattern.m else None
    filled = () if cuts is None else tuple(OperandPart(c.copy, depth=c.depth, columns=level.which) for c in cuts)
    return Piece(product.m, product.k, level.columns, pattern, count, filled)


def _skipped(product: Product, known: Blocks) -> tuple[Piece, ...]:
    """One piece per distinct row of blocks (column, for blocks of W): only its present blocks are issued."""
    pieces = []
    for lines, present in _patterns_of(known, _axes(product, known)):
        row, other = (None, None) if product.a is None else (lines, present)
        if known.role == "y":
            dims, cut = (len(lines), product.k, len(present)), (row, None, other)
        elif known.role == "a":
            dims, cut = (len(lines), len(present), product.n), (row, other, None)
        else:
            dims, cut = (product.m, len(present), len(lines)), (None, other, row)
        cuts = () if product.a is None else tuple(OperandPart(copy, *cut) for copy in range(product.count))
        pieces.append(Piece(*dims, None, product.count, cuts))
    return _joined(pieces)


def _axes(product: Product, known: Blocks) -> tuple[int, int]:
    """Lengths of the two axes of the matrix that has blocks."""
    return {"y": (product.m, product.n), "a": (product.m, product.k), "w": (product.k, product.n)}[known.role]


@lru_cache(maxsize=256)
def _patterns_of(known: Blocks, axes: tuple[int, int]) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Return (lines, present) per distinct set of present blocks: indices along the line axis and along the other."""
    by_column = known.role == "w"
    keep = known.keep.T if by_column else known.keep
    line_axis, other_axis = (axes[1], axes[0]) if by_column else axes
    line_step, other_step = (known.width, known.height) if by_column else (known.height, known.width)
    rows, member = np.unique(keep, axis=0, return_inverse=True)
    lines, others = np.arange(line_axis) // line_step, np.arange(other_axis) // other_step
    found = []
    for index, row in enumerate(rows):
        present = np.flatnonzero(row[others])
        if present.size:
            found.append((np.flatnonzero(member.reshape(-1)[lines] == index), present))
    return found


@lru_cache(maxsize=256)
def _elements(known: Blocks, rows: int, columns: int) -> Unstructured:
    """Return blocks of W as a mask of single elements."""
    keep = known.places(rows, columns)
    return Unstructured("w", int(np.count_nonzero(keep)), keep)


def _joined(pieces: list[Piece]) -> tuple[Piece, ...]:
    """Count equal pieces together."""
    found: dict[tuple[int, int, int, Pattern | None], Piece] = {}
    for piece in pieces:
        key = (piece.m, piece.k, piece.n, piece.pattern)
        if key in found:
            old = found[key]
            found[key] = Piece(*key, old.count + piece.count, old.cuts + piece.cuts)
        else:
            found[key] = piece
    return tuple(found.values())
