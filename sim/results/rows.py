"""What a run on SAT consists of: one row per product or wait, which opens into its tiles."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from nmsat.dataflow.cycles.array import tile_times
from nmsat.dataflow.cycles.memory import memory_timing
from nmsat.dataflow.schedule.traffic import OperandBytes, buffer_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from nmsat.dataflow.contract.config import SatConfig
    from nmsat.dataflow.mapping.tiling import Tiling


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
    """One product of a run, or one wait for the update engine.

    start: its first cycle; causes: cycles by cause (`sim.results.causes.CAUSES`), which add up to `cycles`; shape: m,
    k, n and count of a product; macs: multiply-adds of kept elements; macs_full: with nothing left out; schedule: how
    it ran; memory: bytes between external memory and chip; memory_busy: cycles in which the memory bus moves data;
    tiling: its tiles, None if it ran as several parts.
    """

    config: SatConfig
    name: str
    stage: str
    start: int
    causes: Mapping[str, int]
    shape: tuple[int, int, int, int] | None = None
    macs: int = 0
    macs_full: int = 0
    schedule: Mapping[str, object] = field(default_factory=dict)
    memory: OperandBytes = field(default_factory=OperandBytes)
    memory_busy: int = 0
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

        Time grows with the tiles. Waits for memory and for other products are not told apart by tile. Raises ValueError
        for a product that ran as several parts.
        """
        if self.tiling is None and self.shape is not None:
            raise ValueError(f"product {self.name!r} ran as several parts ({self.schedule}); open the parts one by one")
        left = dict(self.causes)
        if self.tiling is not None:
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
        if self.shape is not None:
            out |= dict(zip(("m", "k", "n", "count"), self.shape, strict=True))
            out |= self.schedule
            out |= {"macs": self.macs, "macs_skipped": self.macs_skipped, "utilization": self.utilization}
            out |= self._bytes()
        return out | {"memory_busy": self.memory_busy} | dict(self.causes)

    def _bytes(self) -> dict[str, object]:
        out: dict[str, object] = {}
        for level, size in (("bytes", self.memory), ("buffer", self.buffers)):
            if size.total:
                out |= {f"{level}_{name}": getattr(size, name) for name in ("a", "w", "y")}
        if self.memory.total:
            intensity, attainable, limit = roofline(self.config, self.macs, self.memory.total)
            out |= {"macs_per_byte": intensity, "roofline": attainable / self.config.elements, "limit": limit}
        return out


def roofline(config: SatConfig, macs: int, size: int) -> tuple[float, float, str]:
    """Return (multiply-adds per byte, most multiply-adds per cycle at that intensity, what limits them).

    macs: multiply-adds; size: bytes moved for them, at least 1.
    """
    timing = memory_timing(config.memory, config.clock_mhz)
    intensity = macs / size
    memory = intensity * timing.bytes_per_cycle
    return intensity, min(memory, config.elements), "array" if memory >= config.elements else "memory"


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
