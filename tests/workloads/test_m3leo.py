"""M3LEO: networks, tiles, interferometry, metrics; the oracles of its fact sheet."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from scipy.signal import correlate2d

from nmsat.algorithms.core.tape import Stage
from nmsat.algorithms.workloads.engine import ops
from nmsat.algorithms.workloads.engine.images import reflect_pad
from nmsat.algorithms.workloads.engine.products import conv2d
from nmsat.algorithms.workloads.engine.program import Program, Tensor
from nmsat.algorithms.workloads.engine.registry import record
from nmsat.algorithms.workloads.methods import m3leo
from nmsat.algorithms.workloads.methods import m3leo_models as models
from nmsat.algorithms.workloads.methods import m3leo_tiles as earth

if TYPE_CHECKING:
    from nmsat.algorithms.workloads.engine.parameters import Parameter

RNG = np.random.default_rng(0)
UNET = models.UNetSize(batch=2, side=16, channels=3, widths=(4, 6, 8), outputs=2)
MAE = replace(m3leo.SMALL.mae, batch=2, side=8, patch=2, width=16, hidden=24, decoder=8)


def test_a_convolution_with_a_mirrored_border_is_a_correlation() -> None:
    p, x = Program(dtype=np.float64), RNG.standard_normal((1, 7, 6, 2))
    w = p.weight("c", (18, 3))
    y = conv2d("c", reflect_pad(p.input(x.shape, x), 1), w, 3, padding=0).array[0]
    mirrored = np.pad(x[0], ((1, 1), (1, 1), (0, 0)), mode="reflect")
    for out in range(3):
        kernel = w.array[:, out].reshape(3, 3, 2)
        direct = sum(correlate2d(mirrored[..., c], kernel[..., c], mode="valid") for c in range(2))
        assert np.allclose(y[..., out], direct)


def test_a_shift_of_the_image_shifts_what_the_network_says() -> None:
    """Far from the border, by whole pixels of the smallest level, so that batch norm sees the same values."""
    size = replace(UNET, batch=1, side=64, widths=(4, 6))
    x = np.zeros((1, 64, 64, 3))
    x[0, 24:32, 24:32] = RNG.standard_normal((8, 8, 3))
    store: dict[str, Parameter] = {}
    plain, moved = (_unet(size, v, store) for v in (x, np.roll(x, (8, 4), (1, 2))))
    assert np.allclose(np.roll(plain, (8, 4), (1, 2)), moved, atol=1e-9)
    assert not np.allclose(plain, moved, atol=1e-3)


def _unet(size: models.UNetSize, x: np.ndarray, store: dict[str, Parameter]) -> np.ndarray:
    p = Program(dtype=np.float64, store=store)
    return models.unet(p, "u", size, p.input(x.shape, x), None).array


def _mae_loss(p: Program, images: np.ndarray, kept: np.ndarray, lost: np.ndarray) -> Tensor:
    return m3leo.pixels(p, MAE, images, kept, lost, "faithful")


@pytest.mark.parametrize("network", ["unet", "mae"])
def test_gradients_match_differences(network: str) -> None:
    images = RNG.standard_normal((2, 8, 8, 8))
    kept, lost = models.choose(np.random.default_rng(1), MAE)

    def loss(p: Program) -> Tensor:
        if network == "mae":
            return _mae_loss(p, images, kept, lost)
        size = replace(UNET, side=8, channels=8, widths=(4, 6))
        y = models.unet(p, "u", size, p.input(images.shape, images), None)
        return ops.cross_entropy(y, np.indices((2, 8, 8)).sum(axis=0) % 2)

    p = Program(dtype=np.float64)
    p.backward(loss(p), 4.0)
    gradients = {w.name: w.grad for w in p.store.values()}
    for w in list(p.store.values()):
        grad = gradients[w.name]
        assert grad is not None, w.name
        place = np.unravel_index(int(np.abs(grad).argmax()), w.shape)
        ends = []
        for sign in (1, -1):
            w.array[place] += sign * 1e-6
            ends.append(float(loss(Program(dtype=np.float64, store=p.store)).array))
            w.array[place] -= sign * 1e-6
        assert grad[place] == pytest.approx((ends[0] - ends[1]) / 2e-6, abs=2e-6, rel=1e-4), w.name


def test_an_encoder_of_kept_patches_is_the_whole_one_with_the_others_hidden() -> None:
    """Attention of all tokens in plain NumPy, where no one looks at a token that is left out."""
    p, images = Program(dtype=np.float64), RNG.standard_normal((2, 8, 8, 8))
    kept, _ = models.choose(np.random.default_rng(1), MAE)
    cut = models.patches(images, MAE.patch)
    found = models.encode(p, MAE, p.input(cut.shape, cut), kept, None).array
    w = {name: parameter.array for name, parameter in p.store.items()}

    def normed(v: np.ndarray, name: str) -> np.ndarray:
        z = (v - v.mean(-1, keepdims=True)) / np.sqrt(v.var(-1, keepdims=True) + 1e-5)
        return z * w[f"{name}.gain"] + w[f"{name}.bias"]

    for row in range(2):
        h = cut[row] @ w["mae.embed"] + w["mae.embed.bias"] + models.places(MAE.patches, MAE.width)
        h = np.concatenate([w["mae.class"], h])
        seen = np.isin(np.arange(1 + MAE.patches), [0, *(kept[row] + 1)])
        q, k, v = np.split(normed(h, "mae.l0.norm1") @ w["mae.l0.qkv"] + w["mae.l0.qkv.bias"], 3, axis=1)
        parts, head = [], MAE.width // MAE.heads
        for i in range(MAE.heads):
            at = slice(i * head, (i + 1) * head)
            scores = np.where(seen, q[:, at] @ k[:, at].T / np.sqrt(head), -np.inf)
            parts.append(ops.soft(scores) @ v[:, at])
        h = h + np.concatenate(parts, axis=1) @ w["mae.l0.o"] + w["mae.l0.o.bias"]
        u = normed(h, "mae.l0.norm2") @ w["mae.l0.up"] + w["mae.l0.up.bias"]
        u = 0.5 * u * (1 + np.tanh(np.sqrt(2 / np.pi) * (u + 0.044715 * u**3)))
        h = normed(h + u @ w["mae.l0.down"] + w["mae.l0.down.bias"], "mae.norm")
        assert np.allclose(h[seen], found[row], atol=1e-9)


def test_patches_that_are_kept_do_not_enter_the_error() -> None:
    kept, lost = models.choose(np.random.default_rng(1), MAE)
    assert all(sorted([*k, *rest]) == list(range(MAE.patches)) for k, rest in zip(kept, lost, strict=True))
    cut = RNG.standard_normal((2, MAE.patches, MAE.pixels))
    said = np.concatenate([np.full((2, 1, MAE.pixels), 9.0), cut], axis=1)
    for row in range(2):
        said[row, kept[row] + 1] = 1e3
    p = Program(dtype=np.float64)
    assert float(models.error(MAE, p.input(said.shape, said), p.input(cut.shape, cut), lost).array) == 0
    said[0, lost[0, 0] + 1] += 1
    p = Program(dtype=np.float64)
    one = float(models.error(MAE, p.input(said.shape, said), p.input(cut.shape, cut), lost).array)
    assert one == pytest.approx(1 / lost.size)


def test_patches_are_cut_row_by_row() -> None:
    image = np.arange(2 * 4 * 4 * 3).reshape(2, 4, 4, 3)
    cut = models.patches(image, 2)
    assert cut[1, 2].tolist() == image[1, 2:4, 0:2].ravel().tolist()


def test_intersection_over_union() -> None:
    truth = np.array([[0, 0, 1], [1, 2, 2]])
    assert earth.mean_iou(truth, truth, 3) == 1
    found = np.array([[0, 1, 1], [1, 2, 0]])
    brute = [np.sum((truth == c) & (found == c)) / np.sum((truth == c) | (found == c)) for c in range(3)]
    assert earth.mean_iou(truth, found, 3) == pytest.approx(np.mean(brute))
    renamed = np.array([2, 0, 1])
    assert earth.mean_iou(renamed[truth], renamed[found], 3) == pytest.approx(np.mean(brute))
    assert earth.confusion(truth, found, 3).tolist() == [[1, 1, 0], [0, 2, 0], [1, 0, 1]]
    values = RNG.standard_normal(50)
    assert earth.rmse(values, float(values.mean())) == pytest.approx(values.std())


def test_phase_wraps_and_coherence_is_that_of_the_signals() -> None:
    ramp = 0.7 * np.arange(60)
    assert np.allclose(earth.wrap(ramp + 2 * np.pi), earth.wrap(ramp))
    assert np.abs(earth.wrap(ramp)).max() <= np.pi
    assert np.allclose(np.unwrap(earth.wrap(ramp)), ramp)
    a, b = RNG.standard_normal((2, 40000)) + 1j * RNG.standard_normal((2, 40000))
    assert np.allclose(earth.coherence(a, a * np.exp(0.4j), 8), 1)
    assert earth.coherence(a, b, 16).mean() == pytest.approx(np.sqrt(np.pi / 64), rel=0.03)


def test_tiles_follow_their_densities() -> None:
    data = earth.tiles(0, 40, 16, "home")
    assert data.images.shape == (40, 16, 16, earth.CHANNELS)
    for kind in range(earth.CLASSES):
        seen = data.images[data.cover == kind]
        assert np.allclose(seen[:, 3:6].mean(axis=0), earth.COLOURS[kind], atol=0.02)
        assert np.exp(seen[:, 0]).mean() == pytest.approx(earth.RADAR[kind, 0], rel=0.1)
        assert np.exp(seen[:, 0]).var() == pytest.approx(earth.RADAR[kind, 0] ** 2 / earth.LOOKS, rel=0.25)
    right = np.mean(earth.bayes(data.images, "home") == data.cover)
    wrong = np.mean(earth.bayes(data.images, "away") == data.cover)
    assert right > 0.85
    assert wrong < right - 0.01


def test_bands_never_share_a_chip() -> None:
    longitude = RNG.uniform(-20, 40, 5000)
    parts = earth.split(longitude, 0.5)
    joined = np.concatenate(list(parts.values()))
    assert sorted(joined.tolist()) == list(range(5000))
    assert len(parts["train"]) / 5000 == pytest.approx(0.6, abs=0.03)
    bands = [set(np.floor(longitude[index] / 0.5)) for index in parts.values()]
    assert not (bands[0] & bands[1] or bands[0] & bands[2] or bands[1] & bands[2])


def test_the_paper_scale_has_the_weights_and_macs_of_the_fact_sheet() -> None:
    program = record("m3leo", "paper", "faithful")
    matrices = [w for w in program.store.values() if w.name.startswith("unet") and len(w.shape) == 2]
    assert sum(w.size for w in matrices) == 7_846_624
    forward = program.tape.of(Stage.FF)
    assert sum(q.macs_full for q in forward if q.name.startswith("unet")) / 8 == pytest.approx(43.3e9, rel=0.002)
    kept = {q.m for q in forward if q.name == "mae.l3.up"}
    assert kept == {8 * 197}
    encoder = [q for q in forward if q.name.startswith("mae.l")]
    assert sum(q.macs_true for q in encoder) / 8 == pytest.approx(17.4e9, rel=0.01)
    linear = [q for q in encoder if not q.name.endswith((".qk", ".av"))]
    assert sum(q.macs_full for q in linear) / sum(q.macs_true for q in linear) == pytest.approx(785 / 197)
    embed = [q for q in forward if q.name == "mae.embed"]
    assert [(q.m, q.k, q.n) for q in embed] == [(8 * 784, 3072, 768)]
    decoder = [q for q in forward if q.name.startswith(("mae.decoder", "mae.pixels", "mae.narrow"))]
    # The sheet narrows all 785 tokens to 512, the autoencoder those that it has read.
    narrowed = (785 - 197) * 768 * 512
    assert sum(q.macs_full for q in decoder) / 8 + narrowed == pytest.approx(4.6e9, rel=0.02)
