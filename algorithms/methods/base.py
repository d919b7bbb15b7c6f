"""The interface of a training method. The base class itself is dense training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from nmsat.algorithms.core.tape import Pattern, Stage


class Weight(Protocol):
    """A weight matrix W[k, n] as a method sees it; `algorithms.layers.parameter.Weight` is one.

    name: unique in the network; master: wide format, what the optimizer updates; half: its copy in binary16, which is
    what pruning compares.
    """

    name: str
    master: NDArray

    @property
    def half(self) -> NDArray[np.float16]: ...


@dataclass(frozen=True, eq=False)
class Masks:
    """What a method keeps of a weight W[k, n]: ff along k, bp along n (None: dense).

    order: permutation of n in which the groups of bp are formed and the backward chain runs; None is ascending.
    """

    ff: NDArray[np.bool_] | None = None
    bp: NDArray[np.bool_] | None = None
    order: NDArray[np.intp] | None = None


class Method:
    """Dense training; the sparse methods override what they prune.

    name: short name; pattern: N:M of the sparse operands; decay: lambda of the SR-STE term (0: off).
    """

    def __init__(self, name: str, pattern: Pattern | None = None, *, decay: float = 0.0) -> None:
        self.name = name
        self.pattern = pattern
        self.decay = decay

    def pattern_of(self, name: str, stage: Stage) -> Pattern | None:
        """Return the pattern of the copy of weight `name` that a stage reads (FF or BP); of use where it has a mask."""
        del name, stage
        return self.pattern

    def check_weights(self, weights: Sequence[Weight]) -> None:
        """Raise ValueError if the method cannot prune these weights, all that it may prune of a network."""
        del weights

    def masks(self, weight: Weight) -> Masks | None:
        """Return what stays of weight.copy; called once after every update, for sparse layers only."""
        del weight
        return None

    def backward_gradient(self, dy: NDArray) -> NDArray | None:
        """Return dy[..., C_out] as the backward product reads it, N:M along C_out; None leaves it dense."""
        del dy
        return None

    def update_gradient(self, dy: NDArray, rng: np.random.Generator) -> NDArray | None:
        """Return dy[rows, C_out] as the update product reads it, N:M along rows (the batch); None leaves it dense.

        It is scaled by 2^-s with s of `update_shift`; the sums of the product are scaled back.
        """
        del dy, rng
        return None

    def update_shift(self, dy: NDArray) -> int:
        """Return s, by which `update_gradient` scales down what its format could not hold; 0 leaves it as it is."""
        del dy
        return 0

    def group(self, stage: Stage) -> int:
        """Return M of the sparse operand of a stage, 1 when it is dense."""
        del stage
        return 1

    def state(self) -> dict[str, NDArray]:
        """Return what a checkpoint must hold beside the weights; `load` and then `masks` repeat the last update."""
        return {}

    def check_state(self, state: Mapping[str, NDArray], weights: Sequence[Weight], updates: int | None) -> None:
        """Raise ValueError, which names the tensor, for what `state` cannot have returned.

        weights: those that the method prunes; updates: done since the start of the run, None while the method has not
        taken over.
        """
        del weights, updates
        if state:
            raise ValueError(f"has tensor {next(iter(state))!r}, and method {self.name!r} keeps none")

    def load(self, state: Mapping[str, NDArray]) -> None:
        """Take back what `state` returned and `check_state` has seen."""
