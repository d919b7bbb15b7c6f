"""Momentum SGD in the fixed order of docs/arithmetic.md, "Weight update"."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from algorithms.numeric import canonical

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from algorithms.parameter import Parameter

MAX_SHIFT = 24
"""Largest exponent s of the loss scale 2^s for which removing it is exact for every binary16 gradient."""


@dataclass(frozen=True)
class SgdConstants:
    """Constants of one step, rounded to binary32 once.

    lr: learning rate; momentum; weight_decay; decay: lambda of the SR-STE term; shift: the loss scale is 2^shift.
    """

    lr: float
    momentum: float = 0.9
    weight_decay: float = 0.0
    decay: float = 0.0
    shift: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.shift <= MAX_SHIFT:
            raise ValueError(f"shift is {self.shift!r}; the loss scale 2^shift needs shift from 0 to {MAX_SHIFT}")


def sgd_update(
    w: NDArray,
    v: NDArray,
    g: NDArray,
    constants: SgdConstants,
    mask_ff: NDArray[np.bool_] | None = None,
) -> tuple[NDArray, NDArray]:
    """Return the new master weight and momentum; every line is one operation with one rounding.

    w, v: float32 (or the wide format of a fast run); g: gradient scaled by 2^shift, float16 in the contract; mask_ff:
    what the forward copy of this step kept, None if it was dense. All of one shape.
    """
    wide = w.dtype.type
    lr, mu, wd, lam = (wide(c) for c in (constants.lr, constants.momentum, constants.weight_decay, constants.decay))
    with np.errstate(all="ignore"):
        wide_g = g.astype(w.dtype) * wide(2.0**-constants.shift)
        t1 = wd * w
        t2 = np.zeros_like(w) if mask_ff is None else np.where(mask_ff, wide(0), lam * w)
        g1 = wide_g + t1
        g2 = g1 + t2
        v1 = mu * v
        v2 = v1 + g2
        d = lr * v2
        w2 = w - d
    if w.dtype == np.float32:
        canonical(v2)
        canonical(w2)
    return w2, v2


def gradients_finite(parameters: Sequence[Parameter]) -> bool:
    """Tell whether no gradient of the step is infinite or NaN; if one is, the whole update is suppressed."""
    return all(bool(np.isfinite(gradient(p)).all()) for p in parameters)


def gradient(parameter: Parameter) -> NDArray:
    """Return the gradient of a parameter; RuntimeError if the backward pass has not made one."""
    if parameter.grad is None:
        raise RuntimeError(f"parameter {parameter.name!r} has no gradient; run backward first")
    return parameter.grad


class Sgd:
    """Momentum SGD over a model's parameters.

    momentum, weight_decay: constants of the run; decay: lambda of the SR-STE term; velocity: momentum by name.
    """

    def __init__(self, momentum: float = 0.9, weight_decay: float = 0.0, decay: float = 0.0) -> None:
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.decay = decay
        self.velocity: dict[str, NDArray] = {}

    def step(self, parameters: Sequence[Parameter], lr: float, shift: int = 0) -> bool:
        """Update all masters; return False, having changed nothing, if a gradient is infinite or NaN.

        The pruned copies are not made here: call `prepare` afterwards.
        """
        if not gradients_finite(parameters):
            return False
        for p in parameters:
            constants = SgdConstants(lr, self.momentum, self.weight_decay if p.decay else 0.0, self.decay, shift)
            v = self.velocity.get(p.name)
            v = np.zeros_like(p.master) if v is None else v
            p.master, self.velocity[p.name] = sgd_update(p.master, v, gradient(p), constants, p.mask_ff)
        return True
