"""Optimizers and loss scale of the small experiments: plain NumPy, in the format of the parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

    from nmsat.algorithms.workloads.engine.parameters import Parameter

LOSS_SCALE: Final = 1024.0
"""What a loss is multiplied with before the backward pass, so that small gradients are not lost in binary16."""


def clear(parameters: Iterable[Parameter]) -> None:
    """Forget all gradients."""
    for parameter in parameters:
        parameter.grad = None


def sgd(parameters: Iterable[Parameter], lr: float, momentum: float = 0.9, decay: float = 0.0) -> None:
    """One step of momentum SGD; weights and momentum outside an unstructured mask stay 0."""
    for q in parameters:
        if q.frozen or q.grad is None:
            continue
        g = q.grad + decay * q.array if q.array.ndim > 1 else q.grad
        v = momentum * _kept(q, "velocity") + g
        if q.keep is not None:
            v = np.where(q.keep, v, 0)
        q.state["velocity"] = v
        q.value = (q.array - lr * v).astype(q.array.dtype)
        q.grad = None


def adam(
    parameters: Iterable[Parameter], lr: float, step: int, beta: tuple[float, float] = (0.9, 0.999), decay: float = 0.0
) -> None:
    """One step of AdamW (Loshchilov and Hutter, arXiv 1711.05101); step counts from 1; masks as in `sgd`."""
    for q in parameters:
        if q.frozen or q.grad is None:
            continue
        m = beta[0] * _kept(q, "first") + (1 - beta[0]) * q.grad
        s = beta[1] * _kept(q, "second") + (1 - beta[1]) * q.grad**2
        q.state["first"], q.state["second"] = m, s
        move = (m / (1 - beta[0] ** step)) / (np.sqrt(s / (1 - beta[1] ** step)) + 1e-8)
        value = q.array - lr * move - lr * decay * q.array
        q.value = (value if q.keep is None else np.where(q.keep, value, 0)).astype(q.array.dtype)
        q.grad = None


def bracketed(
    first: Sequence[int], losses: Callable[[Sequence[int]], Sequence[float]], limits: tuple[int, int]
) -> int:
    """Return the integer of least loss, which has a neighbour on both sides whose loss is no less.

    first: neighbouring integers (exponents of a rate) to begin with; losses: of some of them; those beyond an edge are
    tried until the best is inside. Raises RuntimeError if it is at one of `limits`.
    """
    found = dict(zip(first, losses(first), strict=True))
    while True:
        best = min(found, key=lambda i: (found[i], i))
        beyond = [i for i in (best - 1, best + 1) if i not in found]
        if not beyond:
            return best
        if not limits[0] <= beyond[0] <= limits[1]:
            where = f"{limits[0]}..{limits[1]}"
            raise RuntimeError(f"no best inside {where}: the least loss is at {best}; widen the limits")
        found[beyond[0]] = losses(beyond[:1])[0]


def _kept(q: Parameter, name: str) -> NDArray:
    """Return what an optimizer kept of earlier steps, zeros before the first."""
    found = q.state.get(name)
    return np.zeros_like(q.array) if found is None else found
