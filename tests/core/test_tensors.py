"""What C computes between products against NumPy, bit for bit, over all classes of numbers, shapes and layouts."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nmsat.algorithms.core import kernel, numeric
from nmsat.algorithms.core.arithmetic import CONTRACT
from nmsat.algorithms.core.nm import mask, pack
from nmsat.algorithms.core.tape import ConvShape
from nmsat.algorithms.core.windows import backward_matrix, backward_taps, windows
from nmsat.algorithms.layers.base import Context
from nmsat.algorithms.layers.norm import BatchNorm
from nmsat.algorithms.layers.parameter import Parameter
from nmsat.algorithms.layers.pointwise import ReLU
from nmsat.algorithms.layers.pooling import MaxPool2d
from nmsat.algorithms.training.optim import SgdConstants, gradients_finite, sgd_update

if TYPE_CHECKING:
    from collections.abc import Callable

NUMBERS = st.integers(0, 1 << 30)


@pytest.fixture(scope="module", autouse=True)
def _built() -> None:
    assert kernel.load() is not None


def both(work: Callable[[], object]) -> tuple[object, object]:
    """Return what C makes and what NumPy makes."""
    compiled = work()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(kernel, "between", lambda: None)
        return compiled, work()


def assert_equal(pair: tuple[object, object]) -> None:
    left, right = pair
    if isinstance(left, tuple | list):
        assert isinstance(right, tuple | list)
        for both_of_one in zip(left, right, strict=True):
            assert_equal(both_of_one)
        return
    assert isinstance(left, np.ndarray)
    assert isinstance(right, np.ndarray)
    assert (left.shape, left.dtype) == (right.shape, right.dtype)
    assert np.ascontiguousarray(left).tobytes() == np.ascontiguousarray(right).tobytes()


def any_half(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    x = rng.integers(0, 1 << 16, shape, np.uint16).view(np.float16)
    return np.where(rng.random(shape) < 0.5, x, rng.standard_normal(shape).astype(np.float16))


def test_every_binary16_survives_the_way_through_binary32_and_binary64() -> None:
    bits = np.arange(1 << 16, dtype=np.uint16)
    for wide in (np.float32, np.float64):
        x = bits.view(np.float16).astype(wide)
        want = np.where(np.isnan(x), np.uint16(0x7E00), bits)
        assert np.array_equal(CONTRACT.from_host(x).view(np.uint16), want)


@given(NUMBERS)
@settings(max_examples=20, deadline=None)
def test_rounding_is_numpys(number: int) -> None:
    """Random bits, and values at and beside the ties of all exponents, below and above the range."""
    rng = np.random.default_rng(number)
    singles = rng.integers(0, 1 << 32, 3000, np.uint32).view(np.float32)
    ties = np.ldexp(rng.integers(-4097, 4098, 3000) / 2048, rng.integers(-28, 18, 3000))
    beside = ties * (1 + rng.integers(-1, 2, 3000) * 2.0**-52)
    wides = np.concatenate([ties, beside, rng.integers(0, 1 << 63, 3000, np.int64).view(np.float64)])
    with np.errstate(all="ignore"):
        assert_equal(both(lambda: numeric.to_half(np.concatenate([singles, ties.astype(np.float32)]))))
        assert_equal(both(lambda: numeric.to_half(singles.reshape(30, 100).T)))
        assert_equal(both(lambda: CONTRACT.from_host(wides)))


@given(NUMBERS, st.integers(30, 200), st.integers(33, 90))
@settings(max_examples=20, deadline=None)
def test_sums_of_two_tensors(number: int, rows: int, columns: int) -> None:
    rng = np.random.default_rng(number)
    x, y = any_half(rng, (rows, columns)), any_half(rng, (rows, columns))
    assert_equal(both(lambda: [CONTRACT.add(x, y), CONTRACT.add(x.T, y.T)]))


@given(NUMBERS, st.integers(20, 90), st.integers(20, 90), st.sampled_from([(1, 2), (2, 4), (2, 8), (7, 8), (3, 16)]))
@settings(max_examples=40, deadline=None)
def test_selection_is_numpys(number: int, rows: int, columns: int, pattern: tuple[int, int]) -> None:
    """With many equal magnitudes, zeros of both signs, NaNs with payloads, short last groups."""
    rng = np.random.default_rng(number)
    w = any_half(rng, (rows * 2, columns * 2))
    w = np.where(rng.random(w.shape) < 0.3, np.float16(-0.0), w)
    w = np.where(rng.random(w.shape) < 0.2, np.abs(w[:1]), w)
    for x in (w, w.T, w[::2], w.astype(np.float32)):
        for axis in (0, 1, -1):
            assert_equal(both(lambda x=x, axis=axis: mask(x, *pattern, axis=axis)))
            pairs = both(lambda x=x, axis=axis: pack(x, *pattern, axis=axis))
            for name in ("values", "index", "filler"):
                assert_equal((getattr(pairs[0], name), getattr(pairs[1], name)))


@given(
    NUMBERS,
    st.lists(st.integers(-3, 5), min_size=1, max_size=4),
    st.lists(st.integers(-3, 5), min_size=1, max_size=4),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
)
@settings(max_examples=40, deadline=None)
def test_windows_are_numpys(number: int, rows: list[int], columns: list[int], step: tuple[int, int]) -> None:
    rng = np.random.default_rng(number)
    x = any_half(rng, (3, 9, 8, 7))
    for image in (x, x.astype(np.float32), x[:, ::-1]):
        assert_equal(both(lambda image=image: windows(image, rows, columns, (4, 3), step)))


@pytest.mark.parametrize("shape", [(4, 5, 5, 64), (3, 7, 9, 10), (2000, 3), (2, 3, 4, 130), (1200, 1)])
@pytest.mark.parametrize("kind", ["normal", "any"])
def test_batch_normalisation_is_numpys(shape: tuple[int, ...], kind: str) -> None:
    rng = np.random.default_rng(list(shape))
    x, dy = (any_half(rng, shape) if kind == "any" else rng.standard_normal(shape).astype(np.float16) for _ in range(2))

    def work() -> list[np.ndarray]:
        layer, ctx = BatchNorm("norm", shape[-1]), Context()
        layer.gain.copy = np.linspace(0.5, 2, shape[-1]).astype(np.float16)
        layer.offset.copy = np.linspace(-1, 1, shape[-1]).astype(np.float16)
        y = layer.forward(x, ctx)
        dx = layer.backward(dy, ctx)
        quiet = layer.forward(x, Context(training=False))
        assert layer.gain.grad is not None
        assert layer.offset.grad is not None
        return [y, dx, quiet, layer.gain.grad, layer.offset.grad, layer.mean, layer.variance]

    assert_equal(both(work))


def test_relu_of_every_binary16() -> None:
    x = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    layer, ctx = ReLU(), Context()
    y = layer.forward(x, ctx).view(np.uint16)
    with np.errstate(invalid="ignore"):
        kept = ~(x <= 0)
    assert np.array_equal(y, np.where(kept, x.view(np.uint16), np.uint16(0)))
    assert np.array_equal(layer.backward(x, ctx).view(np.uint16), y)


@given(NUMBERS, st.tuples(st.integers(1, 5), st.integers(4, 11), st.integers(4, 11)), st.integers(13, 40))
@settings(max_examples=30, deadline=None)
def test_pooling_and_relu_are_numpys(number: int, image: tuple[int, int, int], channels: int) -> None:
    """NaNs of all kinds, both zeros, ties, rows and columns left over; gradients of any bits."""
    rng = np.random.default_rng(number)
    x = any_half(rng, (*image, channels))
    x = np.where(rng.random(x.shape) < 0.4, rng.choice(np.array([0.0, -0.0, 1, -1], np.float16), x.shape), x)

    def work() -> list[np.ndarray]:
        found = []
        for layer in (MaxPool2d(2), MaxPool2d(3), ReLU()):
            y = layer.forward(x, Context())
            dy = any_half(np.random.default_rng(number + 1), y.shape)
            found += [y, layer.backward(dy, Context()), layer.backward(np.asfortranarray(dy), Context())]
        return found

    assert_equal(both(work))


@pytest.mark.parametrize("place", [0, 7, 1499, None])
@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_one_gradient_that_is_not_finite_is_seen(place: int | None, bad: float) -> None:
    largest = np.full(1500, 65504, np.float16)
    if place is not None:
        largest[place] = bad
    weight = Parameter("w", np.zeros(1500, np.float32))
    weight.grad = largest
    assert both(lambda: gradients_finite([weight])) == (place is None,) * 2


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("order", ["C", "F"])
def test_backward_matrices_are_numpys(stride: int, order: Literal["C", "F"]) -> None:
    rng = np.random.default_rng(stride)
    shape = ConvShape(1, 6, 7, 18, 33, (3, 2), (stride, stride), (1, 0))
    w = np.asarray(any_half(rng, (6 * 18, 33)), order=order)
    phases = [(r, c) for r in backward_taps(shape, 0) for c in backward_taps(shape, 1) if r.taps and c.taps]
    assert_equal(both(lambda: [backward_matrix(w, shape, *phase) for phase in phases]))


@given(NUMBERS, st.sampled_from([(0.05, 0.9, 5e-4, 2e-4, 10), (1.0, 0.0, 0.0, 0.0, 0), (0.3, 1.0, 0.1, 3.0, 24)]))
@settings(max_examples=30, deadline=None)
def test_the_weight_update_is_numpys(number: int, given: tuple[float, float, float, float, int]) -> None:
    """Masters and momenta of any bits, binary32 subnormals and NaNs among them."""
    rng = np.random.default_rng(number)
    w, v = (rng.integers(0, 1 << 32, (50, 41), np.uint32).view(np.float32) for _ in range(2))
    w = np.where(rng.random(w.shape) < 0.5, rng.standard_normal(w.shape).astype(np.float32), w)
    with np.errstate(all="ignore"):
        w = np.where(rng.random(w.shape) < 0.2, w * np.float32(2.0**-140), w)
    g, keep = any_half(rng, w.shape), rng.random(w.shape) < 0.5
    for mask_ff in (keep, None):
        assert_equal(both(lambda mask_ff=mask_ff: sgd_update(w, v, g, SgdConstants(*given), mask_ff)))
        assert_equal(both(lambda m=mask_ff: sgd_update(w, v, g.astype(np.float32), SgdConstants(*given), m)))


@pytest.mark.parametrize(
    "change",
    [("+ (u >> 13 & 1)", ""), (">= size[i]", "> size[i]"), ("d * d", "d * d * d"), ("lam * w", "lam + w")],
)
def test_other_bits_are_found_when_the_library_is_loaded(
    change: tuple[str, str], tmp_path_factory: pytest.TempPathFactory, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path_factory.mktemp("changed")
    text = kernel.SOURCES[1].read_text(encoding="utf-8")
    assert change[0] in text
    (folder / "tensors.c").write_text(text.replace(*change))
    kernel.forget()
    with pytest.MonkeyPatch.context() as patched, caplog.at_level(logging.WARNING, "nmsat.algorithms"):
        patched.setenv("NMSAT_BUILD_DIR", str(folder / "caches"))
        patched.setattr(kernel, "SOURCES", (kernel.SOURCES[0], folder / "tensors.c"))
        patched.setattr(kernel, "VARIANTS", (("-O0",),))
        assert kernel.load() is None
    kernel.forget()
    assert "differs from NumPy" in caplog.text
