"""Data sets that need no network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Dataset:
    """Training and test split.

    x_train, x_test: float32 [samples, ...] or whole numbers (tokens); y_train, y_test: int64 labels; classes: how many.
    """

    x_train: NDArray
    y_train: NDArray[np.int64]
    x_test: NDArray
    y_test: NDArray[np.int64]
    classes: int


def digits() -> Dataset:
    """Return the 1797 handwritten digits of scikit-learn as [samples, 8, 8, 1] in 0..1, 450 of them for the test.

    Source: E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits, UCI 1998 (its test set).
    """
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    # The split is part of the data set: it does not follow the seed of a run.
    order = np.random.default_rng(1998).permutation(len(labels))
    x = (images.reshape(-1, 8, 8, 1) / 16).astype(np.float32)[order]
    y = labels.astype(np.int64)[order]
    return Dataset(x[450:], y[450:], x[:450], y[:450], classes=10)
