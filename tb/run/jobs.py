"""What a test bench is asked to do and what it answers: one .npz file each way.

The process that starts a simulation and the cocotb test inside it share nothing but files. A job and a result are a
mapping of names to values; a value is a NumPy array or anything JSON holds.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from nmsat.algorithms.core.files import replaced

if TYPE_CHECKING:
    from collections.abc import Mapping

JOB_VARIABLE: Final = "NMSAT_JOB"
"""Environment variable with the path of the job file."""

RESULT_VARIABLE: Final = "NMSAT_RESULT"
"""Environment variable with the path of the result file."""

_JSON: Final = "json"


def load_job() -> dict[str, Any]:
    """Return the job of the running cocotb test; empty when the simulation was started without one."""
    path = os.environ.get(JOB_VARIABLE)
    return read(Path(path)) if path else {}


def save_result(**values: Any) -> None:
    """Hand `values` to the process that started the simulation; values of several calls are merged by name.

    Raises RuntimeError outside a simulation started by `tb.run.runner.run`.
    """
    path = os.environ.get(RESULT_VARIABLE)
    if not path:
        raise RuntimeError(
            f"{RESULT_VARIABLE} is not set; save_result works inside a test started by tb.run.runner.run"
        )
    target = Path(path)
    write(target, {**(read(target) if target.exists() else {}), **values})


def write(path: Path, values: Mapping[str, Any]) -> None:
    """Write `values` to `path`, whole or not at all; TypeError names a value that JSON cannot hold."""
    arrays = {name: value for name, value in values.items() if isinstance(value, np.ndarray)}
    plain = {name: value for name, value in values.items() if name not in arrays}
    if _JSON in arrays:
        raise ValueError(f"{_JSON!r} is the name of an array; the file uses that name itself")
    for name, array in arrays.items():
        if array.dtype.hasobject:
            raise TypeError(f"{name} is an array of {array.dtype}; it must hold numbers")
    text = json.dumps(plain, default=_plain)
    with replaced(path) as file:
        np.savez(file, allow_pickle=False, **{_JSON: np.array(text)}, **arrays)


def read(path: Path) -> dict[str, Any]:
    """Return what `write` stored in `path`."""
    with np.load(path, allow_pickle=False) as archive:
        values: dict[str, Any] = json.loads(str(archive[_JSON]))
        values.update({name: archive[name] for name in archive.files if name != _JSON})
    return values


def _plain(value: object) -> object:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{value!r} of type {type(value).__name__} fits neither an array nor JSON")
