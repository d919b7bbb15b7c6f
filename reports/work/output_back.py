"""Takes back what a run of nmsat that was killed had begun to put in its places in an output folder.

The files of a run wait in a folder of their own, `staging`. Before the first of them moves, `begin` writes down which
they are; what stands in their places goes to `.old` there, and the list of the folder moves last. So a `staging` that
still has a list is that of a run that did not come to its end, and every move it made can be undone. Undoing is moves
too, each of them to be undone no more, so that it may be cut off itself.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from nmsat.reports.work.manifest import MANIFEST, Entry, manifest_text, read_manifest, unchanged

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

OLD: Final = ".old"
"""Folder, in that of the waiting files, of what stood in their places."""

MOVES: Final = ".commit.json"
"""List there of the files that are about to take their places, in the form of that of the output folder."""


def begin(staging: Path, new: Mapping[str, Entry]) -> None:
    """Write down which files are about to move; the list of the output folder waits among them by then."""
    part = staging / f"{MOVES}.part"
    part.write_text(manifest_text(new), encoding="utf-8")
    part.replace(staging / MOVES)


def end(staging: Path) -> None:
    """Let nothing be taken back any more."""
    (staging / MOVES).unlink(missing_ok=True)


def take_back(folder: Path, staging: Path) -> None:
    """Undo the moves of a run that is dead; what anybody has put into a place since stays there.

    OSError as from moving; ValueError if the record of the moves is none.
    """
    if not (staging / MOVES).is_file() or not (staging / MANIFEST).is_file():
        return
    new = read_manifest(staging, MOVES)
    for name in dict.fromkeys([*_files(staging / OLD), *new]):
        place, old, waiting = folder / name, staging / OLD / name, staging / name
        if not os.path.lexists(waiting) and unchanged(place, new.get(name)):
            place.rename(waiting)
        if os.path.lexists(old) and not os.path.lexists(place):
            place.parent.mkdir(parents=True, exist_ok=True)
            old.rename(place)
        for parent in list(place.relative_to(folder).parents)[:-1]:
            with suppress(OSError):  # of one that is not empty
                (folder / parent).rmdir()
    end(staging)


def _files(folder: Path) -> list[str]:
    """Return what is in a folder and its folders, by path."""
    found = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    return [path.relative_to(folder).as_posix() for path in found]
