"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
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
