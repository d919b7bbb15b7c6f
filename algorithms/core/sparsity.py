"""Sparsity of a product beyond N:M of W: what a method leaves out, in the terms that the lowering needs.

A product is Y[m, n] = A[m, k] @ W[k, n], `count` times. Records describe, they hold no operands: masks are bool and
are given only where the program really has one. A record without a mask says how much is left; the lowering then
assumes that the places are independent and equally likely.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

Dims: TypeAlias = tuple[int, int, int]
"""m, k, n of a product."""


@dataclass(frozen=True, eq=False)
class Unstructured:
    """Single elements of W or of Y are absent.

    role: 'w' (a weight mask, groups along k) or 'y' (only some results are wanted); nonzeros: elements present, over
    all copies; keep: bool[k, n] of 'w', bool[m, n] of 'y', with a leading axis when count > 1; static: the mask
    outlives the step, so rows and columns may be laid out once to suit it.
    """

    role: Literal["w", "y"]
    nonzeros: int
    keep: NDArray[np.bool_] | None = None
    static: bool = True

    def macs(self, dims: Dims, count: int) -> int:
        """Multiply-adds that are needed."""
        del count
        m, k, _ = dims
        return self.nonzeros * (m if self.role == "w" else k)

    def full(self, dims: Dims, count: int) -> int:
        """Multiply-adds of the same work without sparsity."""
        return dims[0] * dims[1] * dims[2] * count

    def facts(self) -> tuple[object, ...]:
        """What two runs of one program must agree on."""
        return ("unstructured", self.role, self.nonzeros, self.static)


@dataclass(frozen=True, eq=False)
class Blocks:
    """Whole blocks of Y, A or W are absent (attention bands, block masks).

    role: which matrix; height, width: of a block, the last one of an axis may be smaller; keep: bool[block rows, block
    columns], the same for all copies.
    """

    role: Literal["y", "a", "w"]
    height: int
    width: int
    keep: NDArray[np.bool_]

    def places(self, rows: int, columns: int) -> NDArray[np.bool_]:
        """Return which elements of the matrix with blocks are present: bool[rows, columns]."""
        return self.keep[np.ix_(np.arange(rows) // self.height, np.arange(columns) // self.width)]

    def turned(self, role: Literal["y", "a", "w"]) -> Blocks:
        """Return the blocks of the transposed matrix in a role."""
        return Blocks(role, self.width, self.height, np.ascontiguousarray(self.keep.T))

    def macs(self, dims: Dims, count: int) -> int:
        """Multiply-adds of the blocks that are present."""
        m, k, n = dims
        rows, columns, other = {"y": (m, n, k), "a": (m, k, n), "w": (k, n, m)}[self.role]
        heights, widths = sizes(rows, self.height), sizes(columns, self.width)
        return int(heights @ self.keep.astype(np.int64) @ widths) * other * count

    def full(self, dims: Dims, count: int) -> int:
        """Multiply-adds of the same work without sparsity."""
        return dims[0] * dims[1] * dims[2] * count

    def facts(self) -> tuple[object, ...]:
        """What two runs of one program must agree on."""
        return ("blocks", self.role, self.height, self.width, self.keep.shape, self.keep.tobytes())


@dataclass(frozen=True, eq=False)
class Gathered:
    """The product is what is left after rows, ranks or whole experts were left out; it is dense itself.

    kind: 'rows' (tokens, candidates), 'ranks' (columns of a low-rank factor) or 'experts'; whole: m, k, n of the
    product before anything was left out (one expert's, for experts: every row through it); loads: rows of each expert.
    With loads the product holds all experts: A[sum of loads, k] sorted by expert, W[experts, k, n], Y[sum of loads, n].
    """

    kind: Literal["rows", "ranks", "experts"]
    whole: Dims
    loads: tuple[int, ...] = ()

    def macs(self, dims: Dims, count: int) -> int:
        """Multiply-adds that are needed: all of the product's."""
        return dims[0] * dims[1] * dims[2] * count

    def full(self, dims: Dims, count: int) -> int:
        """Multiply-adds of the same work with nothing left out; for experts, every row through every expert."""
        del dims
        return self.whole[0] * self.whole[1] * self.whole[2] * count * max(1, len(self.loads))

    def facts(self) -> tuple[object, ...]:
        """What two runs of one program must agree on."""
        return ("gathered", self.kind, self.whole, self.loads)


Sparsity: TypeAlias = Unstructured | Blocks | Gathered


def sizes(total: int, step: int) -> NDArray[np.int64]:
    """Return the lengths of the pieces when an axis is cut every `step`."""
    starts = np.arange(0, total, step)
    return np.minimum(total - starts, step)
