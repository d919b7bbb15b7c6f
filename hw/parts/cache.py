"""The folder of what is made once and found again: Verilated models, their runs, results of Yosys, timings."""

from __future__ import annotations

import os
import re
import shutil
from contextlib import contextmanager, suppress
from dataclasses import dataclass
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
    "timed": "cycles of products on the machine",
    "yosys": "compiled programs of the Yosys packages",
    "fresh": "bare Debian systems of make fresh",
    "written": "which single files nmsat wrote",
}
"""Folders of the caches, and what they hold."""

KEPT: Final = "written"
"""The folder that cannot be made again: without it, files that nmsat wrote are overwritten with --force only."""

RUN_NAME: Final = re.compile(r"bench_\w+-[0-9a-f]{8}")
"""Names of runs, which `tb.run.runs` gives."""

_SHA256: Final = "[0-9a-f]{64}"

OURS: Final = {
    "verilated": re.compile(rf"(library-)?{_SHA256}|{_SHA256}\.lock|\.{_SHA256}-[0-9a-f]{{8}}"),
    "runs": RUN_NAME,
    "synth": re.compile(rf"{_SHA256}\.json|tmp[a-z0-9_]{{8}}"),
    "timed": re.compile(rf"{_SHA256}\.json|\.nmsat-part-[0-9a-f]{{16}}"),
    "yosys": re.compile(r"(yowasp|amaranth)_yosys|YoWASP|wasmtime"),
    "fresh": re.compile(r"(bookworm|trixie)\.(tar|log|part)|last\.log|debs|pip"),
}
"""Folders that can be made again, and the names that nmsat gives to what is in them: nothing else is removed."""

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
        (root / TAG).write_text(_SIGNATURE, encoding="utf-8")


def cache_sizes() -> dict[str, int]:
    """Return folder -> bytes of all folders of the caches, 0 for one that is not there; CacheError if not readable."""
    with _told(cache_root(), "read"):
        return {name: size_of(cache_root() / name) for name in ROOMS}


@dataclass(frozen=True)
class Cleared:
    """What `clear_caches` did. gone: bytes removed; kept: what nmsat did not write, as paths in the folder."""

    gone: int = 0
    kept: tuple[str, ...] = ()


def clear_caches() -> Cleared:
    """Remove what can be made again; not while another nmsat is at work.

    Only what has the names that nmsat gives (`OURS`) is removed: anything else stays. Raises CacheError, and neither
    removes nor writes anything, if nmsat did not make the folder, for it may hold folders of these names that are the
    user's; and if something cannot be removed.
    """
    root = cache_root()
    with writing_cache(root):
        try:
            there = sorted(path.name for path in root.iterdir())
        except FileNotFoundError:
            return Cleared()
        if not _marked(root):
            raise CacheError(
                f"folder {str(root)!r} was not made by nmsat (no {TAG} of its own), so nothing was removed; delete in "
                f"it what you do not need ({', '.join(OURS)})"
            )
        gone, kept = 0, [name for name in there if name not in {*OURS, KEPT, TAG}]
        for room, names in OURS.items():
            size, left = _clear(root / room, names)
            gone += size
            kept += left
    return Cleared(gone, tuple(kept))


def _marked(root: Path) -> bool:
    try:
        return (root / TAG).read_bytes().startswith(_SIGNATURE.encode())
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return False


def _clear(room: Path, names: re.Pattern[str]) -> tuple[int, list[str]]:
    """Remove the entries of a folder that have nmsat's names; return their bytes, and what stays."""
    if room.is_symlink() or not room.is_dir():
        return 0, [room.name] if os.path.lexists(room) else []
    gone, kept = 0, []
    for path in sorted(room.iterdir()):
        if path.is_symlink() or not names.fullmatch(path.name):
            kept.append(f"{room.name}/{path.name}")
            continue
        gone += size_of(path)
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    if not kept:
        room.rmdir()
    return gone, kept


def size_of(place: Path) -> int:
    """Return the bytes of a file, or of all files below a folder; 0 if there is none; links are not followed.

    Raises OSError for a folder that cannot be read.
    """

    def failed(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError | NotADirectoryError):
            raise error

    total = place.lstat().st_size if place.is_file() else 0
    for folder, _, names in os.walk(place, onerror=failed):
        for name in names:
            with suppress(FileNotFoundError):  # another process removes it just now
                total += os.lstat(os.path.join(folder, name)).st_size  # noqa: PTH118
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
    with _told(folder, "written"):
        yield


@contextmanager
def _told(folder: Path, what: str) -> Iterator[None]:
    todo = "free space there, or set" if what == "written" else "set"
    try:
        yield
    except OSError as error:
        raise CacheError(
            f"folder {str(folder)!r} cannot be {what}: {error.strerror or error}; {todo} {BUILD_DIR_VARIABLE} to "
            "another folder for the caches"
        ) from None
