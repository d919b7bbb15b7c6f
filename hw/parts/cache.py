"""The folder of what is made once and found again: Verilated models, their runs, results of Yosys."""

from __future__ import annotations

import os
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

import platformdirs

if TYPE_CHECKING:
    from collections.abc import Iterator

BUILD_DIR_VARIABLE: Final = "NMSAT_BUILD_DIR"
"""Environment variable with the folder of the caches, instead of the user's cache folder."""


class CacheError(RuntimeError):
    """A cache cannot be written; the text says where and why."""


def cache_root() -> Path:
    """Return the folder of all caches: NMSAT_BUILD_DIR, or `nmsat` in the user's cache folder."""
    chosen = os.environ.get(BUILD_DIR_VARIABLE)
    return Path(chosen).resolve() if chosen else _user_root()


def cache_folder(name: str) -> Path:
    """Return folder `name` of the caches, made if need be; CacheError if it cannot be written."""
    folder = cache_root() / name
    with writing_cache(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(f"no permission to write in {str(folder)!r}")
    return folder


def yosys_environment() -> dict[str, str]:
    """Return the variables with which both packages of Yosys keep their compiled programs in the caches, too."""
    folder = str(cache_folder("yosys"))
    return {"YOWASP_CACHE_DIR": folder, "XDG_CACHE_HOME": folder}


@cache
def _user_root() -> Path:
    # Once: `yosys_environment` changes the variable that this depends on.
    return platformdirs.user_cache_path("nmsat", appauthor=False)


@contextmanager
def writing_cache(folder: Path) -> Iterator[None]:
    """Turn an OSError of the block, which writes in `folder`, into a CacheError."""
    try:
        yield
    except OSError as error:
        raise CacheError(
            f"folder {str(folder)!r} cannot be written: {error.strerror or error}; free space there, or set "
            f"{BUILD_DIR_VARIABLE} to another folder for the caches"
        ) from None
