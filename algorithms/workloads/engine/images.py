"""What convolutional networks need beside the products: borders, up-sampling, bilinear samples, group normalisation.

All tensors are NHWC. A transposed convolution is one product whose results are added up where they overlap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from nmsat.algorithms.core.tape import Stage
from nmsat.algorithms.workloads.engine import ops
from nmsat.algorithms.workloads.engine.hostcost import WORD_BYTES
from nmsat.algorithms.workloads.engine.products import conv2d, linear

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nmsat.algorithms.workloads.engine.parameters import Parameter
    from nmsat.algorithms.workloads.engine.program import Gradients, Tensor


def conv1d(
    name: str, x: Tensor, w: Parameter, kernel: int, stride: int = 1, padding: int | None = None, *, groups: int = 1
) -> Tensor:
    """Return the convolution of x[B, L, C_in] along L; W and padding as of `conv2d`."""
    batch, length, channels = x.shape
    pad = kernel // 2 if padding is None else padding
    image = ops.reshape(x, (batch, 1, length, channels))
    y = conv2d(name, image, w, (1, kernel), (1, stride), (0, pad), groups=groups)
    return ops.reshape(y, (batch, *y.shape[2:]))


def conv_transpose2d(
    name: str, x: Tensor, w: Parameter, kernel: int, stride: int, padding: int = 0, output_padding: int = 0
) -> Tensor:
    """Return the transposed convolution of x[B, H, W, C_in] with W[C_in, taps * C_out].

    One product gives what every place adds to its window, `fold` adds that up. Height (width) of the result:
    (H - 1) * stride - 2 * padding + kernel + output_padding.
    """
    batch, height, width, _ = x.shape
    taps = linear(name, x, w)
    patches = ops.reshape(taps, (batch, height, width, kernel * kernel, w.shape[1] // kernel**2))
    return fold(patches, kernel, stride, padding, output_padding)


def fold(patches: Tensor, kernel: int, stride: int, padding: int = 0, output_padding: int = 0) -> Tensor:
    """Add up patches[B, H, W, taps, C] at the places of their windows: the adjoint of cutting windows.

    Raises ValueError if the result has no place.
    """
    batch, height, width, taps, channels = patches.shape
    out = tuple((side - 1) * stride - 2 * padding + kernel + output_padding for side in (height, width))
    if min(out) < 1 or taps != kernel**2:
        raise ValueError(f"patches {patches.shape} with kernel {kernel} and padding {padding} fold to size {out}")
    full = tuple(max((side - 1) * stride + kernel, o + padding) for side, o in zip((height, width), out, strict=True))

    def place(image: NDArray, tap: int) -> NDArray:
        i, j = divmod(tap, kernel)
        return image[:, i : i + (height - 1) * stride + 1 : stride, j : j + (width - 1) * stride + 1 : stride]

    def inside(image: NDArray) -> NDArray:
        return image[:, padding : padding + out[0], padding : padding + out[1]]

    def forward(v: NDArray) -> NDArray:
        image = np.zeros((batch, *full, channels), v.dtype)
        for tap in range(taps):
            view = place(image, tap)
            view += v[..., tap, :]
        return np.ascontiguousarray(inside(image))

    def backward(d: NDArray, _y: NDArray, v: NDArray) -> tuple[NDArray]:
        image = np.zeros((batch, *full, channels), v.dtype)
        inside(image)[...] = d
        return (np.stack([place(image, tap) for tap in range(taps)], axis=3),)

    return patches.program.apply("Col2Im", (patches,), (batch, *out, channels), forward, backward)


def depthwise_by_host(name: str, x: Tensor, w: Tensor, stride: int = 1) -> Tensor:
    """Return the convolution of each channel of x[B, H, W, C] with its own kernel of w[side^2, C], left to the host.

    As a product such a layer has one column of results (`conv2d` with as many groups as channels): an array computes it
    in more cycles than the layers around it. Its multiply-adds are counted in all three products.
    """
    batch, height, width, channels = x.shape
    side = round(w.shape[0] ** 0.5)
    pad = side // 2
    out = tuple((length + 2 * pad - side) // stride + 1 for length in (height, width))
    shape, p = (batch, *out, channels), x.program
    macs = w.shape[0] * batch * out[0] * out[1] * channels
    moved = WORD_BYTES * (x.size + macs // w.shape[0])
    p.host(name, "Conv", 2 * macs, moved, macs=macs)

    def place(image: NDArray, tap: int) -> NDArray:
        i, j = divmod(tap, side)
        return image[:, i : i + (out[0] - 1) * stride + 1 : stride, j : j + (out[1] - 1) * stride + 1 : stride]

    def padded(v: NDArray) -> NDArray:
        return np.pad(v, ((0, 0), (pad, pad), (pad, pad), (0, 0)))

    y = None
    if x.data is not None and w.data is not None:
        image = padded(x.data)
        y = np.zeros(shape, x.data.dtype)
        for tap, kernel in enumerate(w.data):
            y += place(image, tap) * kernel

    def back(d: NDArray | None) -> Gradients:
        for stage, needed in ((Stage.BP, x.needs), (Stage.WU, w.needs)):
            if needed:
                p.host(name, "Conv", 2 * macs, moved, stage, macs)
        if d is None or x.data is None or w.data is None:
            return None, None
        image, dx = padded(x.data), np.zeros((batch, height + 2 * pad, width + 2 * pad, channels), x.data.dtype)
        for tap, kernel in enumerate(w.data):
            view = place(dx, tap)
            view += d * kernel
        dw = np.stack([(place(image, tap) * d).sum(axis=(0, 1, 2)) for tap in range(len(w.data))])
        return dx[:, pad : pad + height, pad : pad + width], dw

    return p.node(shape, y, (x, w), back)


def reflect_pad(x: Tensor, padding: int) -> Tensor:
    """Continue x[B, H, W, C] past its border as in a mirror that stands on the border; padding < H and W."""
    batch, height, width, channels = x.shape
    if padding >= min(height, width):
        raise ValueError(f"padding is {padding!r}; a reflected border of {x.shape} is at most {min(height, width) - 1}")
    rows, columns = _reflected(height, padding), _reflected(width, padding)

    def backward(d: NDArray, _y: NDArray, v: NDArray) -> tuple[NDArray]:
        down = np.zeros((height, batch, *d.shape[2:]), v.dtype)
        np.add.at(down, rows, d.swapaxes(0, 1))
        across = np.zeros((width, height, batch, channels), v.dtype)
        np.add.at(across, columns, down.transpose(2, 0, 1, 3))
        return (across.transpose(2, 1, 0, 3),)

    shape = (batch, height + 2 * padding, width + 2 * padding, channels)
    return x.program.apply("Pad", (x,), shape, lambda v: v[:, rows[:, None], columns], backward)


def _reflected(length: int, padding: int) -> NDArray[np.int64]:
    return np.pad(np.arange(length), padding, mode="reflect")


def upsample(x: Tensor, factor: int, *, bilinear: bool = False) -> Tensor:
    """Return x[B, H, W, C] `factor` times as large: each value repeated, or between centres (corners not aligned)."""
    batch, height, width, channels = x.shape
    shape = (batch, height * factor, width * factor, channels)
    if bilinear:
        rows, columns = _between(height, factor), _between(width, factor)

        def mixed(v: NDArray, left: NDArray, right: NDArray) -> NDArray:
            return np.einsum("ih,bhwc,jw->bijc", left, v, right, optimize=True).astype(v.dtype)

        return x.program.apply(
            "GridSample",
            (x,),
            shape,
            lambda v: mixed(v, rows, columns),
            lambda d, _y, _v: (mixed(d, rows.T, columns.T),),
        )

    def backward(d: NDArray, _y: NDArray, _v: NDArray) -> tuple[NDArray]:
        return (d.reshape(batch, height, factor, width, factor, channels).sum(axis=(2, 4)),)

    return x.program.apply("Resize", (x,), shape, lambda v: v.repeat(factor, 1).repeat(factor, 2), backward)


def _between(length: int, factor: int) -> NDArray[np.float64]:
    """Weights [length * factor, length] of linear interpolation between centres; past the last centre it stays."""
    place = np.clip((np.arange(length * factor) + 0.5) / factor - 0.5, 0, length - 1)
    low = np.minimum(place.astype(np.int64), max(length - 2, 0))
    weights = np.zeros((length * factor, length))
    rows = np.arange(length * factor)
    weights[rows, low] = 1 - (place - low)
    weights[rows, np.minimum(low + 1, length - 1)] += place - low
    return weights


def sample(x: Tensor, points: Tensor) -> Tensor:
    """Return x[B, H, W, C] at points[B, N, 2] (row, column; 0, 0 is the first centre), bilinear: [B, N, C].

    Values outside the image are 0. Both operands get gradients.
    """
    batch, _, _, channels = x.shape
    count = points.shape[1]

    def corners(v: NDArray, at: NDArray) -> list[tuple[NDArray, NDArray, NDArray, NDArray, NDArray]]:
        base = np.floor(at).astype(np.int64)
        share = at - base
        found = []
        for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)):
            row, column = base[..., 0] + i, base[..., 1] + j
            inside = (row >= 0) & (row < v.shape[1]) & (column >= 0) & (column < v.shape[2])
            down = share[..., 0] if i else 1 - share[..., 0]
            across = share[..., 1] if j else 1 - share[..., 1]
            found.append((np.where(inside, row, 0), np.where(inside, column, 0), inside, down, across))
        return found

    which = np.arange(batch)[:, None]

    def forward(v: NDArray, at: NDArray) -> NDArray:
        parts = [v[which, r, c] * (down * across * inside)[..., None] for r, c, inside, down, across in corners(v, at)]
        return sum(parts[1:], parts[0]).astype(v.dtype)

    def backward(d: NDArray, _y: NDArray, v: NDArray, at: NDArray) -> tuple[NDArray, NDArray]:
        dx, slope = np.zeros_like(v), np.zeros_like(at)
        for tap, (r, c, inside, down, across) in enumerate(corners(v, at)):
            np.add.at(dx, (which, r, c), d * (down * across * inside)[..., None])
            met = (d * v[which, r, c]).sum(axis=-1) * inside
            slope[..., 0] += met * across * (1 if tap >= 2 else -1)
            slope[..., 1] += met * down * (1 if tap % 2 else -1)
        return dx, slope

    larger = max(x.size, points.size, batch * count * channels)
    share = min(1.0, batch * count * channels / larger)
    return x.program.apply("GridSample", (x, points), (batch, count, channels), forward, backward, share)


def group_norm(x: Tensor, gain: Tensor, bias: Tensor, groups: int, epsilon: float = 1e-5) -> Tensor:
    """Normalise x[B, ..., C] over all places and each of `groups` equal parts of the channels, image by image."""
    batch, channels = x.shape[0], x.shape[-1]
    if channels % groups:
        raise ValueError(f"groups is {groups!r}; it must divide the {channels} channels")

    def parts(v: NDArray) -> tuple[NDArray, NDArray]:
        split = v.reshape(batch, -1, groups, channels // groups)
        centred = split - split.mean(axis=(1, 3), keepdims=True)
        inverse = 1 / np.sqrt((centred * centred).mean(axis=(1, 3), keepdims=True) + epsilon)
        return centred * inverse, inverse

    def forward(v: NDArray, g: NDArray, b: NDArray) -> NDArray:
        return (parts(v)[0].reshape(v.shape) * g + b).astype(v.dtype)

    def backward(d: NDArray, _y: NDArray, v: NDArray, g: NDArray, _b: NDArray) -> tuple[NDArray, NDArray, NDArray]:
        z, inverse = parts(v)
        dz = (d * g).reshape(z.shape)
        dx = inverse * (dz - dz.mean(axis=(1, 3), keepdims=True) - z * (dz * z).mean(axis=(1, 3), keepdims=True))
        rest = tuple(range(v.ndim - 1))
        return dx.reshape(v.shape).astype(v.dtype), (d * z.reshape(v.shape)).sum(axis=rest), d.sum(axis=rest)

    return x.program.apply("GroupNormalization", (x, gain, bias), x.shape, forward, backward)
