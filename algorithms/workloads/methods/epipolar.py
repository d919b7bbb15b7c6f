"""Pinhole cameras around coloured spheres, and the epipolar lines of their pixels: scenes with known depth.

Source of the geometry: R. Hartley and A. Zisserman, "Multiple View Geometry", chapters 6 and 9.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

SPHERES = (
    ((-0.35, 0.0, 0.1), 0.4, (0.9, 0.2, 0.1)),
    ((0.4, 0.15, -0.1), 0.35, (0.1, 0.7, 0.3)),
    ((0.0, -0.4, 0.3), 0.25, (0.2, 0.3, 0.9)),
)
"""Centre, radius and colour."""


@dataclass(frozen=True, eq=False)
class Camera:
    """turn[3, 3]: world to camera (rows: right, down, forward); centre[3]; focal: in pixels; side: pixels of a side."""

    turn: NDArray[np.float64]
    centre: NDArray[np.float64]
    focal: float
    side: int

    def rays(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return origins and directions [side^2, 3], row by row; directions have length 1 along the viewing axis."""
        at = np.arange(self.side) - (self.side - 1) / 2
        down, right = np.meshgrid(at, at, indexing="ij")
        local = np.stack([right.ravel() / self.focal, down.ravel() / self.focal, np.ones(self.side**2)], axis=1)
        return np.tile(self.centre, (self.side**2, 1)), local @ self.turn

    def project(self, points: NDArray) -> NDArray[np.float64]:
        """Return row and column [N, 2] where the camera sees points[N, 3]; 0, 0 is the first pixel's centre."""
        local = (points - self.centre) @ self.turn.T
        middle = (self.side - 1) / 2
        return np.stack([local[:, 1], local[:, 0]], axis=1) / local[:, 2:] * self.focal + middle

    @property
    def matrix(self) -> NDArray[np.float64]:
        """The intrinsic matrix: camera coordinates to homogeneous (column, row, 1)."""
        middle = (self.side - 1) / 2
        return np.array([[self.focal, 0, middle], [0, self.focal, middle], [0, 0, 1.0]])


def ring(count: int, side: int, distance: float = 3.0, start: float = 0.0) -> list[Camera]:
    """Return cameras on a circle around the origin, a quarter turn in all, that look at its centre."""
    cameras = []
    for index in range(count):
        angle = start + index * np.pi / 2 / max(1, count - 1)
        centre = distance * np.array([np.sin(angle), -0.3, -np.cos(angle)])
        forward = -centre / np.linalg.norm(centre)
        right = np.cross([0.0, 1.0, 0.0], forward)
        right /= np.linalg.norm(right)
        cameras.append(Camera(np.stack([right, np.cross(forward, right), forward]), centre, 1.3 * side, side))
    return cameras


def fundamental(left: Camera, right: Camera) -> NDArray[np.float64]:
    """Return F[3, 3] with x'^T F x = 0 for the images x, x' (column, row, 1) of one point in both cameras."""
    turn = right.turn @ left.turn.T
    x, y, z = right.turn @ (left.centre - right.centre)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.linalg.inv(right.matrix).T @ cross @ turn @ np.linalg.inv(left.matrix)


def trace(origins: NDArray, directions: NDArray) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return colour [R, 3] and distance [R] (infinite: nothing is met) of what rays see, shaded by its slope."""
    distance, colour = np.full(len(origins), np.inf), np.ones((len(origins), 3))
    for centre, radius, paint in SPHERES:
        apart = origins - centre
        a, b = (directions**2).sum(1), (apart * directions).sum(1)
        room = b * b - a * ((apart**2).sum(1) - radius**2)
        found = np.where(room > 0, (-b - np.sqrt(np.maximum(room, 0))) / a, np.inf)
        nearer = found < distance
        distance = np.where(nearer, found, distance)
        where = np.where(nearer, found, 0.0)[:, None] * directions + apart
        shade = 0.6 + 0.4 * np.clip(-where[:, 1] / radius, -1, 1)
        colour = np.where(nearer[:, None], shade[:, None] * paint, colour)
    return colour, distance


def image(camera: Camera) -> NDArray[np.float64]:
    """Return what a camera sees: [side, side, 3]."""
    return trace(*camera.rays())[0].reshape(camera.side, camera.side, 3)


def epipolar_samples(target: Camera, sources: list[Camera], distances: NDArray) -> NDArray[np.float64]:
    """Return where points on the rays of the target lie in each source: [sources, side^2 * points, 2]."""
    origins, directions = target.rays()
    points = origins[:, None] + distances[None, :, None] * directions[:, None]
    return np.stack([source.project(points.reshape(-1, 3)) for source in sources])
