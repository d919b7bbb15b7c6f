"""Colour images made here, whose best possible accuracy is known: coloured motifs somewhere in noise.

An image is noise of variance 1 on every pixel and channel, and in it, at a place chosen among all that it fits, one of
the motifs of its class, in one of four strengths. What a predictor can expect at best follows from Bayes' rule: the
density of an image under each class is a mean over its motifs, places and strengths of normal densities, so
`posterior` is exact, and the mean of its largest entry over fresh images estimates the best accuracy without a label.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from nmsat.algorithms.training.data import Dataset

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIDE: Final = 16
"""Side of an image in pixels."""

CLASSES: Final = 10

MOTIFS: Final = 2
"""Motifs of a class."""

MOTIF_SIDE: Final = 5

STRENGTHS: Final = (3.0, 5.0, 8.0, 12.0)
"""Lengths of a motif as a vector, in deviations of the noise of one pixel and channel; each image draws one of them.

The longest can be seen by eye, from them the motifs are learnt; the shortest nobody finds among so many places.
"""

TRAINING: Final = 12_000

TEST: Final = 3_000

BEST: Final = 0.826
"""Accuracy of the best predictor, as `measured` finds it."""


@dataclass(frozen=True, eq=False)
class Motifs:
    """What the images are made of: float64 [classes * motifs, side, side, 3] of length 1, in the order of classes."""

    patterns: NDArray[np.float64]

    def posterior(self, images: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the probability of each class, [images, classes], given images [images, SIDE, SIDE, 3]."""
        size = self.patterns.shape[1]
        windows = np.lib.stride_tricks.sliding_window_view(images.astype(np.float64), (size, size), axis=(1, 2))
        # log of the density over that of noise alone, at strength s: s (x . motif) - s^2 / 2
        match = np.einsum("byxchw,mhwc->bmyx", windows, self.patterns, optimize=True)
        score = np.stack([strength * match - strength**2 / 2 for strength in STRENGTHS], axis=2)
        terms = score.reshape(len(images), CLASSES, -1)
        density = np.exp(terms - terms.max(axis=(1, 2), keepdims=True)).sum(axis=2)
        return density / density.sum(axis=1, keepdims=True)


def motifs() -> Motifs:
    """Return the motifs of the task: random patterns of length 1, without a mean colour."""
    rng = np.random.default_rng(2309)
    found = rng.standard_normal((CLASSES * MOTIFS, MOTIF_SIDE, MOTIF_SIDE, 3))
    found -= found.mean(axis=(1, 2), keepdims=True)
    return Motifs(found / np.sqrt((found**2).sum(axis=(1, 2, 3), keepdims=True)))


def draw(count: int, rng: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return images float32 [count, SIDE, SIDE, 3] and their classes."""
    patterns, places = motifs().patterns, SIDE - MOTIF_SIDE + 1
    x = rng.standard_normal((count, SIDE, SIDE, 3), dtype=np.float32)
    which = rng.integers(0, CLASSES * MOTIFS, count)
    rows, columns = rng.integers(0, places, (2, count))
    strengths = rng.choice(STRENGTHS, count)
    for image, motif, row, column, strength in zip(x, which, rows, columns, strengths, strict=True):
        image[row : row + MOTIF_SIDE, column : column + MOTIF_SIDE] += (strength * patterns[motif]).astype(np.float32)
    return x, (which // MOTIFS).astype(np.int64)


def colour() -> Dataset:
    """Return the task: images [samples, 16, 16, 3] of ten classes. Made from a fixed seed."""
    x, y = draw(TRAINING + TEST, np.random.default_rng(13015))
    source = (
        f"generated: {CLASSES * MOTIFS} coloured motifs of {MOTIF_SIDE} x {MOTIF_SIDE} in noise, {TRAINING} + {TEST} "
        f"images of {SIDE} x {SIDE}"
    )
    return Dataset(x[:TRAINING], y[:TRAINING], x[TRAINING:], y[TRAINING:], classes=CLASSES, source=source, best=BEST)


def measured(batches: int = 6, size: int = 5000) -> tuple[float, float]:
    """Return the accuracy that the best predictor can expect, and its standard error, from fresh images."""
    drawn = (draw(size, np.random.default_rng(100 + batch))[0] for batch in range(batches))
    best = np.concatenate([motifs().posterior(x).max(axis=1) for x in drawn])
    return float(best.mean()), float(best.std() / np.sqrt(len(best)))


if __name__ == "__main__":
    print("best accuracy {:.4f}, standard error {:.4f}".format(*measured()))
