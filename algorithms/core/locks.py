"""Locks between processes: one writer at a time."""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from nmsat.algorithms.core.signals import held

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class BusyError(BlockingIOError):
    """Another process holds a lock; the text names the file."""


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold lock file `path`, which goes at the end; BusyError if another process holds it, OSError as from `open`.

    The operating system drops the lock of a process that dies; the file that such a process leaves is taken over.
    """
    handle = -1
    try:
        with held():
            handle = _take(path)
        yield
    finally:
        if handle >= 0:
            with held():
                path.unlink(missing_ok=True)  # while it is held: another waits for this very file or makes a new one
                os.close(handle)


def _take(path: Path) -> int:
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            raise BusyError(f"another process holds {str(path)!r}") from None
        except OSError:
            os.close(handle)
            raise
        try:
            if os.path.samestat(os.fstat(handle), os.stat(path)):  # noqa: PTH116 # of a name that may be gone
                return handle
        except FileNotFoundError:
            pass
        os.close(handle)  # the last holder removed the file between open and lock
