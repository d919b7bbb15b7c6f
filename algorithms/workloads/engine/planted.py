"""Problems with a known answer: data made by a sparse network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Regression:
    """Inputs float32[samples, features] and targets float32[samples, outputs], in two parts."""

    x_train: NDArray[np.float32]
    y_train: NDArray[np.float32]
    x_test: NDArray[np.float32]
    y_test: NDArray[np.float32]


def sparse_teacher(
    seed: int, *, features: int = 64, hidden: int = 32, outputs: int = 4, density: float = 0.1, noise: float = 0.05
) -> Regression:
    """Return 1500 + 500 samples of y = relu(x W1) W2 + noise with a sparse W1 and correlated inputs.

    Outputs have variance 1, so an error of 1 is that of the mean. Correlated inputs make early magnitudes misleading:
    which edges the teacher has shows only late in training.
    """
    rng = np.random.default_rng(100 + seed)
    mix = np.eye(features) + 0.9 * rng.standard_normal((features, features)) / np.sqrt(features)
    x = rng.standard_normal((2000, features)) @ mix
    first = rng.standard_normal((features, hidden)) * (rng.random((features, hidden)) < density)
    y = np.maximum(x @ first, 0) @ rng.standard_normal((hidden, outputs))
    y = (y - y.mean(axis=0)) / y.std(axis=0) + noise * rng.standard_normal(y.shape)
    x32, y32 = x.astype(np.float32), y.astype(np.float32)
    return Regression(x32[:1500], y32[:1500], x32[1500:], y32[1500:])


def sparse_network(seed: int, *, features: int = 32, hidden: int = 96, outputs: int = 4) -> Regression:
    """Return 3000 + 1000 samples of a network with two wide hidden layers whose matrices are 15 % dense.

    Outputs have variance 1. A narrow dense student cannot hold the teacher, a wide sparse one of equal cost can.
    """
    rng = np.random.default_rng(200 + seed)
    x = rng.standard_normal((4000, features))
    y = x
    for width in (hidden, hidden):
        k = y.shape[1]
        w = rng.standard_normal((k, width)) * (rng.random((k, width)) < 0.15) / np.sqrt(0.15 * k)
        y = np.maximum(1.4 * y @ w - 0.2, 0)
    y = y @ rng.standard_normal((hidden, outputs))
    y = (y - y.mean(axis=0)) / y.std(axis=0) + 0.05 * rng.standard_normal((4000, outputs))
    x32, y32 = x.astype(np.float32), y.astype(np.float32)
    return Regression(x32[:3000], y32[:3000], x32[3000:], y32[3000:])
