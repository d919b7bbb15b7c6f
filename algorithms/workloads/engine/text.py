"""Text that every Python installation has: the source of its standard library."""

from __future__ import annotations

import sysconfig
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

TRAINED: Final = ("ast", "argparse", "textwrap", "inspect", "dataclasses")
HELD_OUT: Final = ("configparser", "typing")
"""Modules whose source is read, for training and for the test."""


@lru_cache(maxsize=4)
def library_text(vocabulary: int = 97) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the characters of the modules as numbers below `vocabulary`, for training and for the test.

    0 stands for whatever is not printable ASCII or a line end; 1 is the line end, then the blank and so on. Raises
    ValueError for a vocabulary below 97, FileNotFoundError if the library has no source.
    """
    if vocabulary < 97:
        raise ValueError(f"vocabulary is {vocabulary!r}; the printable characters need 97")
    folder = Path(sysconfig.get_path("stdlib"))
    return _read(folder, TRAINED), _read(folder, HELD_OUT)


def _read(folder: Path, modules: tuple[str, ...]) -> NDArray[np.int64]:
    text = "".join((folder / f"{name}.py").read_text(encoding="utf-8") for name in modules)
    codes = np.frombuffer(text.encode("utf-8"), np.uint8).astype(np.int64)
    printable = (codes >= 32) & (codes < 127)
    return np.where(codes == 10, 1, np.where(printable, codes - 30, 0))
