"""SSVI: moments, divergence, reparametrisation, moving masks, range of binary16; the oracles of the fact sheet."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from scipy.stats import foldnorm

from nmsat.algorithms.core.tape import Stage
from nmsat.algorithms.workloads.engine import ops
from nmsat.algorithms.workloads.engine.program import Program
from nmsat.algorithms.workloads.engine.registry import VARIANTS, Variant, record
from nmsat.algorithms.workloads.engine.shared import shared_linear
from nmsat.algorithms.workloads.methods.ssvi import (
    RESNET18_CIFAR,
    SCALE,
    SMALL,
    calibration_error,
    divergence,
    folded_moments,
    forward,
    gaussian,
    learn,
    move_mask,
    softplus,
    train,
)

if TYPE_CHECKING:
    from nmsat.algorithms.workloads.engine.parameters import Parameter

RNG = np.random.default_rng(0)
X = RNG.random((16, 64)).astype(np.float32)
LABELS = RNG.integers(0, 10, 16)


def test_moments_are_those_of_the_folded_normal() -> None:
    mu, sigma = RNG.standard_normal(20), RNG.random(20) + 0.1
    mean, deviation = folded_moments(mu, sigma)
    wanted = foldnorm(np.abs(mu) / sigma, scale=sigma)
    assert np.allclose(mean, wanted.mean(), atol=1e-13)
    assert np.allclose(deviation, wanted.std(), atol=1e-12)
    mean, deviation = folded_moments(np.zeros(1), np.ones(1))
    assert mean[0] / deviation[0] == pytest.approx(1 / np.sqrt(np.pi / 2 - 1))
    mean, deviation = folded_moments(np.array([-0.3]), np.array([1e-6]))
    assert mean[0] == pytest.approx(0.3)
    assert mean[0] / max(deviation[0], 1e-300) > 1e4


def test_divergence() -> None:
    assert divergence(np.array(0.01), np.array(0.0006)) == pytest.approx(3.6275, abs=1e-4)
    assert divergence(np.array(0.0), np.array(0.005)) == pytest.approx(0)
    assert (divergence(RNG.standard_normal(50) * 0.01, RNG.random(50) * 0.01 + 1e-4) >= 0).all()


def test_results_have_the_mean_and_variance_of_sampled_weights() -> None:
    """Also: sigma^2 = 4e-7 would be lost in binary16, scaled it is not."""
    p = Program(exact=True, rng=np.random.default_rng(1))
    w = gaussian(p, "w", (64, 8), 0.5, "faithful")
    keep = w.array[0] != 0
    sigma = softplus(p.store["w.rho"].array) * keep
    assert ((sigma**2).astype(np.float16)[sigma > 0] < 6.1e-5).all()
    mean, variance = np.split(_moments(p, w), 2, axis=1)
    wanted = X.astype(float) ** 2 @ sigma**2
    assert np.allclose(variance / SCALE, wanted, rtol=4e-3)
    assert np.allclose(mean, X @ (p.store["w.mu"].array * keep), atol=5e-3)
    draws = [X[0] @ (keep * RNG.normal(0, sigma)) for _ in range(4000)]
    assert np.allclose(np.var(draws, axis=0), wanted[0], rtol=0.1)


def _moments(p: Program, w: Parameter) -> np.ndarray:
    x = p.input((16, 128), np.concatenate([X, X * X], axis=1))
    return shared_linear("w", x, w).array


def test_gradients_of_mu_and_rho_match_differences() -> None:
    def loss(store: dict[str, Parameter]) -> tuple[Program, float]:
        p = Program(store=store, dtype=np.float64, rng=np.random.default_rng(3))
        for name in ("fc0", "fc1"):  # so that the first draw does not shift the noise of the others
            gaussian(p, name, (64, 96) if name == "fc0" else (96, 10), 0.1, "faithful")
        p.rng = np.random.default_rng(4)
        y = ops.cross_entropy(forward(p, SMALL, p.input(X.shape, X), "faithful"), LABELS)
        p.backward(y)
        return p, float(y.array)

    store: dict[str, Parameter] = {}
    loss(store)
    for name in ("fc0", "fc1"):
        store[f"{name}.rho"].value = store[f"{name}.rho"].array + 5.0  # deviations that matter
        store[name].grad = None
    loss(store)
    kept = store["fc0"].keep
    assert kept is not None
    place = tuple(np.argwhere(kept)[7])
    before = {kind: store[f"fc0.{kind}"].array.copy() for kind in ("mu", "rho")}
    slopes = {}
    learn(store, 1.0, 0.0)
    for kind, value in before.items():
        slopes[kind] = (value - store[f"fc0.{kind}"].array)[place]
    for other in ("fc1.mu", "fc1.rho", "fc0.bias", "fc1.bias"):
        store[other].value = store[other].array + store[other].state["velocity"]
    for kind, slope in slopes.items():
        store["fc0.mu"].value, store["fc0.rho"].value = before["mu"].copy(), before["rho"].copy()
        ends = []
        for sign in (1, -1):
            store[f"fc0.{kind}"].array[place] += sign * 1e-5
            ends.append(loss(store)[1])
            store[f"fc0.{kind}"].array[place] -= sign * 1e-5
        assert slope == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-3, abs=1e-9)


@pytest.mark.parametrize("variant", VARIANTS)
def test_masks_move_and_keep_their_size(variant: Variant) -> None:
    still, moved = (train(0, 0.1, variant, fraction, 40) for fraction in (0.0, 0.3))
    for name in ("fc0", "fc1"):
        before, after = still[name].keep, moved[name].keep
        assert before is not None
        assert after is not None
        assert before.sum() == after.sum()
        assert not np.array_equal(before, after)
        if variant == "nm":
            assert (after.reshape(-1, 8, after.shape[1]).sum(axis=1) == 1).all()
        assert not moved[name].array[:, ~after].any()


def test_a_move_drops_the_lowest_ratio_and_grows_the_steepest() -> None:
    store: dict[str, Parameter] = {}
    w = gaussian(Program(store=store), "w", (20, 10), 0.2, "faithful")
    keep = w.keep
    assert keep is not None
    for q in ("w.mu", "w.rho"):
        store[q].state["velocity"] = np.ones((20, 10))
    mu, rho = store["w.mu"].array.copy(), store["w.rho"].array.copy()
    mean, deviation = folded_moments(mu, softplus(rho))
    ratio, slope = mean / deviation, RNG.standard_normal((20, 10))
    move_mask(store, {"w": slope}, 0.25, "faithful")
    new = w.keep
    assert new is not None
    stayed, grown, lost = new & keep, new & ~keep, keep & ~new
    assert ratio[lost].max() <= np.sort(ratio[keep])[9]
    assert np.abs(slope[grown]).min() >= np.abs(slope[~keep & ~new]).max()
    assert not store["w.mu"].array[grown].any()
    assert np.allclose(store["w.rho"].array[grown], rho[keep].mean())
    assert np.array_equal(store["w.mu"].array[stayed], mu[stayed])


def test_calibration_error() -> None:
    sure = np.tile([0.8, 0.2], (10, 1))
    assert calibration_error(sure, np.array([0] * 8 + [1] * 2)) == pytest.approx(0)
    assert calibration_error(sure, np.zeros(10, int)) == pytest.approx(0.2)


def test_resnet18_multiplies_twice_and_a_tenth() -> None:
    tape = record("ssvi", "paper", "faithful").tape
    ahead = tape.of(Stage.FF)
    assert all(q.count == 2 for q in tape.products)
    assert sum(q.macs_full for q in ahead) / RESNET18_CIFAR.batch == pytest.approx(2 * 0.555e9, rel=5e-3)
    sparse = [q for q in ahead if q.name != "stem"]
    assert sum(q.macs_true for q in sparse) / sum(q.macs_full for q in sparse) == pytest.approx(0.1, abs=1e-3)
