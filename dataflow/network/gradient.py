"""The input gradient of a convolution as dense sub-convolutions over dY, so that only real multiply-adds are made.

Forward, per axis: y[o] takes x[o s + t d - p] w[t] for every tap t. Hence x[i] receives dY[o] w[t] for the taps with
o = (i + p - t d) / s whole and inside dY. The usual im2col over a dY spread out by s multiplies mostly zeros when
s > 1. Instead all positions i of one phase (i mod s) go together: they use the same taps and read dY with step 1
(`algorithms.core.windows.backward_taps`). A stride of s x s gives up to s * s products, each dense, and together they
make as many multiply-adds as the forward pass. Phases without taps have gradient zero and no product.

A convolution with little padding has positions at the border that few taps reach; the dense product would meet mostly
padding there. Where that adds more than 1/8 to the work of an axis, the border is split off by the taps that reach it,
unless the batch is below SPLIT_BATCH: a corner part has one row per image, and few rows leave an array idle.

Taps stand in the order of ascending places in dY, C_out innermost, in every part. A sub-convolution therefore walks the
same chain of terms as the whole one, and the bits of dX do not depend on the split.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import TYPE_CHECKING, Final

from nmsat.algorithms.core.tape import ConvShape
from nmsat.algorithms.core.windows import backward_taps, output_size

if TYPE_CHECKING:
    from collections.abc import Iterator

SPLIT_BATCH: Final = 128
"""Smallest batch at which border parts are worth their own products: 32 rows of elements with 4 rows each."""


@dataclass(frozen=True)
class Segment:
    """One axis of a part of dX: the positions i = first + j step, j = 0 .. positions - 1.

    taps: taps of the forward kernel in use; offsets: place in dY that each meets for j = 0, ascending, equally spaced;
    position j reads dY at offset + j, outside of dY that is padding.
    """

    first: int
    step: int
    positions: int
    taps: tuple[int, ...]
    offsets: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class GradientPart(ConvShape):
    """A part of the input gradient of a convolution; the fields of ConvShape are those of the forward convolution."""

    vertical: Segment
    horizontal: Segment

    @property
    def whole(self) -> ConvShape:
        """The forward convolution."""
        return ConvShape(**{name: getattr(self, name) for name in ConvShape.__dataclass_fields__})

    @property
    def positions(self) -> int:
        """Positions of dX that the part computes: B * rows * columns."""
        return self.batch * self.vertical.positions * self.horizontal.positions

    @property
    def taps(self) -> tuple[int, ...]:
        """Taps in use as indices into the kernel (row by row), in the order of the chain."""
        return tuple(v * self.kernel[1] + h for v in self.vertical.taps for h in self.horizontal.taps)


@lru_cache(maxsize=1024)
def gradient_parts(shape: ConvShape) -> tuple[GradientPart, ...]:
    """Return the parts of dX in ascending order of phase and position; positions in no part have gradient zero.

    shape: the forward convolution; with groups, a part stands for each of them.
    """
    rows, columns = (axis_segments(shape, axis) for axis in (0, 1))
    fields = {name: getattr(shape, name) for name in ConvShape.__dataclass_fields__}
    return tuple(GradientPart(**fields, vertical=v, horizontal=h) for v in rows for h in columns)


@lru_cache(maxsize=1024)
def gradient_macs(shape: ConvShape) -> int:
    """Return the multiply-adds of all parts of dX."""
    made = sum(part.positions * len(part.taps) for part in gradient_parts(shape))
    return made * (shape.channels_in * shape.channels_out // shape.groups)


@lru_cache(maxsize=1024)
def padding_macs(shape: ConvShape) -> int:
    """Return the multiply-adds of all parts of dX beyond those of the forward pass: their windows meet padding instead.

    Each multiply-add of the forward pass has one here. Parts that split the border off have no more.
    """
    rows, columns = output_size(shape)
    forward = shape.batch * rows * columns * shape.kernel[0] * shape.kernel[1]
    return max(0, gradient_macs(shape) - forward * (shape.channels_in * shape.channels_out // shape.groups))


def axis_segments(shape: ConvShape, axis: int) -> tuple[Segment, ...]:
    """Return the segments of one axis of dX (0 vertical, 1 horizontal)."""
    stride, out = shape.stride[axis], output_size(shape)[axis]
    phases = tuple(
        Segment(phase.phase, stride, phase.length, phase.taps, phase.offsets)
        for phase in backward_taps(shape, axis)
        if phase.taps
    )
    work = sum(phase.positions * len(phase.taps) for phase in phases)
    if shape.batch >= SPLIT_BATCH and 8 * work > 9 * out * shape.kernel[axis]:
        return tuple(part for phase in phases for part in _split_border(phase, out))
    return phases


def _split_border(phase: Segment, out: int) -> Iterator[Segment]:
    """Split a phase into runs of positions that the same taps reach; positions that none reaches are dropped."""

    def reach(j: int) -> tuple[int, int]:
        hits = [u for u, offset in enumerate(phase.offsets) if 0 <= offset + j < out]
        return (hits[0], hits[-1] + 1) if hits else (0, 0)

    for (low, high), run in groupby(range(phase.positions), key=reach):
        if low == high:
            continue
        js = list(run)
        yield Segment(
            first=phase.first + js[0] * phase.step,
            step=phase.step,
            positions=len(js),
            taps=phase.taps[low:high],
            offsets=tuple(offset + js[0] for offset in phase.offsets[low:high]),
        )
