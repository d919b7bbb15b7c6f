"""Windows of images: which pixels a convolution reads, as the walk of a LOAD_ACT (docs/machine/load.md)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nmsat.algorithms.core.windows import output_size
from nmsat.dataflow.contract.isa import OFFSET_MASK

if TYPE_CHECKING:
    from nmsat.algorithms.core.tape import ConvShape
    from nmsat.dataflow.program.sources import Fields


@dataclass(frozen=True)
class Images:
    """Pixels of a tensor: images of height x width pixels, each a row of the tensor."""

    count: int
    height: int
    width: int

    @property
    def pixels(self) -> int:
        """All pixels."""
        return self.count * self.height * self.width


@dataclass(frozen=True)
class Tap:
    """Where a window reads: input line and column of the window of output pixel (0, 0)."""

    dy: int
    dx: int


@dataclass(frozen=True)
class Window:
    """Windows of an image: `size` output pixels per image, `step` input pixels apart (lines, columns)."""

    images: Images
    size: tuple[int, int]
    step: tuple[int, int]

    def span(self, low: int, high: int, first: int, rows: int) -> tuple[int, int]:
        """Return [first, last) of the lines, counted through all images, that windows of these output pixels read.

        low, high: the least and the largest `dy` of the taps.
        """
        return self._line(low, first), self._line(high, first + rows - 1) + 1

    def _line(self, dy: int, pixel: int) -> int:
        """Return the line that a tap reads for an output pixel, that at the edge if it is outside."""
        height, width = self.size
        tall = self.images.height
        image, place = divmod(pixel, height * width)
        line = place // width * self.step[0] + dy
        return image * tall + min(max(line, 0), tall - 1)

    def fields(self, at: int, pixel: int, tap: Tap, first: int) -> Fields:
        """Return the walk of a LOAD_ACT from output pixel `first` on.

        at: offset of the first pixel of the first image; pixel: beats from pixel to pixel.
        """
        height, width = self.size
        image, place = divmod(first, height * width)
        y0, x0 = divmod(place, width)
        line, picture = self.images.width * pixel, self.images.height * self.images.width * pixel
        x_step, y_step = self.step[1] * pixel, self.step[0] * line
        image_at = at + image * picture + tap.dy * line + tap.dx * pixel
        line_at = image_at + y0 * y_step
        return {
            "windowed": 1,
            "at": (line_at + x0 * x_step) & OFFSET_MASK,
            "line_at": line_at & OFFSET_MASK,
            "image_at": image_at & OFFSET_MASK,
            "x_step": x_step,
            "y_step": y_step,
            "image_step": picture,
            "width": width,
            "height": height,
            "x0": x0,
            "y0": y0,
            "ix0": x0 * self.step[1] + tap.dx,
            "iy0": y0 * self.step[0] + tap.dy,
            "ix_line": tap.dx,
            "iy_image": tap.dy,
            "ix_step": self.step[1],
            "iy_step": self.step[0],
            "in_width": self.images.width,
            "in_height": self.images.height,
        }


def window_of(conv: ConvShape) -> Window:
    """Return the windows of a convolution's input."""
    return Window(Images(conv.batch, conv.height, conv.width), output_size(conv), conv.stride)


def taps_of(conv: ConvShape) -> tuple[Tap, ...]:
    """Return the taps of a convolution, line by line of its kernel."""
    return tuple(
        Tap(p * conv.dilation[0] - conv.padding[0], q * conv.dilation[1] - conv.padding[1])
        for p in range(conv.kernel[0])
        for q in range(conv.kernel[1])
    )
