"""Python files that add methods: read once in each process that needs them, named by an environment variable."""

from __future__ import annotations

import os
import runpy
from pathlib import Path
from typing import Final

METHODS_VARIABLE: Final = "NMSAT_METHODS"
"""Environment variable: Python files that call `algorithms.methods.register`, ':' between them."""

_READ: Final[set[Path]] = set()


def read_method_files() -> None:
    """Run the files that the variable names, each once; ValueError, one line, for one that cannot be run."""
    for name in filter(None, os.environ.get(METHODS_VARIABLE, "").split(":")):
        path = Path(name).absolute()
        if path in _READ:
            continue
        try:
            runpy.run_path(str(path))
        except Exception as error:  # whatever is wrong with it, it is the file's
            reason = str(error).replace("\n", " ") or type(error).__name__
            raise ValueError(f"{METHODS_VARIABLE} names {name!r}, which cannot be run: {reason}") from error
        _READ.add(path)
