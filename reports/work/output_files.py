"""Single output files (`--tiles FILE` and its like): written whole or not at all, and no file of the user's is lost.

    with output_files({"--tiles": options.tiles, "--vcd": options.vcd}, "gemm", force=options.force) as files:
        ...                                     # the work; nothing is seen of it at the paths yet
        with files.writing("--tiles") as path:
            write_tiles(path, rows)

A file that exists is replaced if nmsat wrote it there and it is still as it was written, else only with --force. What
was written, and where, is remembered in the cache folder: a CSV or VCD file has no place for it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
import sys
import tempfile
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from nmsat.algorithms.core.files import PART, write_text
from nmsat.algorithms.core.signals import held
from nmsat.hw.parts.cache import CacheError, cache_folder, cache_root, writing_cache
from nmsat.reports.work.manifest import sha256_of
from nmsat.reports.work.text import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

RECORDS: Final = "written"
"""Folder of the caches that remembers single files, one record each."""

MAX_RECORDS: Final = 2000
"""Most files that are remembered; the oldest are forgotten first."""

_LINKS: Final = 40
"""Most symbolic links that are followed, as in Linux."""


@dataclass
class _File:
    """asked: the path as the user wrote it; path: where it lies; part: what is written until all are complete.

    descriptor: the number of an open file of this process, if the path names one. A device or a pipe has no part: it is
    written where it is.
    """

    asked: Path
    path: Path
    descriptor: int | None = None
    part: Path | None = None
    made: list[Path] = field(default_factory=list)


class OutputFiles:
    """Takes the files of a command; they appear at their paths when the `with` block ends."""

    def __init__(self, files: dict[str, _File]) -> None:
        self._files = files

    @contextmanager
    def writing(self, option: str) -> Iterator[Path]:
        """Give the path to write the file of an option to; an OSError of the block becomes an InputError."""
        file = self._files[option]
        with _explained(option, file.asked):
            yield file.part or file.path
            if file.part is not None:
                with file.part.open("rb") as written:
                    os.fsync(written.fileno())


@contextmanager
def output_files(paths: Mapping[str, Path | None], command: str, *, force: bool = False) -> Iterator[OutputFiles]:
    """Give `OutputFiles` for the options that name a path; after an error or a signal all files are as they were.

    force: overwrite files that nmsat did not write, or that were changed since. Missing folders on the way are made; a
    symbolic link stays a link. Raises InputError, before the block runs, when a path cannot be written, two options
    name one file, or a file is in the way.
    """
    files: dict[str, _File] = {}
    for option, path in paths.items():
        if path is not None:
            with _explained(option, path):
                files[option] = _file(path)
    _check(files, force=force)
    done = False
    try:
        for option, file in files.items():
            with _explained(option, file.asked), held():
                _open_part(file)
        yield OutputFiles(files)
        for option, file in files.items():
            with _explained(option, file.asked), held():
                if file.part is None:
                    continue
                if file.descriptor is not None:
                    _send(file.part, file.descriptor)
                    continue
                _refuse(option, file, force=force)
                _place(file, file.part, command)
        done = True
    finally:
        with held():
            for file in files.values():
                if file.part is not None:
                    file.part.unlink(missing_ok=True)
                for folder in () if done else reversed(file.made):
                    with suppress(OSError):
                        folder.rmdir()


def _check(files: Mapping[str, _File], *, force: bool) -> None:
    seen: dict[Path, str] = {}
    for option, file in files.items():
        with _explained(option, file.asked):
            if _special(file):
                continue
            if file.path.is_dir():
                raise InputError(f"{option} is {str(file.asked)!r}; it is a folder; name a file")
            if file.path in seen:
                raise InputError(f"{seen[file.path]} and {option} are both {str(file.asked)!r}; name two files")
            seen[file.path] = option
            _refuse(option, file, force=force)


def _refuse(option: str, file: _File, *, force: bool) -> None:
    """Raise InputError for a file that is not as nmsat wrote it."""
    if file.path.exists() and not force and _remembered(file.path) != sha256_of(file.path):
        raise InputError(
            f"{option} is {str(file.asked)!r}; this file was not written by nmsat, or changed since; nothing was done; "
            "--force would overwrite it; or choose another name"
        )


def _file(asked: Path) -> _File:
    """Return what is known of a path before anything is written."""
    descriptor = _descriptor(asked)
    return _File(asked, asked if descriptor is not None else Path(os.path.realpath(asked)), descriptor)


def _descriptor(path: Path) -> int | None:
    """Return the number of the open file of this process that a path names (/dev/stdout, /dev/fd/3), else None.

    What it is, a pipe or a file of the shell's, does not matter; where it leads is no path that could be opened anew.
    """
    pattern = re.compile(rf"/proc/{os.getpid()}(/task/\d+)?/fd/(\d+)")
    for _ in range(_LINKS):
        path = Path(os.path.realpath(path.parent)) / path.name
        if not path.is_symlink():
            return None
        if found := pattern.fullmatch(str(path)):
            return int(found[2])
        path = path.parent / path.readlink()
    return None


def _special(file: _File) -> bool:
    """Tell whether a path is a device, a pipe, a socket or an open file: nothing there is lost or replaced."""
    if file.descriptor is not None:
        return True
    return file.path.exists() and not file.path.is_file() and not file.path.is_dir()


def _open_part(file: _File) -> None:
    if file.descriptor is not None:
        handle, name = tempfile.mkstemp(prefix=PART)
        os.close(handle)
        file.part = Path(name)
        return
    if _special(file):
        return
    missing = []
    folder = file.path.parent
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    for folder in reversed(missing):
        folder.mkdir()
        file.made.append(folder)
    part = file.path.with_name(PART + secrets.token_hex(8))
    part.open("xb").close()
    file.part = part


def _send(part: Path, descriptor: int) -> None:
    """Write a file to where an open one stands: what else the process says there comes before or after it."""
    with part.open("rb") as source, os.fdopen(os.dup(descriptor), "wb") as target:
        shutil.copyfileobj(source, target)


def _place(file: _File, part: Path, command: str) -> None:
    digest = sha256_of(part)
    with suppress(FileNotFoundError):
        shutil.copymode(file.path, part)
    part.replace(file.path)
    try:
        _remember(file.path, command, digest)
    except CacheError as error:
        print(f"nmsat: note: {str(file.asked)!r} cannot be replaced without --force later: {error}", file=sys.stderr)


def _record(folder: Path, path: Path) -> Path:
    return folder / f"{hashlib.sha256(os.fsencode(path)).hexdigest()}.json"


def _remember(path: Path, command: str, digest: str) -> None:
    folder = cache_folder(RECORDS)
    with writing_cache(folder):
        text = json.dumps({"path": os.fsdecode(path), "command": command, "sha256": digest})
        write_text(_record(folder, path), text + "\n")
        records = sorted(folder.glob("*.json"), key=lambda record: record.stat().st_mtime)
        for record in records[:-MAX_RECORDS]:
            record.unlink(missing_ok=True)


def _remembered(path: Path) -> str | None:
    """Return the SHA-256 of what nmsat wrote to a path last, None if it is not known."""
    try:
        record = json.loads(_record(cache_root() / RECORDS, path).read_text(encoding="utf-8"))
        return str(record["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return None  # what cannot be read is not known, and the file is left alone


@contextmanager
def _explained(option: str, asked: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"{option} is {str(asked)!r}; it cannot be written: {error.strerror or error}") from None
