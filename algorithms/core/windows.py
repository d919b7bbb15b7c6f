"""Convolution as matrix products: windows of NHWC tensors as rows, channels innermost, then taps (row by row).

The forward product reads windows of x, the backward product windows of dy, one product per stride phase: input places
of one phase meet the same taps, so no multiply-add is spent on the zeros between strided outputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from dataclasses import replace as dataclass_replace
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from nmsat.algorithms.core.numeric import between

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from nmsat.algorithms.core.tape import ConvShape


@dataclass(frozen=True)
class Taps:
    """Taps of one axis that the inputs `phase`, `phase + stride`, ... meet in the backward product.

    taps: kernel indices; offsets: place in dy of each tap for the first input of the phase, ascending; length: inputs.
    """

    phase: int
    taps: tuple[int, ...]
    offsets: tuple[int, ...]
    length: int


@dataclass(frozen=True, eq=False)
class Windows:
    """What `windows` returns, as a matrix that is made only where something needs it (`array`).

    x: [B, H, W, C], not to be changed; rows, columns, size, step as of `windows`; turned: its transpose is meant.
    """

    x: NDArray
    places: tuple[tuple[int, ...], tuple[int, ...]]
    size: tuple[int, int]
    step: tuple[int, int] = (1, 1)
    turned: bool = False

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        rows, columns = self.x.shape[0] * self.size[0] * self.size[1], len(self.places[0]) * len(self.places[1])
        columns *= self.x.shape[3]
        return (columns, rows) if self.turned else (rows, columns)

    @property
    def dtype(self) -> np.dtype:
        """Type of the elements."""
        return self.x.dtype

    @property
    def T(self) -> Windows:  # noqa: N802 # as arrays call it
        """The transpose."""
        return dataclass_replace(self, turned=not self.turned)

    @property
    def numbers(self) -> NDArray[np.int64]:
        """What the C kernel reads: height, width, channels, taps per axis, size, step, offsets of both axes."""
        return _numbers(self.x.shape[1:], self.places, self.size, self.step)

    def read_by_kernel(self, *, packed: bool) -> bool:
        """Tell whether the C kernel multiplies these windows without the matrix, by a dense or a packed one."""
        x = self.x
        plain = x.dtype == np.float16 and x.flags.c_contiguous and x.flags.aligned
        return plain and x.shape[3] % 8 == 0 and not (packed and self.turned)

    def array(self) -> NDArray:
        """Return the matrix."""
        made = windows(self.x, *self.places, self.size, self.step)
        return made.T if self.turned else made


@lru_cache(maxsize=256)
def _numbers(
    image: tuple[int, ...], places: tuple[tuple[int, ...], ...], size: tuple[int, int], step: tuple[int, int]
) -> NDArray[np.int64]:
    taps = [len(axis) for axis in places]
    return np.array([*image, *taps, *size, *step, *places[0], *places[1]], np.int64)


def windows(
    x: NDArray, rows: Sequence[int], columns: Sequence[int], size: tuple[int, int], step: tuple[int, int] = (1, 1)
) -> NDArray:
    """Return x[b, i*step0 + rows[p], j*step1 + columns[q], c] as [B * size0 * size1, P * Q * C]; zero outside x.

    x: [B, H, W, C]; rows, columns: offsets of the taps; size: windows per axis; step: distance of windows.
    """
    if (c := between(x)) is not None:
        return c.windows(np.ascontiguousarray(x), rows, columns, size, step)
    batch, height, width, channels = x.shape
    last = ((size[0] - 1) * step[0], (size[1] - 1) * step[1])
    top, left = max(0, -min(rows)), max(0, -min(columns))
    bottom = max(0, last[0] + max(rows) - height + 1)
    right = max(0, last[1] + max(columns) - width + 1)
    padded = np.zeros((batch, top + height + bottom, left + width + right, channels), x.dtype)
    padded[:, top : top + height, left : left + width] = x
    out = np.empty((batch, *size, len(rows), len(columns), channels), x.dtype)
    for p, row in enumerate(rows):
        for q, column in enumerate(columns):
            r, c = row + top, column + left
            out[:, :, :, p, q] = padded[:, r : r + last[0] + 1 : step[0], c : c + last[1] + 1 : step[1]]
    return out.reshape(batch * size[0] * size[1], -1)


@lru_cache(maxsize=256)
def output_size(shape: ConvShape) -> tuple[int, int]:
    """Return height and width of the output; ValueError if the kernel does not fit."""
    sizes = tuple(
        (length + 2 * pad - dilation * (taps - 1) - 1) // stride + 1
        for length, pad, dilation, taps, stride in zip(
            (shape.height, shape.width), shape.padding, shape.dilation, shape.kernel, shape.stride, strict=True
        )
    )
    if min(sizes) < 1:
        raise ValueError(f"convolution {shape} has output size {sizes}; the kernel must fit into the padded input")
    return sizes[0], sizes[1]


def forward_windows(x: NDArray, shape: ConvShape) -> NDArray:
    """Return the windows of x[B, H, W, C_in] as [B * Ho * Wo, taps * C_in]."""
    return lazy_windows(x, shape).array()


def lazy_windows(x: NDArray, shape: ConvShape) -> Windows:
    """Return the windows that `forward_windows` makes, without making them."""
    return Windows(x, _places(shape.kernel, shape.dilation, shape.padding), output_size(shape), shape.stride)


@lru_cache(maxsize=256)
def _places(*axes: tuple[int, int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the offsets of the taps of both axes; axes: kernel, dilation, padding."""
    (kernel, dilation, padding) = axes
    rows, columns = (
        tuple(tap * step - pad for tap in range(taps))
        for taps, step, pad in zip(kernel, dilation, padding, strict=True)
    )
    return rows, columns


def backward_taps(shape: ConvShape, axis: int) -> list[Taps]:
    """Return the phases of one axis (0 height, 1 width); a phase that no tap meets has no taps and a zero gradient."""
    length = (shape.height, shape.width)[axis]
    return list(_taps(shape.stride[axis], shape.dilation[axis], shape.padding[axis], shape.kernel[axis], length))


@lru_cache(maxsize=256)
def _taps(stride: int, dilation: int, pad: int, kernel: int, length: int) -> tuple[Taps, ...]:
    phases = []
    for phase in range(min(stride, length)):
        met = [tap for tap in range(kernel) if (phase + pad - tap * dilation) % stride == 0]
        met.reverse()  # a later tap reads an earlier output
        offsets = tuple((phase + pad - tap * dilation) // stride for tap in met)
        phases.append(Taps(phase, tuple(met), offsets, -(-(length - phase) // stride)))
    return tuple(phases)


def backward_matrix(w: NDArray, shape: ConvShape, rows: Taps, columns: Taps) -> NDArray:
    """Return what the backward product of a phase multiplies: W[taps * C_in, C_out] as [phase taps * C_out, C_in]."""
    if w.dtype == np.float16 and w.flags.c_contiguous and (c := between(w)) is not None:
        return c.turned_taps(w, [p * shape.kernel[1] + q for p in rows.taps for q in columns.taps], shape.channels_in)
    kernel = w.reshape(*shape.kernel, shape.channels_in, shape.channels_out)
    picked = kernel[np.ix_(rows.taps, columns.taps)]
    return np.ascontiguousarray(picked.transpose(0, 1, 3, 2)).reshape(-1, shape.channels_in)


@lru_cache(maxsize=256)
def backward_shape(shape: ConvShape) -> ConvShape | None:
    """Return the backward product as a convolution over dy; None if strided (phases) or padded past the kernel."""
    pad = tuple(d * (k - 1) - p for d, k, p in zip(shape.dilation, shape.kernel, shape.padding, strict=True))
    if shape.stride != (1, 1) or min(pad) < 0:
        return None
    height, width = output_size(shape)
    return type(shape)(
        batch=shape.batch,
        height=height,
        width=width,
        channels_in=shape.channels_out,
        channels_out=shape.channels_in,
        kernel=shape.kernel,
        padding=(pad[0], pad[1]),
        dilation=shape.dilation,
    )
