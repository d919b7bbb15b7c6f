"""Weight layers of a step: their tensors in memory, and what of a model the machine takes along."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from nmsat.algorithms.layers.pointwise import ReLU
from nmsat.algorithms.layers.pooling import Flatten
from nmsat.algorithms.layers.products import Conv2d, Linear
from nmsat.dataflow.contract.isa import HALVES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nmsat.algorithms.layers.base import Layer
    from nmsat.dataflow.program.tensors import Rows, Weights

HOST: Final = 0
"""Region that the host writes and SAT reads: programs, input, what layers of the host hand over."""

WEIGHTS: Final = 1
"""Region of masters, momenta, copies, masks and gradients."""

TENSORS: Final = 2
"""Region of what SAT writes: activations, their gradients, logits."""


@dataclass(frozen=True, eq=False)
class LayerPlan:
    """One weight layer and its tensors.

    layer: of the model; channels: rows of W per tap, and how many of them a tap takes in memory (the others are zeros);
    bias, bias_gradient: rows of binary32 and binary16, None without a bias.
    """

    name: str
    layer: Conv2d | Linear
    weights: Weights
    taps: int
    channels: tuple[int, int]
    bias: Rows | None
    bias_gradient: Rows | None

    def to_memory(self, w: NDArray) -> NDArray:
        """Return W or momenta [k, n] as they lie: zeros behind the channels of each tap."""
        (held, padded), n = self.channels, w.shape[1]
        out = np.zeros((self.taps, padded, n), w.dtype)
        out[:, :held] = w.reshape(self.taps, held, n)
        return out.reshape(-1, n)

    def from_memory(self, w: NDArray) -> NDArray:
        """Return [k, n] without those zeros."""
        (held, padded), n = self.channels, w.shape[1]
        return np.ascontiguousarray(w.reshape(self.taps, padded, n)[:, :held]).reshape(-1, n)


def absorbed(layers: list[Layer], shape: tuple[int, ...]) -> tuple[int, bool]:
    """Return how many layers behind a product its results pass on their way to the next one, and whether flattened.

    A ReLU between two products needs no host; neither does flattening where the channels are whole beats.
    """
    kinds_behind = [type(layer) for layer in layers[1:4]]
    if kinds_behind[:1] != [ReLU]:
        return 0, False
    if kinds_behind[1:2] in ([Conv2d], [Linear]):
        return 1, False
    flat = kinds_behind[1:] == [Flatten, Linear] and len(shape) == 4
    return (2, True) if flat and (shape[-1] % HALVES == 0 or shape[1] * shape[2] == 1) else (0, False)
