"""Sparse3D: score distillation in closed form, epipolar lines, networks to the last parameter; the oracles of its
fact sheet."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from nmsat.algorithms.core.sparsity import Gathered
from nmsat.algorithms.core.tape import Stage
from nmsat.algorithms.workloads.engine.program import Program
from nmsat.algorithms.workloads.engine.registry import record
from nmsat.algorithms.workloads.methods import epipolar
from nmsat.algorithms.workloads.methods.gaussian_score import Gaussian, Regressor, csds, sds
from nmsat.algorithms.workloads.methods.hash_grid import GridSize, corners, looked_up
from nmsat.algorithms.workloads.methods.latent_diffusion import Net, NetSize, control, latents, predicted_noise
from nmsat.algorithms.workloads.methods.sparse3d import PAPER

RNG = np.random.default_rng(3)
A, S = 0.8, 0.6


def _covariance(width: float) -> np.ndarray:
    root = RNG.standard_normal((3, 3))
    return width * (root @ root.T + 0.5 * np.eye(3))


def _precision(covariance: np.ndarray) -> np.ndarray:
    return np.linalg.inv(A * A * covariance + S * S * np.eye(3))


def test_the_best_guess_of_the_noise_is_the_regression_on_noised_data() -> None:
    mean, covariance = RNG.standard_normal(3), _covariance(0.7)
    data = RNG.multivariate_normal(mean, covariance, 200_000)
    noise = RNG.standard_normal(data.shape)
    noised = A * data + S * noise
    design = np.concatenate([noised, np.ones((len(noised), 1))], axis=1)
    fitted = design @ np.linalg.lstsq(design, noise, rcond=None)[0]
    assert np.allclose(fitted, Gaussian.of(mean, covariance).noise(noised, A, S), atol=0.03)


def test_means_and_covariances_of_the_pushes_have_closed_forms() -> None:
    """E sds = s a P (x - mu), cov sds = (a^2 S P)^2; C-SDS: the difference of the means, cov (s^2 (P_p - P_c))^2."""
    x, mu, middle = (RNG.standard_normal(3) for _ in range(3))
    narrow, wide = _covariance(0.2), _covariance(2.0)
    phi, category = Gaussian.of(mu, narrow), Gaussian.of(middle, wide)
    noise = RNG.standard_normal((200_000, 3))
    p, q = _precision(narrow), _precision(wide)
    found = sds(x, phi, noise, A, S)
    assert np.allclose(found.mean(axis=0), S * A * p @ (x - mu), atol=0.01)
    spread = A * A * narrow @ p
    assert np.allclose(np.cov(found.T), spread @ spread.T, atol=0.01)
    found = csds(x, phi, category, noise, A, S)
    assert np.allclose(found.mean(axis=0), S * A * (p @ (x - mu) - q @ (x - middle)), atol=0.01)
    spread = S * S * (p - q)
    assert np.allclose(np.cov(found.T), spread @ spread.T, atol=0.01)


def test_c_sds_rests_beyond_the_condition_away_from_the_category() -> None:
    mu, middle = RNG.standard_normal(3), RNG.standard_normal(3)
    narrow, wide = _covariance(0.2), _covariance(2.0)
    phi, category = Gaussian.of(mu, narrow), Gaussian.of(middle, wide)
    p, q = _precision(narrow), _precision(wide)
    rest = np.linalg.solve(p - q, p @ mu - q @ middle)
    none = np.zeros(3)
    assert np.allclose(csds(rest, phi, category, none, A, S), 0, atol=1e-12)
    assert np.allclose(sds(mu, phi, none, A, S), 0, atol=1e-12)
    broad = Gaussian.of(middle, 1e8 * np.eye(3))
    assert np.allclose(csds(mu, phi, broad, none, A, S), 0, atol=1e-6)
    assert np.array_equal(csds(rest, phi, phi, RNG.standard_normal(3), A, S), none)


def test_the_regressor_is_the_conditional_of_a_joint_gaussian() -> None:
    mix = RNG.standard_normal((3, 4))
    x = RNG.standard_normal((40_000, 4)) + 1
    y = x @ mix.T + 0.3 * RNG.standard_normal((40_000, 3))
    model = Regressor.fit(x, y, 1e-6, 0.0)
    given = model.given(np.array([1.0, 2.0, 3.0, 4.0]))
    assert np.allclose(given.mean, mix @ [1, 2, 3, 4], atol=0.05)
    assert np.allclose(given.vectors * given.values @ given.vectors.T, 0.09 * np.eye(3), atol=0.01)
    whole = model.category
    assert np.allclose(whole.vectors * whole.values @ whole.vectors.T, mix @ mix.T + 0.09 * np.eye(3), atol=0.25)


def test_samples_lie_on_epipolar_lines_and_the_seen_point_among_them() -> None:
    target, *sources = epipolar.ring(3, 16)
    distances = np.linspace(2, 4, 7)
    found = epipolar.epipolar_samples(target, sources, distances).reshape(2, 256, 7, 2)
    pixels = np.stack([*np.divmod(np.arange(256), 16)[::-1], np.ones(256)], axis=1)
    for source, places in zip(sources, found, strict=True):
        lines = pixels @ epipolar.fundamental(target, source).T
        homogeneous = np.stack([places[..., 1], places[..., 0], np.ones(places.shape[:2])], axis=-1)
        size = np.linalg.norm(lines[:, :2], axis=1, keepdims=True)
        assert np.abs(np.einsum("npc,nc->np", homogeneous, lines) / size).max() < 1e-9
    origins, directions = target.rays()
    _, depth = epipolar.trace(origins, directions)
    hit = np.flatnonzero(np.isfinite(depth))
    assert 40 < len(hit) < 200
    points = origins[hit] + depth[hit, None] * directions[hit]
    assert np.allclose(target.project(points), np.stack(np.divmod(hit, 16), axis=1))
    on = [np.isclose(np.linalg.norm(points - c, axis=1), r) for c, r, _ in epipolar.SPHERES]
    assert np.all(np.any(on, axis=0))


def test_a_level_of_the_grid_is_bilinear_and_shares_rows_only_where_it_must() -> None:
    size = GridSize(dims=2, levels=2, coarse=4, growth=8, rows=40, features=2)
    places = RNG.random((50, 2))
    p = Program(dtype=np.float64)
    found = looked_up(p, size, places, 50).array
    table = p.store["grid"].array[:25, 1].reshape(5, 5).T
    assert np.allclose(found[:, 1], map_coordinates(table, places.T * 4, order=1))
    rows, weights = corners(size, places)
    assert np.allclose(weights.sum(axis=2), 1)
    assert rows[:, 0].max() < 25
    assert rows[:, 1].min() >= 40
    assert rows[:, 1].max() < 80


def test_networks_have_the_parameters_and_multiply_adds_of_the_published_ones() -> None:
    unet, image = Program(values=False), Program(values=False)
    x, step, words = unet.input((1, 64, 64, 4)), unet.input((1, 320)), unet.input((1, 77, 768))
    predicted_noise(Net(unet, "unet", PAPER.unet, None), x, step, words)
    assert sum(w.size for w in unet.store.values()) == 859_520_964
    assert unet.tape.macs_dense == pytest.approx(401.6e9, rel=1e-3)
    latents(Net(image, "encoder", PAPER.encoder, None), image.input((1, 512, 512, 3)))
    assert sum(w.size for w in image.store.values()) == 34_163_664
    assert image.tape.macs_dense == pytest.approx(558e9, rel=1e-3)


def test_a_controller_that_adds_nothing_leaves_the_model_as_it_is() -> None:
    size = NetSize(widths=(8, 16), blocks=1, groups=4, channels=2, heads=2, text=4)
    p = Program(dtype=np.float64)
    x, step = p.input((1, 4, 4, 2), RNG.standard_normal((1, 4, 4, 2))), p.input((1, 8), RNG.standard_normal((1, 8)))
    words, hint = p.input((1, 3, 4), RNG.standard_normal((1, 3, 4))), p.input((1, 4, 4, 8), RNG.random((1, 4, 4, 8)))
    net = Net(p, "unet", size, None)
    added = control(Net(p, "control", size, None), x, step, words, hint)
    plain = predicted_noise(net, x, step, words).array
    assert not np.allclose(predicted_noise(net, x, step, words, added).array, plain)
    for name, w in p.store.items():
        if name.startswith("control.zero"):
            w.array[...] = 0
    added = control(Net(p, "control", size, None), x, step, words, hint)
    assert np.array_equal(predicted_noise(net, x, step, words, added).array, plain)


def test_a_step_has_two_models_a_controller_and_no_backward_pass_of_either() -> None:
    tape = record("sparse3d", "paper", "faithful").tape
    macs: dict[tuple[str, Stage], int] = {}
    for product in tape.products:
        key = (product.name.split(".")[0], product.stage)
        macs[key] = macs.get(key, 0) + product.macs_true
    assert macs["unet", Stage.FF] == pytest.approx(2 * 401.6e9, rel=1e-3)
    assert macs["control", Stage.FF] == pytest.approx(130.7e9, rel=0.03)  # ours with the 1 x 1 convolutions behind it
    assert macs["encoder", Stage.BP] == pytest.approx(558e9, rel=0.05)
    assert {stage for _, stage in macs if stage is Stage.WU} == {Stage.WU}
    assert not [key for key in macs if key[0] in {"unet", "control", "epipolar"} and key[1] is not Stage.FF]
    samples = [q for q in tape.products if isinstance(q.sparsity, Gathered)]
    assert sum(q.macs_true for q in samples) / sum(q.macs_full for q in samples) == pytest.approx(0.25, rel=0.01)
