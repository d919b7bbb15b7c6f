"""Colour images in folders, one for each class, as ImageNet and Tiny ImageNet are laid out. Pillow reads the files.

    DIR/train/CLASS/*.JPEG      (also DIR/train/CLASS/images/*.JPEG)
    DIR/val/CLASS/*.JPEG        (or DIR/val/images/*.JPEG with DIR/val/val_annotations.txt: file, tab, class)

An image's short side is scaled to the side that is asked for, the middle of the long one stays. Files are read when
their images are needed: nothing but their names is held.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from nmsat.algorithms.training.data import Dataset
from nmsat.algorithms.training.pixels import Colours, Pixels, colours_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nmsat.algorithms.training.pixels import Index

FOLDER_SIDES: Final = (32, 64, 224)
"""Sides that images of folders are scaled to."""

ENDS: Final = (".jpeg", ".jpg", ".png")

NOTES: Final = "val_annotations.txt"

COLOUR_SAMPLES: Final = 2000
"""At most so many training images, evenly spread, give mean and deviation of the channels."""

EIGHTH: Final = 8
"""Training images move by up to an eighth of their side."""


@dataclass(frozen=True)
class Found:
    """Files and their classes, by number, of both splits; classes: their names, sorted; digest: of names and sizes."""

    classes: tuple[str, ...]
    train: tuple[tuple[str, int], ...]
    test: tuple[tuple[str, int], ...]
    digest: str


def is_image_folder(folder: Path) -> bool:
    """Tell whether a folder has the two splits."""
    return (folder / "train").is_dir() and (folder / "val").is_dir()


def images_name(folder: Path, side: int) -> str:
    """Return the name of the data of a folder, 'images64c200-0123abcd'; ValueError, one line, for what is wrong."""
    found = list_images(str(folder.absolute()))
    return f"images{side}c{len(found.classes)}-{found.digest}"


def load_images(folder: Path, side: int) -> Dataset:
    """Return the images of a folder, normalised by mean and deviation of each channel of its training images."""
    found = list_images(str(folder.absolute()))
    parts = []
    colours = _colours(str(folder.absolute()), side)
    for files in (found.train, found.test):
        paths = np.array([path for path, _ in files])
        parts += [FilePixels(paths, side, colours), np.array([label for _, label in files], np.int64)]
    source = (
        f"{folder.name}, {len(found.train)} + {len(found.test)} images of {len(found.classes)} classes at {side} x "
        f"{side}, sha256 of names and sizes {found.digest}"
    )
    x, y, x_test, y_test = parts
    return Dataset(x, y, x_test, y_test, classes=len(found.classes), source=source, shift=side // EIGHTH)


@lru_cache(maxsize=2)
def list_images(folder: str) -> Found:
    """Return the files of a folder; ValueError, one line, for what is missing."""
    place = Path(folder)
    if not is_image_folder(place):
        raise ValueError(f"data folder is {folder!r}; it must hold train/ and val/, in each a folder for every class")
    classes = tuple(sorted(path.name for path in (place / "train").iterdir() if path.is_dir()))
    if not classes:
        raise ValueError(f"data folder is {folder!r}; its train/ has no folder of a class")
    numbers = {name: number for number, name in enumerate(classes)}
    train = _by_folder(place / "train", numbers)
    read = _by_notes if (place / "val" / NOTES).is_file() else _by_folder
    test = read(place / "val", numbers)
    digest = hashlib.sha256(repr(classes).encode())
    for path, label in (*train, *test):
        digest.update(f"{Path(path).relative_to(place).as_posix()}\0{label}\0{Path(path).stat().st_size}\0".encode())
    return Found(classes, train, test, digest.hexdigest()[:8])


def _by_folder(split: Path, numbers: dict[str, int]) -> tuple[tuple[str, int], ...]:
    found: list[tuple[str, int]] = []
    for place in sorted(path for path in split.iterdir() if path.is_dir()):
        if place.name not in numbers:
            raise ValueError(f"data folder is {str(split)!r}; it has the class {place.name!r}, which train/ has not")
        files = sorted(str(path) for path in place.rglob("*") if path.suffix.lower() in ENDS)
        found += [(path, numbers[place.name]) for path in files]
    missing = sorted(set(numbers.values()) - {label for _, label in found})
    if missing:
        name = next(name for name, number in numbers.items() if number == missing[0])
        raise ValueError(f"data folder is {str(split)!r}; class {name!r} has no image ({', '.join(ENDS)})")
    return tuple(found)


def _by_notes(split: Path, numbers: dict[str, int]) -> tuple[tuple[str, int], ...]:
    notes = split / NOTES
    found: list[tuple[str, int]] = []
    try:
        lines = notes.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"data file {str(notes)!r} cannot be read: {error}") from None
    for number, line in enumerate(lines, 1):
        name, _, rest = line.partition("\t")
        label = rest.partition("\t")[0]
        path = split / "images" / name
        if label not in numbers:
            raise ValueError(f"data file {str(notes)!r} line {number} has the class {label!r}, which train/ has not")
        if Path(name).name != name or not path.is_file():
            raise ValueError(f"data file {str(notes)!r} line {number} names {name!r}, which images/ does not hold")
        found.append((str(path), numbers[label]))
    if not found:
        raise ValueError(f"data file {str(notes)!r} is empty")
    return tuple(found)


@lru_cache(maxsize=2)
def _colours(folder: str, side: int) -> Colours:
    files = list_images(folder).train
    step = -(-len(files) // COLOUR_SAMPLES)
    return colours_of(np.stack([read_image(path, side) for path, _ in files[::step]]))


def read_image(path: str, side: int) -> NDArray[np.uint8]:
    """Return the middle of an image, scaled to [side, side, 3]; ValueError, one line, for a file that is none."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            short = min(image.size)
            left, top = (image.width - short) // 2, (image.height - short) // 2
            box = (left, top, left + short, top + short)
            return np.asarray(image.convert("RGB").resize((side, side), Image.Resampling.BILINEAR, box))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"data file {path!r} is no image that can be read: {error}") from None


class FilePixels(Pixels):
    """Images in files, read when they are needed."""

    def __init__(self, paths: NDArray[np.str_], side: int, colours: Colours) -> None:
        super().__init__((len(paths), side, side, 3), colours)
        self.paths = paths

    def part(self, keep: NDArray[np.bool_]) -> Pixels:
        return FilePixels(self.paths[keep], self.shape[1], self.colours)

    def _bytes(self, index: Index) -> NDArray[np.uint8]:
        return np.stack([read_image(str(path), self.shape[1]) for path in self.paths[index]])
