"""The folder of what is made once and found again: Verilated models, their runs, results of Yosys."""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

import platformdirs

if TYPE_CHECKING:
    from collections.abc import Iterator

BUILD_DIR_VARIABLE: Final = "NMSAT_BUILD_DIR"
"""Environment variable with the folder of the caches, instead of the user's cache folder."""


ROOMS: Final = {
    "verilated": "compiled models",
    "runs": "simulations that failed, and those with waves",
    "synth": "resources that Yosys counted",
    "yosys": "compiled programs of the Yosys packages",
    "fresh": "bare Debian systems of make fresh",
    "written": "which single files nmsat wrote",
}
"""Folders of the caches, and what they hold."""

KEPT: Final = "written"
"""The folder that cannot be made again: without it, files that nmsat wrote are overwritten with --force only."""

TAG: Final = "CACHEDIR.TAG"
"""File that marks a folder as a cache, for programs that back up, and for `clear_caches` (bford.info/cachedir)."""

_SIGNATURE: Final = (
    "Signature: 8a477f597d28d172789f06886806bc55\n# Caches of nmsat, which nmsat cache --clear removes.\n"
)


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
        _mark(folder.parent)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(f"no permission to write in {str(folder)!r}")
    return folder


def _mark(root: Path) -> None:
    """Write the tag, unless the folder holds anything that is not of these caches."""
    if not (root / TAG).exists() and all(path.name in ROOMS for path in root.iterdir()):
        (root / TAG).write_text(_SIGNATURE, encoding="utf-8")


def cache_sizes() -> dict[str, int]:
    """Return folder -> bytes of all folders of the caches, 0 for one that is not there."""
    return {name: size_of(cache_root() / name) for name in ROOMS}


def clear_caches() -> dict[str, int]:
    """Remove what can be made again; return folder -> bytes of what went. Not while another nmsat is at work.

    Raises CacheError, and removes nothing, if the folder is not marked as a cache of nmsat's, for it may hold folders
    of these names that are the user's; and if something cannot be removed.
    """
    root = cache_root()
    if not root.exists():
        return {name: 0 for name in ROOMS if name != KEPT}
    with writing_cache(root):
        _mark(root)
        if not (root / TAG).is_file() or not (root / TAG).read_text(encoding="utf-8").startswith(_SIGNATURE):
            raise CacheError(
                f"folder {str(root)!r} holds other things than caches of nmsat, so nothing was removed; delete in it "
                f"what you do not need ({', '.join(name for name in ROOMS if name != KEPT)})"
            )
        gone = {}
        for name in ROOMS:
            if name == KEPT:
                continue
            gone[name] = size_of(root / name)
            if (root / name).is_symlink():
                (root / name).unlink()
            elif (root / name).exists():
                shutil.rmtree(root / name)
    return gone


def size_of(folder: Path) -> int:
    """Return the bytes of all files below a folder, 0 if there is none; links are not followed."""
    total = 0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):  # another process removes it just now
            total += path.lstat().st_size if not path.is_dir() else 0
    return total


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
