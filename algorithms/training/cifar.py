"""CIFAR-10 and CIFAR-100 as their authors give them out: binary files, or batches pickled by Python.

Source of the formats: A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009, and its page
(cs.toronto.edu/~kriz/cifar.html). An image is 32 x 32, three planes (red, green, blue) row by row.
"""

from __future__ import annotations

import hashlib
import io
import pickle
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from nmsat.algorithms.training.data import Dataset
from nmsat.algorithms.training.pickle_costs import check_hashes
from nmsat.algorithms.training.pixels import BytePixels, colours_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

CIFAR_SIDE: Final = 32

PIXELS: Final = CIFAR_SIDE * CIFAR_SIDE * 3

BATCH_IMAGES: Final = 10_000
"""Images of one batch of CIFAR-10, and of CIFAR-100's test file; its training file has five times as many."""

CROP: Final = 4
"""Training images move by up to so many pixels, and are turned left to right by chance."""


@dataclass(frozen=True)
class Format:
    """One way in which a set comes: folder it unpacks to, files of the training and of the test split."""

    folder: str
    train: tuple[str, ...]
    test: str


@dataclass(frozen=True)
class Cifar:
    """One of the two sets. classes; labels: bytes before an image in a binary file, the last of which counts; key: of
    the labels in a pickled batch; formats: ways in which it comes."""

    title: str
    classes: int
    labels: int
    key: bytes
    formats: tuple[Format, ...]


SETS: Final[dict[str, Cifar]] = {
    "cifar10": Cifar(
        "CIFAR-10",
        10,
        1,
        b"labels",
        (
            Format("cifar-10-batches-bin", tuple(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"),
            Format("cifar-10-batches-py", tuple(f"data_batch_{i}" for i in range(1, 6)), "test_batch"),
        ),
    ),
    "cifar100": Cifar(
        "CIFAR-100",
        100,
        2,
        b"fine_labels",
        (
            Format("cifar-100-binary", ("train.bin",), "test.bin"),
            Format("cifar-100-python", ("train",), "test"),
        ),
    ),
}
"""The sets by the name that runs have of them."""


def find_cifar(folder: Path, kind: str) -> Path | None:
    """Return the folder with the files of a set: `folder` itself, or the one in it that the set unpacks to."""
    for form in SETS[kind].formats:
        for place in (folder, folder / form.folder):
            # The two sets and their formats differ in the names of their test files.
            if all((place / name).is_file() for name in (form.test, form.train[0])):
                return place
    return None


def cifar_layout(kind: str) -> str:
    """Return in words what a folder of a set looks like."""
    return " or ".join(f"{form.folder}/{{{form.train[0]}..{form.test}}}" for form in SETS[kind].formats)


def cifar_name(folder: Path, kind: str) -> str:
    """Return the name of the data of a folder that `find_cifar` gave; ValueError, one line, if they are damaged."""
    return f"{kind}-{_read(str(folder.absolute()), kind)[1]}"


def load_cifar(folder: Path, kind: str) -> Dataset:
    """Return a set from its folder, normalised by mean and deviation of each channel of its training images."""
    (x, y, x_test, y_test), digest = _read(str(folder.absolute()), kind)
    colours = colours_of(x)
    source = f"{SETS[kind].title}, {len(x)} + {len(x_test)} images of {CIFAR_SIDE} x {CIFAR_SIDE}, sha256 {digest}"
    train, test = BytePixels(x, colours), BytePixels(x_test, colours)
    return Dataset(train, y, test, y_test, classes=SETS[kind].classes, source=source, shift=CROP)


@lru_cache(maxsize=2)
def _read(folder: str, kind: str) -> tuple[tuple[Any, ...], str]:
    """Return images and labels of both splits, and the first digits of the SHA-256 of them, whatever the format."""
    place, known = Path(folder), SETS[kind]
    form = next(form for form in known.formats if (place / form.test).is_file() and (place / form.train[0]).is_file())
    splits = []
    for names, images in ((form.train, 5 * BATCH_IMAGES), ((form.test,), BATCH_IMAGES)):
        parts = [_file(place / name, known, images // len(names)) for name in names]
        splits += [np.concatenate([part[i] for part in parts]) for i in (0, 1)]
    digest = hashlib.sha256()
    for part in splits:
        digest.update(repr(part.shape).encode() + part.tobytes())
    return tuple(splits), digest.hexdigest()[:8]


def _file(path: Path, known: Cifar, images: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return images [n, 32, 32, 3] and labels of a file of `images` images."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ValueError(f"data file {str(path)!r} cannot be read: {error.strerror or error}") from None
    if path.suffix == ".bin":
        rows, labels = _binary(path, data, known, images)
    else:
        rows, labels = _pickled(path, data, known, images)
    if labels.min() < 0 or labels.max() >= known.classes:
        wrong = labels.min() if labels.min() < 0 else labels.max()
        raise ValueError(f"data file {str(path)!r} has the label {wrong}; {known.title} has 0 to {known.classes - 1}")
    planes = rows.reshape(-1, 3, CIFAR_SIDE, CIFAR_SIDE)
    return np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), labels


def _binary(path: Path, data: bytes, known: Cifar, images: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    size = known.labels + PIXELS
    if len(data) != images * size:
        raise ValueError(
            f"data file {str(path)!r} has {len(data)} bytes; {known.title} has {images} images of {size} bytes there"
        )
    table = np.frombuffer(data, np.uint8).reshape(images, size)
    return table[:, known.labels :], table[:, known.labels - 1].astype(np.int64)


def _pickled(path: Path, data: bytes, known: Cifar, images: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    found = unpickle(path, data)
    labels = found.get(known.key) if isinstance(found, dict) else None
    rows = found.get(b"data") if isinstance(found, dict) else None
    if not isinstance(rows, SafeArray) or not isinstance(labels, list):
        wanted = f"data and {known.key.decode()}"
        raise ValueError(f"data file {str(path)!r} is no batch of {known.title}: it has no {wanted}")
    if len(labels) != images or not all(type(label) is int and -(1 << 31) < label < 1 << 31 for label in labels):
        raise ValueError(f"data file {str(path)!r} has {len(labels)} labels; it must have {images} whole numbers")
    if rows.shape != (images, PIXELS) or rows.code != "u1" or len(rows.data) != images * PIXELS:
        raise ValueError(
            f"data file {str(path)!r} has data of {rows.told()}; they must be bytes of shape {(images, PIXELS)!r}, "
            f"type 'u1' and {images * PIXELS} bytes"
        )
    order = "F" if rows.by_columns else "C"
    table = np.frombuffer(rows.data, np.uint8).reshape(images, PIXELS, order=order)
    return table, np.array(labels, np.int64)


class SafeType:
    """Stands for a NumPy type in a pickled file: its code, and nothing of NumPy."""

    def __init__(self, code: object = "", *_: object) -> None:
        self.code = code.decode("latin1") if isinstance(code, bytes) else code

    def __setstate__(self, state: object) -> None:
        """Take nothing: byte order and fields do not matter for bytes."""


class SafeArray:
    """Stands for an array of NumPy in a pickled file: shape, code of the type, and the bytes as they lie there."""

    shape: object = ()
    code: object = ""
    by_columns = False
    data = b""

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        """Take (version, shape, type, whether by columns, bytes)."""
        if not (isinstance(state, tuple) and len(state) == 5 and isinstance(state[2], SafeType)):
            raise ValueError("an array without shape and type")
        _, self.shape, kind, by_columns, data = state
        self.code, self.by_columns = kind.code, bool(by_columns)
        self.data = data if isinstance(data, bytes) else b""

    def told(self) -> str:
        """Return shape, type and length in few words, whatever the file has in their place."""
        shape, code = "no two whole numbers", "no text"
        if isinstance(self.shape, tuple) and len(self.shape) == 2:
            first, second = self.shape
            if all(type(size) is int and -(1 << 31) < size < 1 << 31 for size in (first, second)):
                shape = f"({first}, {second})"
        if isinstance(self.code, str):
            code = repr(self.code[:20])
        return f"shape {shape}, type {code} and {len(self.data)} bytes"


class SafeEncode:
    """Stands for `_codecs.encode`, by which Python 3 writes bytes in protocol 2: text to latin1 alone.

    left: characters that may still be encoded; a file holds each of its texts once, so no more than it has bytes.
    """

    def __init__(self, left: int) -> None:
        self.left = left

    def __call__(self, text: object, codec: object) -> bytes:
        if not isinstance(text, str) or codec != "latin1":
            raise pickle.UnpicklingError("it encodes in another way than text to latin1")
        self.left -= len(text)
        if self.left < 0:
            raise pickle.UnpicklingError("it encodes more text than it holds")
        return text.encode("latin1")

    def __setstate__(self, state: object) -> None:
        raise pickle.UnpicklingError("it changes _codecs.encode")


class _Unpickler(pickle.Unpickler):
    """Reads numbers, text, bytes, lists, dicts and arrays of bytes; no name of a file is ever imported or called."""

    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data), encoding="bytes")
        self._encode = SafeEncode(len(data))

    _KNOWN: Final = {
        ("numpy", "dtype"): SafeType,
        ("numpy", "ndarray"): SafeArray,
        ("numpy.core.multiarray", "_reconstruct"): SafeArray,
        ("numpy._core.multiarray", "_reconstruct"): SafeArray,
    }

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        if (module_name, global_name) == ("_codecs", "encode"):
            return self._encode
        found = self._KNOWN.get((module_name, global_name))
        if found is None:
            raise pickle.UnpicklingError(f"it asks for {module_name}.{global_name}")
        return found


def unpickle(path: Path, data: bytes) -> Any:
    """Return what a pickled file holds, arrays as `SafeArray`; ValueError, one line, for damage and for other names."""
    try:
        check_hashes(data)
        return _Unpickler(data).load()
    except Exception as error:  # noqa: BLE001 # damaged pickles raise almost anything
        reason = str(error).replace("\n", " ")[:200] or type(error).__name__
        raise ValueError(f"data file {str(path)!r} is no pickled batch: {reason}") from None
