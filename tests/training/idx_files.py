"""Folders of IDX files for tests."""

from __future__ import annotations

import gzip
import struct
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path


def write_idx(path: Path, array: np.ndarray) -> None:
    data = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def make_folder(folder: Path, side: int = 28, end: str = "-ubyte.gz", samples: int = 48) -> Path:
    rng = np.random.default_rng(7)
    folder.mkdir()
    for part, count in (("train", samples), ("t10k", 20)):
        write_idx(folder / f"{part}-images-idx3{end}", rng.integers(0, 256, (count, side, side), np.uint8))
        write_idx(folder / f"{part}-labels-idx1{end}", (np.arange(count) % 10).astype(np.uint8))
    return folder
