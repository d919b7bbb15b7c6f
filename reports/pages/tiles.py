"""Tiles of products as a CSV file, for `nmsat gemm`."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING, Final

from nmsat.reports.work.text import InputError
from nmsat.sim.results.causes import ARRAY_CAUSES

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from nmsat.sim.results.provenance import Source
    from nmsat.sim.results.rows import Row

MAX_TILES: Final = 1 << 19
"""Most tiles that are written to one file (about 50 MB)."""

COLUMNS: Final = (
    *("name", "stage", "copy", "column", "row", "depth", "start", "cycles", "macs", "macs_skipped"),
    *ARRAY_CAUSES,
    "source",
)


def write_tiles(path: Path, rows: Iterable[Row], source: Source) -> None:
    """Write one line per tile, and one per product for waits around its tiles; InputError above `MAX_TILES`.

    source: what gave the cycles; the last column of every line, so that it stays with lines that are taken out.
    OSError when the file cannot be written.
    """
    rows = list(rows)
    tiles = sum(row.tiling.commands for row in rows if row.tiling)
    if tiles > MAX_TILES:
        largest = max((row for row in rows if row.tiling), key=lambda row: row.tiling.commands if row.tiling else 0)
        raise InputError(
            f"--tiles would write {tiles} tiles, most of them of {largest.stage} {largest.name}; the limit is "
            f"{MAX_TILES}; choose a smaller batch or product, or a larger configuration"
        )
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="")
        writer.writeheader()
        for row in rows:
            writer.writerows({**tile.record(), "source": str(source)} for tile in row.tiles())
