"""What of a program's memory never changes: rows of ones, identities. The host writes it once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nmsat.algorithms.core.nm import pack_kept
from nmsat.dataflow.program import kinds
from nmsat.dataflow.program.tensors import DENSE

if TYPE_CHECKING:
    from nmsat.dataflow.contract.config import SatConfig
    from nmsat.dataflow.program.tensors import Image, Layout, Rows, Weights


@dataclass(frozen=True)
class Constants:
    """The constants of a step, in place."""

    ones: tuple[Rows, ...]
    identities: tuple[Weights, ...]

    def write(self, image: Image) -> None:
        """Put them into memory."""
        for row in self.ones:
            image.write_rows(row, np.ones((1, row.columns), np.float16))
        for identity in self.identities:
            write_identity(image, identity)


def place_identity(config: SatConfig, layout: Layout, name: str, region: int, rows: int) -> Weights:
    """Place the identity by which an operand of so many rows is turned (`kinds.Turning`)."""
    side = min(rows, kinds.TRANSPOSED_ROWS)
    return layout.weights(name, region, side, side, kinds.identity_pattern(config), DENSE, backward=False)


def write_identity(image: Image, identity: Weights) -> None:
    """Put an identity into memory: nothing but its ones, the rest are fillers."""
    one = np.eye(identity.k, dtype=np.float16)
    image.write_copies(identity, pack_kept(one, one > 0, identity.ff.n, identity.ff.m), None)
