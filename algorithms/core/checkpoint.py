"""Checkpoints: one NumPy archive per file, written whole or not at all, restored to identical bits."""

from __future__ import annotations

import json
import zipfile
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from nmsat.algorithms.core.files import replaced

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

FORMAT: Final = 1

_BROKEN: Final = (
    *(
        KeyError,
        ValueError,
        TypeError,
        OSError,
        EOFError,
        NotImplementedError,
        RuntimeError,
        OverflowError,
        MemoryError,
    ),
    *(SyntaxError, zipfile.BadZipFile, zlib.error),
)
"""What NumPy and its parts raise for a file that is no archive, or a damaged one."""


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """meta: what JSON holds (configuration, step, curves); arrays: tensors by '<part>/<name>'."""

    meta: dict[str, Any]
    arrays: dict[str, NDArray]

    def part(self, name: str) -> dict[str, NDArray]:
        """Return the arrays of one part, by their names in it."""
        prefix = f"{name}/"
        return {key[len(prefix) :]: value for key, value in self.arrays.items() if key.startswith(prefix)}


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint; the old file stays until the new one is on the disk, and writers of one path do not meet."""
    meta = json.dumps({"format": FORMAT, **checkpoint.meta})
    with replaced(path) as file:
        np.savez(file, allow_pickle=False, **checkpoint.arrays, meta=np.frombuffer(meta.encode(), np.uint8))


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint; ValueError if the file is none, or of another format, FileNotFoundError if there is none."""
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            if (damaged := archive.testzip()) is not None:
                raise ValueError(f"{damaged!r} is damaged")
            file.seek(0)
            with np.load(file, allow_pickle=False) as loaded:
                arrays: dict[str, NDArray] = {key: loaded[key] for key in loaded.files}
        meta = json.loads(arrays.pop("meta").tobytes())
        found = meta.pop("format", None) if isinstance(meta, dict) else None
    except FileNotFoundError:
        raise
    except _BROKEN as error:
        reason = f"no tensor {error}" if isinstance(error, KeyError) else error
        raise ValueError(f"checkpoint {str(path)!r} cannot be read ({reason}); delete it to start again") from None
    if found != FORMAT:
        raise ValueError(f"checkpoint {str(path)!r} has another format than {FORMAT}; delete it to start again")
    return Checkpoint(meta, arrays)


def check_names(found: Iterable[str], wanted: Iterable[str]) -> None:
    """Raise ValueError for a name that is missing or too many."""
    found, wanted = list(found), list(wanted)
    for name in wanted:
        if name not in found:
            raise ValueError(f"has no tensor {name!r}")
    for name in found:
        if name not in wanted:
            raise ValueError(f"has tensor {name!r}, which this run does not know")


def check_tensors(found: Mapping[str, NDArray], wanted: Mapping[str, NDArray]) -> None:
    """Raise ValueError unless names, shapes and types of `found` are those of `wanted`."""
    check_names(found, wanted)
    for name, like in wanted.items():
        value = found[name]
        if (value.shape, value.dtype) != (like.shape, like.dtype):
            raise ValueError(
                f"has tensor {name!r} of shape {value.shape}, {value.dtype}; this run needs {like.shape}, {like.dtype}"
            )
