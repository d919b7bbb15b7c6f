"""Places for the names of lines, beside them and off each other."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import numpy as np
from matplotlib.textpath import TextPath

from nmsat.reports.pages.style import SMALL, note

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

_GAPS: Final = (8.0, 12.0, 18.0)  # units between a mark's middle and its name
_UNIT: Final = 72  # units to matplotlib's inch
_CLEAR: Final = 3.0  # units that a name keeps off everything
_SAMPLES: Final = 24  # points of a line between two marks that a name keeps off


@dataclass(frozen=True)
class Named:
    """A line to be named, in data of its axes; without a name it is only an obstacle."""

    axes: Axes
    name: str
    points: Sequence[tuple[float, float]]


def place_labels(figure: Figure, lines: Sequence[Named]) -> None:
    """Write the name of each line beside one of its points where it is off all lines, other names and the edge."""
    figure.draw_without_rendering()  # runs the layout, which places are measured in
    figure.set_layout_engine("none")
    for axes in dict.fromkeys(line.axes for line in lines):
        _place(axes, [(line.name, _units(axes, line.points)) for line in lines if line.axes is axes])


def _place(axes: Axes, lines: Sequence[tuple[str, NDArray]]) -> None:
    frame = axes.bbox.get_points() * _UNIT / axes.figure.dpi
    sampled = [_samples(points) for _, points in lines]
    taken: list[NDArray] = []
    for place, (name, points) in enumerate(lines):
        if not name:
            continue
        others = np.concatenate([*sampled[:place], *sampled[place + 1 :], *taken, frame])
        size = _size(name)
        corners = [(point, point + side) for point in points for side in _offsets(*size)]
        # Of places with as much room the nearest.
        rooms = [
            _room(low, low + size, sampled[place], others, frame) - 0.4 * _length(low + size / 2 - point)
            for point, low in corners
        ]
        low = corners[int(np.argmax(rooms))][1]
        taken.append(_filled(low, *size))
        x, y = axes.transData.inverted().transform(low * axes.figure.dpi / _UNIT)
        note(axes, name, (float(x), float(y)), ha="left", va="baseline")


def _size(name: str) -> NDArray:
    box = TextPath((0, 0), name, size=SMALL).get_extents()
    return np.array([box.width, box.height])


def _offsets(width: float, height: float) -> list[NDArray]:
    """Return places of a box's lower left corner around a point."""
    out = []
    for gap in _GAPS:
        for x in (gap, -width - gap, -width / 2):
            for y in (gap, -height - gap, -height / 2):
                if (x, y) != (-width / 2, -height / 2):
                    out.append(np.array([x, y]))
    return out


def _room(low: NDArray, high: NDArray, own: NDArray, others: NDArray, frame: NDArray) -> float:
    """Return how well a box lies: off its own line, further off others; far below zero where it meets something."""
    to_own, to_others = _distance(low, high, own), _distance(low, high, others)
    outside = float(np.maximum(np.maximum(frame[0] - low, high - frame[1]), 0.0).sum())
    meets = min(to_own, to_others) < _CLEAR
    return min(to_own, _GAPS[0]) + min(to_others, _GAPS[1]) - 100.0 * meets - 1000.0 * outside


def _distance(low: NDArray, high: NDArray, points: NDArray) -> float:
    gaps = np.maximum(np.maximum(low - points, points - high), 0.0)
    return float(np.hypot(gaps[:, 0], gaps[:, 1]).min())


def _filled(low: NDArray, width: float, height: float) -> NDArray:
    """Return points all over a box, close enough that no other box lies between them."""
    xs, ys = np.linspace(0.0, width, _SAMPLES), np.linspace(0.0, height, 4)
    return low + np.array([(x, y) for x in xs for y in ys])


def _samples(points: NDArray) -> NDArray:
    """Return points along the line through the given ones."""
    if len(points) < 2:
        return points
    steps = np.linspace(0.0, 1.0, _SAMPLES)[:, None]
    parts = [first + steps * (last - first) for first, last in pairwise(points)]
    return np.concatenate(parts)


def _units(axes: Axes, points: Sequence[tuple[float, float]]) -> NDArray:
    """Return data points in units of the picture."""
    return axes.transData.transform(np.asarray(points)) * _UNIT / axes.figure.dpi


def _length(way: NDArray) -> float:
    return float(np.hypot(way[0], way[1]))
