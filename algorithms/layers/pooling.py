"""Layers that shrink or reshape images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from nmsat.algorithms.core.numeric import between
from nmsat.algorithms.core.tape import Stage
from nmsat.algorithms.layers.base import Layer

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nmsat.algorithms.layers.base import Context


MOST: Final = 16
"""Side of the largest window whose places fit into a byte."""


class MaxPool2d(Layer):
    """Largest of each size x size window, windows side by side; a tie goes to the first. Rows left over are dropped."""

    def __init__(self, size: int = 2) -> None:
        self.size = size
        self._shape: tuple[int, ...] = ()
        self._place: NDArray = np.empty(0)

    def forward(self, x: NDArray, ctx: Context) -> NDArray:
        ctx.host("max_pool", "MaxPool", Stage.FF, x, 1)
        s = self.size
        batch, height, width, channels = self._shape = x.shape
        c = between(x) if x.dtype == np.float16 and s <= MOST and x.flags.c_contiguous else None
        if c is not None:
            y, self._place = c.max_pool(x, s)
            return y
        cut = x[:, : height // s * s, : width // s * s].reshape(batch, height // s, s, width // s, s, channels)
        tiles = cut.transpose(0, 1, 3, 5, 2, 4).reshape(batch, height // s, width // s, channels, s * s)
        self._place = _ordered(tiles).argmax(axis=-1)
        return np.take_along_axis(tiles, self._place[..., None], axis=-1)[..., 0]

    def backward(self, dy: NDArray, ctx: Context) -> NDArray:
        del ctx
        s = self.size
        batch, rows, columns, channels = dy.shape
        c = between(dy) if dy.dtype == np.float16 and self._place.dtype == np.uint8 and dy.flags.c_contiguous else None
        if c is not None:
            return c.max_pool_gradient(dy, self._place, self._shape, s)
        tiles = np.zeros((*dy.shape, s * s), dy.dtype)
        np.put_along_axis(tiles, self._place.astype(np.intp)[..., None], dy[..., None], axis=-1)
        dx = np.zeros(self._shape, dy.dtype)
        spread = tiles.reshape(batch, rows, columns, channels, s, s).transpose(0, 1, 4, 2, 5, 3)
        dx[:, : rows * s, : columns * s] = spread.reshape(batch, rows * s, columns * s, channels)
        return dx


def _ordered(x: NDArray) -> NDArray:
    """Return whole numbers in the order of binary16 values: NumPy compares those one by one. Others stay."""
    if x.dtype != np.float16:
        return x
    bits = np.ascontiguousarray(x).view(np.int16)
    size = bits & 0x7FFF
    if (size > 0x7C00).any():
        return x  # argmax finds the first NaN
    return np.where(bits < 0, -size, size)  # both zeros are 0


class GlobalAveragePool(Layer):
    """Mean over height and width: [B, H, W, C] to [B, C], computed on the host."""

    def __init__(self) -> None:
        self._shape: tuple[int, ...] = ()

    def forward(self, x: NDArray, ctx: Context) -> NDArray:
        self._shape = x.shape
        ctx.host("average_pool", "GlobalAveragePool", Stage.FF, x, 1)
        return ctx.arithmetic.from_host(x.mean(axis=(1, 2), dtype=ctx.arithmetic.host))

    def backward(self, dy: NDArray, ctx: Context) -> NDArray:
        share = dy.astype(ctx.arithmetic.host) / (self._shape[1] * self._shape[2])
        part = ctx.arithmetic.from_host(share)
        return np.broadcast_to(part[:, None, None, :], self._shape).copy()


class Flatten(Layer):
    """[B, ...] to [B, features]."""

    def __init__(self) -> None:
        self._shape: tuple[int, ...] = ()

    def forward(self, x: NDArray, ctx: Context) -> NDArray:
        del ctx
        self._shape = x.shape
        return x.reshape(x.shape[0], -1)

    def backward(self, dy: NDArray, ctx: Context) -> NDArray:
        del ctx
        return dy.reshape(self._shape)


class GlobalMaxPool(Layer):
    """Largest over height and width: [B, H, W, C] to [B, C]; a tie goes to the first."""

    def __init__(self) -> None:
        self._shape: tuple[int, ...] = ()
        self._place: NDArray = np.empty(0)

    def forward(self, x: NDArray, ctx: Context) -> NDArray:
        ctx.host("global_max_pool", "GlobalMaxPool", Stage.FF, x, 1)
        self._shape = x.shape
        flat = x.reshape(x.shape[0], -1, x.shape[3])
        self._place = _ordered(flat).argmax(axis=1)[:, None]
        return np.take_along_axis(flat, self._place, axis=1)[:, 0]

    def backward(self, dy: NDArray, ctx: Context) -> NDArray:
        del ctx
        batch, height, width, channels = self._shape
        dx = np.zeros((batch, height * width, channels), dy.dtype)
        np.put_along_axis(dx, self._place, dy[:, None], axis=1)
        return dx.reshape(self._shape)


class OverlappingMaxPool(Layer):
    """Largest of each 3 x 3 window at stride 2, one pixel of padding, which never wins: the pooling of ResNet's stem.

    A pixel that several windows chose gets the sum of their gradients, on the host in binary64, rounded once.
    """

    SIZE, STRIDE = 3, 2

    def __init__(self) -> None:
        self._shape: tuple[int, ...] = ()
        self._place: NDArray = np.empty(0)

    def forward(self, x: NDArray, ctx: Context) -> NDArray:
        ctx.host("max_pool", "MaxPool", Stage.FF, x, 1)
        self._shape = x.shape
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
        cut = np.lib.stride_tricks.sliding_window_view(padded, (self.SIZE, self.SIZE), axis=(1, 2))
        tiles = cut[:, :: self.STRIDE, :: self.STRIDE].reshape(*self._out(), -1)
        self._place = _ordered(tiles).argmax(axis=-1)
        return np.take_along_axis(tiles, self._place[..., None], axis=-1)[..., 0]

    def backward(self, dy: NDArray, ctx: Context) -> NDArray:
        batch, height, width, channels = self._shape
        total = np.zeros((batch, height + 2, width + 2, channels))
        rows, columns = dy.shape[1:3]
        for tap in range(self.SIZE * self.SIZE):
            down, right = divmod(tap, self.SIZE)
            part = total[:, down : down + 2 * rows : self.STRIDE, right : right + 2 * columns : self.STRIDE]
            part += np.where(self._place == tap, dy, 0)[:, : part.shape[1], : part.shape[2]]
        return ctx.arithmetic.from_host(total[:, 1:-1, 1:-1])

    def _out(self) -> tuple[int, int, int, int]:
        batch, height, width, channels = self._shape
        return batch, (height - 1) // self.STRIDE + 1, (width - 1) // self.STRIDE + 1, channels
