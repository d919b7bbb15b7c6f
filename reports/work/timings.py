"""What programs took on the machine, kept in the cache folder: a second call answers at once.

A result is kept by the configuration, the product and the text of all sources that it comes from. A folder that cannot
be written is no obstacle: everything is timed anew.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import nmsat
from nmsat.algorithms.core.files import write_text
from nmsat.hw.parts.cache import CacheError, cache_folder
from nmsat.sim.work.timed import Timer

if TYPE_CHECKING:
    from nmsat.dataflow.contract.config import SatConfig

ROOM: Final = "timed"
"""Folder of the results in the cache folder."""

SOURCES: Final = (
    *(f"algorithms/core/{name}.py" for name in ("nm", "tape", "windows")),
    *(f"dataflow/{room}" for room in ("contract", "cycles", "mapping", "network/gradient.py", "program")),
    *(f"sim/{room}" for room in ("array", "control", "load", "memory", "parts", "quick", "store", "update")),
    *(f"sim/{name}.py" for name in ("run", "sat", "work/rhythm", "work/timed")),
)
"""Modules, and folders of modules, that a result depends on."""


class Timings:
    """Results in the cache folder, one file each. folder: None if it cannot be written."""

    def __init__(self) -> None:
        self._known: dict[str, dict[str, Any]] = {}
        self.folder: Path | None = None
        with suppress(CacheError):
            self.folder = cache_folder(ROOM)

    def get(self, key: str) -> dict[str, Any] | None:
        """Return what was kept under a key, None if there is nothing that can be read."""
        if key not in self._known and self.folder is not None:
            with suppress(OSError, ValueError):
                found = json.loads((self.folder / f"{key}.json").read_text(encoding="utf-8"))
                if isinstance(found, dict):
                    self._known[key] = found
        return self._known.get(key)

    def put(self, key: str, value: dict[str, Any]) -> None:
        """Keep a result, for this process in any case."""
        self._known[key] = value
        if self.folder is not None:
            with suppress(OSError):
                write_text(self.folder / f"{key}.json", json.dumps(value))


@cache
def version() -> str:
    """Return the SHA-256 of all sources that results come from."""
    root = Path(nmsat.__path__[0])
    digest = hashlib.sha256()
    for name in SOURCES:
        place = root / name
        for path in [place] if place.suffix else sorted(place.rglob("*.py")):
            digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def timer(config: SatConfig) -> Timer:
    """Return a timer of a configuration whose results are kept."""
    return Timer(config, Timings(), version())
