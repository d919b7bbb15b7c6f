"""What nmsat has written in a folder: a list with hashes that lies there, so that files of others are told apart.

`.nmsat.json` of an output folder:

    {"nmsat": 1, "files": {"summary.json": {"command": "rtl", "version": "0.1.0", "sha256": "9f86d0..."}, ...}}
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Final

from nmsat.reports.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

MANIFEST: Final = ".nmsat.json"
"""Name of the list."""

_FORMAT: Final = 1
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_CHUNK: Final = 1 << 20


@dataclass(frozen=True)
class Entry:
    """One file: the command and the version of nmsat that wrote it, and the SHA-256 of what was written."""

    command: str
    version: str
    sha256: str


def new_entry(command: str, digest: str) -> Entry:
    """Return the entry of a file that is written now."""
    return Entry(command, VERSION, digest)


def read_manifest(folder: Path, called: str = MANIFEST) -> dict[str, Entry]:
    """Return path in the folder -> entry, empty without a list; ValueError if the list is none of nmsat's.

    called: name of the list. A path that would lead out of the folder makes the list none of nmsat's, too.
    """
    path = folder / called
    try:
        if path.is_symlink():
            raise ValueError("it is a symbolic link")
        record: Any = json.loads(path.read_text(encoding="utf-8"))
        if record["nmsat"] != _FORMAT:
            raise ValueError(f"its format is {record['nmsat']!r}, not {_FORMAT}")
        return {inside(name): _entry(fields) for name, fields in record["files"].items()}
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{called!r} is no list of nmsat's ({error})") from None


def manifest_text(entries: Mapping[str, Entry]) -> str:
    """Return the list as text, in the order of the names."""
    files = {name: asdict(entries[name]) for name in sorted(entries)}
    return json.dumps({"nmsat": _FORMAT, "files": files}, indent=1) + "\n"


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def unchanged(path: Path, entry: Entry | None) -> bool:
    """Tell whether a path is a regular file that still is as `entry` says it was written."""
    return entry is not None and path.is_file() and not path.is_symlink() and sha256_of(path) == entry.sha256


def inside(name: str) -> str:
    """Return the name of a file in a folder, unless it leads out of it: then ValueError."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts or "\\" in name or "\0" in name:
        raise ValueError(f"{name!r} does not lie in the folder")
    return name


def _entry(fields: Mapping[str, Any]) -> Entry:
    entry = Entry(**fields)
    if not all(isinstance(value, str) for value in asdict(entry).values()) or not _SHA256.fullmatch(entry.sha256):
        raise ValueError(f"{fields!r} says no command, version and SHA-256")
    return entry
