"""Convolutions of every form and what belongs to them, held against direct sums and differences."""

from __future__ import annotations

from itertools import product as pairs
from typing import TYPE_CHECKING

import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from nmsat.algorithms.core.tape import Pattern
from nmsat.algorithms.workloads.engine import images, ops
from nmsat.algorithms.workloads.engine.products import conv2d, linear
from nmsat.algorithms.workloads.engine.program import Program, differences
from nmsat.dataflow.contract.config import preset
from nmsat.sim.work.workload import check_values, simulate_tape

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from nmsat.algorithms.workloads.engine.parameters import Parameter
    from nmsat.algorithms.workloads.engine.program import Tensor

RNG = np.random.default_rng(11)


def _direct(x: NDArray, w: NDArray, stride: tuple[int, int], pad: tuple[int, int], groups: int) -> NDArray:
    """Sum every output by itself; w: [groups, kh, kw, C_in / groups, C_out / groups]."""
    padded = np.pad(x, ((0, 0), (pad[0], pad[0]), (pad[1], pad[1]), (0, 0)))
    _, kh, kw, cin, cout = w.shape
    out = tuple((s - k) // t + 1 for s, k, t in zip(padded.shape[1:3], (kh, kw), stride, strict=True))
    y = np.zeros((len(x), *out, groups * cout))
    for b, i, j, g, o in np.ndindex(len(x), *out, groups, cout):
        r, c = i * stride[0], j * stride[1]
        window = padded[b, r : r + kh, c : c + kw, g * cin : (g + 1) * cin]
        y[b, i, j, g * cout + o] = np.sum(window * w[g, ..., o])
    return y


@pytest.mark.parametrize(
    ("channels", "outputs", "groups", "kernel", "stride", "pad"),
    [(4, 6, 2, (3, 3), (1, 1), (1, 1)), (3, 3, 3, (3, 3), (2, 2), (1, 1)), (2, 3, 1, (1, 5), (1, 2), (0, 2))],
    ids=["grouped", "depthwise, stride 2", "rectangular"],
)
def test_convolutions_are_sums_over_windows(
    channels: int, outputs: int, groups: int, kernel: tuple[int, int], stride: tuple[int, int], pad: tuple[int, int]
) -> None:
    x, w = (
        RNG.standard_normal((2, 5, 6, channels)),
        RNG.standard_normal((groups, *kernel, channels // groups, outputs // groups)),
    )
    p = Program(dtype=np.float64)
    matrix = w.reshape(groups, -1, outputs // groups)
    q = p.weight(
        "c", matrix.shape if groups > 1 else matrix.shape[1:], value=lambda: matrix if groups > 1 else matrix[0]
    )
    y = conv2d("c", p.input(x.shape, x), q, kernel, stride, pad, groups=groups)
    assert np.allclose(y.array, _direct(x, w, stride, pad, groups))
    (found,) = p.tape.products
    assert (found.count, found.macs_dense) == (groups, y.size * kernel[0] * kernel[1] * channels // groups)


@pytest.mark.parametrize("stride", [1, 2])
def test_the_host_convolves_channels_as_the_product_does(stride: int) -> None:
    x, w = RNG.standard_normal((2, 5, 6, 3)), RNG.standard_normal((9, 3))
    p = Program(dtype=np.float64)
    matrix = p.weight("c", (3, 9, 1), value=lambda: w.T[:, :, None])
    array = conv2d("c", p.input(x.shape, x), matrix, 3, stride, groups=3)
    kernel = p.vector("k", (9, 3))
    p.store["k"].array[...] = w
    host = images.depthwise_by_host("k", p.input(x.shape, x), kernel, stride)
    assert np.allclose(host.array, array.array)
    p.backward(ops.total(ops.mul(ops.add(host, array), p.input(x.shape[:1] + host.shape[1:], RNG.random(host.shape)))))
    assert np.allclose(p.store["k"].grad.T, p.store["c"].grad[:, :, 0])  # type: ignore[union-attr, index]
    assert [(work.stage.value, work.macs) for work in p.tape.host if work.kind == "Conv"] == [
        ("ff", array.size * 9),
        ("wu", array.size * 9),
    ]


def test_a_line_is_an_image_of_one_row() -> None:
    x, w = RNG.standard_normal((2, 7, 3)), RNG.standard_normal((3, 3, 4))
    p = Program(dtype=np.float64)
    y = images.conv1d("c", p.input(x.shape, x), p.weight("c", (9, 4), value=lambda: w.reshape(9, 4)), 3, 2)
    assert np.allclose(y.array, _direct(x[:, None], w[None, None], (1, 2), (0, 1), 1)[:, 0])


def test_a_transposed_convolution_is_the_adjoint_of_a_convolution() -> None:
    """<conv(y), x> = <y, conv_transpose(x)> for all x, y, with the same kernel turned."""
    kernel = RNG.standard_normal((3, 3, 2, 4))
    x, y = RNG.standard_normal((2, 4, 5, 4)), RNG.standard_normal((2, 8, 10, 2))
    p = Program(dtype=np.float64)
    w = p.weight("t", (4, 18), value=lambda: kernel.reshape(18, 4).T)
    up = images.conv_transpose2d("t", p.input(x.shape, x), w, 3, 2, 1, 1).array
    down = _direct(y, kernel[None], (2, 2), (1, 1), 1)
    assert up.shape == y.shape
    assert np.sum(down * x) == pytest.approx(np.sum(up * y))


def test_borders_are_mirrored() -> None:
    x = RNG.standard_normal((2, 4, 5, 3))
    y = images.reflect_pad(Program(dtype=np.float64).input(x.shape, x), 3).array
    assert np.array_equal(y, np.pad(x, ((0, 0), (3, 3), (3, 3), (0, 0)), mode="reflect"))
    with pytest.raises(ValueError, match="at most 3"):
        images.reflect_pad(Program(values=False).input(x.shape), 4)


def test_up_sampling_repeats_or_lies_between_centres() -> None:
    x = RNG.standard_normal((1, 3, 4, 1))
    tensor = Program(dtype=np.float64).input(x.shape, x)
    assert np.array_equal(images.upsample(tensor, 2).array[0, :, :, 0], np.kron(x[0, :, :, 0], np.ones((2, 2))))
    places = np.meshgrid((np.arange(9) + 0.5) / 3 - 0.5, (np.arange(12) + 0.5) / 3 - 0.5, indexing="ij")
    expected = map_coordinates(x[0, :, :, 0], places, order=1, mode="nearest")
    assert np.allclose(images.upsample(tensor, 3, bilinear=True).array[0, :, :, 0], expected)


def test_samples_are_bilinear_and_nothing_lies_outside() -> None:
    x, points = RNG.standard_normal((2, 4, 5, 3)), RNG.uniform(-1.5, 5.5, (2, 40, 2))
    p = Program(dtype=np.float64)
    y = images.sample(p.input(x.shape, x), p.input(points.shape, points)).array
    for b, c in pairs(range(2), range(3)):
        padded = np.pad(x[b, :, :, c], 3)
        assert np.allclose(y[b, :, c], map_coordinates(padded, points[b].T + 3, order=1))
    whole = np.array([[[1.0, 2.0], [3.0, 4.0]]] * 2)
    assert np.array_equal(images.sample(p.input(x.shape, x), p.input(whole.shape, whole)).array[:, 0], x[:, 1, 2])


def test_group_norm_is_layer_norm_or_instance_norm_at_its_ends() -> None:
    x = RNG.standard_normal((2, 3, 4, 6)) * 3 + 1
    p = Program(dtype=np.float64)
    one, zero = p.vector("g", (6,), 1.0), p.vector("b", (6,))
    single = images.group_norm(p.input(x.shape, x), one, zero, 6, 0.0).array
    assert np.allclose(single, (x - x.mean((1, 2), keepdims=True)) / x.std((1, 2), keepdims=True))
    joint = images.group_norm(p.input(x.shape, x), one, zero, 1, 0.0).array
    assert np.allclose(joint, (x - x.mean((1, 2, 3), keepdims=True)) / x.std((1, 2, 3), keepdims=True))
    with pytest.raises(ValueError, match="divide the 6"):
        images.group_norm(p.input(x.shape, x), one, zero, 4)


def _image(x: Tensor) -> Tensor:
    return ops.reshape(x, (2, 3, 4, 4))


CASES: dict[str, Callable[[Program, Tensor], Tensor]] = {
    "grouped": lambda p, x: conv2d("c", _image(x), p.weight("w", (2, 18, 3)), 3, 2, groups=2),
    "depthwise": lambda p, x: conv2d("c", _image(x), p.weight("w", (4, 9, 1), density=0.6), 3, groups=4),
    "by the host": lambda p, x: images.depthwise_by_host("c", _image(x), p.vector("w", (9, 4), 0.7), 2),
    "rectangular": lambda p, x: conv2d("c", _image(x), p.weight("w", (12, 2)), (1, 3), (2, 1), (0, 2)),
    "line": lambda p, x: images.conv1d("c", ops.reshape(x, (2, 12, 4)), p.weight("w", (12, 2)), 3, 2),
    "transposed": lambda p, x: images.conv_transpose2d("c", _image(x), p.weight("w", (4, 18)), 3, 2, 1, 1),
    "reflected": lambda p, x: images.reflect_pad(_image(x), 2),
    "nearest": lambda p, x: images.upsample(_image(x), 2),
    "bilinear": lambda p, x: images.upsample(_image(x), 2, bilinear=True),
    "sample": lambda p, x: images.sample(
        _image(x), ops.add(ops.reshape(ops.part(x, 1, 0, 8), (2, 12, 2)), p.input((2, 12, 2), np.full((2, 12, 2), 1.3)))
    ),
    "group norm": lambda p, x: images.group_norm(_image(x), p.vector("g", (4,), 0.8), p.vector("b", (4,)), 2),
}


def _loss(case: str, store: dict[str, Parameter]) -> tuple[Program, Tensor]:
    p = Program(dtype=np.float64, store=store, rng=np.random.default_rng(1))
    x = linear("x", p.input((6, 5), np.random.default_rng(2).standard_normal((6, 5))), p.weight("x", (5, 16), gain=0.3))
    y = CASES[case](p, x)
    factors = np.random.default_rng(3).standard_normal(y.shape)
    return p, ops.total(ops.mul(y, p.input(y.shape, factors)))


@pytest.mark.parametrize("case", CASES)
def test_gradients_match_differences(case: str) -> None:
    store: dict[str, Parameter] = {}
    p, loss = _loss(case, store)
    p.backward(loss, 4.0)
    for parameter in store.values():
        kept = np.ones(parameter.shape, bool) if parameter.keep is None else parameter.keep
        for place in [place for place in np.ndindex(parameter.shape) if kept[place]][:10]:
            ends = []
            for sign in (1, -1):
                parameter.array[place] += sign * 1e-6
                ends.append(float(_loss(case, store)[1].array))
                parameter.array[place] -= sign * 1e-6
            assert parameter.grad is not None
            assert parameter.grad[place] == pytest.approx((ends[0] - ends[1]) / 2e-6, abs=2e-6), (parameter.name, place)


def _network(p: Program) -> None:
    x = p.input((2, 6, 6, 8), lambda: np.random.default_rng(3).random((2, 6, 6, 8)))
    y = conv2d("stem", x, p.weight("stem", (72, 8)), 3)
    y = conv2d("grouped", y, p.weight("grouped", (2, 36, 8), ff=Pattern(2, 4), bp=Pattern(2, 4)), 3, 2, groups=2)
    y = conv2d("depthwise", y, p.weight("depthwise", (16, 9, 1)), 3, groups=16)
    y = images.conv_transpose2d("up", y, p.weight("up", (16, 9 * 4)), 3, 2, 1, 1)
    y = conv2d("wide", y, p.weight("wide", (12, 2), density=0.5), (1, 3))
    p.backward(ops.mean(ops.reshape(y, (y.size,)), 0), 256.0)


def test_values_and_shapes_give_one_tape_and_the_simulator_the_bits() -> None:
    with_values, shapes = Program(exact=True), Program(values=False)
    with_values.tape.values = True
    _network(with_values)
    shapes.profile = with_values.profile
    _network(shapes)
    assert differences(with_values.tape, shapes.tape) == []
    assert check_values(simulate_tape(with_values.tape, preset("tiny"))) == []


def test_the_shape_of_the_weights_is_checked() -> None:
    p = Program(values=False)
    with pytest.raises(ValueError, match="8 channels in 2 groups need"):
        conv2d("c", p.input((1, 4, 4, 8)), p.weight("c", (72, 8)), 3, groups=2)
    with pytest.raises(ValueError, match="fold to size"):
        images.fold(p.input((1, 1, 1, 9, 2)), 3, 1, 2)
