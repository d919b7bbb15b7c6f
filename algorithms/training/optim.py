"""Optimizers. Momentum SGD follows docs/arithmetic.md, "Weight update", which SAT's update engine is built to."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from nmsat.algorithms.core.checkpoint import check_tensors
from nmsat.algorithms.core.numeric import between, canonical
from nmsat.algorithms.core.ranges import MAX_SHIFT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from nmsat.algorithms.layers.parameter import Parameter


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
    if w.dtype == np.float32 and g.dtype == np.float16 and (c := between(w, v, g, *_given(mask_ff), few=1)) is not None:
        return c.sgd(w, v, g, mask_ff, _rounded(constants))
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
    return canonical(w2), canonical(v2)


@lru_cache(maxsize=4)
def _rounded(constants: SgdConstants) -> NDArray[np.float32]:
    """Return lr, momentum, weight decay, lambda and 2^-shift in binary32."""
    scale = 2.0**-constants.shift
    five = (constants.lr, constants.momentum, constants.weight_decay, constants.decay, scale)
    return np.array(five, np.float32)


def _given(mask_ff: NDArray[np.bool_] | None) -> tuple[NDArray[np.bool_], ...]:
    return () if mask_ff is None else (mask_ff,)


def gradient(parameter: Parameter) -> NDArray:
    """Return the gradient of a parameter; RuntimeError if the backward pass has not made one."""
    if parameter.grad is None:
        raise RuntimeError(f"parameter {parameter.name!r} has no gradient; run backward first")
    return parameter.grad


def gradients_finite(parameters: Sequence[Parameter]) -> bool:
    """Tell whether no gradient of the step is infinite or NaN; if one is, the whole update is suppressed."""
    return all(_finite(gradient(p)) for p in parameters)


def _finite(g: NDArray) -> bool:
    c = between(g, few=1) if g.dtype == np.float16 else None
    return bool(np.isfinite(g).all()) if c is None else c.finite(g)


class Optimizer(ABC):
    """Updates masters from gradients; the pruned copies are made afterwards by `algorithms.layers.base.prepare`.

    weight_decay: for parameters with `decay`; decay: lambda of the SR-STE term.
    """

    def __init__(self, weight_decay: float = 0.0, decay: float = 0.0) -> None:
        self.weight_decay = weight_decay
        self.decay = decay

    def step(self, parameters: Sequence[Parameter], lr: float, shift: int = 0) -> bool:
        """Update all masters; return False, having changed nothing, if a gradient is infinite or NaN."""
        if not gradients_finite(parameters):
            return False
        for p in parameters:
            self._update(p, SgdConstants(lr, 0.0, self.weight_decay if p.decay else 0.0, self.decay, shift))
        return True

    @abstractmethod
    def state(self) -> dict[str, NDArray]:
        """Return what a checkpoint must hold."""

    @abstractmethod
    def check_state(self, state: Mapping[str, NDArray], parameters: Sequence[Parameter], updates: int) -> None:
        """Raise ValueError, which names the tensor, for what `state` cannot have returned after `updates` updates."""

    @abstractmethod
    def load(self, state: Mapping[str, NDArray]) -> None:
        """Take back what `state` returned and `check_state` has seen."""

    @abstractmethod
    def _update(self, p: Parameter, constants: SgdConstants) -> None: ...


class Sgd(Optimizer):
    """Momentum SGD, as SAT's update engine computes it. velocity: momentum by parameter name."""

    def __init__(self, momentum: float = 0.9, weight_decay: float = 0.0, decay: float = 0.0) -> None:
        super().__init__(weight_decay, decay)
        self.momentum = momentum
        self.velocity: dict[str, NDArray] = {}

    def state(self) -> dict[str, NDArray]:
        return dict(self.velocity)

    def check_state(self, state: Mapping[str, NDArray], parameters: Sequence[Parameter], updates: int) -> None:
        if state or updates:  # before the first update there may be none
            check_tensors(state, {p.name: p.master for p in parameters})

    def load(self, state: Mapping[str, NDArray]) -> None:
        self.velocity = dict(state)

    def _update(self, p: Parameter, constants: SgdConstants) -> None:
        full = SgdConstants(constants.lr, self.momentum, constants.weight_decay, constants.decay, constants.shift)
        v = self.velocity.get(p.name)
        v = np.zeros_like(p.master) if v is None else v
        p.master, self.velocity[p.name] = sgd_update(p.master, v, gradient(p), full, p.mask_ff)


class Adam(Optimizer):
    """Adam with decoupled weight decay (Kingma and Ba, ICLR 2015; Loshchilov and Hutter, ICLR 2019), on the host.

    The SR-STE term joins the gradient, ahead of both moments. All in the wide format.
    """

    def __init__(
        self, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8, weight_decay: float = 0.0, decay: float = 0.0
    ) -> None:
        super().__init__(weight_decay, decay)
        self.beta1, self.beta2, self.eps = beta1, beta2, eps
        self._moments: dict[str, tuple[int, NDArray, NDArray]] = {}

    def state(self) -> dict[str, NDArray]:
        out: dict[str, NDArray] = {}
        for name, (count, first, second) in self._moments.items():
            out |= {f"count/{name}": np.array(count), f"first/{name}": first, f"second/{name}": second}
        return out

    def check_state(self, state: Mapping[str, NDArray], parameters: Sequence[Parameter], updates: int) -> None:
        count = np.array(updates)
        wanted: dict[str, NDArray] = {}
        for p in parameters if updates else ():
            wanted |= {f"count/{p.name}": count, f"first/{p.name}": p.master, f"second/{p.name}": p.master}
        check_tensors(state, wanted)
        for p in parameters if updates else ():
            if int(state[f"count/{p.name}"]) != updates:
                raise ValueError(
                    f"has {int(state[f'count/{p.name}'])} in tensor 'count/{p.name}', and {updates} updates were done"
                )

    def load(self, state: Mapping[str, NDArray]) -> None:
        names = [key.partition("/")[2] for key in state if key.startswith("count/")]
        self._moments = {
            name: (int(state[f"count/{name}"]), state[f"first/{name}"], state[f"second/{name}"]) for name in names
        }

    def _update(self, p: Parameter, constants: SgdConstants) -> None:
        w, wide = p.master, p.master.dtype.type
        zero = np.zeros_like(w)
        count, first, second = self._moments.get(p.name, (0, zero, zero))
        count += 1
        b1, b2 = wide(self.beta1), wide(self.beta2)
        with np.errstate(all="ignore"):
            g = gradient(p).astype(w.dtype) * wide(2.0**-constants.shift)
            if p.mask_ff is not None:
                g = g + np.where(p.mask_ff, wide(0), wide(constants.decay) * w)
            first = b1 * first + (wide(1) - b1) * g
            second = b2 * second + (wide(1) - b2) * (g * g)
            root = np.sqrt(second / wide(1 - self.beta2**count)) + wide(self.eps)
            step = (first / wide(1 - self.beta1**count)) / root + wide(constants.weight_decay) * w
            p.master = canonical(w - wide(constants.lr) * step)
        self._moments[p.name] = (count, first, second)


@dataclass
class LossScale:
    """Exponent of the loss scale: fixed, or as in mixed-precision training (Micikevicius et al., ICLR 2018).

    dynamic: one less after a suppressed update, one more after `interval` good updates in a row, from 0 to 24.
    """

    shift: int
    dynamic: bool = False
    interval: int = 200
    good: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.shift <= MAX_SHIFT:
            raise ValueError(f"shift is {self.shift!r}; the loss scale 2^shift needs shift from 0 to {MAX_SHIFT}")
        if self.interval < 1:
            raise ValueError(f"interval is {self.interval!r}; it must be at least 1")

    def update(self, finite: bool) -> None:
        """Take note of a step whose gradients were finite or not."""
        if not self.dynamic:
            return
        self.good = self.good + 1 if finite else 0
        if not finite:
            self.shift = max(0, self.shift - 1)
        elif self.good == self.interval:
            self.shift, self.good = min(MAX_SHIFT, self.shift + 1), 0
