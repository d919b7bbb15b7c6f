"""Batch and layer normalisation, computed by the host (in binary64 under the contract) and rounded once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from nmsat.algorithms.core.numeric import between
from nmsat.algorithms.core.tape import Stage
from nmsat.algorithms.layers.base import Layer
from nmsat.algorithms.layers.parameter import Parameter

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nmsat.algorithms.core.tensors import Tensors
    from nmsat.algorithms.layers.base import Context


class _Norm(Layer):
    """y = gain * (x - mean) / sqrt(variance + eps) + offset; statistics over the axes of the subclass."""

    def __init__(self, name: str, channels: int, eps: float = 1e-5) -> None:
        self.name = name
        self.gain = Parameter(f"{name}.gain", np.ones(channels, np.float32), decay=False)
        self.offset = Parameter(f"{name}.offset", np.zeros(channels, np.float32), decay=False)
        self.eps = eps
        self._normal: NDArray = np.empty(0)
        self._inverse: NDArray = np.empty(0)

    def parameters(self) -> list[Parameter]:
        return [self.gain, self.offset]

    def _scale(self, x: NDArray, mean: NDArray, variance: NDArray, ctx: Context) -> NDArray:
        with np.errstate(all="ignore"):
            self._inverse = 1 / np.sqrt(variance + self.eps)
            self._normal = (x - mean) * self._inverse
            ctx.host(self.name, "Normalization", Stage.FF, x, 8)
            return ctx.arithmetic.from_host(self._normal * self._wide(self.gain, ctx) + self._wide(self.offset, ctx))

    def _gradients(self, dy: NDArray, axes: tuple[int, ...], ctx: Context) -> NDArray:
        """Set the parameters' gradients; return dX for statistics over `axes`."""
        with np.errstate(all="ignore"):
            wide = dy.astype(ctx.arithmetic.host)
            ctx.host(self.name, "Normalization", Stage.BP, dy, 12)
            rest = tuple(range(dy.ndim - 1))
            self.gain.grad = ctx.arithmetic.from_host((wide * self._normal).sum(axis=rest))
            self.offset.grad = ctx.arithmetic.from_host(wide.sum(axis=rest))
            inner = wide * self._wide(self.gain, ctx)
            mean = inner.mean(axis=axes, keepdims=True)
            slope = (inner * self._normal).mean(axis=axes, keepdims=True)
            return ctx.arithmetic.from_host((inner - mean - self._normal * slope) * self._inverse)

    @staticmethod
    def _wide(parameter: Parameter, ctx: Context) -> NDArray:
        return parameter.copy.astype(ctx.arithmetic.host)


class BatchNorm(_Norm):
    """Normalise every channel over batch and pixels (Ioffe and Szegedy, ICML 2015).

    Training uses the batch's statistics and moves the running ones by 1 - momentum; evaluation uses the running ones.
    """

    def __init__(self, name: str, channels: int, momentum: float = 0.9, eps: float = 1e-5) -> None:
        super().__init__(name, channels, eps)
        self.momentum = momentum
        self.mean = np.zeros(channels)
        self.variance = np.ones(channels)
        self._read: tuple[NDArray, NDArray] | None = None  # input and mean of the last pass in C, which keeps no more

    def buffers(self) -> dict[str, NDArray]:
        return {f"{self.name}.mean": self.mean, f"{self.name}.variance": self.variance}

    def forward(self, x: NDArray, ctx: Context) -> NDArray:
        c = self._compiled(x, ctx)
        wide = x if c is not None else x.astype(ctx.arithmetic.host)
        if not ctx.training:
            return self._scaled(c, wide, self.mean.astype(ctx.arithmetic.host), self.variance, ctx)
        if c is not None:
            mean, variance, finite = c.statistics(x)
        else:
            axes = tuple(range(x.ndim - 1))
            with np.errstate(all="ignore"):
                mean, variance = wide.mean(axis=axes), wide.var(axis=axes)
            finite = bool(np.isfinite(mean).all() and np.isfinite(variance).all())
        if finite:  # a suppressed step must not spoil them
            self.mean += (1 - self.momentum) * (mean - self.mean)
            self.variance += (1 - self.momentum) * (variance - self.variance)
        return self._scaled(c, wide, mean, variance, ctx)

    def backward(self, dy: NDArray, ctx: Context) -> NDArray:
        if self._read is None:
            return self._gradients(dy, tuple(range(dy.ndim - 1)), ctx)
        x, mean = self._read
        c = self._compiled(dy, ctx)
        if c is None:
            with np.errstate(all="ignore"):
                self._normal = (x.astype(ctx.arithmetic.host) - mean) * self._inverse
            return self._gradients(dy, tuple(range(dy.ndim - 1)), ctx)
        ctx.host(self.name, "Normalization", Stage.BP, dy, 12)
        dx, self.gain.grad, self.offset.grad = c.norm_gradients(dy, x, mean, self._inverse, self.gain.copy)
        return dx

    @staticmethod
    def _compiled(x: NDArray, ctx: Context) -> Tensors | None:
        """Return the C functions if they compute what NumPy would: binary16 in, binary64 inside, rows in order."""
        host = x.dtype == np.float16 and ctx.arithmetic.host == np.float64
        return between(x) if host and x.shape[-1] > 1 and x.flags.c_contiguous else None  # one channel: summed in pairs

    def _scaled(self, c: Tensors | None, x: NDArray, mean: NDArray, variance: NDArray, ctx: Context) -> NDArray:
        self._read = None if c is None else (x, mean)
        if c is None:
            return self._scale(x, mean, variance.astype(x.dtype), ctx)
        ctx.host(self.name, "Normalization", Stage.FF, np.broadcast_to(np.float64(0), x.shape), 8)
        with np.errstate(all="ignore"):
            self._inverse = 1 / np.sqrt(variance + self.eps)
        return c.normalise(x, mean, self._inverse, self.gain.copy, self.offset.copy)


class LayerNorm(_Norm):
    """Normalise every row over its features (Ba et al. 2016)."""

    def forward(self, x: NDArray, ctx: Context) -> NDArray:
        with np.errstate(all="ignore"):
            wide = x.astype(ctx.arithmetic.host)
            mean, variance = wide.mean(axis=-1, keepdims=True), wide.var(axis=-1, keepdims=True)
        return self._scale(wide, mean, variance, ctx)

    def backward(self, dy: NDArray, ctx: Context) -> NDArray:
        return self._gradients(dy, (dy.ndim - 1,), ctx)
