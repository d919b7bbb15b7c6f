"""What lies in the caches: Verilated models, runs, results of Yosys, timings; sizes of all, and how to empty them."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from nmsat.algorithms.core.caches import (
    BUILD_DIR_VARIABLE,
    SIGNATURE,
    TAG,
    CacheError,
    cache_folder,
    cache_root,
    telling_of,
    writing_cache,
)

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "BUILD_DIR_VARIABLE",
    "KEPT",
    "OURS",
    "ROOMS",
    "RUN_NAME",
    "CacheError",
    "Cleared",
    "cache_folder",
    "cache_root",
    "cache_sizes",
    "clear_caches",
    "kept_json",
    "size_of",
    "writing_cache",
    "yosys_environment",
]

ROOMS: Final = {
    "kernel": "the compiled products of the arithmetic contract",
    "engines": "the compiled engines of the simulator",
    "verilog": "Verilog of machines and of their leaves",
    "verilated": "compiled models",
    "runs": "simulations that failed, and those with waves",
    "synth": "resources that Yosys counted",
    "timed": "cycles of products on the machine",
    "yosys": "compiled programs of the Yosys packages",
    "peers": "the simulators beside which nmsat compare runs",
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
    "kernel": re.compile(rf"{_SHA256}\.so|\.{_SHA256}-[0-9a-f]{{8}}"),
    "engines": re.compile(rf"{_SHA256}|\.{_SHA256}-[0-9a-f]{{8}}"),
    "verilated": re.compile(rf"(library-)?{_SHA256}|{_SHA256}\.lock|\.{_SHA256}-[0-9a-f]{{8}}"),
    "verilog": re.compile(rf"{_SHA256}\.json|\.nmsat-part-[0-9a-f]{{16}}|tmp[a-z0-9_]{{8}}"),
    "runs": RUN_NAME,
    "synth": re.compile(rf"{_SHA256}\.json|tmp[a-z0-9_]{{8}}"),
    "timed": re.compile(rf"{_SHA256}\.json|\.nmsat-part-[0-9a-f]{{16}}"),
    "yosys": re.compile(r"(yowasp|amaranth)_yosys|YoWASP|wasmtime"),
    "peers": re.compile(rf"{_SHA256}|\.{_SHA256}-[0-9a-f]{{8}}"),
    "fresh": re.compile(r"(bookworm|trixie)\.(tar|log|part)|last\.log|debs|pip"),
}
"""Folders that can be made again, and the names that nmsat gives to what is in them: nothing else is removed."""


def kept_json(room: str, key: str, make: Callable[[], Any]) -> Any:
    """Return what `make` returned when it was first called for this key in this room of the caches, through JSON.

    key: all that the result depends on. Raises CacheError if it cannot be kept, and what `make` raises.
    """
    folder = cache_folder(room)
    place = folder / f"{hashlib.sha256(key.encode()).hexdigest()}.json"
    if not place.exists():
        made = make()
        with writing_cache(folder), tempfile.TemporaryDirectory(dir=folder) as part:
            (Path(part) / place.name).write_text(json.dumps(made), encoding="utf-8")
            (Path(part) / place.name).replace(place)
    return json.loads(place.read_text(encoding="utf-8"))


def cache_sizes() -> dict[str, int]:
    """Return folder -> bytes of all folders of the caches, 0 for one that is not there; CacheError if not readable."""
    with telling_of(cache_root(), "read"):
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
        return (root / TAG).read_bytes().startswith(SIGNATURE.encode())
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
