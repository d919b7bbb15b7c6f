"""Input gradients split into dense parts: right values, no wasted multiply-adds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from nmsat.algorithms.core.tape import ConvShape
from nmsat.algorithms.core.windows import output_size
from nmsat.dataflow.network.gradient import SPLIT_BATCH, GradientPart, axis_segments, gradient_parts
from nmsat.dataflow.network.layers import ConvLayer
from nmsat.dataflow.network.models import MODELS


def pair(low: int, high: int) -> st.SearchStrategy[tuple[int, int]]:
    return st.tuples(st.integers(low, high), st.integers(low, high))


@st.composite
def shapes(draw: st.DrawFn) -> ConvShape:
    height, width = draw(pair(1, 9))
    batch = draw(st.sampled_from((2, SPLIT_BATCH)))
    shape = ConvShape(
        batch, height, width, 2, 3, draw(pair(1, 4)), draw(pair(1, 4)), draw(pair(0, 3)), dilation=draw(pair(1, 3))
    )
    fits = all(
        size + 2 * p >= d * (k - 1) + 1
        for size, p, d, k in zip((height, width), shape.padding, shape.dilation, shape.kernel, strict=True)
    )
    assume(fits)
    return shape


def scattered(dy: np.ndarray, w: np.ndarray, shape: ConvShape) -> np.ndarray:
    """Input gradient by its definition: every output adds to the inputs that it read."""
    dx = np.zeros((shape.batch, shape.height, shape.width, shape.channels_in), np.int64)
    _, rows, columns, _ = dy.shape
    for v in range(shape.kernel[0]):
        for h in range(shape.kernel[1]):
            for o in range(rows):
                for q in range(columns):
                    i = o * shape.stride[0] + v * shape.dilation[0] - shape.padding[0]
                    j = q * shape.stride[1] + h * shape.dilation[1] - shape.padding[1]
                    if 0 <= i < shape.height and 0 <= j < shape.width:
                        dx[:, i, j] += dy[:, o, q] @ w[v * shape.kernel[1] + h].T
    return dx


def gathered(dy: np.ndarray, w: np.ndarray, part: GradientPart, dx: np.ndarray) -> None:
    """Write the product of one part into dx, reading dY as the part says."""
    vertical, horizontal = part.vertical, part.horizontal
    for a in range(vertical.positions):
        for b in range(horizontal.positions):
            total = np.zeros((part.batch, part.channels_in), np.int64)
            taps = iter(part.taps)
            for row in vertical.offsets:
                for column in horizontal.offsets:
                    tap = next(taps)
                    if 0 <= row + a < dy.shape[1] and 0 <= column + b < dy.shape[2]:
                        total += dy[:, row + a, column + b] @ w[tap].T
            at = (vertical.first + a * vertical.step, horizontal.first + b * horizontal.step)
            assert not dx[:, at[0], at[1]].any()
            dx[:, at[0], at[1]] = total


@settings(deadline=None, max_examples=60)
@given(shapes(), st.integers(0, 2**32 - 1))
def test_parts_make_up_the_input_gradient(shape: ConvShape, seed: int) -> None:
    rng = np.random.default_rng(seed)
    dy = rng.integers(1, 9, (shape.batch, *output_size(shape), shape.channels_out))
    w = rng.integers(1, 9, (shape.kernel[0] * shape.kernel[1], shape.channels_in, shape.channels_out))
    dx = np.zeros((shape.batch, shape.height, shape.width, shape.channels_in), np.int64)
    for part in gradient_parts(shape):
        gathered(dy, w, part, dx)
    assert np.array_equal(dx, scattered(dy, w, shape))


@settings(deadline=None, max_examples=200)
@given(shapes())
def test_work_of_an_axis_stays_near_that_of_the_forward_pass(shape: ConvShape) -> None:
    for axis in (0, 1):
        segments = axis_segments(shape, axis)
        assert all(list(s.offsets) == sorted(set(s.offsets)) for s in segments)
        work = sum(s.positions * len(s.taps) for s in segments)
        if shape.batch >= SPLIT_BATCH:
            assert 8 * work <= 9 * output_size(shape)[axis] * shape.kernel[axis]
        else:
            assert len(segments) <= shape.stride[axis]
            assert work <= -(-(shape.height, shape.width)[axis] // shape.stride[axis]) * shape.kernel[axis]


def test_parts_of_usual_convolutions() -> None:
    (whole,) = gradient_parts(ConvShape(1, 8, 8, 4, 4, (3, 3), padding=(1, 1)))
    assert whole.taps == (8, 7, 6, 5, 4, 3, 2, 1, 0)
    assert whole.positions == 64
    assert whole.vertical.offsets == (-1, 0, 1)
    strided = gradient_parts(ConvShape(1, 8, 8, 4, 4, (3, 3), (2, 2), (1, 1)))
    assert [part.taps for part in strided] == [(4,), (5, 3), (7, 1), (8, 6, 2, 0)]
    assert [part.positions for part in strided] == [16] * 4
    # A 1 x 1 projection with stride 2 reaches a quarter of the positions; the others have gradient zero.
    (projection,) = gradient_parts(ConvShape(1, 8, 8, 4, 4, (1, 1), (2, 2)))
    assert projection.positions == 16
    # Without padding the border is split off: 6 outputs, 8 inputs, 5 runs per axis.
    assert len(gradient_parts(ConvShape(SPLIT_BATCH, 8, 8, 4, 4, (3, 3)))) == 25
    assert len(gradient_parts(ConvShape(SPLIT_BATCH - 1, 8, 8, 4, 4, (3, 3)))) == 1
    assert len(gradient_parts(ConvShape(SPLIT_BATCH, 80, 80, 4, 4, (3, 3)))) == 1


@pytest.mark.parametrize("name", MODELS)
def test_backward_work_of_the_networks_equals_the_forward_work(name: str) -> None:
    convolutions = [
        layer for layer in MODELS[name](SPLIT_BATCH) if isinstance(layer, ConvLayer) and layer.input_gradient
    ]
    for layer in convolutions:
        work = sum(part.positions * len(part.taps) for part in gradient_parts(layer.shape))
        assert work * layer.features_in * layer.shape.channels_out == layer.macs, layer.name
