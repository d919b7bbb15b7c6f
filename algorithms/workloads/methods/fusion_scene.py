"""A small scene with known boxes: occupied voxels on them, and cameras in its middle that look around."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nmsat.algorithms.workloads.methods.fusion import BOX, Truth

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nmsat.algorithms.workloads.methods.fusion_sizes import Size

FOCAL = 0.7
"""Share of the width of an image that an angle of 45 degrees covers."""


@dataclass(frozen=True, eq=False)
class Scene:
    """sites[voxels, 3] along x, y, z with features[voxels, 5]; pictures, depths (depth, hit); cameras[views, 4, 4] to
    the frame of the LiDAR; cells[views, cells] of the map in each view and where they lie there; objects."""

    sites: NDArray[np.int64]
    features: NDArray[np.float64]
    pictures: NDArray[np.float64]
    depths: NDArray[np.float64]
    cameras: NDArray[np.float64]
    cells: NDArray[np.int64]
    cell_places: NDArray[np.float64]
    truth: Truth

    def seen(self, count: int) -> NDArray[np.float64]:
        """Return 1 for each of `count` cells that some view sees: [count, 1]."""
        found = np.zeros((count, 1))
        found[self.cells.reshape(-1)] = 1
        return found


def known(scene: Scene | None) -> Scene:
    """Return the scene; RuntimeError where a run with values has none."""
    if scene is None:
        raise RuntimeError("a run with values needs a scene")
    return scene


def cameras(views: int) -> NDArray[np.float64]:
    """Return poses [views, 4, 4]: camera (right, down, forward) to LiDAR (x, y, z), turned around z."""
    found = np.tile(np.eye(4), (views, 1, 1))
    for view, angle in enumerate(2 * np.pi * np.arange(views) / views):
        c, s = np.cos(angle), np.sin(angle)
        found[view, :3, :3] = np.array([[s, 0, c], [-c, 0, s], [0, -1, 0]])
    return found


def projected(points: NDArray, pose: NDArray, aspect: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return row and column [N, 2] as shares of the image, and depth [N]; aspect: width over height of the image."""
    local = (points - pose[:3, 3]) @ pose[:3, :3]
    depth = local[:, 2]
    far = np.where(depth > 1e-6, depth, 1e-6)[:, None]
    return local[:, 1::-1] / far * FOCAL * np.array([aspect, 1.0]) + 0.5, depth


def back_projected(places: NDArray, depth: NDArray, pose: NDArray, aspect: float) -> NDArray[np.float64]:
    """Return the points [N, 3] at rows and columns of known depth."""
    local = (places - 0.5) / np.array([aspect, 1.0]) / FOCAL * depth[:, None]
    return np.stack([local[:, 1], local[:, 0], depth], axis=1) @ pose[:3, :3].T + pose[:3, 3]


def scene(size: Size, seed: int) -> Scene:
    """Return a scene of `objects` boxes for the network of a size; distances are in cells of the map."""
    rng = np.random.default_rng(seed)
    side, views, (height, width) = size.map, size.views, size.image
    boxes = np.zeros((1, size.objects, BOX))
    boxes[0, :, :2] = rng.uniform(-0.4, 0.4, (size.objects, 2)) * side
    boxes[0, :, 3:6] = rng.uniform(0.5, 1.5, (size.objects, 3))
    boxes[0, :, 6:8] = np.stack([np.sin(a := rng.uniform(0, np.pi, size.objects)), np.cos(a)], axis=1)
    classes = rng.integers(0, size.fusion.classes, (1, size.objects))
    sites = _sites(size, boxes[0], rng)
    points = _centres(sites, size)
    features = np.concatenate([points / side, rng.random((len(sites), 2))], axis=1)
    poses, depths = cameras(views), np.zeros((views, height, width, 2))
    cells, places = np.zeros((views, size.cells), np.int64), np.zeros((views, size.cells, 2))
    at = np.arange(side) + 0.5 - side / 2
    grid = np.stack([*(g.ravel() for g in np.meshgrid(at, at, indexing="ij")), np.zeros(side**2)], axis=1)
    for view, pose in enumerate(poses):
        where, far = projected(points, pose, width / height)
        pixel = np.floor(where * (height, width)).astype(np.int64)
        inside = (far > 0.5) & np.all((pixel >= 0) & (pixel < (height, width)), axis=1)
        depths[view, pixel[inside, 0], pixel[inside, 1]] = np.stack([far[inside] / side, np.ones(inside.sum())], axis=1)
        where, far = projected(grid, pose, width / height)
        visible = np.flatnonzero((far > 0.4) & np.all((where >= 0) & (where <= 1), axis=1))
        cells[view] = np.resize(visible[np.argsort(far[visible], kind="stable")], size.cells)
        places[view] = where[cells[view]]
    pictures = rng.random((views, height, width, 3))
    return Scene(sites, features, pictures, depths, poses, cells, places, Truth(classes, boxes))


def heat(scene: Scene, shapes: list[tuple[int, int, int]], views: int, classes: int) -> NDArray[np.bool_]:
    """Return where the centres of known objects lie: bool[views, tokens of all levels, classes].

    shapes: height, width and first token of each level.
    """
    found = np.zeros((views, sum(h * w for h, w, _ in shapes), classes), np.bool_)
    points = scene.truth.boxes[0, :, :3]
    aspect = scene.pictures.shape[2] / scene.pictures.shape[1]
    for view in range(views):
        where, far = projected(points, scene.cameras[view], aspect)
        for height, width, start in shapes:
            at = np.floor(where * (height, width)).astype(np.int64)
            seen = (far > 0.5) & np.all((at >= 0) & (at < (height, width)), axis=1)
            found[view, start + at[seen, 0] * width + at[seen, 1], scene.truth.classes[0, seen]] = True
    return found


def _sites(size: Size, boxes: NDArray, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return as many occupied voxels as the size says, near the boxes."""
    grid = np.array(size.grid)
    found = np.zeros((0, 3), np.int64)
    while len(found) < size.voxels[0]:
        box = boxes[rng.integers(0, len(boxes), 64)]
        spread = rng.normal(0, 1.5, (64, 3))
        at = np.concatenate([box[:, :2] * grid[0] / size.map + grid[0] / 2, np.full((64, 1), grid[2] / 2)], axis=1)
        new = np.clip(np.floor(at + spread), 0, grid - 1).astype(np.int64)
        found = np.unique(np.concatenate([found, new]), axis=0)
    return found[np.sort(rng.permutation(len(found))[: size.voxels[0]])]


def _centres(sites: NDArray, size: Size) -> NDArray[np.float64]:
    """Return the centres of voxels in cells of the map, the middle of the grid at 0."""
    return (sites + 0.5 - np.array(size.grid) / 2) * size.map / size.grid[0]
