"""CIFAR in small for tests: folders as the authors' page has them, the pickled ones as Python 2 wrote them."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

FOLDERS: Final = {
    ("cifar10", "bin"): "cifar-10-batches-bin",
    ("cifar10", "py"): "cifar-10-batches-py",
    ("cifar100", "bin"): "cifar-100-binary",
    ("cifar100", "py"): "cifar-100-python",
}


def files_of(kind: str, form: str) -> dict[str, int]:
    """Return the files of a set, and how many batches of images each holds."""
    end = ".bin" if form == "bin" else ""
    if kind == "cifar100":
        return {f"train{end}": 5, f"test{end}": 1}
    return {**{f"data_batch_{i}{end}": 1 for i in range(1, 6)}, f"test_batch{end}": 1}


def make_cifar(folder: Path, kind: str, form: str, images: int) -> Path:
    """Write a set with `images` images in a batch of CIFAR-10, and return its folder."""
    place = folder / FOLDERS[kind, form]
    place.mkdir(parents=True)
    rng = np.random.default_rng(17)
    for name, batches in files_of(kind, form).items():
        count = images * batches
        rows = rng.integers(0, 256, (count, 3072)).astype(np.uint8)
        labels = rng.integers(0, 100 if kind == "cifar100" else 10, count)
        if form == "py":
            key = b"fine_labels" if kind == "cifar100" else b"labels"
            (place / name).write_bytes(batch_pickle(key, labels.tolist(), rows))
        else:
            coarse = [np.full((count, 1), 7, np.uint8)] if kind == "cifar100" else []
            (place / name).write_bytes(np.hstack([*coarse, labels[:, None].astype(np.uint8), rows]).tobytes())
    return place


def batch_pickle(key: bytes, labels: list[int], rows: np.ndarray, kind: bytes = b"u1") -> bytes:
    """Return a batch as Python 2 pickled it: byte strings, an array of NumPy by its parts (protocol 2)."""

    def text(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value

    def number(value: int) -> bytes:
        return b"J" + struct.pack("<i", value)

    count, width = rows.shape
    data = rows.tobytes()
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n" + number(0) + b"\x85" + text(b"b") + b"\x87R"
    dtype = b"cnumpy\ndtype\n" + text(kind) + number(0) + number(1) + b"\x87R"
    dtype += b"(" + number(3) + text(b"|") + b"NNN" + number(-1) + number(-1) + number(0) + b"tb"
    shape = number(count) + number(width) + b"\x86"
    state = b"(" + number(1) + shape + dtype + b"\x89T" + struct.pack("<i", len(data)) + data + b"tb"
    listed = b"](" + b"".join(number(label) for label in labels) + b"e"
    body = text(b"batch_label") + text(b"a batch") + text(key) + listed + text(b"data") + array + state
    return b"\x80\x02}(" + body + b"u."
