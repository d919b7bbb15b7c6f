"""Generated tiles of radar, interferometry and optics over a known land cover, and what is measured on them.

Land cover is the largest of smooth random fields, one per class. Optics: colours of the class with Gaussian noise.
Radar: intensities of the class times speckle of L looks, gamma(L) / L. Coherence: that of the class with noise. Phase:
a ramp, wrapped. Biomass: a level of the class and a smooth field. Regions differ in how frequent classes are and in
their colours. Densities are known, so `bayes` is the rule for one pixel by its optics and radar.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

CLASSES: Final = 4
CHANNELS: Final = 8
"""VV, VH and VV - VH in nepers, red, green, blue, coherence, phase over pi."""

COLOURS: Final = np.array([[0.2, 0.5, 0.2], [0.4, 0.5, 0.2], [0.5, 0.4, 0.4], [0.2, 0.3, 0.6]])
RADAR: Final = np.array([[0.5, 0.2], [0.3, 0.08], [1.0, 0.15], [0.03, 0.01]])
COHERENCE: Final = np.array([0.3, 0.5, 0.8, 0.15])
BIOMASS: Final = np.array([2.0, 0.8, 0.1, 0.0])
LOOKS: Final = 4
NOISE: Final = 0.15


@dataclass(frozen=True)
class Region:
    """How a region differs: added to the fields of the classes, and to all colours."""

    frequency: tuple[float, ...]
    tint: tuple[float, float, float]


REGIONS: Final = {
    "home": Region((0.3, 0.0, 0.0, 0.0), (0.0, 0.0, 0.0)),
    "away": Region((-0.6, 0.5, 0.3, 0.0), (0.15, -0.1, -0.1)),
}


@dataclass(frozen=True, eq=False)
class Tiles:
    """images: float32[tiles, side, side, CHANNELS]; cover: int64[tiles, side, side]; biomass: float32, as cover."""

    images: NDArray[np.float32]
    cover: NDArray[np.int64]
    biomass: NDArray[np.float32]


def smooth(rng: np.random.Generator, shape: tuple[int, ...], width: float = 2.0) -> NDArray[np.float64]:
    """Return random fields [..., side, side] of variance 1, smoothed by a Gaussian of `width` pixels, periodic."""
    side = shape[-1]
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side))
    gain = np.exp(-2 * (np.pi * width * frequency) ** 2)
    field = np.fft.irfft2(np.fft.rfft2(rng.standard_normal(shape)) * gain, s=(side, side))
    return field / field.std(axis=(-2, -1), keepdims=True)


def tiles(seed: int, count: int, side: int, region: str) -> Tiles:
    """Return `count` tiles of a region."""
    rng, where = np.random.default_rng([seed, *region.encode()]), REGIONS[region]
    fields = smooth(rng, (count, CLASSES, side, side)) + np.array(where.frequency)[:, None, None]
    cover = fields.argmax(axis=1)
    radar = RADAR[cover] * rng.gamma(LOOKS, 1 / LOOKS, (*cover.shape, 2))
    optics = COLOURS[cover] + np.array(where.tint) + NOISE * rng.standard_normal((*cover.shape, 3))
    coherence = np.clip(COHERENCE[cover] + 0.1 * rng.standard_normal(cover.shape), 0, 1)
    slopes = rng.uniform(-1, 1, (2, count, 1, 1))
    phase = wrap(slopes[0] * np.arange(side)[:, None] + slopes[1] * np.arange(side)) / np.pi
    log = np.log(np.maximum(radar, 1e-6))
    bands = [log[..., 0], log[..., 1], log[..., 0] - log[..., 1], *np.moveaxis(optics, -1, 0), coherence, phase]
    biomass = BIOMASS[cover] + 0.2 * smooth(rng, cover.shape)
    return Tiles(np.stack(bands, axis=-1).astype(np.float32), cover, biomass.astype(np.float32))


def bayes(images: NDArray, region: str) -> NDArray[np.int64]:
    """Return the likeliest class of each pixel by optics and radar alone, classes equally frequent."""
    where, scores = REGIONS[region], []
    for kind in range(CLASSES):
        colour = images[..., 3:6] - COLOURS[kind] - np.array(where.tint)
        speckle = np.exp(images[..., :2]) / RADAR[kind]
        optics = -(colour**2).sum(axis=-1) / (2 * NOISE**2)
        radar = (LOOKS * (np.log(speckle) - speckle)).sum(axis=-1)
        scores.append(optics + radar)
    return np.stack(scores).argmax(axis=0)


def confusion(truth: NDArray[np.integer], found: NDArray[np.integer], classes: int) -> NDArray[np.int64]:
    """Return how many pixels of each class (rows) were given each class (columns)."""
    return np.bincount(truth.ravel() * classes + found.ravel(), minlength=classes**2).reshape(classes, classes)


def mean_iou(truth: NDArray[np.integer], found: NDArray[np.integer], classes: int) -> float:
    """Return the mean over classes that occur of intersection over union."""
    table = confusion(truth, found, classes)
    union = table.sum(axis=0) + table.sum(axis=1) - np.diag(table)
    return float(np.mean(np.diag(table)[union > 0] / union[union > 0]))


def rmse(truth: NDArray, found: NDArray | float) -> float:
    """Return the root of the mean squared error."""
    return float(np.sqrt(np.mean((truth - found) ** 2)))


def wrap(phase: NDArray) -> NDArray:
    """Return a phase between -pi and pi."""
    return (phase + np.pi) % (2 * np.pi) - np.pi


def coherence(left: NDArray, right: NDArray, looks: int) -> NDArray:
    """Return |sum a conj(b)| / sqrt(sum |a|^2 sum |b|^2) over `looks` consecutive samples of the last axis."""
    a, b = (x[..., : x.shape[-1] // looks * looks].reshape(*x.shape[:-1], -1, looks) for x in (left, right))
    power = (np.abs(a) ** 2).sum(axis=-1) * (np.abs(b) ** 2).sum(axis=-1)
    return np.abs((a * b.conj()).sum(axis=-1)) / np.sqrt(power)


def split(longitude: NDArray, width: float) -> dict[str, NDArray[np.int64]]:
    """Return the chips of train, validation and test: bands of `width` degrees, three, one and one of each five."""
    band = np.floor(longitude / width).astype(np.int64) % 5
    kinds = {"train": (0, 1, 2), "validation": (3,), "test": (4,)}
    return {name: np.flatnonzero(np.isin(band, found)) for name, found in kinds.items()}
