"""Images of a folder of IDX files, as MNIST and Fashion-MNIST come (yann.lecun.com/exdb/mnist), gzipped or not.

A run names its data by their content, not by their place: 'idx14-0123abcd' are images of 14 x 14 whose SHA-256 begins
so. Where they lie is said by `--data` or NMSAT_DATA.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import re
import zlib
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from nmsat.algorithms.training.data import Dataset

if TYPE_CHECKING:
    from numpy.typing import NDArray

DATA_VARIABLE: Final = "NMSAT_DATA"
"""Environment variable with the folder of the files; worker processes find it there."""

DEBIAN: Final = "/usr/share/datasets/fashion-mnist"
"""Where the Debian package dataset-fashion-mnist puts its files: the folder that is read if none is named."""

SIDES: Final = (14, 28)
"""Sides of the images, in pixels; files of twice the side are averaged over blocks of 2 x 2."""

CLASSES: Final = 10

PARTS: Final = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
"""Beginnings of the names of the four files; they go on with '-ubyte' or '.ubyte', and '.gz' if they are gzipped."""

_NAME: Final = re.compile(r"idx(\d+)-([0-9a-f]{8})")


def data_folder() -> Path:
    """Return the folder of the files: NMSAT_DATA, else where Debian's package puts them."""
    return Path(os.environ.get(DATA_VARIABLE) or DEBIAN)


def side_of(name: str) -> int:
    """Return the side of the images that a name of data stands for; ValueError if it is no such name."""
    match = _NAME.fullmatch(name)
    if match is None or int(match[1]) not in SIDES:
        raise ValueError(f"data is {name!r}; it must be '' or such as 'idx14-0123abcd', which --data gives")
    return int(match[1])


def idx_name(folder: Path, side: int) -> str:
    """Return the name of the data of a folder; ValueError, one line, if they cannot be read."""
    return f"idx{side}-{_files(str(folder.absolute()))[1]}"


def load_idx(name: str) -> Dataset:
    """Return the data of that name from `data_folder` as float32 [samples, side, side, 1] in 0..1.

    Raises ValueError, one line, if the folder does not hold them.
    """
    side, folder = side_of(name), data_folder()
    parts, digest = _files(str(folder.absolute()))
    if f"idx{side}-{digest}" != name:
        raise ValueError(f"data is {name!r}; folder {str(folder)!r} holds 'idx{side}-{digest}': name another by --data")
    (x, y), (x_test, y_test) = ((_scaled(parts[i], side, folder), parts[i + 1].astype(np.int64)) for i in (0, 2))
    source = f"{folder.name}, {len(x)} + {len(x_test)} images of {side} x {side}, sha256 {digest}"
    return Dataset(x, y, x_test, y_test, classes=CLASSES, source=source)


@lru_cache(maxsize=2)
def _files(folder: str) -> tuple[list[NDArray[np.uint8]], str]:
    """Return the four arrays and the first digits of the SHA-256 of their content."""
    place = Path(folder)
    if not place.is_dir():
        hint = "; on Debian: apt-get install dataset-fashion-mnist" if folder == DEBIAN else ""
        raise ValueError(f"data folder is {folder!r}; there is no such folder{hint}")
    parts = [read_idx(_file(place, part)) for part in PARTS]
    for images, labels, what in ((parts[0], parts[1], "train"), (parts[2], parts[3], "t10k")):
        if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels) or not len(images):
            raise ValueError(
                f"data folder is {folder!r}; its {what} images have shape {images.shape}, its labels {labels.shape}"
            )
        if int(labels.max()) >= CLASSES:
            raise ValueError(f"data folder is {folder!r}; a {what} label is {labels.max()}; there must be 0 to 9 only")
    digest = hashlib.sha256()
    for part in parts:
        digest.update(repr(part.shape).encode() + part.tobytes())
    return parts, digest.hexdigest()[:8]


def _file(folder: Path, part: str) -> Path:
    names = [f"{part}{end}" for end in ("-ubyte.gz", "-ubyte", ".ubyte.gz", ".ubyte")]
    found = next((folder / name for name in names if (folder / name).is_file()), None)
    if found is None:
        raise ValueError(f"data folder is {str(folder)!r}; it holds neither {names[0]} nor {names[1]}")
    return found


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Return the array of an IDX file of bytes; ValueError, one line, for any other file.

    Format: two zero bytes, type 8 (unsigned byte), number of axes, their lengths as big-endian 32-bit words, the data.
    """
    try:
        data = path.read_bytes()
        data = gzip.decompress(data) if path.suffix == ".gz" else data
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"data file {str(path)!r} cannot be read: {error}") from None
    axes = data[3] if data[:3] == b"\0\0\x08" and len(data) > 3 else 0
    shape = tuple(np.frombuffer(data[4 : 4 + 4 * axes], ">u4").tolist()) if len(data) >= 4 + 4 * axes else ()
    size = int(np.prod(shape, dtype=object)) if shape else -1
    if axes == 0 or len(data) != 4 + 4 * axes + size:
        raise ValueError(f"data file {str(path)!r} is no whole IDX file of bytes (it has {len(data)} bytes)")
    return np.frombuffer(data, np.uint8, offset=4 + 4 * axes).reshape(shape)


def _scaled(images: NDArray[np.uint8], side: int, folder: Path) -> NDArray[np.float32]:
    height, width = images.shape[1:]
    if (height, width) == (side, side):
        return (images[..., None] / 255).astype(np.float32)
    if (height, width) != (2 * side, 2 * side):
        raise ValueError(
            f"data folder is {str(folder)!r}; its images are {height} x {width}; for {side} x {side} they must be that "
            f"or {2 * side} x {2 * side}"
        )
    blocks = images.reshape(-1, side, 2, side, 2).sum(axis=(2, 4), dtype=np.uint16)
    return (blocks[..., None] / (4 * 255)).astype(np.float32)
