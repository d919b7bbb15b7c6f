"""What a sweep has found so far: a file to which whole lines are added, so that a kill loses only what was in hand.

The first line names sweep and code: {"nmsat_sweep": 2, "sweep": SHA-256, "version": SHA-256}; each further one is a
result: {"kind": "estimated" or "exact", "key": ..., "value": ..., "sha256": of these three and the first line}. A line
without its end was cut off by a kill, and one whose SHA-256 is another was altered since: both go when the sweep is
taken up again, the latter with a note, and what they held is found anew.
"""

from __future__ import annotations

import hashlib
import json
import os
from typing import TYPE_CHECKING, Any, Final

from nmsat.algorithms.core.files import read_bounded, replaced
from nmsat.reports.work.progress import LOG
from nmsat.reports.work.text import InputError

if TYPE_CHECKING:
    from pathlib import Path

JOURNAL: Final = "sweep.jsonl"
"""Name of the file."""

MAX_JOURNAL_BYTES: Final = 1 << 32
"""Largest such file that is taken up."""

_FORMAT: Final = 2


class Journal:
    """Results of a sweep by kind and key, in a folder that no other process writes in.

    Raises InputError if the file there is of another sweep or of other code, or none of a sweep.
    """

    def __init__(self, folder: Path, sweep: str, version: str) -> None:
        self._path = folder / JOURNAL
        self._found: dict[tuple[str, str], Any] = {}
        self._head = {"nmsat_sweep": _FORMAT, "sweep": sweep, "version": version}
        try:
            text = read_bounded(self._path, MAX_JOURNAL_BYTES) if os.path.lexists(self._path) else b""
        except ValueError as error:
            raise InputError(f"file {error}; choose another folder") from None
        whole = text[: text.rfind(b"\n") + 1]
        if whole:
            whole = self._read(whole)
        elif text and not json.dumps(self._head).encode().startswith(text):
            raise InputError(f"file {str(self._path)!r} is no journal of a sweep; choose another folder")
        self._file = self._path.open("r+b" if text else "wb")
        self._file.truncate(len(whole))
        self._file.seek(len(whole))
        if not whole:
            self._line(self._head)

    def _read(self, whole: bytes) -> bytes:
        """Take over what the lines of the file hold; return those that hold it, which are then all of the file."""
        first, *lines = whole.splitlines(keepends=True)
        self._check_head(first)
        altered = []
        for number, line in enumerate(lines, 2):
            if not self._take(line):
                altered.append(number)
        if altered:
            first_of = f"{len(altered)} lines, the first {altered[0]}, are"
            which = first_of if len(altered) > 1 else f"line {altered[0]} is"
            LOG.warning("%s: %s not as the sweep wrote it; what was there is done again", self._path, which)
            lines = [line for number, line in enumerate(lines, 2) if number not in altered]
            with replaced(self._path) as file:
                file.write(b"".join([first, *lines]))
        return b"".join([first, *lines])

    def _take(self, line: bytes) -> bool:
        """Take over a result; False if the line is none that this sweep wrote."""
        try:
            found = json.loads(line)
            kind, key, value = found["kind"], found["key"], found["value"]
            if found["sha256"] != self._digest(kind, key, value):
                return False
            self._found[kind, key] = value
        except (ValueError, KeyError, TypeError, RecursionError):
            return False
        return True

    def _check_head(self, line: bytes) -> None:
        try:
            first = json.loads(line)
            other = [name for name in self._head if first[name] != self._head[name]]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise InputError(f"file {str(self._path)!r} is no journal of a sweep; choose another folder") from None
        if other:
            what = "of another sweep" if "sweep" in other else "of another version of nmsat"
            raise InputError(f"folder {str(self._path.parent)!r} holds results {what}; choose another folder")

    def has(self, kind: str, key: str) -> bool:
        """Whether a result is there."""
        return (kind, key) in self._found

    def get(self, kind: str, key: str) -> Any:
        """Return a result that is there."""
        return self._found[kind, key]

    def put(self, kind: str, key: str, value: Any) -> None:
        """Keep a result."""
        value = json.loads(json.dumps(value))  # as it will be read
        self._line({"kind": kind, "key": key, "value": value, "sha256": self._digest(kind, key, value)})
        self._found[kind, key] = value

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _digest(self, kind: str, key: str, value: Any) -> str:
        text = json.dumps([self._head, kind, key, value], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def _line(self, record: dict[str, Any]) -> None:
        self._file.write(json.dumps(record).encode() + b"\n")
        self._file.flush()
