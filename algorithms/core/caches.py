"""The folder of what is made once and found again: where it lies, and how it is written."""

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

TAG: Final = "CACHEDIR.TAG"
"""File that marks a folder as a cache, for programs that back up, and for clearing (bford.info/cachedir)."""

SIGNATURE: Final = (
    "Signature: 8a477f597d28d172789f06886806bc55\n# Caches of nmsat, which nmsat cache --clear removes.\n"
)
"""What stands in the tag of a folder that nmsat made."""


class CacheError(RuntimeError):
    """A cache cannot be written; the text says where and why."""


def cache_root() -> Path:
    """Return the folder of all caches: NMSAT_BUILD_DIR, or `nmsat` in the user's cache folder."""
    chosen = os.environ.get(BUILD_DIR_VARIABLE)
    return Path(os.path.realpath(chosen)) if chosen else _user_root()


def cache_folder(name: str) -> Path:
    """Return folder `name` of the caches, made if need be; CacheError if it cannot be written."""
    folder = cache_root() / name
    with writing_cache(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        _mark(folder.parent)
        folder.mkdir(exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(f"no permission to write in {str(folder)!r}")
    return folder


def _mark(root: Path) -> None:
    """Write the tag if the folder is empty, as it is when nmsat made it: what lies in any other may be the user's."""
    if not os.path.lexists(root / TAG) and not any(root.iterdir()):
        (root / TAG).write_text(SIGNATURE, encoding="utf-8")


@cache
def _user_root() -> Path:
    # Once: `yosys_environment` changes the variable that this depends on.
    return platformdirs.user_cache_path("nmsat", appauthor=False)


@contextmanager
def writing_cache(folder: Path) -> Iterator[None]:
    """Turn an OSError of the block, which writes in `folder`, into a CacheError."""
    with telling_of(folder, "written"):
        yield


@contextmanager
def telling_of(folder: Path, what: str) -> Iterator[None]:
    """Turn an OSError of the block into a CacheError: the folder cannot be `what` ('read', 'written')."""
    todo = "free space there, or set" if what == "written" else "set"
    try:
        yield
    except OSError as error:
        raise CacheError(
            f"folder {str(folder)!r} cannot be {what}: {error.strerror or error}; {todo} {BUILD_DIR_VARIABLE} to "
            "another folder for the caches"
        ) from None
