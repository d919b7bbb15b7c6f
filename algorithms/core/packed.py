"""The packed form of an N:M sparse matrix, as SAT streams it (docs/arithmetic.md, "Pruning")."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Packed:
    """A matrix W[k, columns] with at most n kept elements in each group of m along k.

    values: float16[groups, n, columns], +0 in fillers; index: uint8[groups, n, columns], place in the group (0..m-1),
    ascending over the slots of a group, 0 in fillers; filler: bool[groups, n, columns], fillers stand after the kept
    pairs; k: length of the reduction axis; n, m: the pattern. Dense is n == m.
    """

    values: NDArray[np.float16]
    index: NDArray[np.uint8]
    filler: NDArray[np.bool_]
    k: int
    n: int
    m: int

    @property
    def groups(self) -> int:
        """Number of groups along k, the padded last one included."""
        return self.values.shape[0]

    @property
    def columns(self) -> int:
        """Number of columns of the matrix."""
        return self.values.shape[2]

    @property
    def kept(self) -> int:
        """Number of pairs that are no fillers: the multiply-adds of one row of activations."""
        return int(np.count_nonzero(~self.filler))

    def unpack(self) -> NDArray[np.float16]:
        """Return W as float16[k, columns] with +0 in the place of pruned elements."""
        out = np.zeros((self.groups * self.m, self.columns), np.float16)
        group, slot, column = np.nonzero(~self.filler)
        out[group * self.m + self.index[group, slot, column], column] = self.values[group, slot, column]
        return out[: self.k]
