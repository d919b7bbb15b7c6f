"""SparseNeRF: closed forms of rendering, the encoding at its ends, both losses; the oracles of its fact sheet."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from nmsat.algorithms.core.tape import Stage
from nmsat.algorithms.workloads.engine import ops
from nmsat.algorithms.workloads.engine.program import Program
from nmsat.algorithms.workloads.engine.registry import record
from nmsat.algorithms.workloads.methods import flatland
from nmsat.algorithms.workloads.methods.radiance import encoded, render, resample, sections, weights
from nmsat.algorithms.workloads.methods.sparse_nerf import DTU, SMALL, continuity_loss, level, loss, rank_loss

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nmsat.algorithms.workloads.engine.parameters import Parameter
    from nmsat.algorithms.workloads.engine.program import Tensor

RNG = np.random.default_rng(9)


def _rendered(density: NDArray, colour: NDArray, edges: NDArray) -> NDArray:
    p = Program(dtype=np.float64)
    return render(p.input(density.shape, density), p.input(colour.shape, colour), edges).array


def test_a_constant_density_has_the_depth_of_a_truncated_exponential() -> None:
    sigma, near, far, samples = 1.3, 1.0, 3.0, 4000
    edges = np.linspace(near, far, samples + 1)[None]
    seen = _rendered(np.full((1, samples), sigma), np.ones((1, samples, 3)), edges)[0]
    length = far - near
    opacity = 1 - np.exp(-sigma * length)
    depth = near + 1 / sigma - length * np.exp(-sigma * length) / opacity
    assert seen == pytest.approx([opacity] * 3 + [depth, opacity], abs=1e-6)


def test_an_opaque_sample_is_all_that_is_seen() -> None:
    density, colour = np.zeros((1, 8)), RNG.random((1, 8, 3))
    density[0, 5] = density[0, 6] = 1e5
    edges = np.linspace(1, 5, 9)[None]
    assert _rendered(density, colour, edges)[0] == pytest.approx([*colour[0, 5], 3.75, 1.0])
    w, _ = weights(RNG.random((20, 8)) * 3, np.tile(edges, (20, 1)))
    assert w.min() >= 0
    assert w.sum(axis=1).max() <= 1


def test_moments_of_a_section_are_those_of_points_drawn_in_it() -> None:
    edges, radius, points = np.array([[2.0, 3.5]]), 0.2, 400_000
    mean, variance = sections(np.array([[0.5, -1.0, 0.0]]), np.array([[0.0, 0.0, 1.0]]), edges, radius)
    t = np.cbrt(RNG.uniform(2.0**3, 3.5**3, points))  # area grows with t^2
    angle, out = RNG.uniform(0, 2 * np.pi, points), radius * t * np.sqrt(RNG.random(points))
    drawn = np.stack([0.5 + out * np.cos(angle), -1 + out * np.sin(angle), t])
    assert np.allclose(mean[0, 0], drawn.mean(axis=1), atol=5e-3)
    assert np.allclose(variance[0, 0], drawn.var(axis=1), atol=5e-3)


def test_without_extent_the_encoding_is_that_of_a_point() -> None:
    x = RNG.standard_normal((5, 3))
    plain = [f(2.0**level * x[:, axis]) for f in (np.sin, np.cos) for level in range(16) for axis in range(3)]
    assert np.allclose(encoded(x, np.zeros_like(x), 16), np.stack(plain, axis=1))
    wide = encoded(x, np.full_like(x, 0.5), 16)
    assert np.abs(wide.reshape(5, 2, 16, 3)[:, :, 4:]).max() < 1e-20


def test_new_samples_follow_the_weights() -> None:
    edges, w = np.linspace(1, 5, 41)[None], np.full((1, 40), 1e-9)
    w[0, 20] = 1.0
    found = resample(edges, w, 200, padding=0.0)[0]
    assert np.all(np.diff(found) > 0)
    assert np.mean((found > 2.85) & (found < 3.25)) > 0.95
    assert np.allclose(resample(edges, np.ones((1, 40)), 40), edges)


def _depths(values: NDArray) -> Tensor:
    p = Program(dtype=np.float64)
    leaf = p.vector("d", values.shape)
    p.store["d"].array[...] = values
    return leaf


def test_ranking_is_zero_where_the_order_holds_and_pushes_near_nearer() -> None:
    held = _depths(np.array([[1.0], [2.0], [3.0], [2.5], [0.0], [0.0], [0.0], [0.0]]))
    assert float(rank_loss(held).array) == 0
    broken = _depths(np.array([[3.0], [2.0], [0.0], [0.0]]))
    wrong = rank_loss(broken)
    assert float(wrong.array) == pytest.approx(1 + 1e-4)
    broken.program.backward(wrong)
    grad = broken.program.store["d"].grad
    assert grad is not None
    assert grad[:, 0].tolist() == [1, -1, 0, 0]


def test_continuity_is_the_gap_beyond_the_margin() -> None:
    assert float(continuity_loss(_depths(np.full((8, 1), 2.5))).array) == 0
    four = _depths(np.array([[1.0], [2.0], [1.5], [1.0]]))
    assert float(continuity_loss(four).array) == pytest.approx(0.5 + 1.0 - 2e-4)


def test_the_prior_gives_an_order_and_no_values() -> None:
    """Any monotone change of a prior without ties draws the same groups."""
    rough = RNG.permutation(flatland.PIXELS) / flatland.PIXELS
    first = [flatland.groups(rough, np.random.default_rng(i))[:2] for i in range(20)]
    assert first == [flatland.groups(np.exp(3 * rough), np.random.default_rng(i))[:2] for i in range(20)]
    assert all(rough[near] > rough[far] for near, far in first)


def test_views_show_discs_and_wall() -> None:
    seen = flatland.view(0.0)
    x, z = (seen.depth * seen.directions[:, 0], seen.depth * seen.directions[:, 1])
    on_disc = np.zeros(flatland.PIXELS, bool)
    for cx, cz, radius in flatland.DISCS:
        on_disc |= np.isclose(np.hypot(x - cx, z - cz), radius)
    assert np.array_equal(on_disc, seen.depth < flatland.WALL)
    assert 4 < on_disc.sum() < 28
    true = flatland.step(8, 16, 3)
    assert np.all(true.depth[8:12] < true.depth[12:16] + 2.5)


def test_gradients_match_differences() -> None:
    store: dict[str, Parameter] = {}
    rays = flatland.step(SMALL.rgb, SMALL.depth, 1)

    def make() -> tuple[Program, Tensor]:
        p = Program(dtype=np.float64, store=store)
        return p, _one_level(p, rays)

    p, value = make()
    p.backward(value)
    for name in ("l0", "l2", "head", "rgb", "head.bias"):
        w = store[name]
        place = np.unravel_index(np.argmax(np.abs(w.grad)), w.shape)  # type: ignore[arg-type]
        ends = []
        for sign in (1, -1):
            w.array[place] += sign * 1e-6
            ends.append(float(make()[1].array))
            w.array[place] -= sign * 1e-6
        assert w.grad is not None
        assert w.grad[place] == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-4), name


def _one_level(p: Program, rays: flatland.Rays) -> Tensor:
    """The loss of one level: where the second level samples depends on the first, and has no gradient."""
    edges = np.tile(np.linspace(*flatland.RANGE, SMALL.samples + 1), (SMALL.rays, 1))
    seen, _ = level(p, SMALL, rays, edges, "", "faithful")
    depth = ops.part(ops.part(seen, 0, SMALL.rgb, SMALL.rays), 1, 3, 4)
    colours = ops.squared_error(ops.part(ops.part(seen, 0, 0, 4), 1, 0, 3), p.input((4, 3), rays.colour))
    return ops.add(colours, ops.add(rank_loss(depth), continuity_loss(depth)))


def test_without_weight_the_prior_is_not_read() -> None:
    rays = flatland.step(SMALL.rgb, SMALL.depth, 1)
    p = Program()
    plain = loss(p, SMALL, rays, 0.0, "faithful")
    p.backward(plain)
    assert float(loss(Program(), SMALL, rays, 0.5, "faithful").array) >= float(plain.array)


def test_a_step_on_dtu_has_the_products_of_the_fact_sheet() -> None:
    tape = record("sparse-nerf", "paper", "faithful").tape
    forward = tape.of(Stage.FF)
    samples = DTU.rays * DTU.samples
    assert {q.m for q in forward} == {samples}
    assert sum(q.macs_dense for q in forward) == 2 * samples * 610_304
    assert sum(q.macs_dense for q in forward) == pytest.approx(80e9, rel=0.01)
    assert tape.macs_dense == pytest.approx(240e9, rel=0.03)
    assert sum(w.size for w in record("sparse-nerf", "paper", "faithful").store.values()) == 612_740
