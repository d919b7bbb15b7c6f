"""Layers that compute forward, backward and weight-gradient products through one `Context`.

Tensors between layers are NHWC or [rows, features], in the tensor format of the arithmetic (binary16 in the contract).
A layer keeps what its backward pass needs from its last forward pass.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from algorithms.arithmetic import CONTRACT, Arithmetic, Operand
from algorithms.methods import Method
from algorithms.parameter import Parameter, Weight
from algorithms.tape import ConvShape, Product, Stage, Tape
from algorithms.windows import (
    backward_matrix,
    backward_shape,
    backward_taps,
    forward_windows,
    output_size,
    windows,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


@dataclass
class Context:
    """How a run computes: arithmetic, method, the tape (if any), and the random numbers of stochastic methods."""

    arithmetic: Arithmetic = CONTRACT
    method: Method = field(default_factory=lambda: Method("dense"))
    tape: Tape | None = None
    training: bool = True
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def product(
        self, name: str, stage: Stage, a: NDArray, w: Operand, conv: ConvShape | None = None, count: int = 1
    ) -> NDArray:
        """Compute a[m, k] @ w[k, n] in the wide format and record it on the tape."""
        y = self.arithmetic.dot(a, w)
        if self.tape is not None:
            m, k = a.shape
            n = w.values.shape[1]
            self.tape.record(Product(name, stage, m, k, n, w.pattern, count, conv, a, w.values, y))
        return y


class Layer(ABC):
    """One step of a network."""

    @abstractmethod
    def forward(self, x: NDArray, ctx: Context) -> NDArray:
        """Return the output for x."""

    @abstractmethod
    def backward(self, dy: NDArray, ctx: Context) -> NDArray:
        """Return the gradient of the last forward pass's input and leave those of the parameters in `grad`.

        A layer built with `first=True` has no product for the input gradient and returns an empty array.
        """

    def parameters(self) -> list[Parameter]:
        """Return the trained tensors of the layer."""
        return []


class _Product(Layer):
    """What Linear and Conv2d share: the three products of a weight matrix."""

    def __init__(self, name: str, weight: Weight, bias: Parameter | None, *, first: bool) -> None:
        self.name = name
        self.weight = weight
        self.bias = bias
        self.first = first
        self._rows: NDArray = np.empty(0)

    def parameters(self) -> list[Parameter]:
        return [self.weight] if self.bias is None else [self.weight, self.bias]

    def _forward(self, rows: NDArray, ctx: Context, conv: ConvShape | None) -> NDArray:
        if self.weight.ff is None:
            raise RuntimeError(f"layer {self.name!r} has no forward copy of its weight; call prepare(model, ctx) first")
        self._rows = rows
        y = ctx.product(self.name, Stage.FF, rows, self.weight.ff, conv)
        if self.bias is not None:
            with np.errstate(all="ignore"):
                y = y + self.bias.copy.astype(ctx.arithmetic.wide)
        return ctx.arithmetic.narrow(y)

    def _update(self, dy: NDArray, ctx: Context, conv: ConvShape | None) -> None:
        """Weight gradient X^T dY over the batch rows, and the bias gradient as a chain over the same rows."""
        arithmetic = ctx.arithmetic
        operand = ctx.method.update_gradient(dy, arithmetic, ctx.rng) if self.weight.sparse else None
        operand = arithmetic.operand(dy) if operand is None else operand
        grad = ctx.product(self.name, Stage.WU, self._rows.T, operand, conv)
        self.weight.grad = arithmetic.narrow(grad)
        if self.bias is not None:
            ones = np.ones((1, dy.shape[0]), dy.dtype)
            self.bias.grad = arithmetic.narrow(arithmetic.dot(ones, arithmetic.operand(dy))[0])

    def _input_gradient(self, rows: NDArray, part: int, ctx: Context, conv: ConvShape | None) -> NDArray:
        """Product `part` of the backward pass: windows of dY times W^T, transposed if dY is the sparse side."""
        name = self.name if len(self.weight.bp) == 1 else f"{self.name}/phase{part}"
        operand = self.weight.bp[part]
        sparse = ctx.method.backward_gradient(rows, ctx.arithmetic) if self.weight.sparse else None
        if sparse is None:
            dx = ctx.product(name, Stage.BP, rows, operand, conv)
        else:
            dx = ctx.product(name, Stage.BP, np.ascontiguousarray(operand.values.T), sparse).T
        return ctx.arithmetic.narrow(dx)

    def _ordered(self, dy: NDArray) -> NDArray:
        return dy if self.weight.order is None else dy[..., self.weight.order]


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
        dx = self._input_gradient(self._ordered(rows), 0, ctx, None)
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
        taps = self.shape.kernel[0] * self.shape.kernel[1]
        value = initial(rng, (taps * channels_in, channels_out), taps * channels_in)
        weight = Weight(f"{name}.weight", value, self._backward_matrices, taps=taps, sparse=sparse)
        extra = Parameter(f"{name}.bias", np.zeros(channels_out, np.float32), decay=False) if bias else None
        super().__init__(name, weight, extra, first=first)

    def _phases(self) -> list[tuple]:
        """Stride phases that meet a tap. Which taps they meet does not depend on the size of the input."""
        # Any input at least as long as the stride shows all phases.
        shape = replace(self.shape, height=self.shape.stride[0], width=self.shape.stride[1])
        return [
            (rows.phase, columns.phase)
            for rows in backward_taps(shape, 0)
            for columns in backward_taps(shape, 1)
            if rows.taps and columns.taps
        ]

    def _backward_matrices(self, w: NDArray) -> list[NDArray]:
        shape = replace(self.shape, height=self.shape.stride[0], width=self.shape.stride[1])
        rows, columns = backward_taps(shape, 0), backward_taps(shape, 1)
        return [backward_matrix(w, shape, rows[p], columns[q]) for p, q in self._phases()]

    def forward(self, x: NDArray, ctx: Context) -> NDArray:
        if x.ndim != 4 or x.shape[3] != self.shape.channels_in:
            raise ValueError(
                f"input of {self.name!r} has shape {x.shape}; it must be [B, H, W, {self.shape.channels_in}]"
            )
        self.shape = replace(self.shape, batch=x.shape[0], height=x.shape[1], width=x.shape[2])
        y = self._forward(forward_windows(x, self.shape), ctx, self.shape)
        return y.reshape(x.shape[0], *output_size(self.shape), -1)

    def backward(self, dy: NDArray, ctx: Context) -> NDArray:
        self._update(dy.reshape(-1, dy.shape[-1]), ctx, self.shape)
        if self.first:
            return np.empty(0, dy.dtype)
        shape, dy = self.shape, self._ordered(dy)
        dx = np.zeros((shape.batch, shape.height, shape.width, shape.channels_in), dy.dtype)
        all_rows, all_columns = backward_taps(shape, 0), backward_taps(shape, 1)
        conv = backward_shape(shape)
        for part, (p, q) in enumerate(self._phases()):
            if p >= len(all_rows) or q >= len(all_columns):
                continue  # the input is shorter than the stride
            rows, columns = all_rows[p], all_columns[q]
            size = (rows.length, columns.length)
            picked = self._input_gradient(windows(dy, rows.offsets, columns.offsets, size), part, ctx, conv)
            dx[:, p :: shape.stride[0], q :: shape.stride[1]] = picked.reshape(shape.batch, *size, -1)
        return dx


class ReLU(Layer):
    """max(x, 0); +0 for -0, a NaN stays (docs/arithmetic.md, "Results")."""

    def __init__(self) -> None:
        self._pass: NDArray = np.empty(0)

    def forward(self, x: NDArray, ctx: Context) -> NDArray:
        del ctx
        with np.errstate(invalid="ignore"):
            self._pass = ~(x <= 0)
        return np.where(self._pass, x, x.dtype.type(0))

    def backward(self, dy: NDArray, ctx: Context) -> NDArray:
        del ctx
        return np.where(self._pass, dy, dy.dtype.type(0))


class MaxPool2d(Layer):
    """Largest of each size x size window, windows side by side; a tie goes to the first. Rows left over are dropped."""

    def __init__(self, size: int = 2) -> None:
        self.size = size
        self._shape: tuple[int, ...] = ()
        self._place: NDArray = np.empty(0)

    def forward(self, x: NDArray, ctx: Context) -> NDArray:
        del ctx
        s = self.size
        batch, height, width, channels = self._shape = x.shape
        cut = x[:, : height // s * s, : width // s * s].reshape(batch, height // s, s, width // s, s, channels)
        tiles = cut.transpose(0, 1, 3, 5, 2, 4).reshape(batch, height // s, width // s, channels, s * s)
        self._place = tiles.argmax(axis=-1)[..., None]
        return np.take_along_axis(tiles, self._place, axis=-1)[..., 0]

    def backward(self, dy: NDArray, ctx: Context) -> NDArray:
        del ctx
        s = self.size
        batch, rows, columns, channels = dy.shape
        tiles = np.zeros((*dy.shape, s * s), dy.dtype)
        np.put_along_axis(tiles, self._place, dy[..., None], axis=-1)
        dx = np.zeros(self._shape, dy.dtype)
        spread = tiles.reshape(batch, rows, columns, channels, s, s).transpose(0, 1, 4, 2, 5, 3)
        dx[:, : rows * s, : columns * s] = spread.reshape(batch, rows * s, columns * s, channels)
        return dx


class GlobalAveragePool(Layer):
    """Mean over height and width: [B, H, W, C] to [B, C], computed on the host."""

    def __init__(self) -> None:
        self._shape: tuple[int, ...] = ()

    def forward(self, x: NDArray, ctx: Context) -> NDArray:
        self._shape = x.shape
        return ctx.arithmetic.narrow(ctx.arithmetic.host(x.mean(axis=(1, 2), dtype=np.float64)))

    def backward(self, dy: NDArray, ctx: Context) -> NDArray:
        share = dy.astype(np.float64) / (self._shape[1] * self._shape[2])
        part = ctx.arithmetic.narrow(ctx.arithmetic.host(share))
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


class Sequential(Layer):
    """Layers one after the other."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        self.layers = list(layers)

    def forward(self, x: NDArray, ctx: Context) -> NDArray:
        for layer in self.layers:
            x = layer.forward(x, ctx)
        return x

    def backward(self, dy: NDArray, ctx: Context) -> NDArray:
        for layer in reversed(self.layers):
            dy = layer.backward(dy, ctx)
        return dy

    def parameters(self) -> list[Parameter]:
        return [parameter for layer in self.layers for parameter in layer.parameters()]


def prepare(model: Layer, ctx: Context) -> None:
    """Make all copies that the next step reads; needed before the first step and after every update."""
    for parameter in model.parameters():
        parameter.refresh(ctx.arithmetic, ctx.method)


def initial(rng: np.random.Generator, shape: tuple[int, ...], fan_in: int, gain: float = 2.0) -> NDArray[np.float32]:
    """Draw normal weights of variance gain / fan_in (He et al., ICCV 2015, with gain 2)."""
    return (rng.standard_normal(shape) * np.sqrt(gain / fan_in)).astype(np.float32)


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value
