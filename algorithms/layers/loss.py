"""Losses, computed by the host (in binary64 under the contract) and rounded once (docs/arithmetic.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nmsat.algorithms.core.arithmetic import Arithmetic


def softmax_cross_entropy(
    logits: NDArray, labels: NDArray[np.integer], arithmetic: Arithmetic, scale: float = 1.0
) -> tuple[float, NDArray]:
    """Return the mean cross entropy in nats and its gradient times `scale`, in the tensor format.

    logits: [rows, classes]; labels: int[rows]; scale: loss scale, a power of two.
    """
    x = logits.astype(arithmetic.host)
    with np.errstate(all="ignore"):  # infinite logits give a NaN loss, which the optimizer's flag catches
        x = x - x.max(axis=1, keepdims=True)
        total = np.exp(x).sum(axis=1, keepdims=True)
        rows = np.arange(len(labels))
        loss = float(np.mean(np.log(total[:, 0]) - x[rows, labels], dtype=np.float64))
        grad = np.exp(x) / total
    grad[rows, labels] -= 1
    return loss, arithmetic.from_host(grad * grad.dtype.type(scale / len(labels)))
