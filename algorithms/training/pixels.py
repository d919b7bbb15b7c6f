"""Images that are kept as bytes and become float32, of mean 0 and deviation 1 in every channel, where they are read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

Index: TypeAlias = "slice | NDArray"
"""Which samples: a slice, or an array of places or of bool."""


@dataclass(frozen=True, eq=False)
class Colours:
    """Mean and deviation of every channel over the pixels of a training set, in bytes (0..255)."""

    mean: NDArray[np.float64]
    deviation: NDArray[np.float64]

    def normalised(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return (bytes - mean) / deviation; a channel without any deviation is 0."""
        scale = np.where(self.deviation > 0, 1 / np.where(self.deviation > 0, self.deviation, 1), 0)
        return (images.astype(np.float32) - self.mean.astype(np.float32)) * scale.astype(np.float32)


def colours_of(images: NDArray[np.uint8]) -> Colours:
    """Return mean and deviation of images [samples, height, width, channels], from exact sums."""
    levels = np.arange(256)
    counts = np.stack([np.bincount(images[..., c].ravel(), minlength=256) for c in range(images.shape[-1])])
    pixels = counts.sum(axis=1)
    first, second = counts @ levels, counts @ levels**2
    mean = first / pixels
    return Colours(mean, np.sqrt(np.maximum(0, second / pixels - mean**2)))


class Pixels(ABC):
    """Images [samples, height, width, channels]; indexing gives float32.

    shape: of all; colours: what they are normalised by.
    """

    def __init__(self, shape: tuple[int, ...], colours: Colours) -> None:
        self.shape = shape
        self.colours = colours
        self.dtype = np.dtype(np.float32)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Index) -> NDArray[np.float32]:
        return self.colours.normalised(self._bytes(index))

    @abstractmethod
    def part(self, keep: NDArray[np.bool_]) -> Pixels:
        """Return some of the images."""

    @abstractmethod
    def _bytes(self, index: Index) -> NDArray[np.uint8]:
        """Return images as bytes."""


class BytePixels(Pixels):
    """Images that lie in memory, as bytes."""

    def __init__(self, images: NDArray[np.uint8], colours: Colours) -> None:
        super().__init__(images.shape, colours)
        self.images = images

    def part(self, keep: NDArray[np.bool_]) -> Pixels:
        return BytePixels(self.images[keep], self.colours)

    def _bytes(self, index: Index) -> NDArray[np.uint8]:
        return self.images[index]
