"""Sizes of SparseFusion: the network of one sample and the part of it behind the candidates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, kw_only=True)
class FusionSize:
    """width: of a candidate's features; hidden: of the feed-forward layer; candidates: of each sensor."""

    width: int
    heads: int
    hidden: int
    classes: int
    candidates: int


@dataclass(frozen=True, kw_only=True)
class Size:
    """The network of one sample.

    fusion: the part behind the candidates; grid: voxels along x, y, z; voxels: occupied ones, and sites behind each
    stage (assumed at paper scale); stages: widths of the sparse encoder; map: side of the map from above; flat: width
    of its two stages of `flat_layers` convolutions; views, image: number and height, width of pictures; widths, blocks,
    stem: of the residual network; neck: of its pyramid; cells: of the map in each view.
    """

    fusion: FusionSize
    grid: tuple[int, int, int]
    voxels: tuple[int, ...]
    stages: tuple[int, ...]
    map: int
    flat: int
    flat_layers: int
    views: int
    image: tuple[int, int]
    widths: tuple[int, ...]
    blocks: tuple[int, ...]
    stem: int
    neck: int
    depth_width: int
    cells: int
    objects: int


SMALL: Final = Size(
    fusion=FusionSize(width=16, heads=2, hidden=32, classes=3, candidates=6),
    grid=(16, 16, 8),
    voxels=(40, 30, 30),
    stages=(4, 8),
    map=8,
    flat=8,
    flat_layers=1,
    views=2,
    image=(16, 32),
    widths=(8, 16),
    blocks=(1, 1),
    stem=3,
    neck=16,
    depth_width=8,
    cells=10,
    objects=3,
)
NUSCENES: Final = Size(
    fusion=FusionSize(width=128, heads=8, hidden=256, classes=10, candidates=200),
    grid=(1440, 1440, 40),
    voxels=(120_000, 90_000, 50_000, 25_000, 12_000),
    stages=(16, 32, 64, 128),
    map=180,
    flat=128,
    flat_layers=6,
    views=6,
    image=(448, 800),
    widths=(64, 128, 256, 512),
    blocks=(3, 4, 6, 3),
    stem=7,
    neck=256,
    depth_width=64,
    cells=3000,
    objects=40,
)
