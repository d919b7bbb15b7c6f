"""Activation functions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from nmsat.algorithms.core.numeric import between, kept
from nmsat.algorithms.core.tape import Stage
from nmsat.algorithms.layers.base import Layer

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nmsat.algorithms.layers.base import Context

_ROOT: Final = float(np.sqrt(2 / np.pi))
_CUBE: Final = 0.044715


class ReLU(Layer):
    """max(x, 0); +0 for -0, a NaN stays (docs/arithmetic.md, "Results")."""

    def __init__(self) -> None:
        self._y: NDArray = np.empty(0)

    def forward(self, x: NDArray, ctx: Context) -> NDArray:
        del ctx
        c = between(x) if x.dtype == np.float16 else None
        if c is not None:
            self._y = c.relu(x)
            return self._y
        with np.errstate(invalid="ignore"):
            above = _positive_half(x) if x.dtype == np.float16 else ~(x <= 0)
        self._y = kept(above, x)
        return self._y

    def backward(self, dy: NDArray, ctx: Context) -> NDArray:
        """Pass what belongs to outputs that are not +0: those above it, and NaNs."""
        del ctx
        c = between(self._y, dy) if dy.dtype == self._y.dtype == np.float16 else None
        if c is not None:
            return c.relu_gradient(self._y, dy)
        y = self._y.view(np.int16) if self._y.dtype == np.float16 else self._y
        return kept(y != 0, dy)


def _positive_half(x: NDArray[np.float16]) -> NDArray[np.bool_]:
    """Return ~(x <= 0) from the bits: NumPy compares binary16 one by one."""
    bits = x.view(np.int16)
    return (bits > -1024) & (bits != 0)  # as int16 the NaNs with a sign are -1023 to -1, -0 and below are lower


class Gelu(Layer):
    """Gaussian error linear unit in its tanh form (Hendrycks and Gimpel 2016, section 2), on the host."""

    def __init__(self) -> None:
        self._x: NDArray = np.empty(0)

    def forward(self, x: NDArray, ctx: Context) -> NDArray:
        self._x = x
        with np.errstate(all="ignore"):
            wide = x.astype(ctx.arithmetic.host)
            y = 0.5 * wide * (1 + np.tanh(_ROOT * (wide + _CUBE * wide * wide * wide)))
        ctx.host("gelu", "Gelu", Stage.FF, x, 10)
        return ctx.arithmetic.from_host(y)

    def backward(self, dy: NDArray, ctx: Context) -> NDArray:
        with np.errstate(all="ignore"):
            x = self._x.astype(ctx.arithmetic.host)
            ctx.host("gelu", "Gelu", Stage.BP, dy, 18)
            t = np.tanh(_ROOT * (x + _CUBE * x * x * x))
            slope = 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * _ROOT * (1 + 3 * _CUBE * x * x)
            return ctx.arithmetic.from_host(dy.astype(ctx.arithmetic.host) * slope)
