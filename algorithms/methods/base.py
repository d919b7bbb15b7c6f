"""The interface of a training method. The base class itself is dense training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from algorithms.arithmetic import Arithmetic, Operand
    from algorithms.parameter import Weight
    from algorithms.tape import Pattern, Stage


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

    def masks(self, weight: Weight) -> Masks | None:
        """Return what stays of weight.copy; called once after every update, for sparse layers only."""
        del weight
        return None

    def backward_gradient(self, dy: NDArray, arithmetic: Arithmetic) -> Operand | None:
        """Return the sparse form of dy^T [k, rows] for dX^T = W dY^T, pruned along k; None leaves dY dense."""
        del dy, arithmetic
        return None

    def update_gradient(self, dy: NDArray, arithmetic: Arithmetic, rng: np.random.Generator) -> Operand | None:
        """Return the sparse form of dy[k, C_out] for dW = X^T dY, pruned along k (the batch); None leaves it dense."""
        del dy, arithmetic, rng
        return None

    def group(self, stage: Stage) -> int:
        """Return M of the sparse operand of a stage, 1 when it is dense."""
        del stage
        return 1

    def state(self) -> dict[str, NDArray]:
        """Return what must be saved to continue a run with identical bits, beside weights and random generators."""
        return {}

    def load(self, state: dict[str, NDArray]) -> None:
        """Take back what `state` returned."""
        if state:
            raise ValueError(f"method {self.name!r} keeps no state; got {', '.join(state)}")
