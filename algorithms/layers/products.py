"""Layers with a weight matrix: forward, backward and update product of linear maps and convolutions."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from nmsat.algorithms.core.tape import ConvShape, Stage
from nmsat.algorithms.core.windows import (
    Windows,
    backward_matrix,
    backward_shape,
    backward_taps,
    lazy_windows,
    output_size,
)
from nmsat.algorithms.layers.base import Layer
from nmsat.algorithms.layers.parameter import Parameter, Weight

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nmsat.algorithms.core.windows import Taps
    from nmsat.algorithms.layers.base import Context


class _Product(Layer):
    """What Linear and Conv2d share: the three products of a weight matrix."""

    def __init__(self, name: str, weight: Weight, bias: Parameter | None, *, first: bool) -> None:
        self.name = name
        self.weight = weight
        self.bias = bias
        self.first = first
        self._rows: NDArray | Windows = np.empty(0)

    def parameters(self) -> list[Parameter]:
        return [self.weight] if self.bias is None else [self.weight, self.bias]

    def _forward(self, rows: NDArray | Windows, ctx: Context, conv: ConvShape | None) -> NDArray:
        if self.weight.ff is None:
            raise RuntimeError(f"layer {self.name!r} has no forward copy of its weight; call prepare(model, ctx) first")
        self._rows = rows
        if self.bias is None:
            return ctx.product(self.name, Stage.FF, rows, self.weight.ff, conv, narrow=True)
        y = ctx.product(self.name, Stage.FF, rows, self.weight.ff, conv)
        with np.errstate(all="ignore"):
            y = y + self.bias.copy.astype(ctx.arithmetic.wide)
        return ctx.arithmetic.narrow(y)

    def _update(self, dy: NDArray, ctx: Context, conv: ConvShape | None) -> None:
        """Weight gradient X^T dY over the batch rows, and the bias gradient as a chain over the same rows."""
        arithmetic = ctx.arithmetic
        sparse = ctx.method.update_gradient(dy, ctx.rng) if self.weight.sparse else None
        operand = arithmetic.operand(dy) if sparse is None else arithmetic.operand(sparse, ctx.method.pattern)
        shift = 0 if sparse is None else ctx.method.update_shift(dy)
        online = sparse is not None
        grad = ctx.product(self.name, Stage.WU, self._rows.T, operand, conv, online=online, narrow=not shift)
        if shift:
            with np.errstate(all="ignore"):
                grad = arithmetic.narrow(grad * grad.dtype.type(2.0**shift))
        self.weight.grad = grad
        if self.bias is not None:
            ones = np.ones((1, dy.shape[0]), dy.dtype)
            self.bias.grad = arithmetic.narrow(arithmetic.dot(ones, arithmetic.operand(dy))[0])

    def _backward_side(self, dy: NDArray, ctx: Context) -> tuple[NDArray, bool]:
        """Return dY as the backward products read it, and whether it is their sparse side."""
        sparse = ctx.method.backward_gradient(dy) if self.weight.sparse else None
        if sparse is not None:
            return sparse, True
        return (dy if self.weight.order is None else dy[..., self.weight.order]), False

    def _input_gradient(
        self, rows: NDArray | Windows, part: int, ctx: Context, conv: ConvShape | None, *, sparse: bool
    ) -> NDArray:
        """Product `part` of the backward pass: windows of dY times W^T, transposed if dY is the sparse side."""
        name = self.name if len(self.weight.bp) == 1 else f"{self.name}/phase{part}"
        operand = self.weight.bp[part]
        if sparse:
            rows = rows.array() if isinstance(rows, Windows) else rows
            side = ctx.arithmetic.operand(np.ascontiguousarray(rows.T), ctx.method.pattern)
            return ctx.product(name, Stage.BP, operand.values.T, side, online=True, narrow=True).T
        return ctx.product(name, Stage.BP, rows, operand, conv, narrow=True)


class Linear(_Product):
    """y = x W + b over the last axis; W[features_in, features_out]."""

    def __init__(
        self,
        name: str,
        features_in: int,
        features_out: int,
        rng: np.random.Generator,
        *,
        bias: bool = True,
        sparse: bool = True,
        first: bool = False,
        gain: float = 2.0,
    ) -> None:
        value = initial(rng, (features_in, features_out), features_in, gain)
        weight = Weight(f"{name}.weight", value, lambda w: [np.ascontiguousarray(w.T)], sparse=sparse)
        extra = Parameter(f"{name}.bias", np.zeros(features_out, np.float32), decay=False) if bias else None
        super().__init__(name, weight, extra, first=first)

    def forward(self, x: NDArray, ctx: Context) -> NDArray:
        y = self._forward(x.reshape(-1, x.shape[-1]), ctx, None)
        return y.reshape(*x.shape[:-1], -1)

    def backward(self, dy: NDArray, ctx: Context) -> NDArray:
        rows = dy.reshape(-1, dy.shape[-1])
        self._update(rows, ctx, None)
        if self.first:
            return np.empty(0, dy.dtype)
        rows, sparse = self._backward_side(rows, ctx)
        dx = self._input_gradient(rows, 0, ctx, None, sparse=sparse)
        return dx.reshape(*dy.shape[:-1], -1)


class Conv2d(_Product):
    """Convolution of NHWC tensors; W[taps * C_in, C_out] with C_in innermost in k."""

    def __init__(
        self,
        name: str,
        channels_in: int,
        channels_out: int,
        kernel: int | tuple[int, int],
        rng: np.random.Generator,
        *,
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        bias: bool = False,
        sparse: bool = True,
        first: bool = False,
    ) -> None:
        self.shape = ConvShape(
            batch=1,
            height=1,
            width=1,
            channels_in=channels_in,
            channels_out=channels_out,
            kernel=_pair(kernel),
            stride=_pair(stride),
            padding=_pair(padding),
            dilation=_pair(dilation),
        )
        # Any input at least as long as the stride shows all phases of the backward pass.
        self._least = replace(self.shape, height=self.shape.stride[0], width=self.shape.stride[1])
        taps = self.shape.kernel[0] * self.shape.kernel[1]
        value = initial(rng, (taps * channels_in, channels_out), taps * channels_in)
        weight = Weight(f"{name}.weight", value, self._backward_matrices, taps=taps, sparse=sparse)
        extra = Parameter(f"{name}.bias", np.zeros(channels_out, np.float32), decay=False) if bias else None
        super().__init__(name, weight, extra, first=first)

    def _phases(self) -> list[tuple[Taps, Taps]]:
        """Stride phases that meet a tap. Which taps they meet does not depend on the size of the input."""
        return [
            (rows, columns)
            for rows in backward_taps(self._least, 0)
            for columns in backward_taps(self._least, 1)
            if rows.taps and columns.taps
        ]

    def _backward_matrices(self, w: NDArray) -> list[NDArray]:
        return [backward_matrix(w, self._least, rows, columns) for rows, columns in self._phases()]

    def forward(self, x: NDArray, ctx: Context) -> NDArray:
        if x.ndim != 4 or x.shape[3] != self.shape.channels_in:
            raise ValueError(
                f"input of {self.name!r} has shape {x.shape}; it must be [B, H, W, {self.shape.channels_in}]"
            )
        if x.shape[:3] != (self.shape.batch, self.shape.height, self.shape.width):
            self.shape = replace(self.shape, batch=x.shape[0], height=x.shape[1], width=x.shape[2])
        rows = lazy_windows(x, self.shape)
        y = self._forward(rows if rows.read_by_kernel(packed=False) else rows.array(), ctx, self.shape)
        return y.reshape(x.shape[0], *output_size(self.shape), -1)

    def backward(self, dy: NDArray, ctx: Context) -> NDArray:
        self._update(dy.reshape(-1, dy.shape[-1]), ctx, self.shape)
        if self.first:
            return np.empty(0, dy.dtype)
        shape = self.shape
        dy, sparse = self._backward_side(dy, ctx)
        all_rows, all_columns = backward_taps(shape, 0), backward_taps(shape, 1)
        conv = backward_shape(shape)
        whole = (shape.batch, shape.height, shape.width, shape.channels_in)
        one = shape.stride == (1, 1) and len(self._phases()) == 1
        dx = np.empty(0, dy.dtype) if one else np.zeros(whole, dy.dtype)
        for part, phase in enumerate(self._phases()):
            p, q = (taps.phase for taps in phase)
            if p >= len(all_rows) or q >= len(all_columns):
                continue  # the input is shorter than the stride
            rows, columns = all_rows[p], all_columns[q]
            size = (rows.length, columns.length)
            side = Windows(dy, (rows.offsets, columns.offsets), size)
            picked = self._input_gradient(side, part, ctx, conv, sparse=sparse)
            if one:
                return picked.reshape(whole)
            dx[:, p :: shape.stride[0], q :: shape.stride[1]] = picked.reshape(shape.batch, *size, -1)
        return dx


def initial(rng: np.random.Generator, shape: tuple[int, ...], fan_in: int, gain: float = 2.0) -> NDArray[np.float32]:
    """Draw normal weights of variance gain / fan_in (He et al., ICCV 2015, with gain 2)."""
    return (rng.standard_normal(shape) * np.sqrt(gain / fan_in)).astype(np.float32)


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value
