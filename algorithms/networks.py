"""The networks that the runs train. First layer and classifier stay dense unless `sparse_ends` says otherwise."""

from __future__ import annotations

from typing import TYPE_CHECKING

from algorithms.layers import Sequential
from algorithms.pointwise import ReLU
from algorithms.pooling import Flatten, MaxPool2d
from algorithms.products import Conv2d, Linear

if TYPE_CHECKING:
    import numpy as np

    from algorithms.layers import Layer


def digits_cnn(rng: np.random.Generator, *, sparse_ends: bool = False) -> Layer:
    """Return three convolutions and two fully connected layers for [B, 8, 8, 1]; 0.45 million multiply-adds forward."""
    return Sequential(
        [
            Conv2d("conv1", 1, 16, 3, rng, padding=1, sparse=sparse_ends, first=True),
            ReLU(),
            Conv2d("conv2", 16, 32, 3, rng, padding=1),
            ReLU(),
            MaxPool2d(2),
            Conv2d("conv3", 32, 32, 3, rng, padding=1),
            ReLU(),
            MaxPool2d(2),
            Flatten(),
            Linear("fc1", 128, 64, rng),
            ReLU(),
            Linear("fc2", 64, 10, rng, sparse=sparse_ends),
        ]
    )
