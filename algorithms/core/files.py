"""Files that are written whole or not at all."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

from nmsat.algorithms.core.signals import held

if TYPE_CHECKING:
    from collections.abc import Iterator

PART: Final = ".nmsat-part-"
"""Beginning of the name of a file that is being written."""


@contextmanager
def replaced(path: Path) -> Iterator[BinaryIO]:
    """Give a new binary file that becomes `path` when the block ends; after an error or a signal `path` is as it was.

    The new file lies beside `path` under a name that no other writer has, is on the disk before it takes the name over,
    and has the permissions of the old one. A symbolic link stays a link to what is replaced. OSError as from `open`.
    """
    path = Path(os.path.realpath(path))
    part = path.with_name(PART + secrets.token_hex(8))
    file: BinaryIO | None = None
    try:
        with held():
            file = part.open("xb")
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileNotFoundError):
            shutil.copymode(path, part)
        part.replace(path)
        sync_folder(path.parent)
    finally:
        if file is not None:
            part.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text whole or not at all."""
    with replaced(path) as file:
        file.write(text.encode("utf-8"))


def read_bounded(path: Path, most: int) -> bytes:
    """Return the content of a regular file of a user.

    ValueError, in one line, if it cannot be read, is no regular file (a device, a pipe, a folder: they may have no end,
    or keep who opens them waiting) or has more than `most` bytes; so many and one more are read, whatever its size.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe that nobody writes opens at once
        try:
            found = os.fstat(handle)
            if stat.S_ISDIR(found.st_mode):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            if not stat.S_ISREG(found.st_mode):
                raise ValueError(f"{path}: it is no regular file, but a device or a pipe")
            with os.fdopen(os.dup(handle), "rb") as file:
                content = file.read(most + 1)
        finally:
            os.close(handle)
    except OSError as error:
        raise ValueError(f"{path}: it cannot be read: {error.strerror or error}") from None
    if len(content) > most:
        size = found.st_size if found.st_size > most else f"more than {most}"
        raise ValueError(f"{path}: it has {size} bytes; at most {most} are read")
    return content


def flush(path: Path) -> None:
    """Put what another program wrote on the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Put the new name on the disk too, where folders can be opened for that."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
