"""What tests of sweeps share: a small sweep, its rows, and rows with a known truth."""

from __future__ import annotations

import io
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

pq = import_module("pyarrow.parquet")  # without types of its own

SMALL = """\
config = "tiny"
network = "mlp"
batch = 16
method = ["dense", "bdwp"]
pattern = ["2:4", "2:8"]

[set]
columns = [2, 3, 4]
sum_depth = 64
"""


def write(path: Path, text: str = SMALL) -> Path:
    path.write_text(text)
    return path


def rows_of(content: bytes) -> list[dict[str, Any]]:
    return pq.read_table(io.BytesIO(content)).to_pylist()


def rough(index: int, lut: int, cycles: int, exact: int) -> dict[str, Any]:
    """Return a row of one work with what it would take if it ran."""
    work = {"network": "n", "batch": 1, "method": "bdwp", "pattern": "2:8", "dsp": 1, "ram_kbit": 1}
    return {**work, "index": index, "lut": lut, "cycles": cycles, "status": "estimated", "would": exact}
