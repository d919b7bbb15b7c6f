"""Output folders: written whole or not at all, and nothing in them is lost that nmsat did not write.

    with output_folder(options.out, "rtl", ["sat*.v", "summary.json"], force=options.force) as out:
        ...                                     # the work; nothing is seen of it in the folder yet
        out.write("summary.json", text)

The folder lists what nmsat wrote there, with hashes (`reports.work.manifest`). Before the work begins every file that
the command may write is looked at: one that is not as nmsat wrote it, or that another command wrote, stops the command,
unless --force was given. At the end the new files take their places together; files that the same command wrote
earlier and does not write now go, if they are still as written. Everything else in the folder stays as it is. What a
run that was killed had put in place, the next one takes back first (`reports.work.output_back`).
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Final

from nmsat.algorithms.core.locks import BusyError, locked
from nmsat.algorithms.core.signals import held
from nmsat.reports.work.manifest import MANIFEST, Entry, inside, manifest_text, new_entry, read_manifest, unchanged
from nmsat.reports.work.output_back import OLD, begin, end, take_back
from nmsat.reports.work.text import InputError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

LOCK: Final = ".nmsat.lock"
"""Lock file of an output folder; there while a command works on it."""

STAGING: Final = ".nmsat-new-"
"""Beginning of the name of the folder, inside the output folder, where files wait until all are complete."""

_NAMED: Final = 5
"""Most files that a refusal names."""


@dataclass
class OutputFolder:
    """Takes the files of a command; they appear in the folder when the `with` block ends.

    asked: the folder as the user wrote it; path: where it lies.
    """

    asked: Path
    path: Path
    names: Sequence[str]
    staging: Path
    digests: dict[str, str] = field(default_factory=dict)

    def write(self, name: str, data: str | bytes) -> None:
        """Take a file, text as UTF-8; `name` must be among the announced ones. InputError if it cannot be kept."""
        _check_inside(self.asked, name)
        if not _announced(name, self.names):
            raise ValueError(f"file {name!r} was not announced; announced were {', '.join(self.names)}")
        content = data.encode("utf-8") if isinstance(data, str) else data
        with writing_folder(self.asked):
            place = self.staging / name
            place.parent.mkdir(parents=True, exist_ok=True)
            with place.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        self.digests[name] = hashlib.sha256(content).hexdigest()


def add_force(parser: argparse.ArgumentParser) -> None:
    """Add --force."""
    parser.add_argument(
        "--force",
        action="store_true",
        help="overwrite files that stand in the way though nmsat did not write them or they were changed since",
    )


@contextmanager
def output_folder(
    target: Path, command: str, names: Sequence[str], *, force: bool = False, keep: bool = False
) -> Iterator[OutputFolder]:
    """Give an `OutputFolder` for `target`; after an error or a signal the folder is as it was.

    command: who writes, with the option if it is not the folder of the command itself; names: the files that it may
    write, as names or patterns (`sat*.v`); force: overwrite those of them that are not as this command wrote them;
    keep: files of earlier runs that this one does not write stay.

    Missing folders on the way are made, a symbolic link to a folder stays a link. Raises InputError, before the block
    runs, when the folder cannot be written, another process writes there, a name leads out of it, or a file is in the
    way.
    """
    for name in names:
        _check_inside(target, name)
    path = folder_of(target)
    made: list[Path] = []
    done = False
    try:
        with writing_folder(target), held():
            make_folders(path, made)
        with _only_one(target, path):
            out = OutputFolder(target, path, names, path / (STAGING + secrets.token_hex(8)))
            with writing_folder(target), held():
                _remove_dead(target, path)
            with writing_folder(target):
                entries = _check(out, command, force=force)
            try:
                with writing_folder(target), held():
                    out.staging.mkdir()
                yield out
                with writing_folder(target), held():
                    _Commit(out, command, entries).run(force=force, keep=keep)
                done = True
            finally:
                with held():
                    shutil.rmtree(out.staging, ignore_errors=True)
    finally:
        if not done:
            with held():
                remove_empty(made)


class _Commit:
    """The step in which the new files take their places."""

    def __init__(self, out: OutputFolder, command: str, entries: dict[str, Entry]) -> None:
        self._out = out
        self._command = command
        self._entries = entries
        self._undo: list[tuple[Path, Path]] = []

    def run(self, *, force: bool, keep: bool) -> None:
        """Move all files; on an error move them back and raise it."""
        out = self._out
        _refuse(out, _in_the_way(out.path, list(out.digests), self._entries), force=force)
        _refuse_others(out, self._command, list(out.digests), self._entries, force=force)
        stale = [] if keep else self._stale()
        there = [name for name in self._entries if name not in stale and (out.path / name).exists()]
        new = {name: new_entry(self._command, digest) for name, digest in out.digests.items()}
        (out.staging / MANIFEST).write_text(
            manifest_text({**{name: self._entries[name] for name in there}, **new}), encoding="utf-8"
        )
        begin(out.staging, new)
        made: list[Path] = []
        try:
            for name in stale:
                self._move(out.path / name, out.staging / OLD / name)
            for name in (*out.digests, MANIFEST):
                make_folders((out.path / name).parent, made)
                if os.path.lexists(out.path / name):
                    self._move(out.path / name, out.staging / OLD / name)
                self._move(out.staging / name, out.path / name)
        except BaseException:
            for source, target in reversed(self._undo):
                target.rename(source)
            end(out.staging)
            remove_empty(made)
            raise
        for name in stale:
            remove_empty([out.path / parent for parent in reversed(Path(name).parents[:-1])])

    def _move(self, source: Path, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        source.rename(target)
        self._undo.append((source, target))

    def _stale(self) -> list[str]:
        """Return what this command wrote earlier, does not write now, and nobody has changed."""
        return [
            name
            for name, entry in self._entries.items()
            if entry.command == self._command and name not in self._out.digests
            if unchanged(self._out.path / name, entry)
        ]


def _check(out: OutputFolder, command: str, *, force: bool) -> dict[str, Entry]:
    """Return the list of the folder; InputError for what stands in the way of files that may be written."""
    try:
        entries = read_manifest(out.path)
    except ValueError as error:
        if force:
            return {}
        raise InputError(f"output folder is {str(out.asked)!r}; {error}; --force would replace it") from None
    there = [path for name in out.names for path in out.path.glob(name)]
    names = [path.relative_to(out.path).as_posix() for path in there]
    _refuse(out, _in_the_way(out.path, names, entries), force=force)
    _refuse_others(out, command, names, entries, force=force)
    return entries


def _in_the_way(folder: Path, names: Sequence[str], entries: dict[str, Entry]) -> list[str]:
    there = [name for name in names if os.path.lexists(folder / name)]
    return [name for name in there if not unchanged(folder / name, entries.get(name))]


def _refuse(out: OutputFolder, found: Sequence[str], *, force: bool) -> None:
    """Raise InputError for files in the way; folders that stand where a file would be are never removed."""
    start = f"output folder is {str(out.asked)!r}"
    folders = [name for name in found if (out.path / name).is_dir() and not (out.path / name).is_symlink()]
    if folders:
        raise InputError(f"{start}; {_list(folders)} in it is a folder where a file would be; choose another folder")
    if found and not force:
        raise InputError(
            f"{start}; {_list(found)} in it: not written by nmsat, or changed since; nothing was done; --force would "
            "overwrite that and nothing else of yours; or choose another folder"
        )


def _refuse_others(
    out: OutputFolder, command: str, names: Sequence[str], entries: dict[str, Entry], *, force: bool
) -> None:
    """Raise InputError for files that another command wrote; names: of files that are there."""
    found = {name: entries[name].command for name in names if name in entries and entries[name].command != command}
    if found and not force:
        writers = " and ".join(f"nmsat {writer}" for writer in sorted(set(found.values())))
        raise InputError(
            f"output folder is {str(out.asked)!r}; {_list(list(found))} in it: results of {writers}, not of nmsat "
            f"{command}; nothing was done; --force would overwrite them; or choose another folder"
        )


def _list(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(repr(name) for name in sorted(names)[:_NAMED]) + more


def _check_inside(asked: Path, name: str) -> None:
    """Raise InputError for the name, or pattern, of a file that would not lie in the folder."""
    try:
        inside(name)
    except ValueError as error:
        raise InputError(f"output folder is {str(asked)!r}; {error}; nothing was done") from None


def _announced(name: str, names: Sequence[str]) -> bool:
    return any(fnmatchcase(name, wanted) for wanted in names)


def folder_of(target: Path) -> Path:
    """Return where a folder that the user named lies; InputError for a file, and for what cannot be reached."""
    path = Path(os.path.realpath(target))
    with writing_folder(target):
        if path.exists() and not path.is_dir():
            raise InputError(f"output folder is {str(target)!r}; it is a file; choose a folder")
    return path


@contextmanager
def writing_folder(target: Path) -> Iterator[None]:
    """Turn an OSError of the block, which writes in the folder that the user named, into an InputError."""
    try:
        yield
    except BusyError:
        raise  # has a text of its own
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(f"output folder is {str(target)!r}; it cannot be written: {reason}; choose another") from None


@contextmanager
def _only_one(target: Path, path: Path) -> Iterator[None]:
    """Hold the lock of the folder."""
    with ExitStack() as stack:
        try:
            with writing_folder(target):
                stack.enter_context(locked(path / LOCK))
        except BusyError:
            raise InputError(
                f"output folder is {str(target)!r}; another nmsat is writing there; wait, or choose another folder"
            ) from None
        yield


def make_folders(path: Path, made: list[Path]) -> None:
    """Make a folder and those on the way to it; `made` takes what was made, outermost first."""
    missing = []
    while not path.exists():
        missing.append(path)
        path = path.parent
    for folder in reversed(missing):
        folder.mkdir(exist_ok=True)
        made.append(folder)


def remove_empty(folders: Sequence[Path]) -> None:
    """Remove folders, innermost (last) first, as long as they are empty."""
    for folder in reversed(folders):
        with suppress(OSError):
            folder.rmdir()


def _remove_dead(target: Path, path: Path) -> None:
    """Undo and remove what a run left that was killed without a chance to; the lock says that none is alive."""
    for folder in path.glob(f"{STAGING}*"):
        try:
            if not folder.is_symlink():
                take_back(path, folder)
        except ValueError as error:
            raise InputError(
                f"output folder is {str(target)!r}; a run that was killed left {folder.name!r} in it, and its {error}: "
                "what is there cannot be taken back; remove it, or choose another folder"
            ) from None
        shutil.rmtree(folder, ignore_errors=True)
