"""Layers: gradients by finite differences in binary64, products and pruned copies in contract arithmetic."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from nmsat.algorithms.core.arithmetic import CONTRACT, FAST, FloatArithmetic
from nmsat.algorithms.core.nm import mask, prune
from nmsat.algorithms.core.numeric import ordered_dot, to_half
from nmsat.algorithms.core.tape import Pattern, Stage, Tape
from nmsat.algorithms.layers.attention import Attention, Embedding, Positions
from nmsat.algorithms.layers.base import Context, Layer, Residual, Sequential, prepare
from nmsat.algorithms.layers.loss import softmax_cross_entropy
from nmsat.algorithms.layers.norm import BatchNorm, LayerNorm
from nmsat.algorithms.layers.pointwise import Gelu, ReLU
from nmsat.algorithms.layers.pooling import Flatten, GlobalAveragePool, MaxPool2d
from nmsat.algorithms.layers.products import Conv2d, Linear
from nmsat.algorithms.methods import make_method

if TYPE_CHECKING:
    from collections.abc import Callable

DOUBLE = FloatArithmetic(np.float64)


def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def in_double(model: Layer) -> Context:
    ctx = Context(DOUBLE)
    for parameter in model.parameters():
        parameter.master = parameter.master.astype(np.float64)
    prepare(model, ctx)
    return ctx


def slope(f: Callable[[], float], x: np.ndarray, place: tuple[int, ...], step: float = 1e-5) -> float:
    """Central difference of f in one element of x."""
    old = x[place]
    x[place] = old + step
    up = f()
    x[place] = old - step
    down = f()
    x[place] = old
    return (up - down) / (2 * step)


def check_gradients(model: Layer, x: np.ndarray) -> None:
    """Compare dX and every parameter gradient of sum(y * t) with finite differences at a dozen places each."""
    ctx = in_double(model)
    t = rng().standard_normal(model.forward(x, ctx).shape)

    def value() -> float:
        prepare(model, ctx)
        return float((model.forward(x, ctx) * t).sum())

    value()
    dx = model.backward(t, ctx)
    pairs = [(p.master, p.grad) for p in model.parameters()]
    if dx.size:
        pairs.append((x, dx))
    draw = rng()
    for tensor, grad in pairs:
        assert grad is not None
        assert grad.shape == tensor.shape
        for _ in range(12):
            place = tuple(int(draw.integers(s)) for s in tensor.shape)
            assert grad[place] == pytest.approx(slope(value, tensor, place), rel=1e-5, abs=1e-7)


CONVOLUTIONS = [
    {"kernel": 3, "padding": 1},
    {"kernel": 3, "padding": 0, "bias": True},
    {"kernel": 3, "stride": 2, "padding": 1},
    {"kernel": 1, "stride": 2},
    {"kernel": (3, 2), "stride": (2, 3), "padding": (1, 0)},
    {"kernel": 3, "dilation": 2, "padding": 2},
    {"kernel": 3, "dilation": 2, "stride": 2, "padding": 2},
    {"kernel": 5, "stride": 3, "padding": 2},
    {"kernel": 1, "padding": 1},
]


@pytest.mark.parametrize("options", CONVOLUTIONS, ids=str)
def test_convolution_gradients(options: dict) -> None:
    check_gradients(Conv2d("c", 3, 4, rng=rng(), **options), rng().standard_normal((2, 7, 8, 3)))


@pytest.mark.parametrize("options", CONVOLUTIONS, ids=str)
def test_convolution_is_its_definition(options: dict) -> None:
    layer = Conv2d("c", 3, 4, rng=rng(), **options)
    ctx = in_double(layer)
    x = rng().standard_normal((2, 7, 8, 3))
    s = layer.shape
    kernel = layer.weight.master.reshape(*s.kernel, 3, 4)
    got = layer.forward(x, ctx)
    padded = np.pad(x, ((0, 0), (s.padding[0],) * 2, (s.padding[1],) * 2, (0, 0)))
    want = np.zeros_like(got)
    for i, j in np.ndindex(got.shape[1:3]):
        for p, q in np.ndindex(s.kernel):
            pixel = padded[:, i * s.stride[0] + p * s.dilation[0], j * s.stride[1] + q * s.dilation[1]]
            want[:, i, j] += pixel @ kernel[p, q]
    assert np.allclose(got, want)


def test_strided_backward_spends_no_products_on_zeros() -> None:
    layer = Conv2d("c", 8, 8, 3, rng(), stride=2, padding=1)
    ctx = Context(FAST, tape=Tape())
    prepare(layer, ctx)
    y = layer.forward(np.ones((1, 8, 8, 8), np.float32), ctx)
    layer.backward(np.ones_like(y), ctx)
    assert ctx.tape is not None
    parts = ctx.tape.of(Stage.BP)
    assert [p.name for p in parts] == [f"c/phase{i}" for i in range(4)]
    assert sorted(p.k for p in parts) == [8, 16, 16, 32]
    # One multiply-add per tap and output, as in the forward pass, plus taps that fall into the padding.
    assert sum(p.macs_dense for p in parts) == ctx.tape.of(Stage.FF)[0].macs_dense


@pytest.mark.parametrize(
    "model",
    [
        lambda: Linear("l", 5, 6, rng()),
        lambda: Linear("l", 5, 6, rng(), first=True, bias=False),
        lambda: Sequential([Linear("a", 5, 7, rng()), ReLU(), Linear("b", 7, 3, rng())]),
    ],
)
def test_linear_gradients(model: Callable[[], Layer]) -> None:
    check_gradients(model(), rng().standard_normal((4, 5)))


class Half(Layer):
    """Linear map with a known gradient, to stand inside other layers."""

    def forward(self, x: np.ndarray, ctx: Context) -> np.ndarray:
        del ctx
        return 0.5 * x

    def backward(self, dy: np.ndarray, ctx: Context) -> np.ndarray:
        del ctx
        return 0.5 * dy


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (lambda: BatchNorm("n", 5), (4, 3, 2, 5)),
        (lambda: BatchNorm("n", 5), (7, 5)),
        (lambda: LayerNorm("n", 6), (3, 4, 6)),
        (Gelu, (4, 9)),
        (lambda: Residual(Linear("l", 6, 6, rng())), (4, 6)),
        (lambda: Residual(Half(), Linear("l", 6, 6, rng())), (4, 6)),
        (lambda: Positions("p", 7, 4, rng()), (3, 5, 4)),
        (lambda: Attention("a", 8, 2, rng()), (2, 5, 8)),
        (lambda: Attention("a", 8, 4, rng(), causal=True), (2, 5, 8)),
    ],
)
def test_gradients_of_other_layers(model: Callable[[], Layer], shape: tuple[int, ...]) -> None:
    layer = model()
    for parameter in layer.parameters():
        parameter.master = parameter.master + 0.3 * rng().standard_normal(parameter.master.shape).astype(np.float32)
    check_gradients(layer, rng().standard_normal(shape))


def test_embedding_gathers_and_scatters() -> None:
    layer = Embedding("e", 5, 3, rng())
    ctx = in_double(layer)
    tokens = np.array([[0, 4], [4, 4]])
    assert np.array_equal(layer.forward(tokens, ctx), layer.table.master[tokens])
    layer.backward(np.arange(12.0).reshape(2, 2, 3), ctx)
    assert layer.table.grad is not None
    assert layer.table.grad[:, 0].tolist() == [0, 0, 0, 0, 3 + 6 + 9]


def test_causal_attention_does_not_look_ahead() -> None:
    layer = Attention("a", 8, 2, rng(), causal=True)
    ctx = in_double(layer)
    x = rng().standard_normal((1, 6, 8))
    first = layer.forward(x, ctx)
    x[0, 4:] += 1
    assert np.allclose(layer.forward(x, ctx)[0, :4], first[0, :4])


def test_attention_records_its_products() -> None:
    for values in (False, True):
        layer = Attention("a", 16, 4, rng())
        ctx = Context(CONTRACT, make_method("bdwp", Pattern(2, 8)), Tape(values=values))
        prepare(layer, ctx)
        y = layer.forward(to_half(rng().standard_normal((2, 5, 16)).astype(np.float32)), ctx)
        layer.backward(y, ctx)
        assert ctx.tape is not None
        # Six products of activations per (sample, head); projections of 16 x 48 and 16 x 16, three products each.
        dense = 2 * 4 * 6 * 5 * 5 * 4
        assert ctx.tape.macs_dense == dense + 3 * 10 * (16 * 48 + 16 * 16)
        assert [p.count for p in ctx.tape.products] == [1, 8, 8, 1, 1, 1, 8, 8, 8, 8, 1, 1]


def test_batch_norm_evaluates_with_running_statistics() -> None:
    layer, x = BatchNorm("n", 3, momentum=0.5), rng().standard_normal((64, 3)) * 3 + 1
    ctx = in_double(layer)
    for _ in range(40):
        layer.forward(x, ctx)
    assert np.allclose(layer.mean, x.mean(axis=0))
    assert np.allclose(layer.variance, x.var(axis=0))
    ctx.training = False
    y = layer.forward(x[:1], ctx)
    assert np.allclose(y, (x[:1] - x.mean(axis=0)) / np.sqrt(x.var(axis=0) + 1e-5))
    assert layer.buffers().keys() == {"n.mean", "n.variance"}


def test_an_infinity_leaves_the_running_statistics_alone() -> None:
    layer, ctx = BatchNorm("n", 2), Context()
    prepare(layer, ctx)
    y = layer.forward(np.array([[1, np.inf], [2, 3]], np.float16), ctx)
    assert np.isnan(y[:, 1]).all()
    assert np.isfinite(layer.mean).all()


def test_residual_rounds_the_sum_once() -> None:
    layer, ctx = Residual(Flatten()), Context()
    x = np.array([[65504.0, 2.0**-24]], np.float16)
    assert layer.forward(x, ctx).ravel().view(np.uint16).tolist() == [0x7C00, 2]


def test_pooling_gradients() -> None:
    check_gradients(Sequential([MaxPool2d(2), Flatten()]), rng().standard_normal((2, 5, 4, 3)))
    check_gradients(GlobalAveragePool(), rng().standard_normal((2, 5, 4, 3)))


def test_max_pool_gives_ties_to_the_first() -> None:
    layer, ctx = MaxPool2d(2), Context(FAST)
    layer.forward(np.ones((1, 2, 2, 1), np.float32), ctx)
    assert layer.backward(np.ones((1, 1, 1, 1), np.float32), ctx).ravel().tolist() == [1, 0, 0, 0]


def test_relu_follows_the_contract() -> None:
    x = np.array([0x8000, 0x0000, 0x8001, 0x0001, 0x7E00, 0xFC00, 0x7C00], np.uint16).view(np.float16)
    layer, ctx = ReLU(), Context()
    assert layer.forward(x, ctx).view(np.uint16).tolist() == [0, 0, 0, 1, 0x7E00, 0, 0x7C00]
    assert layer.backward(np.ones(7, np.float16), ctx).tolist() == [0, 0, 0, 1, 1, 0, 1]


def test_cross_entropy_gradient_and_scale() -> None:
    logits, labels = rng().standard_normal((5, 4)), np.array([0, 3, 1, 1, 2])
    loss, grad = softmax_cross_entropy(logits, labels, DOUBLE, scale=8.0)
    share = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert loss == pytest.approx(-np.log(share[range(5), labels]).mean())
    for place in [(0, 0), (1, 2), (4, 2)]:
        want = slope(lambda: softmax_cross_entropy(logits, labels, DOUBLE)[0], logits, place)
        assert grad[place] == pytest.approx(8 * want, rel=1e-6)


def contract_step(method: str, layer: Layer, x: np.ndarray) -> tuple[Tape, Context]:
    ctx = Context(CONTRACT, make_method(method, Pattern(2, 8)), Tape(values=True))
    prepare(layer, ctx)
    y = layer.forward(to_half(x), ctx)
    layer.backward(to_half(rng().standard_normal(y.shape).astype(np.float32)), ctx)
    assert ctx.tape is not None
    return ctx.tape, ctx


def test_bdwp_prunes_each_product_along_its_reduction() -> None:
    layer = Conv2d("c", 16, 24, 3, rng(), padding=1)
    x = rng().standard_normal((2, 4, 4, 16)).astype(np.float32)
    tape, _ = contract_step("bdwp", layer, x)
    half = to_half(layer.weight.master)
    ff, wu, bp = tape.products
    assert (ff.stage, wu.stage, bp.stage) == (Stage.FF, Stage.WU, Stage.BP)
    assert (str(ff.pattern), wu.pattern, str(bp.pattern)) == ("2:8", None, "2:8")
    assert np.array_equal(ff.w, prune(half, 2, 8, axis=0))  # type: ignore[arg-type] # recorded with values
    kernel = prune(half, 2, 8, axis=1).reshape(3, 3, 16, 24)[::-1, ::-1].transpose(0, 1, 3, 2).reshape(-1, 16)
    assert np.array_equal(bp.w, kernel)  # type: ignore[arg-type]
    assert bp.conv is not None
    assert (bp.conv.channels_in, bp.conv.channels_out, bp.conv.padding) == (24, 16, (1, 1))
    for p in tape.products:
        assert p.a is not None and p.w is not None and p.y is not None
        assert (p.a.shape, p.w.shape, p.y.shape) == ((p.m, p.k), (p.k, p.n), (p.m, p.n))
        assert np.array_equal(p.y.view(np.uint32), ordered_dot(p.a, p.w).view(np.uint32))
    assert tape.bound == pytest.approx(2.0)
    assert layer.weight.mask_ff is not None
    assert np.array_equal(layer.weight.mask_ff, mask(half, 2, 8, axis=0))
    assert np.array_equal(layer.weight.grad, to_half(wu.y))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("method", "sparse"),
    [
        ("dense", set()),
        ("ste", {Stage.FF}),
        ("sr-ste", {Stage.FF}),
        ("sdwp", {Stage.BP}),
        ("bdwp", {Stage.FF, Stage.BP}),
    ],
)
def test_methods_prune_the_stages_they_name(method: str, sparse: set[Stage]) -> None:
    tape, _ = contract_step(method, Linear("l", 16, 24, rng()), rng().standard_normal((8, 16)).astype(np.float32))
    assert {p.stage for p in tape.products if p.pattern is not None} == sparse
    assert tape.bound == pytest.approx(3 / (3 - 0.75 * len(sparse)))


def test_dense_layers_and_first_layers() -> None:
    model = Sequential([Linear("a", 16, 16, rng(), sparse=False, first=True), Linear("b", 16, 16, rng())])
    tape, _ = contract_step("bdwp", model, rng().standard_normal((8, 16)).astype(np.float32))
    assert [(p.name, p.stage.value, p.pattern is None) for p in tape.products] == [
        ("a", "ff", True),
        ("b", "ff", False),
        ("b", "wu", True),
        ("b", "bp", False),
        ("a", "wu", True),
    ]


def test_a_backward_copy_that_cannot_be_grouped_is_refused() -> None:
    layer = Conv2d("c", 16, 12, 3, rng())
    with pytest.raises(ValueError, match="12 output channels"):
        prepare(layer, Context(method=make_method("bdwp", Pattern(2, 8))))


def test_epilogue_order_is_bias_then_rounding() -> None:
    layer = Linear("l", 1, 1, rng())
    layer.weight.master = np.array([[1.0]], np.float32)
    assert layer.bias is not None
    layer.bias.master = np.array([2.0**-11], np.float32)
    ctx = Context()
    prepare(layer, ctx)
    # 1 + 2^-11 is a tie that rounds down; 1.0009765625 + 2^-11 is one that rounds up.
    y = layer.forward(np.array([[1.0], [1 + 2.0**-10]], np.float16), ctx)
    assert y.ravel().view(np.uint16).tolist() == [0x3C00, 0x3C02]


def test_an_infinite_activation_spoils_only_what_is_kept() -> None:
    layer = Linear("l", 8, 1, rng(), bias=False)
    layer.weight.master = np.array([[3], [0], [0], [0], [0], [0], [0], [2]], np.float32)
    ctx = Context(method=make_method("bdwp", Pattern(2, 8)))
    layer.weight.sparse = True
    prepare(layer, ctx)
    x = np.ones((1, 8), np.float16)
    x[0, 3] = np.inf
    assert layer.forward(x, ctx)[0, 0] == 5.0


def test_unprepared_layers_say_so() -> None:
    with pytest.raises(RuntimeError, match="prepare"):
        Linear("l", 2, 2, rng()).forward(np.ones((1, 2), np.float16), Context())
    with pytest.raises(ValueError, match="known methods"):
        make_method("magic")
    with pytest.raises(ValueError, match="no pattern"):
        make_method("bdwp")
    with pytest.raises(ValueError, match=r"\[B, H, W, 3\]"):
        Conv2d("c", 3, 4, 3, rng()).forward(np.ones((1, 5, 5, 2), np.float16), Context())


@pytest.mark.parametrize("nan", [False, True])
def test_max_pool_takes_the_first_of_the_largest(nan: bool) -> None:
    """Any binary16 values: zeros of both signs are equal, a NaN is the largest."""
    generator = np.random.default_rng(11)
    x = generator.integers(0, 1 << 16, (4, 8, 8, 16), np.uint16).view(np.float16)
    x = np.where(generator.random(x.shape) < 0.4, np.float16(-0.0), x)
    x = np.where(generator.random(x.shape) < 0.4, np.float16(0.0), x)
    x = x if nan else np.where(np.isnan(x), np.float16(1), x)
    tiles = x.reshape(4, 4, 2, 4, 2, 16).transpose(0, 1, 3, 5, 2, 4).reshape(4, 4, 4, 16, 4)
    place = tiles.argmax(axis=-1)[..., None]
    got = MaxPool2d(2).forward(x, Context())
    assert np.array_equal(got.view(np.uint16), np.take_along_axis(tiles, place, axis=-1)[..., 0].view(np.uint16))
