"""What a sweep has found so far: a file to which whole lines are added, so that a kill loses only what was in hand.

The first line names sweep and code: {"nmsat_sweep": 1, "sweep": SHA-256, "version": SHA-256}; each further one is a
result: {"kind": "estimated" or "exact", "key": ..., "value": ...}. A line without its end was cut off by a kill; it
goes when the sweep is taken up again.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from nmsat.reports.work.text import InputError

if TYPE_CHECKING:
    from pathlib import Path

JOURNAL: Final = "sweep.jsonl"
"""Name of the file."""

_FORMAT: Final = 1


class Journal:
    """Results of a sweep by kind and key, in a folder that no other process writes in.

    Raises InputError if the file there is of another sweep or of other code, or none of a sweep.
    """

    def __init__(self, folder: Path, sweep: str, version: str) -> None:
        self._path = folder / JOURNAL
        self._found: dict[tuple[str, str], Any] = {}
        head = {"nmsat_sweep": _FORMAT, "sweep": sweep, "version": version}
        text = self._path.read_bytes() if self._path.exists() else b""
        whole = text[: text.rfind(b"\n") + 1]
        if whole:
            self._read(whole, head)
        elif text and not json.dumps(head).encode().startswith(text):
            raise InputError(f"file {str(self._path)!r} is no journal of a sweep; choose another folder")
        self._file = self._path.open("r+b" if text else "wb")
        self._file.truncate(len(whole))
        self._file.seek(len(whole))
        if not whole:
            self._line(head)

    def _read(self, whole: bytes, head: dict[str, Any]) -> None:
        try:
            first, *lines = (json.loads(line) for line in whole.splitlines())
            self._found = {(line["kind"], line["key"]): line["value"] for line in lines}
            other = [name for name in head if first[name] != head[name]]
        except (ValueError, KeyError, TypeError):
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
        self._line({"kind": kind, "key": key, "value": value})
        self._found[kind, key] = json.loads(json.dumps(value))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _line(self, record: dict[str, Any]) -> None:
        self._file.write(json.dumps(record).encode() + b"\n")
        self._file.flush()
