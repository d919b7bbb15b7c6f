"""Optimizers and loss scale of the small experiments: plain NumPy, in the format of the parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

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


def _kept(q: Parameter, name: str) -> NDArray:
    """Return what an optimizer kept of earlier steps, zeros before the first."""
    found = q.state.get(name)
    return np.zeros_like(q.array) if found is None else found
