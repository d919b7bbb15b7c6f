"""The folder of training runs: checkpoints and results that a run continues or replaces, and files that it must not.

A run named NAME has NAME.npz (checkpoint, gone when the run is complete) and NAME.jsonl (results), a very long NAME in
a short form (`file_stem`). Both say themselves
what they are, so no list is kept: a checkpoint holds its configuration, and results must be the lines that the run of
this checkpoint has written. Anything else of these names is not the run's and stops the command, unless --force was
given. Other files in the folder are never touched, and runs of other names may be under way in it.
"""

from __future__ import annotations

import errno
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from nmsat.algorithms.core.checkpoint import load_checkpoint
from nmsat.algorithms.core.locks import BusyError, locked
from nmsat.algorithms.core.signals import held
from nmsat.algorithms.training.outcome import Epoch
from nmsat.algorithms.training.results import epoch_lines, file_stem, lock_file
from nmsat.algorithms.training.resume import other_source
from nmsat.algorithms.training.study import finished
from nmsat.reports.work.output import folder_of, make_folders, remove_empty, writing_folder
from nmsat.reports.work.text import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from nmsat.algorithms.training.study import Cell

DISK_ERRORS: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)
"""What the system says of a folder that can no longer be written."""


@contextmanager
def run_files(folder: Path, cells: Sequence[Cell], *, force: bool = False) -> Iterator[None]:
    """Make sure that the files of runs can be written before the block does them.

    force: remove files of these runs' names that are in the way. Raises InputError, before the block runs, when the
    folder cannot be written, another process does one of the runs, or a file is in the way; and when the disk becomes
    full, or the like, while the block writes.
    """
    path, made = folder_of(folder), []
    try:
        with writing_folder(folder), held():
            make_folders(path, made)
        for cell in cells:
            _check(folder, cell, force=force)
        try:
            yield
        except OSError as error:
            if error.errno not in DISK_ERRORS:
                raise
            with writing_folder(folder):
                raise
    finally:
        with held():
            remove_empty(made)  # of a run that left nothing


def _check(folder: Path, cell: Cell, *, force: bool) -> None:
    try:
        with locked(lock_file(folder, cell.name)):  # the run takes it again for as long as it lasts
            _look(folder, cell)
    except BusyError:
        raise InputError(
            f"run {cell.name} in {str(folder)!r} is under way in another process; wait for it, or choose another folder"
        ) from None
    except ValueError as error:
        if not force:
            raise InputError(f"{error}; --force would start the run again and replace it") from None
        for ending in (".npz", ".jsonl"):
            (folder / f"{file_stem(cell.name)}{ending}").unlink(missing_ok=True)
        print(f"nmsat: note: starting again: {error}", file=sys.stderr)
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(f"run {cell.name} in {str(folder)!r} cannot be read or written: {reason}") from None


def _look(folder: Path, cell: Cell) -> None:
    """Raise ValueError for a file of the run's names that is not the run's."""
    stem = file_stem(cell.name)
    lines, checkpoint = folder / f"{stem}.jsonl", folder / f"{stem}.npz"
    epochs: list[Epoch] = []
    if checkpoint.exists():
        meta = load_checkpoint(checkpoint).meta
        if meta.get("config") != cell.config.as_dict():
            raise ValueError(f"checkpoint {str(checkpoint)!r} is of another run, or of an older recipe")
        if other_source(meta, cell.config.method):
            raise ValueError(
                f"checkpoint {str(checkpoint)!r} was written with another text of the file that registers method "
                f"{cell.config.method!r}"
            )
        try:
            epochs = [Epoch(**epoch) for epoch in meta["epochs"]]
        except (KeyError, TypeError) as error:
            raise ValueError(f"checkpoint {str(checkpoint)!r} has no epochs as of this run ({error})") from None
    if not lines.exists() or finished(cell, folder) is not None:
        return
    if not epoch_lines(cell.config, epochs).encode().startswith(lines.read_bytes()):
        raise ValueError(f"results {str(lines)!r} are not those of this run and its checkpoint, or changed since")
