"""Tetrolets and sparse concept coding: tilings, reconstruction, native patterns, lasso; the oracles of the sheet."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations
from typing import TYPE_CHECKING

import numpy as np

from nmsat.algorithms.core.tape import Pattern, Tape
from nmsat.algorithms.workloads.engine.program import Program
from nmsat.algorithms.workloads.engine.registry import record
from nmsat.algorithms.workloads.methods import tetrolet_scc as scc
from nmsat.algorithms.workloads.methods import tetrolets as tt
from nmsat.dataflow.contract.config import preset
from nmsat.dataflow.program.ways import How, lower
from tests.mapping.native import native_pattern

if TYPE_CHECKING:
    import pytest


def symmetric_classes() -> int:
    """Return the number of tilings up to rotation and reflection: 22."""
    grid = np.arange(16).reshape(4, 4)
    moves = [np.rot90(g, k).ravel() for g in (grid, grid.T) for k in range(4)]
    seen: set[frozenset[tt.Cells]] = set()
    classes = 0
    for tiling in tt.tilings():
        if tiling in seen:
            continue
        classes += 1
        seen |= {frozenset(frozenset(int(move[c]) for c in piece) for piece in tiling) for move in moves}
    return classes


def split_low_pass(images: np.ndarray) -> np.ndarray:
    """Undo `tt.join_low_pass`."""
    n, half, _ = images.shape
    return images.reshape(n, half // 2, 2, half // 2, 2).transpose(0, 1, 3, 2, 4).reshape(-1, 4)


def inverse(coefficients: np.ndarray, choice: np.ndarray) -> np.ndarray:
    """Return the blocks [rows, 16] from the coefficients [rows, 4 tetrominoes, 4] of the chosen tilings [rows]."""
    known = tt.tables()
    out = np.zeros((len(choice), tt.SIDE * tt.SIDE))
    for piece in range(4):
        used = known.tilings[choice, piece]
        cells = np.array(known.placements)[used]
        np.put_along_axis(out, cells, coefficients[:, piece] @ tt.HAAR, axis=1)
    return out


def test_the_numbers_of_shapes_placements_and_tilings() -> None:
    known = tt.tables()
    assert len(tt.orientations()) == 19
    assert len(tt.placements()) == 113
    assert len(tt.tilings()) == 117
    assert len(known.placements) == 89
    assert symmetric_classes() == 22
    assert all(len(t) == 4 and len(frozenset().union(*t)) == 16 for t in tt.tilings())


def test_every_tiling_is_an_orthogonal_transform() -> None:
    known = tt.tables()
    for pieces in known.tilings:
        matrix = np.concatenate([known.transform[:, 4 * piece : 4 * piece + 4] for piece in pieces], axis=1)
        assert np.array_equal(matrix.T @ matrix, np.eye(16))


def test_both_operands_are_native() -> None:
    known = tt.tables()
    assert known.groups == 12  # one less than the 13 of the fact sheet
    assert known.cost.shape == (96, 117)
    assert (known.cost.sum(axis=0) == 4).all()
    assert native_pattern(known.transform != 0) == Pattern(4, 16)
    assert native_pattern(known.cost != 0) == Pattern(1, 8)
    cells = np.array(known.placements)
    for group in range(known.groups):
        members = cells[known.slots // tt.GROUP == group]
        assert set.intersection(*[set(m) for m in members.tolist()])


def _transform(blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients of the chosen tilings and the choice, by brute force over all tilings."""
    known = tt.tables()
    everything = (blocks.astype(float) @ known.transform).reshape(len(blocks), -1, 4)
    cost = np.abs(everything[:, :, 1:]).sum(axis=2)[:, known.tilings].sum(axis=2)
    choice = cost.argmin(axis=1)
    return np.take_along_axis(everything, known.tilings[choice][:, :, None], axis=1), choice


def test_the_program_finds_the_cheapest_tiling_and_blocks_come_back() -> None:
    blocks = np.random.default_rng(0).integers(0, 256, (40, 16)).astype(np.float32)
    p = Program()
    found = scc.best_tiling(p, "x", p.input(blocks.shape, blocks)).array
    expected, choice = _transform(blocks)
    assert np.allclose(found, expected)
    assert np.allclose(inverse(found, choice), blocks)
    assert np.allclose((found**2).sum(axis=(1, 2)), (blocks**2).sum(axis=1))  # Parseval


def test_no_block_costs_more_than_with_squares() -> None:
    known = tt.tables()
    cells = [{frozenset(known.placements[p]) for p in pieces} for pieces in known.tilings]
    haar = [i for i, pieces in enumerate(cells) if pieces == set(tt.SQUARES)]
    assert len(haar) == 1
    blocks = np.random.default_rng(1).standard_normal((50, 16))
    everything = (blocks @ known.transform).reshape(50, -1, 4)
    cost = np.abs(everything[:, :, 1:]).sum(axis=2)[:, known.tilings].sum(axis=2)
    assert (cost.min(axis=1) <= cost[:, haar[0]]).all()
    assert (cost.min(axis=1) < cost[:, haar[0]]).mean() > 0.8


def test_blocks_that_are_constant_on_a_tiling_have_no_high_pass() -> None:
    known = tt.tables()
    for pieces in known.tilings[::7]:
        block = np.zeros((1, 16))
        for level, piece in enumerate(pieces):
            block[0, list(known.placements[piece])] = 3 + 5 * level
        coefficients, _ = _transform(block)
        assert np.abs(coefficients[:, :, 1:]).max() == 0
    assert np.abs(_transform(np.full((1, 16), 7.0))[0][:, :, 1:]).max() == 0


def test_the_order_of_the_four_pixels_does_not_change_the_cost() -> None:
    pixels = np.random.default_rng(2).standard_normal(4)
    costs = [np.abs(tt.HAAR[1:] @ pixels[list(order)]).sum() for order in permutations(range(4))]
    assert np.ptp(costs) < 1e-14


def test_low_pass_images_are_laid_out_like_their_blocks() -> None:
    image = np.arange(64.0).reshape(1, 8, 8)
    squares = image.reshape(4, 2, 4, 2).sum(axis=(1, 3))
    places = [sorted(square) for square in tt.SQUARES]
    low = np.stack([tt.split_blocks(image)[:, cells].sum(axis=1) for cells in places], axis=1)
    joined = tt.join_low_pass(low, 1, 8)
    assert np.array_equal(joined[0], squares)
    assert np.array_equal(split_low_pass(joined), low)


def test_two_levels_of_an_8_bit_image_are_exact_in_the_contract() -> None:
    images = np.random.default_rng(3).integers(0, 256, (3, 16, 16)).astype(np.float64)
    found = [
        scc.coefficients(p, p.input(images.shape, images), 2).array
        for p in (Program(exact=True), Program(dtype=np.float64))
    ]
    assert np.array_equal(found[0], found[1])


def _codes(x: np.ndarray, basis: np.ndarray, iterations: int, variant: str = "faithful") -> np.ndarray:
    size = scc.Size(side=4, levels=1, train=1, test=1, graph=1, bases=basis.shape[1], iterations=iterations, nonzeros=1)
    p = Program(dtype=np.float64)
    w = p.weight("basis", basis.shape, value=lambda: basis, frozen=True)
    return scc.encode(p, size, p.input(x.shape, x), w, variant).array  # type: ignore[arg-type]


def test_codes_satisfy_the_conditions_of_the_lasso() -> None:
    rng = np.random.default_rng(4)
    basis = rng.standard_normal((20, 12))
    basis /= np.linalg.norm(basis, axis=0)
    x = rng.standard_normal((9, 20))
    v = _codes(x, basis, 3000)
    limit = scc.SHARE * np.abs(x @ basis).max(axis=1, keepdims=True)
    slope = (x - v @ basis.T) @ basis
    inside = np.abs(v) > 1e-9
    assert inside.any()
    assert (~inside).any()
    assert np.allclose(slope[inside], (np.sign(v) * limit)[inside], atol=1e-6)
    assert (np.abs(slope) <= limit + 1e-6).all()


def test_limits_of_the_threshold(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(5)
    basis, x = np.linalg.qr(rng.standard_normal((15, 6)))[0], rng.standard_normal((4, 15))
    monkeypatch.setattr(scc, "SHARE", 1.0)
    assert not _codes(x, basis, 5).any()
    monkeypatch.setattr(scc, "SHARE", 0.0)
    assert np.allclose(_codes(x, basis, 200), np.linalg.lstsq(basis, x.T, rcond=None)[0].T)


def test_codes_of_our_variant_are_two_of_eight() -> None:
    rng = np.random.default_rng(6)
    v = _codes(rng.standard_normal((7, 30)), rng.standard_normal((30, 24)), 10, "nm")
    assert (v.reshape(7, 3, 8) != 0).sum(axis=2).max() == 2


def test_separate_clusters_give_their_indicator() -> None:
    graph = np.zeros((10, 10))
    graph[:4, :4] = graph[4:, 4:] = 1
    first = scc.spectral(graph, 1)[:, 0]
    assert np.ptp(first[:4]) < 1e-9
    assert np.ptp(first[4:]) < 1e-9
    assert abs(first[0] - first[-1]) > 0.1
    near = scc.heat_graph(np.random.default_rng(7).standard_normal((30, 4)))
    assert np.array_equal(near, near.T)
    assert ((near > 0).sum(axis=1) >= scc.NEIGHBOURS).all()


def test_short_reductions_wait_for_the_drain() -> None:
    """The transform has a reduction of 16: its tiles compute for less time than their results take to leave."""
    tape = record("tetrolet-scc", "paper", "faithful").tape
    rows = {p.name: p.m for p in tape.products if p.name.endswith(".transform")}
    assert rows == {"level0.transform": 64 * 70_000, "level1.transform": 16 * 70_000}
    config = preset("vcu1525")
    found = {p.name: lower(p, config) for p in tape.products if p.name.startswith("level0")}
    transform, cost = found["level0.transform"], found["level0.cost"]
    assert (transform.how, cost.how) == (How.NATIVE, How.NATIVE)
    outputs = transform.product.m * transform.product.n
    assert transform.cycles >= outputs / config.columns  # one result per column and cycle
    assert transform.cycles_dense / transform.cycles < 1.01
    assert cost.cycles_dense / cost.cycles > 2.5


def test_digits_are_recognised() -> None:
    found = scc.recognised(scc.STUDY, "faithful")
    assert found["accuracy"] > 0.95
    assert found["accuracy_nearest_pixels"] > 0.98


def test_splits_test_other_digits() -> None:
    size = scc.STUDY
    tested = []
    for split in range(scc.SPLITS):
        x, labels = scc.images_of(replace(size, split=split))
        assert len(x) == len(labels) == size.train + size.test
        assert len({image.tobytes() for image in x}) == len({image.tobytes() for image in scc.images_of(size)[0]})
        tested.append({image.tobytes() for image in x[size.train :]})
    assert not tested[0] & tested[1] | tested[1] & tested[2] | tested[0] & tested[2]


def test_without_levels_the_pixels_are_coded() -> None:
    size = replace(scc.SMALL, levels=0)
    p = Program(tape=Tape(values=True))
    scc.classify(p, size, "faithful")
    assert not [q.name for q in p.tape.products if q.name.startswith("level")]
    project = next(q for q in p.tape.products if q.name == "project")
    pixels = scc.images_of(size)[0].reshape(-1, 64)
    assert project.a is not None
    assert np.allclose(project.a, pixels - pixels[: size.train].mean(axis=0), atol=1e-6)
