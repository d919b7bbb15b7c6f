"""Phantoms of ellipses with known projections, and their reconstruction by filtered back-projection.

Source: A. Kak and M. Slaney, "Principles of Computerized Tomographic Imaging", equations 3.1 (ellipses) and 3.61
(filter). The picture is the square -1..1, rays are parallel; the detector covers its diagonal.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

REACH: Final = 1.25
"""Half the width of the detector; ellipses lie within."""


@dataclass(frozen=True, eq=False)
class Ellipses:
    """Ellipses that add up: centres[n, 2], half axes[n, 2], tilt[n] in radians, value[n]."""

    centres: NDArray[np.float64]
    axes: NDArray[np.float64]
    tilt: NDArray[np.float64]
    value: NDArray[np.float64]


def random_phantom(rng: np.random.Generator) -> Ellipses:
    """Return a body with four to seven ellipses in it, values within 0..1."""
    count = int(rng.integers(4, 8))
    radius, angle = 0.5 * np.sqrt(rng.random(count)), rng.uniform(0, 2 * np.pi, count)
    inside = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    centres = np.concatenate([np.zeros((1, 2)), inside])
    axes = np.concatenate([rng.uniform(0.7, 0.9, (1, 2)), rng.uniform(0.05, 0.3, (count, 2))])
    value = np.concatenate([[0.4], rng.uniform(-0.3, 0.3, count)])
    return Ellipses(centres, axes, rng.uniform(0, np.pi, count + 1), value)


def picture(body: Ellipses, side: int) -> NDArray[np.float64]:
    """Return values at the centres of side x side pixels, row by row from y = -1."""
    at = (np.arange(side) + 0.5) / side * 2 - 1
    y, x = np.meshgrid(at, at, indexing="ij")
    image = np.zeros((side, side))
    for (cx, cy), (a, b), tilt, value in zip(body.centres, body.axes, body.tilt, body.value, strict=True):
        u = (x - cx) * np.cos(tilt) + (y - cy) * np.sin(tilt)
        v = (y - cy) * np.cos(tilt) - (x - cx) * np.sin(tilt)
        image += value * ((u / a) ** 2 + (v / b) ** 2 <= 1)
    return image


def views(count: int) -> NDArray[np.float64]:
    """Return `count` angles of half a turn."""
    return np.arange(count) * np.pi / count


def places(cells: int) -> NDArray[np.float64]:
    """Return the centres of the detector's cells."""
    return ((np.arange(cells) + 0.5) / cells * 2 - 1) * REACH


def sinogram(body: Ellipses, angles: NDArray, cells: int) -> NDArray[np.float64]:
    """Return the line integrals [angles, cells]: 2 v a b sqrt(r^2 - t^2) / r^2, t from the ray to the centre."""
    found = np.zeros((len(angles), cells))
    for (cx, cy), (a, b), tilt, value in zip(body.centres, body.axes, body.tilt, body.value, strict=True):
        wide = (a * np.cos(angles - tilt)) ** 2 + (b * np.sin(angles - tilt)) ** 2
        t = places(cells)[None] - (cx * np.cos(angles) + cy * np.sin(angles))[:, None]
        found += 2 * value * a * b * np.sqrt(np.maximum(wide[:, None] - t * t, 0)) / wide[:, None]
    return found


def back_projected(projections: NDArray, angles: NDArray, side: int) -> NDArray[np.float64]:
    """Return the picture [side, side] from projections[angles, cells] behind the ramp filter of Ramachandran."""
    cells = projections.shape[1]
    step = 2 * REACH / cells
    distance = np.arange(-cells + 1, cells)
    odd = distance % 2 == 1
    kernel = np.where(odd, -1 / (np.pi * np.where(odd, distance, 1) * step) ** 2, 0.0)
    kernel[cells - 1] = 1 / (4 * step**2)
    filtered = (
        np.stack([np.convolve(row, kernel, mode="full")[cells - 1 : 2 * cells - 1] for row in projections]) * step
    )
    at = (np.arange(side) + 0.5) / side * 2 - 1
    y, x = np.meshgrid(at, at, indexing="ij")
    image = np.zeros((side, side))
    for angle, row in zip(angles, filtered, strict=True):
        image += np.interp(x * np.cos(angle) + y * np.sin(angle), places(cells), row, left=0, right=0)
    return image * np.pi / len(angles)


def reconstructions(body: Ellipses, counts: tuple[int, ...], cells: int, side: int) -> list[NDArray[np.float64]]:
    """Return the pictures that each number of views gives."""
    return [back_projected(sinogram(body, views(n), cells), views(n), side) for n in counts]
