"""Folders of simulations under the cache folder: one a run, gone when it passed, and only so many of the others."""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

from nmsat.algorithms.core.signals import held
from nmsat.hw.parts.cache import RUN_NAME, cache_folder, size_of, writing_cache

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

RUNS: Final = "runs"
"""Folder of the runs in the cache folder."""

KEPT: Final = 20
"""Runs that stay: those that failed, and those with waves."""

KEPT_BYTES: Final = 2 << 30
"""Bytes that they may take together; the newest stays in any case."""

_LOCK: Final = ".running"


@contextmanager
def run_folder(name: str) -> Iterator[Path]:
    """Give a new folder for a run of `name`; older runs are removed until what is left keeps to the limits.

    The folder stays after the block unless the block removed it, or was cut off by a signal.
    """
    runs = cache_folder(RUNS)
    place = runs / f"{name}-{secrets.token_hex(4)}"
    handle = -1
    try:
        with writing_cache(runs):
            _prune(runs)
            with held():
                place.mkdir()
                handle = os.open(place / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield place
    except KeyboardInterrupt:
        with held():
            shutil.rmtree(place, ignore_errors=True)
        raise
    finally:
        if handle >= 0:
            with suppress(FileNotFoundError):
                (place / _LOCK).unlink()
            os.close(handle)


def _prune(runs: Path) -> None:
    """Remove the oldest runs above the limits, none that is under way, and nothing that is not named as a run."""
    found = sorted((path for path in runs.iterdir() if RUN_NAME.fullmatch(path.name)), key=_age, reverse=True)
    total = 0
    for number, place in enumerate(found, 1):
        total += size_of(place)
        # One is about to come: with it there are at most KEPT.
        if (number >= KEPT or (total > KEPT_BYTES and number > 1)) and not _under_way(place):
            shutil.rmtree(place, ignore_errors=True)


def _age(place: Path) -> float:
    try:
        return place.stat().st_mtime
    except FileNotFoundError:  # another process removes it just now
        return 0.0


def _under_way(place: Path) -> bool:
    try:
        handle = os.open(place / _LOCK, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False
