"""Data of a user's Python file: what it calls `data` gives a `Dataset`, that any command trains on.

A run names them by file and content, 'mine-0123abcd', so that it never goes on with other data than it began with.
"""

from __future__ import annotations

import hashlib
import re
import runpy
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from nmsat.algorithms.core.ranges import check_number, check_whole, short
from nmsat.algorithms.core.user_code import guarded
from nmsat.algorithms.training.data import Dataset
from nmsat.algorithms.training.pixels import Pixels

if TYPE_CHECKING:
    from numpy.typing import NDArray

FUNCTION: Final = "data"
"""Name of the function that gives the data."""

OWN_STEM: Final = re.compile(r"[a-z][a-z_]*")
"""What the file may be called, without '.py': names of runs hold it, and no digit makes it another kind of data."""

MAX_CLASSES: Final = 100_000
"""Most classes that the data may have: the last layer has a column for each, four times what ImageNet-21k needs."""


def own_name(path: Path) -> str:
    """Return the name of the data of a file; ValueError, one line, if it gives none that can be used."""
    return f"{path.stem}-{_load(str(path.absolute()))[1]}"


def load_own(path: Path) -> Dataset:
    """Return the data of a file."""
    return _load(str(path.absolute()))[0]


@lru_cache(maxsize=2)
def _load(text: str) -> tuple[Dataset, str]:
    path = Path(text)
    if not OWN_STEM.fullmatch(path.stem):
        raise ValueError(f"data file is {path.name!r}; name it with small letters and '_' alone, such as mine.py")
    if not path.is_file():
        raise ValueError(f"data file is {text!r}; there is no such file")
    with guarded(f"data file is {path.name!r}, which"):
        make = runpy.run_path(text).get(FUNCTION)
        found = make() if callable(make) else None
    if not isinstance(found, Dataset):
        raise ValueError(f"data file is {path.name!r}; it must have a function {FUNCTION}() that returns a Dataset")
    try:
        _check(found)
    except (ValueError, TypeError) as error:
        raise ValueError(f"data of {path.name!r}: {error}") from None
    digest = hashlib.sha256(f"{found.classes} {found.shift}".encode())  # of all that training depends on
    for part in (found.x_train, found.y_train, found.x_test, found.y_test):
        digest.update(f"{part.shape}{part.dtype}".encode() + np.ascontiguousarray(part[:]).tobytes())
    return found, digest.hexdigest()[:8]


def _check(data: Dataset) -> None:
    """Raise ValueError for data that no network can be trained on."""
    if type(data.classes) is not int or not 2 <= data.classes <= MAX_CLASSES:
        raise ValueError(f"classes is {data.classes!r}; it must be a whole number from 2 to {MAX_CLASSES}")
    for split in ("train", "test"):
        x, y = getattr(data, f"x_{split}"), getattr(data, f"y_{split}")
        if not isinstance(x, np.ndarray | Pixels) or not isinstance(y, np.ndarray):
            raise ValueError(f"x_{split} and y_{split} must be arrays of NumPy")
        if not x.shape or not y.shape:
            raise ValueError(f"x_{split} has shape {x.shape} and y_{split} {y.shape}; their first axis must be samples")
        if not len(x) or len(x) != len(y):
            raise ValueError(f"x_{split} has {len(x)} samples and y_{split} {len(y)}; there must be as many, and one")
        if tuple(x.shape[1:]) != tuple(data.x_train.shape[1:]):
            raise ValueError(f"x_test has samples of shape {tuple(x.shape[1:])}, x_train of {data.sample.shape}")
        tokens = np.issubdtype(x.dtype, np.integer)
        if y.shape != (tuple(x.shape) if tokens else (len(x),)):
            wanted = "a label for each token" if tokens else "one label for each sample"
            raise ValueError(f"y_{split} has shape {y.shape}; there must be {wanted} of {tuple(x.shape)}")
        _check_labels(f"y_{split}", y, data.classes)
        if isinstance(x, np.ndarray):
            _check_values(f"x_{split}", x, data.classes)
    if not isinstance(data.source, str) or not data.source.strip() or not data.source.isprintable():
        raise ValueError(f"source is {short(data.source)}; it must be a text of one line")
    if data.best is not None:
        check_number("best", data.best, 0, 1)
    _check_shift(data.shift, data.sample.shape)


def _check_shift(shift: object, shape: tuple[int, ...]) -> None:
    """Raise ValueError or TypeError unless samples can be moved by so many pixels: images, and never out of sight."""
    images = len(shape) == 3
    check_whole("shift", shift, 0, max(0, min(shape[:2]) - 1) if images else 0)


def _check_labels(name: str, y: NDArray[Any], classes: int) -> None:
    if not np.issubdtype(y.dtype, np.integer):
        raise ValueError(f"{name} is of {y.dtype}; labels must be whole numbers")
    if y.min() < 0 or y.max() >= classes:
        raise ValueError(f"{name} has labels from {y.min()} to {y.max()}; with {classes} classes they end below")


def _check_values(name: str, x: NDArray[Any], classes: int) -> None:
    if np.issubdtype(x.dtype, np.integer):
        if x.min() < 0 or x.max() >= classes:
            raise ValueError(f"{name} has tokens from {x.min()} to {x.max()}; with {classes} classes they are below it")
    elif x.dtype != np.float32:
        raise ValueError(f"{name} is of {x.dtype}; samples must be float32, or whole numbers (tokens)")
    elif not np.isfinite(x).all():
        raise ValueError(f"{name} has values that are not finite")
