"""A flat world with known depth: cameras on a line see rows of pixels of two discs in front of a wall."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from typing import TypeAlias

    from numpy.typing import NDArray

    Discs: TypeAlias = tuple[tuple[float, float, float], ...]

RANGE: Final = (1.0, 5.0)
"""Near and far: distances along the viewing axis."""

WALL: Final = 4.5
PIXELS: Final = 32
WIDTH: Final = 0.6
"""Tangent of half the field of view."""

SEEN: Final = (-0.6, 0.0, 0.6)
HELD_OUT: Final = (-0.3, 0.3)
"""Places of the cameras."""

BOX: Final = 12
"""Pixels of the interval from which a pair is drawn."""

REACH: Final = 3
"""A neighbour is at most so many pixels away."""

DISCS: Final = ((-0.55, 2.2, 0.35), (0.7, 3.0, 0.5))
"""x, z and radius."""


@dataclass(frozen=True, eq=False)
class Rays:
    """Rays of a step: origins, directions [R, 2] (distance counts along z), true depth [R], colours of the first."""

    origins: NDArray[np.float64]
    directions: NDArray[np.float64]
    depth: NDArray[np.float64]
    colour: NDArray[np.float64]


@lru_cache(maxsize=32)
def view(place: float) -> Rays:
    """Return all pixels of the camera at (place, 0) of the world with DISCS."""
    return look(place, DISCS)


def look(place: float, discs: Discs) -> Rays:
    """Return all pixels of the camera at (place, 0), with what they truly see."""
    across = ((np.arange(PIXELS) + 0.5) / PIXELS * 2 - 1) * WIDTH
    origins = np.tile([place, 0.0], (PIXELS, 1))
    directions = np.stack([across, np.ones(PIXELS)], axis=1)
    depth, which = np.full(PIXELS, WALL), np.zeros(PIXELS, np.int64)
    for index, (x, z, radius) in enumerate(discs):
        a = 1 + across**2
        b = across * (place - x) - z
        room = b * b - a * ((place - x) ** 2 + z * z - radius * radius)
        found = np.where(room > 0, (-b - np.sqrt(np.maximum(room, 0))) / a, np.inf)
        which = np.where(found < depth, index + 1, which)
        depth = np.minimum(found, depth)
    where = origins[:, 0] + depth * across
    phases = np.array([[0.0, 1.0, 2.0], [2.0, 0.5, 4.0], [4.0, 3.0, 1.0]])[np.minimum(which, 2)]
    return Rays(origins, directions, depth, 0.5 + 0.35 * np.sin(5 * where[:, None] + phases))


def random_discs(rng: np.random.Generator) -> Discs:
    """Return two discs at random places, the second one deeper."""
    left = (rng.uniform(-0.9, 0.9), rng.uniform(1.9, 2.5), rng.uniform(0.25, 0.45))
    return left, (rng.uniform(-1.1, 1.1), rng.uniform(2.8, 3.6), rng.uniform(0.35, 0.6))


def prior(depth: NDArray, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return a coarse inverse depth of a row: a monotone map, blurred over three pixels, with 2 % noise."""
    inverse = (1 / depth) ** rng.uniform(0.5, 2.0)
    wide = np.pad(inverse, 1, mode="edge")
    soft = (wide[:-2] + 2 * inverse + wide[2:]) / 4
    return soft + 0.02 * np.ptp(soft) * rng.standard_normal(len(soft))


def groups(rough: NDArray, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Draw a group of four pixels of a row by its prior: near, far, and a neighbour of each.

    A neighbour is one of the 30 % most alike of those within reach.
    """
    start = rng.integers(0, len(rough) - BOX + 1)
    pair = start + rng.permutation(BOX)[:2]
    near, far = (int(i) for i in pair[np.argsort(-rough[pair], kind="stable")])
    found = []
    for pixel in (near, far):
        low, high = max(0, pixel - REACH), min(len(rough), pixel + REACH + 1)
        around = np.array([i for i in range(low, high) if i != pixel])
        alike = around[np.argsort(np.abs(rough[around] - rough[pixel]), kind="stable")]
        found.append(int(rng.choice(alike[: max(1, round(0.3 * len(alike)))])))
    return near, far, found[0], found[1]


def step(rgb: int, depth: int, seed: int, world: int = 0) -> Rays:
    """Return `rgb` random rays of the seen views, then depth / 4 groups of four; world: seed of the prior."""
    rng = np.random.default_rng([seed, world])
    views = [view(place) for place in SEEN]
    rough = [prior(v.depth, np.random.default_rng([world, i])) for i, v in enumerate(views)]
    picks = [(int(v), int(i)) for v, i in zip(rng.integers(0, 3, rgb), rng.integers(0, PIXELS, rgb), strict=True)]
    # The groups stand by rank: all near, all far, all neighbours of near, all neighbours of far.
    which = rng.integers(0, 3, depth // 4)
    found = [groups(rough[v], rng) for v in which]
    picks += [(int(v), group[rank]) for rank in range(4) for v, group in zip(which, found, strict=True)]
    return _taken(views, picks, rgb)


def everything(places: tuple[float, ...]) -> Rays:
    """Return all pixels of cameras at `places`, row after row."""
    views = [view(place) for place in places]
    return _taken(views, [(v, i) for v in range(len(views)) for i in range(PIXELS)], len(views) * PIXELS)


def _taken(views: list[Rays], picks: list[tuple[int, int]], coloured: int) -> Rays:
    origins, directions, depth, colour = (
        np.array([getattr(views[v], name)[i] for v, i in picks])
        for name in ("origins", "directions", "depth", "colour")
    )
    return Rays(origins, directions, depth, colour[:coloured])
