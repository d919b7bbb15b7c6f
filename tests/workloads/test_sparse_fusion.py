"""SparseFusion: sparse convolutions, peaks, deformable attention, matching, frames; the oracles of its fact sheet."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations
from typing import TYPE_CHECKING

import numpy as np
import pytest
from scipy.ndimage import maximum_filter

from nmsat.algorithms.core.tape import Stage
from nmsat.algorithms.workloads.engine import ops
from nmsat.algorithms.workloads.engine.program import Program
from nmsat.algorithms.workloads.engine.registry import record
from nmsat.algorithms.workloads.methods import candidates, fusion_scene
from nmsat.algorithms.workloads.methods.branches import Branch
from nmsat.algorithms.workloads.methods.fusion import BOX, Truth, fused
from nmsat.algorithms.workloads.methods.fusion_sizes import NUSCENES, SMALL, FusionSize
from nmsat.algorithms.workloads.methods.fusion_study import (
    average_precision,
    gaps,
    ruled,
    scenes,
    transferred,
    turned,
)
from nmsat.algorithms.workloads.methods.sparse_conv import rule_book, sparse_conv

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from nmsat.algorithms.workloads.engine.program import Tensor

RNG = np.random.default_rng(12)
GRID = (6, 5, 4)


def _dense(x: NDArray, w: NDArray, stride: tuple[int, int, int], pad: tuple[int, int, int]) -> NDArray:
    """Convolve x[X, Y, Z, C] with w[kx, ky, kz, C, N] by direct sums."""
    padded = np.pad(x, [(q, q) for q in pad] + [(0, 0)])
    size = tuple((g + 2 * q - k) // s + 1 for g, q, k, s in zip(x.shape, pad, w.shape, stride, strict=False))
    y = np.zeros((*size, w.shape[-1]))
    for at in np.ndindex(*size):
        window = padded[tuple(slice(i * s, i * s + k) for i, s, k in zip(at, stride, w.shape, strict=False))]
        y[at] = np.tensordot(window, w, 4)
    return y


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "submanifold"),
    [
        ((3, 3, 3), (1, 1, 1), (1, 1, 1), True),
        ((3, 3, 3), (2, 2, 2), (1, 1, 1), False),
        ((1, 1, 3), (1, 1, 2), (0, 0, 0), False),
    ],
    ids=["submanifold", "strided", "last"],
)
def test_a_sparse_convolution_is_the_dense_one_at_its_sites(
    kernel: tuple[int, int, int], stride: tuple[int, int, int], padding: tuple[int, int, int], submanifold: bool
) -> None:
    sites = np.argwhere(RNG.random(GRID) < 0.2)[RNG.permutation(20)]
    x = RNG.standard_normal((20, 3))
    book = rule_book(sites, GRID, kernel, stride, padding=padding, submanifold=submanifold)
    w = RNG.standard_normal((*kernel, 3, 2))
    p = Program(dtype=np.float64)
    matrix = p.weight("w", (int(np.prod(kernel)), 3, 2), value=lambda: w.reshape(-1, 3, 2))
    y = sparse_conv(p, "w", p.input(x.shape, x), matrix, book, book.loads, len(book.sites)).array
    full = np.zeros((*GRID, 3))
    full[tuple(sites.T)] = x
    expected = _dense(full, w, stride, padding)
    assert np.allclose(y, expected[tuple(book.sites.T)])
    elsewhere = np.ones(book.grid, bool)
    elsewhere[tuple(book.sites.T)] = False
    if submanifold:
        assert np.array_equal(book.sites, sites)
        assert elsewhere.sum() == np.prod(GRID) - 20
    else:
        assert not expected[elsewhere].any()
        assert np.all(np.any(expected[tuple(book.sites.T)] != 0, axis=1))
    assert sum(book.loads) == len(book.source) == len(book.target)
    assert p.tape.products[0].macs_true == sum(book.loads) * 6


def test_peaks_are_the_largest_local_maxima() -> None:
    heat = RNG.standard_normal((7, 9, 3))
    cell, label = candidates.peaks(heat, 12)
    assert np.all(np.diff(found := heat.reshape(-1, 3)[cell, label]) <= 0)
    top = heat >= maximum_filter(heat, size=(3, 3, 1), mode="constant", cval=-np.inf)
    assert np.array_equal(found, np.sort(heat[top])[::-1][:12])
    flat = np.zeros((2, 2, 2))
    assert [part.tolist() for part in candidates.peaks(flat, 3)] == [[0, 0, 1], [0, 1, 0]]
    everywhere = candidates.peaks(heat, 5, free=(0, 1, 2))
    assert np.array_equal(heat.reshape(-1, 3)[everywhere], np.sort(heat.reshape(-1))[::-1][:5])


def test_assignments_cost_least_of_all_permutations() -> None:
    logits, boxes = RNG.standard_normal((6, 3)), RNG.standard_normal((6, BOX))
    classes, known = RNG.integers(0, 3, 5), RNG.standard_normal((5, BOX))
    p = Program(dtype=np.float64)
    found = candidates.matched(p, p.input((6, 3), logits), p.input((6, BOX), boxes), classes, known, 5)
    assert found is not None

    def price(rows: tuple[int, ...]) -> float:
        chance = 1 / (1 + np.exp(-logits[list(rows), classes]))
        return float(-chance.sum() + 0.25 * np.abs(boxes[list(rows)] - known).sum())

    assert price(tuple(found)) == pytest.approx(min(price(rows) for rows in permutations(range(6), 5)))


def _deformable(offsets: NDArray, x: NDArray, where: NDArray, maps: list[NDArray]) -> NDArray:
    """Attention of two heads and two points whose offsets do not depend on the query, values as they are."""
    p = Program(dtype=np.float64)
    net = Branch(p, "n")
    levels = [p.input(m.shape, m) for m in maps]
    candidates.deformable(net, "a", p.input(x.shape, x), where, levels, 2, 2)
    p.store["n.a.offsets"].array[...] = 0
    p.store["n.a.offsets.bias"].array[...] = offsets
    p.store["n.a.o"].array[...] = np.eye(x.shape[-1])
    return candidates.deformable(net, "a", p.input(x.shape, x), where, levels, 2, 2).array


def test_deformable_attention_without_offsets_reads_its_places() -> None:
    x, maps = RNG.standard_normal((1, 3, 4)), [RNG.standard_normal((1, 4, 6, 4)), RNG.standard_normal((1, 2, 3, 4))]
    cells = np.array([[0, 0], [1, 1], [1, 2]])
    where = ((cells + 0.5) / (2, 3))[None]  # centres of the coarse level, between four of the fine one
    none = np.zeros(2 * 2 * 2 * 2)
    # equal values on both levels: the weights add up to 1, whatever they are
    even = [np.broadcast_to(maps[1].repeat(2, 1).repeat(2, 2), (1, 4, 6, 4)), maps[1]]
    assert np.allclose(_deformable(none, x, where, even)[0], maps[1][0, cells[:, 0], cells[:, 1]])
    flat = [np.ones((1, 4, 6, 4)), np.ones((1, 2, 3, 4))]
    assert np.allclose(_deformable(none, x, where, flat), 1)
    step = np.tile([0.0, 1.0], 8)  # one cell to the right on every level
    right = _deformable(step, x[:, :2], where[:, :2], [maps[1], maps[1]])
    assert np.allclose(right[0], maps[1][0, cells[:2, 0], cells[:2, 1] + 1])


def test_projection_and_its_inverse() -> None:
    points = RNG.uniform(-3, 3, (40, 3))
    for pose in fusion_scene.cameras(3):
        where, depth = fusion_scene.projected(points, pose, 2.0)
        front = depth > 0.1
        assert 5 < front.sum() < 35
        back = fusion_scene.back_projected(where[front], depth[front], pose, 2.0)
        assert np.allclose(back, points[front])
        assert np.allclose(pose[:3, :3] @ pose[:3, :3].T, np.eye(3))


def test_fusion_does_not_see_the_order_and_without_one_sensor_is_the_other_alone() -> None:
    size = FusionSize(width=8, heads=2, hidden=16, classes=3, candidates=4)
    p = Program(dtype=np.float64)
    net = Branch(p, "f")
    left, right = RNG.standard_normal((1, 4, 8)), RNG.standard_normal((1, 5, 8))
    both = fused(net, size, p.input(left.shape, left), p.input(right.shape, right)).array
    order = RNG.permutation(9)
    mixed = np.concatenate([left, right], axis=1)[:, order]
    assert np.allclose(fused(net, size, p.input(mixed.shape, mixed)).array, both[:, order])
    none = p.input((1, 0, 8), np.zeros((1, 0, 8)))
    alone = fused(net, size, p.input(left.shape, left)).array
    assert np.allclose(fused(net, size, p.input(left.shape, left), none).array, alone)
    assert not np.allclose(both[:, :4], alone)


LOGITS = RNG.standard_normal((4, 3))
WANTED = np.eye(4, 3, dtype=bool)
CASES: dict[str, Callable[[Program, Tensor], Tensor]] = {
    "focal": lambda _p, x: candidates.focal(ops.scale(x, 2.0), WANTED),
    "absolute": lambda _p, x: candidates.absolute(x, LOGITS[::-1], 0.5),
    "largest": lambda p, x: ops.total(
        ops.mul(candidates.scatter_max(x, np.array([2, 0, 2, 0]), 3), p.input((3, 3), LOGITS[:3]))
    ),
    "deformable": lambda p, x: ops.total(
        candidates.deformable(
            Branch(p, "d"),
            "a",
            ops.reshape(ops.part(x, 1, 0, 2), (1, 4, 2)),
            np.full((1, 4, 2), 0.4),
            [p.input((1, 5, 5, 2), np.random.default_rng(1).random((1, 5, 5, 2)))],
            1,
            2,
        )
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_gradients_match_differences(case: str) -> None:
    values, store = LOGITS.copy(), {}

    def run() -> tuple[Program, Tensor]:
        p = Program(dtype=np.float64, store=store, rng=np.random.default_rng(2))
        p.vector("x", values.shape)
        p.store["x"].value = values.copy()
        return p, CASES[case](p, p.vector("x", values.shape))

    run()
    for w in store.values():
        w.grad = None
    p, value = run()
    p.backward(value)
    for name, w in store.items():
        place = np.unravel_index(np.argmax(np.abs(w.grad)), w.shape)
        array = values if name == "x" else w.array
        ends = []
        for sign in (1, -1):
            array[place] += sign * 1e-6
            ends.append(float(run()[1].array))
            array[place] -= sign * 1e-6
        assert w.grad[place] == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-4, abs=1e-7), name


def test_focal_loss_is_weighted_cross_entropy() -> None:
    p = Program(dtype=np.float64)
    chance = 1 / (1 + np.exp(-LOGITS))
    plain = np.where(WANTED, -0.25 * (1 - chance) ** 2 * np.log(chance), -0.75 * chance**2 * np.log(1 - chance))
    assert float(candidates.focal(p.input((4, 3), LOGITS), WANTED).array) == pytest.approx(plain.sum() / 3)


def test_precision_counts_each_object_once() -> None:
    truth = Truth(np.array([[0, 0]]), np.zeros((1, 2, BOX)))
    truth.boxes[0, 1, :2] = 1
    places = np.array([[[0.0, 0.05], [0.02, 0.0], [1.0, 1.0]]])
    scores = np.array([[[0.9], [0.8], [0.7]]])
    assert average_precision(scores, places, truth) == pytest.approx((1 + 2 / 3) / 2)  # the second one is a copy
    assert average_precision(scores[:, ::-1], places[:, ::-1], truth) == pytest.approx((1 + 2 / 3) / 2)
    assert average_precision(scores[:, 2:], places[:, 2:], truth) == pytest.approx(0.5)


def test_nuscenes_has_the_multiply_adds_of_the_fact_sheet() -> None:
    tape = record("sparse-fusion", "paper", "faithful").tape
    found: dict[str, float] = {}
    starts = {
        "camera.s0": "image", "camera.s1": "image", "camera.s2": "image", "camera.s3": "image", "camera.stem": "image",
        "camera.l": "pyramid", "camera.depth": "depth", "camera.fuse": "depth", "lidar.flat": "second",
        "lidar.neck": "neck", "lidar.shared": "shared", "lidar.heat": "heat", "fusion.": "fusion",
    }  # fmt: skip
    for product in tape.of(Stage.FF):
        for start, name in starts.items():
            if product.name.startswith(start):
                found[name] = found.get(name, 0) + product.macs_true / 1e9
    sheet = {"image": 175.2, "pyramid": 121.8, "second": 59.7, "neck": 3.2, "shared": 19.1, "heat": 5.2}
    assert {name: found[name] for name in sheet} == pytest.approx(sheet, rel=0.01)
    assert found["depth"] == pytest.approx(132.6, rel=0.04)  # its layers are assumed
    assert found["fusion"] == pytest.approx(0.066 + 0.041 + 0.02, rel=0.1)
    assert sum(q.macs_true for q in tape.of(Stage.FF)) / 1e9 == pytest.approx(583, rel=0.04)
    frozen = [q for q in tape.products if q.name.startswith("lidar") and q.stage is not Stage.FF]
    # the gradient of the semantic transfer runs back through the decoder, which does not learn
    assert {q.stage for q in frozen} == {Stage.BP}
    assert {q.name.split(".")[1] for q in frozen} == {"self", "cross", "ff"}
    assert NUSCENES.fusion.candidates / NUSCENES.map**2 == pytest.approx(0.006, rel=0.05)


def test_the_scene_fills_its_network() -> None:
    scene = fusion_scene.scene(SMALL, 3)
    assert len(np.unique(scene.sites, axis=0)) == SMALL.voxels[0]
    assert np.all((scene.cell_places >= 0) & (scene.cell_places <= 1))
    assert 0 < scene.seen(SMALL.map**2).sum() <= SMALL.views * SMALL.cells
    more = fusion_scene.scene(replace(SMALL, objects=5), 3)
    shapes = [(8, 16, 0), (4, 8, 128)]
    marked = fusion_scene.heat(more, shapes, 2, 3)
    assert marked[:, :128].sum() >= marked[:, 128:].sum() > 0


def _lists() -> dict[str, NDArray]:
    """Two LiDAR candidates, one in front of the other, and one beside them; a camera that sees two directions."""
    lidar = np.zeros((1, 4, 7))
    lidar[0, :3, :2], lidar[0, :3, 2:6], lidar[0, :3, 6] = [(0, 0), (0, 1), (1, -1.5)], 0.1, 1
    camera = np.zeros((1, 4, 7))
    camera[0, :2, :2], camera[0, :2, 6] = [(0, 0.5), (-1, 0)], 1
    camera[0, 0, 3] = camera[0, 1, 5] = 1
    return {"lidar": lidar, "camera": camera}


def test_what_is_seen_on_a_line_of_sight_is_taken_over() -> None:
    said = _lists()
    apart = gaps(said["lidar"], said["camera"])[0]
    assert apart[:3, 0] == pytest.approx([0, 0, np.pi / 2])
    assert np.isinf(apart[3]).all()
    assert np.isinf(apart[:, 2:]).all()
    rows = transferred(said["lidar"], said["camera"])[0]
    assert np.array_equal(rows[:, :7], said["lidar"][0])
    assert rows[:2, 7:] == pytest.approx(np.array([[0, 0.5, 0, 1, 0, 0, 1], [0, -0.5, 0, 1, 0, 0, 1]]))
    assert not rows[2:, 7:].any()
    scores, places = ruled(said, "both")
    assert scores[0, :3] == pytest.approx(np.array([[0, 1, 0, 0], [0, 1, 0, 0], [-8.9] * 4]))
    assert np.array_equal(places, said["lidar"][..., :2])
    assert ruled(said, "camera")[0][0, :3].tolist() == [[0, 1, 0, 0], [0, 0, 0, 1], [-1e3] * 4]


def test_turned_scenes_are_scenes() -> None:
    """The evidence of the camera names the class of its object, whatever the classes are called."""
    said, truth = scenes(np.random.default_rng(4), 40)
    for rows, known in ((said, truth), turned(np.random.default_rng(5), said, truth)):
        scores, places = ruled(rows, "both")
        assert average_precision(scores, places, known) == pytest.approx(
            average_precision(*ruled(said, "both"), truth), abs=0.05
        )
        assert average_precision(scores, places, known) > 1.5 * average_precision(*ruled(rows, "lidar"), known)
    mirrored, known = turned(np.random.default_rng(5), said, truth)
    assert not np.array_equal(known.classes, truth.classes)
    assert np.array_equal(np.abs(known.boxes), np.abs(truth.boxes))
    assert not np.array_equal(mirrored["lidar"], said["lidar"])
    assert np.array_equal(known.boxes[..., 1], truth.boxes[..., 1])
