"""GloReDi: transforms as products, Fourier convolutions, both losses on latents, tomography; the oracles of its fact
sheet."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from scipy.fft import dctn

from nmsat.algorithms.core.tape import Stage
from nmsat.algorithms.workloads.engine import ops
from nmsat.algorithms.workloads.engine.program import Program
from nmsat.algorithms.workloads.engine.registry import record
from nmsat.algorithms.workloads.methods import tomography
from nmsat.algorithms.workloads.methods.fourier_conv import Layers, from_spectrum, spectrum
from nmsat.algorithms.workloads.methods.gloredi import (
    SMALL,
    band,
    batch,
    contrastive,
    cosine_distance,
    loss,
    ring,
    smooth_l1,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from nmsat.algorithms.workloads.engine.program import Tensor
    from nmsat.algorithms.workloads.methods.fourier_conv import By

RNG = np.random.default_rng(8)
WAYS: tuple[By, ...] = ("array", "host")


def _input(p: Program, *shape: int) -> Tensor:
    return p.input(shape, RNG.standard_normal(shape))


@pytest.mark.parametrize("by", WAYS)
def test_the_spectrum_is_the_orthonormal_transform_and_comes_back(by: By) -> None:
    p = Program(dtype=np.float64)
    x = _input(p, 2, 6, 8, 3)
    found = spectrum(p, "s", x, by)
    expected = np.fft.rfft2(x.array, axes=(1, 2), norm="ortho")
    assert np.allclose(found.array, np.concatenate([expected.real, expected.imag], axis=3), atol=1e-12)
    assert np.allclose(from_spectrum(p, "s", found, by).array, x.array, atol=1e-12)
    twice = np.where(np.isin(np.arange(5), (0, 4)), 1.0, 2.0)[:, None]
    energy = (found.array.reshape(2, 6, 5, 2, 3) ** 2).sum(axis=3) * twice
    assert energy.sum() == pytest.approx((x.array**2).sum())
    assert len(p.tape.products) == (4 if by == "array" else 0)
    noise = _input(p, 2, 6, 5, 6)  # not the spectrum of a real picture
    z = noise.array[..., :3] + 1j * noise.array[..., 3:]
    expected = np.fft.irfft2(z, s=(6, 8), axes=(1, 2), norm="ortho")
    assert np.allclose(from_spectrum(p, "s", noise, by).array, expected, atol=1e-12)


def _spectral_unit(weights: NDArray, x: NDArray, *, active: bool) -> NDArray:
    """The unit on the spectrum without normalisation: 2 C x 2 C weights on real and imaginary parts."""
    p = Program(dtype=np.float64)
    z = spectrum(p, "s", p.input(x.shape, x)).array @ weights
    z = np.maximum(z, 0) if active else z
    return from_spectrum(p, "s", p.input(z.shape, z)).array


def test_complex_weights_commute_with_shifts_and_real_ones_or_a_relu_do_not() -> None:
    x, a, b = RNG.standard_normal((1, 8, 8, 2)), RNG.standard_normal((2, 2)), RNG.standard_normal((2, 2))
    shifted = np.roll(x, (3, 5), axis=(1, 2))

    def gap(weights: NDArray, *, active: bool = False) -> float:
        ours, theirs = (_spectral_unit(weights, v, active=active) for v in (x, shifted))
        return float(np.abs(np.roll(ours, (3, 5), axis=(1, 2)) - theirs).max())

    assert np.allclose(_spectral_unit(np.eye(4), x, active=False), x)
    assert gap(np.block([[a, -b], [b, a]])) < 1e-12
    assert gap(np.block([[a, -b], [b, a]]), active=True) > 0.1
    assert gap(RNG.standard_normal((4, 4))) > 0.1


def test_one_pixel_reaches_all_of_the_global_branch_and_a_patch_of_the_local_one() -> None:
    store = {}

    def branches(x: NDArray) -> tuple[NDArray, NDArray]:
        p = Program(dtype=np.float64, store=store)
        net = Layers(p, "n", None)
        local = net.conv("a", net.conv("b", p.input(x.shape, x), 4, 3), 4, 3)
        return local.array[0], net.spectral("s", p.input(x.shape, x), 4).array[0]

    x = RNG.standard_normal((1, 12, 12, 4))
    other = x.copy()
    other[0, 6, 6] += 1
    local, wide = (np.abs(a - b).max(axis=2) > 1e-12 for a, b in zip(branches(x), branches(other), strict=True))
    assert wide.all()
    assert np.argwhere(local).min() == 4
    assert np.argwhere(local).max() == 8
    assert local.sum() == 25


def _value(f: Callable[..., Tensor], *arrays: NDArray) -> float:
    p = Program(dtype=np.float64)
    return float(f(*(p.input(a.shape, a) for a in arrays)).array)


def test_the_directional_loss_sees_directions_alone() -> None:
    z = RNG.standard_normal((2, 3, 3, 8))
    assert _value(cosine_distance, z, 3 * z) == pytest.approx(0, abs=1e-7)
    assert _value(cosine_distance, z, -0.1 * z) == pytest.approx(2, abs=1e-6)
    other = RNG.standard_normal(z.shape)
    assert _value(cosine_distance, 5 * z, other) == pytest.approx(_value(cosine_distance, z, other), abs=1e-7)
    assert _value(smooth_l1, np.array([0.5, 3.0]), np.zeros(2)) == pytest.approx((0.125 + 2.5) / 2)


def test_the_contrastive_loss_of_equal_vectors_counts_them() -> None:
    same = np.tile(np.eye(5)[:1], (3, 1))
    assert _value(contrastive, same, same, np.zeros((0, 5))) == pytest.approx(np.log(2 * 3 - 1))
    assert _value(contrastive, same, same, np.eye(5)[:1]) == pytest.approx(np.log(2 * 3))
    # alone with its partner, and everything else at right angles
    pairs = np.eye(6)[:3]
    assert _value(contrastive, pairs, pairs, np.eye(6)[3:]) == pytest.approx(np.log(1 + 7 * np.exp(-1 / 0.07)))


def test_the_band_is_a_ring_of_the_cosine_transform() -> None:
    assert len(ring(64)) == 1472
    p = Program(dtype=np.float64)
    x = _input(p, 2, 8, 8, 3)
    whole = np.asarray(dctn(x.array, axes=(1, 2), norm="ortho")).reshape(2, 64, 3)[:, ring(8)].reshape(2, -1)
    assert np.allclose(band(x).array, whole / np.linalg.norm(whole, axis=1, keepdims=True))


@pytest.mark.parametrize("radius", [0.3, 0.7])
def test_a_disc_is_seen_as_its_chords(radius: float) -> None:
    disc = tomography.Ellipses(np.array([[0.1, -0.2]]), np.full((1, 2), radius), np.array([0.4]), np.array([1.5]))
    angles = tomography.views(7)
    found = tomography.sinogram(disc, angles, 90)
    s = tomography.places(90)[None] - (0.1 * np.cos(angles) - 0.2 * np.sin(angles))[:, None]
    assert np.allclose(found, 3 * np.sqrt(np.maximum(radius**2 - s**2, 0)))


def test_an_ellipse_has_the_mass_of_its_picture_and_more_views_are_nearer() -> None:
    body = tomography.random_phantom(np.random.default_rng(2))
    sides = tomography.sinogram(body, tomography.views(9), 400).sum(axis=1) * 2 * tomography.REACH / 400
    assert np.allclose(sides, tomography.picture(body, 400).sum() * (2 / 400) ** 2, rtol=0.02)
    truth = tomography.picture(body, 48)
    errors = [np.sqrt(np.mean((x - truth) ** 2)) for x in tomography.reconstructions(body, (6, 12, 48, 96), 72, 48)]
    assert errors[0] > 1.4 * errors[1] > 1.4 * errors[2]
    assert errors[3] < 0.35 * truth.std()


CASES: dict[str, Callable[[Program, Tensor], Tensor]] = {
    "spectrum by the array": lambda p, x: spectrum(p, "s", x),
    "spectrum by the host": lambda p, x: spectrum(p, "s", x, "host"),
    "back by the array": lambda p, x: from_spectrum(p, "s", ops.reshape(x, (2, 4, 3, 4))),
    "back by the host": lambda p, x: from_spectrum(p, "s", ops.reshape(x, (2, 4, 3, 4)), "host"),
    "distance": lambda p, x: cosine_distance(x, p.input(x.shape, np.random.default_rng(4).random(x.shape))),
    "smooth": lambda p, x: smooth_l1(ops.scale(x, 2.0), p.input(x.shape, np.random.default_rng(4).random(x.shape))),
    "band": lambda _p, x: band(ops.reshape(x, (1, 4, 4, 6))),
    "contrast": lambda p, x: contrastive(
        band(ops.reshape(ops.part(x, 0, 0, 1), (1, 4, 4, 3))),
        band(ops.reshape(ops.part(x, 0, 1, 2), (1, 4, 4, 3))),
        p.input((2, 24), np.eye(24)[:2]),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_gradients_match_differences(case: str) -> None:
    values = np.random.default_rng(5).standard_normal((2, 4, 4, 3))

    def run() -> tuple[Program, Tensor]:
        p = Program(dtype=np.float64)
        leaf = p.vector("x", values.shape)
        p.store["x"].array[...] = values
        y = CASES[case](p, leaf)
        factors = np.random.default_rng(3).standard_normal(y.shape)
        return p, y if y.shape == () else ops.total(ops.mul(y, p.input(y.shape, factors)))

    p, value = run()
    p.backward(value)
    grad = p.store["x"].grad
    assert grad is not None
    for place in [(0, 0, 0, 0), (0, 3, 1, 2), (1, 2, 3, 1), (1, 0, 2, 0)]:
        ends = []
        for sign in (1, -1):
            values[place] += sign * 1e-6
            ends.append(float(run()[1].array))
            values[place] -= sign * 1e-6
        assert grad[place] == pytest.approx((ends[0] - ends[1]) / 2e-6, abs=2e-7), place


def test_the_decoder_learns_from_the_student_alone() -> None:
    made = batch(SMALL, 0)
    p = Program()
    few, twice, target = (p.input(part.shape, part) for part in made)
    length = len(ring(4)) * 8
    p.backward(loss(p, SMALL, few, twice, target, p.input((1, length), np.eye(length)[:1]), "faithful"))
    assert np.any(p.store["teacher.stem"].grad)  # type: ignore[arg-type]
    gradients = [q for q in p.tape.of(Stage.WU) if q.name.startswith("decoder")]
    assert gradients
    assert not [q for q in gradients if q.name.endswith("/copy")]
    assert [q for q in p.tape.of(Stage.BP) if q.name.startswith("decoder") and q.name.split("/")[1:] == ["copy"]]


def test_a_branch_has_the_multiply_adds_and_weights_of_the_fact_sheet() -> None:
    program = record("gloredi", "paper", "faithful")
    forward = program.tape.of(Stage.FF)
    ours = [q for q in forward if q.name.startswith(("student", "decoder")) and not q.name.endswith("/copy")]
    fixed = [q for q in forward if "/student" in q.name or "/decoder" in q.name]  # 18, and 4 of the copy
    share = sum(q.macs_dense for q in fixed) * 18 / 22 / 8
    assert sum(q.macs_dense for q in ours) / 8 + share == pytest.approx(31.2e9, rel=0.015)
    assert share == pytest.approx(0.09 * 31.2e9, rel=0.03)
    learnt = {name: w.size for name, w in program.store.items() if not w.frozen}
    assert sum(size for name, size in learnt.items() if not name.startswith("teacher")) == pytest.approx(
        6.7e6, rel=0.01
    )
    (contrast,) = [q for q in forward if q.name == "contrast"]
    assert (contrast.m, contrast.k, contrast.n) == (16, 188_416, 316)
