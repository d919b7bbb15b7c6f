"""Products on the array with their operands on chip: one row each, which opens into its tiles."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Final

import numpy as np

from nmsat.dataflow.contract.config import INTERLEAVE
from nmsat.dataflow.contract.links import PAIR
from nmsat.dataflow.cycles.array import tile_times
from nmsat.sim.results.causes import ARRAY_CAUSES
from nmsat.sim.results.provenance import Source
from nmsat.sim.results.result import Result

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from nmsat.dataflow.contract.config import SatConfig
    from nmsat.dataflow.mapping.tiling import Tiling

OPERANDS: Final = ("a", "w", "y")

PAIR_WIDTH: Final = PAIR.bits
"""Bits of a packed pair in the buffer of a column: binary16 value, index, filler."""


@dataclass(frozen=True)
class OperandBytes:
    """Bytes of one product between the buffers and the array: A and W read, Y and the sums that come back written."""

    a: int = 0
    w: int = 0
    y: int = 0

    @property
    def total(self) -> int:
        """All bytes."""
        return self.a + self.w + self.y


def buffer_bytes(tiling: Tiling) -> OperandBytes:
    """Return what a product moves between the buffers and the array.

    A beat is 2 bytes per row and lane, a pair `PAIR_WIDTH` bits per column, a result 4 bytes. Sums that a WS command
    keeps are written and read again as seeds.
    """
    config, commands = tiling.config, tiling.commands
    results = INTERLEAVE * (tiling.blocks if tiling.mapping.ws else config.rows) * config.columns
    kept = commands - commands // tiling.depth_tiles
    return OperandBytes(
        a=commands * tiling.beats * config.rows * config.act_lanes * 2,
        w=-(-commands * tiling.pairs * config.columns * PAIR_WIDTH // 8),
        y=(commands + kept) * results * 4,
    )


@dataclass(frozen=True)
class TileRow:
    """One command of a product, or (copy None) the waits around the product that belong to no tile.

    copy, column, row, depth: which tile; start: its first cycle if nothing around the product waits; causes: cycles by
    cause; macs: multiply-adds of kept
    elements; macs_skipped: those that sparsity left out.
    """

    name: str
    stage: str
    copy: int | None
    column: int | None
    row: int | None
    depth: int | None
    start: int
    causes: Mapping[str, int]
    macs: int
    macs_skipped: int

    @property
    def cycles(self) -> int:
        """Sum of all causes."""
        return sum(self.causes.values())

    def record(self) -> dict[str, object]:
        """Return the tile as plain values."""
        place = {name: getattr(self, name) for name in ("name", "stage", "copy", "column", "row", "depth", "start")}
        return {**place, "cycles": self.cycles, "macs": self.macs, "macs_skipped": self.macs_skipped, **self.causes}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One product with its operands on chip.

    start: its first cycle; causes: cycles by cause (`sim.results.causes.ARRAY_CAUSES`), which add up to `cycles`;
    shape: m, k, n and count; macs: multiply-adds of kept elements; macs_full: with nothing left out; schedule: how it
    ran; tiling: its tiles, None if it ran as several parts.
    """

    config: SatConfig
    name: str
    stage: str
    start: int
    causes: Mapping[str, int]
    shape: tuple[int, int, int, int]
    macs: int = 0
    macs_full: int = 0
    schedule: Mapping[str, object] = field(default_factory=dict)
    tiling: Tiling | None = None

    @property
    def cycles(self) -> int:
        """Sum of all causes."""
        return sum(self.causes.values())

    @property
    def macs_skipped(self) -> int:
        """Multiply-adds that sparsity left out."""
        return self.macs_full - self.macs

    @property
    def utilization(self) -> float:
        """Multiply-adds / (cycles x elements)."""
        return self.macs / (self.cycles * self.config.elements) if self.cycles else 0.0

    @property
    def buffers(self) -> OperandBytes:
        """Bytes between buffers and array."""
        return buffer_bytes(self.tiling) if self.tiling else OperandBytes()

    def tiles(self) -> Iterator[TileRow]:
        """Yield the tiles of a product in order, at last its other waits; sums are those of the row.

        Time grows with the tiles. Raises ValueError for a product that ran as several parts.
        """
        if self.tiling is None:
            raise ValueError(f"product {self.name!r} ran as several parts ({self.schedule}); open the parts one by one")
        left = dict(self.causes)
        kept, skipped = _macs_by_depth(self.tiling)
        for tile in tile_times(self.tiling):
            causes = {"steps": tile.duration.steps, **tile.duration.stalls}
            for cause, cycles in causes.items():
                left[cause] -= cycles
            area = _area(self.tiling, tile.row, tile.column)
            macs, gone = area * kept[tile.depth], area * skipped[tile.depth]
            place = (tile.copy, tile.column, tile.row, tile.depth)
            yield TileRow(self.name, self.stage, *place, self.start + tile.start, causes, macs, gone)
        yield TileRow(self.name, self.stage, None, None, None, None, self.start, left, 0, 0)

    def record(self) -> dict[str, object]:
        """Return the row as plain values: what does not apply to it is absent."""
        out: dict[str, object] = {"name": self.name, "stage": self.stage, "start": self.start, "cycles": self.cycles}
        out |= dict(zip(("m", "k", "n", "count"), self.shape, strict=True))
        out |= self.schedule
        out |= {"macs": self.macs, "macs_skipped": self.macs_skipped, "utilization": self.utilization}
        size = self.buffers
        if size.total:
            out |= {f"buffer_{name}": getattr(size, name) for name in OPERANDS}
        return out | dict(self.causes)


@dataclass(frozen=True, eq=False, kw_only=True)
class ArrayResult(Result):
    """Products on the array with their operands on chip, one behind the other: no instructions, loads or stores."""

    rows: tuple[Row, ...]

    @property
    def source(self) -> Source:
        """What gave the cycles: the array alone."""
        return Source.ARRAY

    @cached_property
    def buffer_bytes(self) -> dict[str, int]:
        """Bytes between the buffers and the array by operand."""
        found = [row.buffers for row in self.rows]
        return {name: sum(getattr(size, name) for size in found) for name in OPERANDS}

    def record(self) -> dict[str, object]:
        """Return the totals as plain values, for JSON."""
        return {**super().record(), "buffer_bytes": self.buffer_bytes}

    def _causes(self) -> tuple[str, ...]:
        return ARRAY_CAUSES


def _area(tiling: Tiling, row: int, column: int) -> int:
    """Results of a tile that are within the matrix."""
    wide = tiling.mapping.b * tiling.config.columns
    return min(tiling.tile_rows, tiling.m - row * tiling.tile_rows) * min(wide, tiling.n - column * wide)


def _macs_by_depth(tiling: Tiling) -> tuple[list[int], list[int]]:
    """Return (kept, skipped) elements of one column of W by command along K."""
    mapping, depth = tiling.mapping, tiling.depth_tiles
    present = np.full(tiling.groups, mapping.m)
    present[-1] = tiling.k - (tiling.groups - 1) * mapping.m
    kept = np.minimum(present, mapping.n)
    if not mapping.ws:
        return [int(kept.sum())], [int((present - kept).sum())]
    # In WS a group is spread over `parts` rows of the array; what it skips counts for the first.
    place = np.arange(mapping.parts) * mapping.slots
    pairs = np.clip(kept[:, None] - place, 0, mapping.slots)
    skips = np.where(place == 0, (present - kept)[:, None], 0)
    return _loads(pairs.ravel(), tiling.config.rows, depth), _loads(skips.ravel(), tiling.config.rows, depth)


def _loads(values: NDArray[np.int64], rows: int, depth: int) -> list[int]:
    """Return the sums of `depth` array loads of `rows` values each; what is missing in the last is 0."""
    padded = np.zeros(depth * rows, np.int64)
    padded[: len(values)] = values
    return [int(x) for x in padded.reshape(depth, rows).sum(axis=1)]


def tiling_schedule(tiling: Tiling) -> dict[str, object]:
    """Return how a product is cut, as columns of a table."""
    mapping = tiling.mapping
    return {
        "group": f"{mapping.n}:{mapping.m}",
        "dataflow": mapping.name,
        "rectangle": f"{mapping.a}x{mapping.b}",
        "tile_rows": tiling.tile_rows,
        "tile_columns": mapping.b * tiling.config.columns,
        "commands": tiling.commands,
    }
