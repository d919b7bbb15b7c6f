"""What every layer shares: the context of a run, the interface, and layers made of layers.

Tensors between layers are NHWC or [rows, features], in the tensor format of the arithmetic (binary16 in the contract).
A layer keeps what its backward pass needs from its last forward pass.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from nmsat.algorithms.core.arithmetic import CONTRACT, Arithmetic, Operand
from nmsat.algorithms.core.tape import ConvShape, HostWork, Product, Stage, Tape
from nmsat.algorithms.core.windows import Windows
from nmsat.algorithms.methods import Method

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from nmsat.algorithms.layers.parameter import Parameter


@dataclass
class Context:
    """How a run computes: arithmetic, method, the tape (if any), and the random numbers of stochastic methods."""

    arithmetic: Arithmetic = CONTRACT
    method: Method = field(default_factory=lambda: Method("dense"))
    tape: Tape | None = None
    training: bool = True
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def product(
        self,
        name: str,
        stage: Stage,
        a: NDArray | Windows,
        w: Operand,
        conv: ConvShape | None = None,
        *,
        online: bool = False,
        narrow: bool = False,
    ) -> NDArray:
        """Compute a[m, k] @ w[k, n] in the wide format (narrow: rounded to that of tensors) and record it on the tape.

        online: w was pruned within the step.
        """
        if self.tape is None:
            return self.arithmetic.dot_narrow(a, w) if narrow else self.arithmetic.dot(a, w)
        (m, k), n = a.shape, w.values.shape[1]
        a = a.array() if isinstance(a, Windows) else a
        y = self.arithmetic.dot(a, w)
        self.tape.record(Product(name, stage, m, k, n, w.pattern, 1, conv, a, w.values, y, online=online))
        return self.arithmetic.narrow(y) if narrow else y

    def batched(self, name: str, stage: Stage, a: NDArray, w: NDArray) -> NDArray:
        """Compute a[g, m, k] @ w[g, k, n], g independent dense products, and record them as one of count g."""
        y = self.arithmetic.dot_batched(a, w)
        if self.tape is not None:
            (groups, m, k), n = a.shape, w.shape[2]
            self.tape.record(Product(name, stage, m, k, n, None, groups, a=a, w=w, y=y))
        return y

    def host(self, name: str, kind: str, stage: Stage, x: NDArray, operations: int) -> None:
        """Record work of the host on a tensor: `operations` per element, one read and one write of it."""
        if self.tape is not None:
            self.tape.record_host(HostWork(name, kind, stage, operations * x.size, 2 * x.nbytes))


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
        """Return the trained tensors of the layer and of its children."""
        return [parameter for child in self.children() for parameter in child.parameters()]

    def children(self) -> list[Layer]:
        """Return the layers that this one is made of."""
        return []

    def buffers(self) -> dict[str, NDArray]:
        """Return what a checkpoint must hold beside the parameters, by name; arrays are changed in place."""
        return {name: value for child in self.children() for name, value in child.buffers().items()}


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

    def children(self) -> list[Layer]:
        return self.layers


class Residual(Layer):
    """body(x) + shortcut(x), one binary32 addition, one rounding; shortcut defaults to x itself."""

    def __init__(self, body: Layer, shortcut: Layer | None = None) -> None:
        self.body = body
        self.shortcut = shortcut

    def forward(self, x: NDArray, ctx: Context) -> NDArray:
        side = x if self.shortcut is None else self.shortcut.forward(x, ctx)
        return add(self.body.forward(x, ctx), side, ctx)

    def backward(self, dy: NDArray, ctx: Context) -> NDArray:
        side = dy if self.shortcut is None else self.shortcut.backward(dy, ctx)
        return add(self.body.backward(dy, ctx), side, ctx)

    def children(self) -> list[Layer]:
        return [self.body] if self.shortcut is None else [self.body, self.shortcut]


def add(x: NDArray, y: NDArray, ctx: Context) -> NDArray:
    """Return x + y of two tensors: one addition in the wide format, one rounding to the tensor format."""
    return ctx.arithmetic.add(x, y)


def prepare(model: Layer, ctx: Context) -> None:
    """Make all copies that the next step reads; needed before the first step and after every update."""
    for parameter in model.parameters():
        parameter.refresh(ctx.arithmetic, ctx.method)
