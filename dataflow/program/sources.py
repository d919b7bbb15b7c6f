"""What the operands of a product have in common: tiles, parts of a reduction, and what a source must offer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar, overload

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


T = TypeVar("T")


@dataclass(frozen=True)
class Even(Sequence[T]):
    """[0, total) cut into pieces of `each`, the last of what is left, made when they are asked for: a product of large
    batches has millions. make: a piece from its first place and its size."""

    total: int
    each: int
    make: Callable[[int, int], T]

    def __len__(self) -> int:
        return len(range(0, self.total, self.each))

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...
    def __getitem__(self, index: int | slice) -> T | list[T]:
        places = range(0, self.total, self.each)[index]
        if isinstance(places, range):
            return [self._at(first) for first in places]
        return self._at(places)

    def __iter__(self) -> Iterator[T]:
        return map(self._at, range(0, self.total, self.each))

    def _at(self, first: int) -> T:
        return self.make(first, min(self.each, self.total - first))

    @property
    def sizes(self) -> dict[int, int]:
        """Size -> pieces of that size."""
        whole, rest = divmod(self.total, self.each)
        return ({self.each: whole} if whole else {}) | ({rest: 1} if rest else {})


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

    def tiles(self, config: SatConfig, mapping: Mapping) -> Sequence[RowTile]:
        """Return the row tiles of Y; ValueError if the mapping does not suit."""
        ...

    def loads(self, config: SatConfig, mapping: Mapping, tile: RowTile, part: DepthRange) -> list[Load]:
        """Return the STAGE and LOAD_ACT of a tile for part of the reduction; ValueError if it cannot be parted."""
        ...

    def alike(self, tile: RowTile, part: DepthRange) -> Alike:
        """Return what tells these loads from others; staged places of alike ones are even numbers apart."""
        ...

    def pace(self, tile: RowTile, part: DepthRange) -> tuple[int, ...] | None:
        """Return a key: loads of equal keys take equally long; None if that depends on the tile in front."""
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
