"""SparseFusion: a detector that fuses a few hundred candidates of LiDAR and cameras instead of feature maps.

Source: Y. Xie et al., "SparseFusion: Fusing Multi-Modal Sparse Representations for Multi-Sensor 3D Object Detection",
ICCV 2023, arXiv 2304.14340, and the code of its authors.
Known: structure and losses from that code, figures from the paper.

    LiDAR      sparse convolutions of occupied voxels, map from above, peaks of a heat map, one decoder layer   (frozen)
    camera     residual pyramid with a sparse depth image added (geometric transfer), peaks, deformable attention
    transfer   cells of the map take image features by deformable attention, the largest of all views (semantic)
    frames     q = g(box in the LiDAR frame) + h(q m(camera)), m: a gate of 16 camera parameters
    fusion     self-attention over both sets of candidates, heads for centre, height, size, yaw, velocity, class
    loss       focal (gamma 2, alpha 0.25) + 0.25 L1 after Hungarian assignment; 0.1 of camera candidates and heat map

Faithful: all of that but embeddings of position, the heads and the loss of the frozen LiDAR branch, the loss on the
centre in the image; Adam without decay, theirs decays weights.
On SAT: a training step of one sample (ResNet-50, six views). Sparse are voxels, candidates and sampling points; all
weights are dense. A sparse convolution is one product per tap over the pairs of its rule book (gather). Look-ups of
deformable attention, peaks and the assignment are the host's.
Assumed: sites per stage 120k, 90k, 50k, 25k, 12k, 30 % of the neighbours occupied; depth encoder of six layers; as
many perspective candidates in each view, of which 200 are kept; 3000 cells of the map in each view. At small scale the
pixels are noise, points lie near boxes.
Ours (`nm`): convolutions and linear layers are 2:8 along k and along n.
Study: a detector on lists of candidates of both sensors against one on those of LiDAR and one on those of cameras,
each at its best rate by validation, and against the lists of either as they are; mean average precision on other
scenes with known boxes, three seeds. The transfers look up what the other sensor says on the line of sight; beside the
fused detector stands that look-up alone, without learning.
Found here: fused ones are detected twice as well as those of LiDAR alone (mean average precision 0.60 against 0.31,
camera 0.13; `nm` 0.56, 0.31, 0.12): yes. LiDAR is beyond its list as it is (0.29), the camera is not (0.13), and the
look-up alone, which needs no network, is above the fused detector (0.68): 400 steps do not reach what the lists hold.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from nmsat.algorithms.core.tape import Pattern
from nmsat.algorithms.workloads.engine import ops
from nmsat.algorithms.workloads.engine.images import fold
from nmsat.algorithms.workloads.engine.products import linear
from nmsat.algorithms.workloads.engine.registry import Variant, Workload, register
from nmsat.algorithms.workloads.engine.training import LOSS_SCALE
from nmsat.algorithms.workloads.methods import fusion_scene
from nmsat.algorithms.workloads.methods.branches import Branch, pyramid, residual_levels
from nmsat.algorithms.workloads.methods.candidates import attend, deformable, focal, found_peaks, scatter_max
from nmsat.algorithms.workloads.methods.fusion import detection_loss, fused, heads, in_frame
from nmsat.algorithms.workloads.methods.fusion_sizes import NUSCENES, SMALL
from nmsat.algorithms.workloads.methods.fusion_study import study
from nmsat.algorithms.workloads.methods.sparse_conv import rule_book, sparse_conv

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nmsat.algorithms.workloads.engine.program import Program, Tensor
    from nmsat.algorithms.workloads.methods.fusion import Found
    from nmsat.algorithms.workloads.methods.fusion_scene import Scene
    from nmsat.algorithms.workloads.methods.fusion_sizes import Size
    from nmsat.algorithms.workloads.methods.sparse_conv import RuleBook

PATTERN: Final = Pattern(2, 8)
POINTS: Final = 4
"""Places that a query reads in each head and level."""


def run(p: Program, size: Size, variant: Variant) -> None:
    """Record one training step."""
    pattern = PATTERN if variant == "nm" else None
    scene = fusion_scene.scene(size, 0) if p.values else None
    lidar, camera = Branch(p, "lidar", pattern, frozen=True), Branch(p, "camera", pattern)
    bird = map_from_above(p, lidar, size, scene)
    maps = image_levels(p, camera, size, scene)
    values = [camera.conv(f"value{i}", m, size.fusion.width, 1) for i, m in enumerate(maps)]
    bird = semantic(p, camera, size, bird, values, scene)
    first, cells = lidar_candidates(p, lidar, size, bird)
    second, initial, heat = camera_candidates(p, camera, size, maps, values, scene)
    fusion, known = Branch(p, "fusion", pattern), None if scene is None else scene.truth
    second, places = in_frame(p, fusion, second, initial, None if scene is None else scene.cameras, size.views)
    places = ops.concat([cells, places], 1)
    out = heads(fusion, fused(fusion, size.fusion, first, second), size.fusion.classes, places)
    loss = detection_loss(p, out, known, size.objects)
    loss = ops.add(loss, ops.scale(detection_loss(p, initial, known, size.objects), 0.1))
    p.backward(ops.add(loss, heat), LOSS_SCALE)
    learnt = sum(w.size for w in p.store.values() if not w.frozen)
    p.host("update", "Adam", 13 * learnt, 32 * learnt)


def map_from_above(p: Program, net: Branch, size: Size, scene: Scene | None) -> Tensor:
    """Return the map [1, map, map, width] of the LiDAR branch."""
    x = p.input((size.voxels[0], 5), lambda: fusion_scene.known(scene).features)
    sites, grid = None if scene is None else scene.sites, size.grid
    x, book = _sparse(p, net, "in", x, sites, grid, size.stages[0], size.voxels[0], submanifold=True)
    for stage, width in enumerate(size.stages):
        sites = None if book is None else book.sites
        for block in range(2):
            y = x
            for part in "ab":
                y, book = _sparse(
                    p, net, f"s{stage}.{block}.{part}", y, sites, grid, width, y.shape[0], submanifold=True
                )
            x = ops.add(x, y)
        last = stage + 1 == len(size.stages)
        stride, kernel, pad = ((1, 1, 2), (1, 1, 3), (0, 0, 0)) if last else ((2, 2, 2), (3, 3, 3), (1, 1, 1))
        wide = width if last else size.stages[stage + 1]
        rows = size.voxels[stage + 1]
        x, book = _sparse(
            p, net, f"s{stage}.down", x, sites, grid, wide, rows, kernel=kernel, stride=stride, padding=pad
        )
        a, b, c = ((g + 2 * q - k) // s + 1 for g, q, k, s in zip(grid, pad, kernel, stride, strict=True))
        grid = (a, b, c)
    index = None
    if book is not None:
        index = (book.sites[:, 0] * grid[1] + book.sites[:, 1]) * grid[2] + book.sites[:, 2]
    x = ops.scatter_add(x, index, grid[0] * grid[1] * grid[2])
    x = ops.reshape(x, (1, size.map, size.map, grid[2] * size.stages[-1]))
    found = []
    for stage, width in enumerate((size.flat, 2 * size.flat)):
        for layer in range(size.flat_layers):
            x = net.unit(f"flat{stage}.{layer}", x, width, 3, 2 if stage and not layer else 1)
        found.append(x)
    near = net.unit("neck0", found[0], 2 * size.flat, 1)
    side = size.map // 2
    far = linear("lidar.neck1", found[1], net.weight("neck1", (2 * size.flat, 4 * 2 * size.flat)))
    far = fold(ops.reshape(far, (1, side, side, 4, 2 * size.flat)), 2, 2)
    far = ops.relu(net.normed("neck1", far))
    return net.unit("shared", ops.concat([near, far], -1), size.fusion.width)


def _sparse(
    p: Program,
    net: Branch,
    name: str,
    x: Tensor,
    sites: NDArray | None,
    grid: tuple[int, int, int],
    width: int,
    rows: int,
    *,
    kernel: tuple[int, int, int] = (3, 3, 3),
    stride: tuple[int, int, int] = (1, 1, 1),
    padding: tuple[int, int, int] = (1, 1, 1),
    submanifold: bool = False,
) -> tuple[Tensor, RuleBook | None]:
    """Return a sparse convolution with normalisation and ReLU, and its rule book."""
    book = None if sites is None else rule_book(sites, grid, kernel, stride, padding=padding, submanifold=submanifold)
    taps = kernel[0] * kernel[1] * kernel[2]

    def assumed() -> tuple[tuple[int, ...], int]:
        if submanifold:
            return tuple(rows if tap == taps // 2 else round(0.3 * rows) for tap in range(taps)), rows
        return (round(x.shape[0] / (stride[0] * stride[1] * stride[2])),) * taps, rows

    loads, count = p.statistic(f"{name}.pairs", lambda: _measured(book), assumed)
    w = net.weight(name, (taps, x.shape[-1], width))
    return ops.relu(net.normed(name, sparse_conv(p, w.name, x, w, book, loads, count))), book


def _measured(book: RuleBook | None) -> tuple[tuple[int, ...], int]:
    if book is None:
        raise RuntimeError("a run with values needs a rule book")
    return book.loads, len(book.sites)


def image_levels(p: Program, net: Branch, size: Size, scene: Scene | None) -> list[Tensor]:
    """Return the levels of the pyramid with the depth of projected points in them."""
    shape = (size.views, *size.image)
    pictures = p.input((*shape, 3), lambda: fusion_scene.known(scene).pictures)
    levels = pyramid(net, residual_levels(net, pictures, size.widths, size.blocks, size.stem), size.neck)
    d = p.input((*shape, 2), lambda: fusion_scene.known(scene).depths)
    p.host("projection", "Projection", 30 * size.voxels[0] * size.views, 16 * size.voxels[0] * size.views)
    width = size.depth_width
    if size.stem == 7:
        d = net.unit("depth.in", d, width // 4, 3, 2)
    d = net.unit("depth.0", net.unit("depth.first", d, width // 2, 3, 2), width)
    found = []
    for index, level in enumerate(levels):
        d = d if not index else net.unit(f"depth.{index}", d, width, 3, 2)
        found.append(net.unit(f"fuse{index}", ops.concat([level, d], -1), size.neck))
    return found


def semantic(p: Program, net: Branch, size: Size, bird: Tensor, values: list[Tensor], scene: Scene | None) -> Tensor:
    """Return the map with image features in the cells that some view sees."""
    width, views = size.fusion.width, size.views
    flat = ops.reshape(bird, (size.map**2, width))
    index = None if scene is None else scene.cells.reshape(-1)
    queries = ops.reshape(ops.gather(flat, index, views * size.cells), (views, size.cells, width))
    where = None if scene is None else scene.cell_places
    taken = deformable(net, "semantic", queries, where, values, size.fusion.heads, POINTS)
    best = scatter_max(ops.reshape(taken, (views * size.cells, width)), index, size.map**2)
    seen = p.input((size.map**2, 1), lambda: fusion_scene.known(scene).seen(size.map**2))
    joined = ops.reshape(ops.concat([ops.add(flat, best), seen], -1), (1, size.map, size.map, width + 1))
    return net.unit("semantic.out", joined, width)


def lidar_candidates(p: Program, net: Branch, size: Size, bird: Tensor) -> tuple[Tensor, Tensor]:
    """Return the candidates [1, N, width] of the map from above, and their places [1, N, 2] around its middle."""
    width = size.fusion.width
    flat = ops.reshape(bird, (size.map**2, width))
    logits = net.conv("heat.out", net.unit("heat", bird, width), size.fusion.classes)
    cell, label = found_peaks(p, "lidar.peaks", logits, size.fusion.candidates)
    q = ops.gather(flat, cell, size.fusion.candidates)
    kinds = p.vector("lidar.kinds", (size.fusion.classes, width), frozen=True)
    q = ops.add(q, ops.gather(kinds, label, size.fusion.candidates))
    q = ops.reshape(q, (1, size.fusion.candidates, width))
    q = net.layer_norm("self", ops.add(q, attend(net, "self", q, q, size.fusion.heads)))
    everywhere = ops.reshape(flat, (1, size.map**2, width))
    q = net.layer_norm("cross", ops.add(q, attend(net, "cross", q, everywhere, size.fusion.heads)))
    q = net.layer_norm("ff", ops.add(q, net.hidden("ff", q, size.fusion.hidden, width)))

    def places() -> NDArray:
        return np.stack(np.divmod(ops.given(cell), size.map), axis=1)[None] + 0.5 - size.map / 2

    return q, p.input((1, size.fusion.candidates, 2), places)


def camera_candidates(
    p: Program, net: Branch, size: Size, maps: list[Tensor], values: list[Tensor], scene: Scene | None
) -> tuple[Tensor, Found, Tensor]:
    """Return candidates [1, N, width] of the pictures, what their heads say, and the loss of the heat maps."""
    f, views = size.fusion, size.views
    each = -(-f.candidates // views)
    logits, rows, shapes, start = [], [], [], 0
    for index, level in enumerate(maps):
        h = net.conv(f"heat.in{index}", level, f.width, 1)
        h = net.conv("heat.out", net.unit("heat", h, f.width), f.classes)
        _, height, wide, _ = h.shape
        logits.append(ops.reshape(h, (views, height * wide, f.classes)))
        rows.append(ops.reshape(values[index], (views, height * wide, f.width)))
        shapes.append((height, wide, start))
        start += height * wide
    heat, tokens = ops.concat(logits, 1), ops.reshape(ops.concat(rows, 1), (views * start, f.width))
    index, where = best_of_views(p, heat, shapes, each)
    q = ops.reshape(ops.gather(tokens, index, views * each), (views, each, f.width))
    q = net.layer_norm("self", ops.add(q, attend(net, "self", q, q, f.heads)))
    q = net.layer_norm("cross", ops.add(q, deformable(net, "cross", q, where, values, f.heads, POINTS)))
    q = net.layer_norm("ff", ops.add(q, net.hidden("ff", q, f.hidden, f.width)))
    kept = None if index is None else np.arange(f.candidates)
    q = ops.reshape(ops.gather(ops.reshape(q, (views * each, f.width)), kept, f.candidates), (1, f.candidates, f.width))
    target = None if scene is None else fusion_scene.heat(scene, shapes, views, f.classes)
    return q, heads(net, q, f.classes), ops.scale(focal(heat, target), 0.1)


def best_of_views(
    p: Program, heat: Tensor, shapes: list[tuple[int, int, int]], each: int
) -> tuple[NDArray[np.int64] | None, NDArray[np.float64] | None]:
    """Return the `each` best tokens of each view as rows of [views * tokens], and their places [views, each, 2]."""
    views, tokens, classes = heat.shape
    p.host("camera.peaks", "TopK", 4 * heat.size, 8 * heat.size)
    p.host("camera.peaks", "ReduceMax", heat.size, 2 * views * tokens * (classes + 1))
    if heat.data is None:
        return None, None
    score = heat.data.max(axis=2)
    best = np.argsort(-score, axis=1, kind="stable")[:, :each]
    places = np.concatenate(
        [np.stack([(np.arange(h * w) // w + 0.5) / h, (np.arange(h * w) % w + 0.5) / w], axis=1) for h, w, _ in shapes]
    )
    return (best + tokens * np.arange(views)[:, None]).reshape(-1), places[best]


register(
    Workload(
        name="sparse-fusion",
        title="SparseFusion",
        source="Xie et al., ICCV 2023, arXiv 2304.14340",
        sparse="voxels, candidates (200 of 32 400 cells), sampling points",
        variants={
            "faithful": "pairs of each tap gathered, candidates gathered, the rest dense",
            "nm": "ours: convolutions and linear layers 2:8 along k and along n",
        },
        quoted="nuScenes with ResNet-50: NDS 72.8, mAP 70.4, 5.6 frames a second on an A6000 (paper)",
        sizes={"small": SMALL, "paper": NUSCENES},
        run=run,
        study=study,
        about=__doc__,
    )
)
