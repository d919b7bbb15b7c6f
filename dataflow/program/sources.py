"""What the operands of a product have in common: tiles, parts of a reduction, and what a source must offer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from nmsat.dataflow.contract.isa import Opcode

if TYPE_CHECKING:
    from nmsat.dataflow.contract.config import SatConfig
    from nmsat.dataflow.mapping.tiling import Mapping
    from nmsat.dataflow.program.tensors import Place

Fields = dict[str, int]
"""Fields of an instruction; `base` of a load counts from the start of the block that is loaded."""

Load = tuple[Opcode, Fields]
"""An instruction of the load queue."""

Alike = tuple[tuple[int, ...], int]
"""A key and beats: instructions of equal keys are alike but for offsets in memory, all as much apart as the beats."""


@dataclass(frozen=True)
class RowTile:
    """Rows of Y that a tile covers: the first and how many."""

    first: int
    rows: int


@dataclass(frozen=True)
class DepthRange:
    """Elements of a reduction that one command covers: the first one, how many."""

    first: int
    size: int


class ActSource(Protocol):
    """Operand A of a product. unit: a command may read part of the reduction, from a multiple of it on."""

    @property
    def unit(self) -> int: ...

    def places(self) -> tuple[Place, ...]:
        """Return the tensors read."""
        ...

    def tiles(self, config: SatConfig, mapping: Mapping) -> list[RowTile]:
        """Return the row tiles of Y; ValueError if the mapping does not suit."""
        ...

    def loads(self, config: SatConfig, mapping: Mapping, tile: RowTile, part: DepthRange) -> list[Load]:
        """Return the STAGE and LOAD_ACT of a tile for part of the reduction; ValueError if it cannot be parted."""
        ...

    def alike(self, tile: RowTile, part: DepthRange) -> Alike:
        """Return what tells these loads from others; staged places of alike ones are even numbers apart."""
        ...


class WgtSource(Protocol):
    """Operand W of a product. unit: as in `ActSource`."""

    @property
    def unit(self) -> int: ...

    def places(self) -> tuple[Place, ...]:
        """Return the tensors read."""
        ...

    def loads(self, config: SatConfig, mapping: Mapping, column: int, columns: int, part: DepthRange) -> list[Fields]:
        """Return the LOAD_WGT of the tile columns from `column` on for part of the reduction."""
        ...

    def alike(self, mapping: Mapping, column: int, columns: int, part: DepthRange) -> Alike:
        """Return what tells these loads from others."""
        ...
