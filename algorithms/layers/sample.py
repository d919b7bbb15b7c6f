"""What a network reads: the shape of one sample, and how many classes there are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class Sample:
    """Shape of a sample, without the batch ([height, width, channels] for an image), and number of classes.

    The checks raise ValueError, one line, for samples that a network cannot read.
    """

    shape: tuple[int, ...]
    classes: int

    def check_shape(self, wanted: tuple[int, ...]) -> None:
        """Refuse every other shape."""
        if self.shape != wanted:
            raise ValueError(f"samples have shape {self.shape!r}; this network reads {wanted!r} alone")

    def check_axes(self, names: Sequence[str]) -> tuple[int, ...]:
        """Return the shape; refuse another number of axes than there are names."""
        if len(self.shape) != len(names):
            raise ValueError(f"samples have shape {self.shape!r}; this network reads [{', '.join(names)}]")
        return self.shape

    def check_image(self, least: int) -> int:
        """Return the channels of an image; refuse what is none, or has a side below `least` pixels."""
        height, width, channels = self.check_axes(("height", "width", "channels"))
        if min(height, width) < least:
            raise ValueError(f"samples have shape {self.shape!r}; this network reads images of {least} pixels and more")
        return channels

    def check_square(self, part: int) -> int:
        """Return the side of a square image that `part` divides; refuse others."""
        height, width, _ = self.check_axes(("height", "width", "channels"))
        if height != width or height % part:
            raise ValueError(
                f"samples have shape {self.shape!r}; this network reads square images whose side {part} divides"
            )
        return height
