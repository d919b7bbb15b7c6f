"""Convolution as matrix products: windows of NHWC tensors as rows, channels innermost, then taps (row by row).

The forward product reads windows of x, the backward product windows of dy, one product per stride phase: input places
of one phase meet the same taps, so no multiply-add is spent on the zeros between strided outputs.
"""

from __future__ import annotations

from dataclasses import dataclass
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
    rows, columns = (
        [tap * dilation - pad for tap in range(taps)]
        for taps, dilation, pad in zip(shape.kernel, shape.dilation, shape.padding, strict=True)
    )
    return windows(x, rows, columns, output_size(shape), shape.stride)


def backward_taps(shape: ConvShape, axis: int) -> list[Taps]:
    """Return the phases of one axis (0 height, 1 width); a phase that no tap meets has no taps and a zero gradient."""
    stride, dilation, pad = shape.stride[axis], shape.dilation[axis], shape.padding[axis]
    length = (shape.height, shape.width)[axis]
    phases = []
    for phase in range(min(stride, length)):
        met = [tap for tap in range(shape.kernel[axis]) if (phase + pad - tap * dilation) % stride == 0]
        met.reverse()  # a later tap reads an earlier output
        offsets = tuple((phase + pad - tap * dilation) // stride for tap in met)
        phases.append(Taps(phase, tuple(met), offsets, -(-(length - phase) // stride)))
    return phases


def backward_matrix(w: NDArray, shape: ConvShape, rows: Taps, columns: Taps) -> NDArray:
    """Return what the backward product of a phase multiplies: W[taps * C_in, C_out] as [phase taps * C_out, C_in]."""
    kernel = w.reshape(*shape.kernel, shape.channels_in, shape.channels_out)
    picked = kernel[np.ix_(rows.taps, columns.taps)]
    return np.ascontiguousarray(picked.transpose(0, 1, 3, 2)).reshape(-1, shape.channels_in)


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
