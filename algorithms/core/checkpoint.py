"""Checkpoints: one NumPy archive per file, written whole or not at all, restored to identical bits."""

from __future__ import annotations

import json
import os
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

FORMAT: Final = 1


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """meta: what JSON holds (configuration, step, curves); arrays: tensors by '<part>/<name>'."""

    meta: dict[str, object]
    arrays: dict[str, NDArray]

    def part(self, name: str) -> dict[str, NDArray]:
        """Return the arrays of one part, by their names in it."""
        prefix = f"{name}/"
        return {key[len(prefix) :]: value for key, value in self.arrays.items() if key.startswith(prefix)}


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint; the old file stays until the new one is complete."""
    temporary = path.with_name(path.name + ".part")
    meta = json.dumps({"format": FORMAT, **checkpoint.meta})
    with temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **checkpoint.arrays, meta=np.frombuffer(meta.encode(), np.uint8))
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint; ValueError if the file is none, or of another format."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
        meta = json.loads(arrays.pop("meta").tobytes())
    except (KeyError, ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise ValueError(f"checkpoint {str(path)!r} cannot be read ({error}); delete it to start again") from None
    if meta.pop("format", None) != FORMAT:
        raise ValueError(f"checkpoint {str(path)!r} has another format than {FORMAT}; delete it to start again")
    return Checkpoint(meta, arrays)
