"""Python files that add methods: read once in each process that needs them, named by an environment variable."""

from __future__ import annotations

import hashlib
import os
import runpy
from pathlib import Path
from typing import Final

from nmsat.algorithms.core.user_code import guarded
from nmsat.algorithms.core.vocabulary import METHODS

METHODS_VARIABLE: Final = "NMSAT_METHODS"
"""Environment variable: Python files that call `algorithms.methods.register`, ':' between them."""

_READ: Final[set[Path]] = set()

_SOURCES: Final[dict[str, str]] = {}
"""SHA-256 of the file that registered a method, by its name."""


def read_method_files() -> None:
    """Run the files that the variable names, each once; ValueError, one line, for one that cannot be run."""
    for name in filter(None, os.environ.get(METHODS_VARIABLE, "").split(":")):
        path = Path(name).absolute()
        if path in _READ:
            continue
        before = set(METHODS)
        with guarded(f"{METHODS_VARIABLE} names {name!r}, which"):
            text = path.read_bytes()
            runpy.run_path(str(path))
        _SOURCES.update(dict.fromkeys(METHODS.keys() - before, hashlib.sha256(text).hexdigest()))
        _READ.add(path)


def source_sha256(method: str) -> str:
    """Return the SHA-256 of the file that registered a method; '' for methods of nmsat and those of no such file."""
    return _SOURCES.get(method, "") if method in METHODS else ""
