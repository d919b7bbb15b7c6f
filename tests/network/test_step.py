"""Products of a training step: shapes, patterns, tails, order, host work; against the tape of a NumPy run."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nmsat.algorithms.core.arithmetic import arithmetic
from nmsat.algorithms.core.tape import ConvShape, Pattern, Product, Stage, Tape
from nmsat.algorithms.core.vocabulary import METHODS
from nmsat.algorithms.layers.base import Context, prepare
from nmsat.algorithms.layers.networks import digits_cnn
from nmsat.algorithms.methods import make_method
from nmsat.dataflow.network.layers import ConvLayer, LinearLayer, MatMulLayer, host_layer, pool_layer, scale_batch
from nmsat.dataflow.network.models import MODELS, load_model
from nmsat.dataflow.network.step import Prune, Step, Update, training_products
from tests.network.macs import forward_macs
from tests.network.networks import networks, square

P28 = Pattern(2, 8)


def conv(name: str, c_in: int, c_out: int, stride: int = 1, groups: int = 1, kernel: int = 3) -> ConvLayer:
    pad = kernel // 2
    shape = ConvShape(2, 8, 8, c_in, c_out, (kernel, kernel), (stride, stride), (pad, pad), groups=groups)
    return ConvLayer(name=name, shape=shape)


def linear(
    name: str,
    features_in: int,
    features_out: int,
    *,
    bias: bool = False,
    input_gradient: bool = True,
    pattern: Pattern | None = None,
) -> LinearLayer:
    return LinearLayer(
        name=name,
        rows=32,
        features_in=features_in,
        features_out=features_out,
        bias=bias,
        input_gradient=input_gradient,
        pattern=pattern,
    )


def one(layer: ConvLayer | LinearLayer, method: str, pattern: Pattern | None = P28) -> dict[Stage, list[Product]]:
    step = training_products([layer], method, pattern, first_and_last_dense=False)
    return {stage: [p for p in step.products if p.stage is stage] for stage in Stage}


def size(product: Product) -> tuple[int, int, int, Pattern | None]:
    return product.m, product.k, product.n, product.pattern


@pytest.mark.parametrize(
    ("method", "ff", "bp", "wu"),
    [
        ("dense", None, None, None),
        ("sr-ste", P28, None, None),
        ("sdwp", None, P28, None),
        ("bdwp", P28, P28, None),
        ("bdwp+mvue", P28, P28, P28),
    ],
)
def test_products_of_a_convolution(method: str, ff: Pattern | None, bp: Pattern | None, wu: Pattern | None) -> None:
    layer = conv("c", 16, 32)
    found = one(layer, method)
    assert [size(p) for p in found[Stage.FF]] == [(128, 144, 32, ff)]
    assert [size(p) for p in found[Stage.BP]] == [(128, 288, 16, bp)]
    assert [size(p) for p in found[Stage.WU]] == [(144, 128, 32, wu)]
    assert found[Stage.FF][0].conv == layer.shape


def test_sdgp_records_the_transposed_product() -> None:
    found = one(conv("c", 16, 32), "sdgp")
    assert [size(p) for p in found[Stage.BP]] == [(16, 288, 128, P28)]
    assert found[Stage.FF][0].pattern is None
    assert found[Stage.WU][0].pattern is None
    assert [size(p) for p in one(linear("l", 64, 24), "sdgp")[Stage.BP]] == [(64, 24, 32, P28)]
    # Too few output channels for a group: dense, and then in the usual order.
    assert [size(p) for p in one(linear("l", 64, 7), "sdgp")[Stage.BP]] == [(32, 7, 64, None)]


def test_stride_splits_the_input_gradient() -> None:
    layer = conv("c", 16, 32, stride=2)
    found = one(layer, "bdwp")[Stage.BP]
    assert [p.name for p in found] == ["c/phase0", "c/phase1", "c/phase2", "c/phase3"]
    assert [(p.m, p.k, p.n) for p in found] == [(32, 32, 16), (32, 64, 16), (32, 64, 16), (32, 128, 16)]
    assert sum(p.macs_dense for p in found) == layer.macs
    assert training_products([layer], "dense").macs_dense == 3 * layer.macs


def test_groups_are_counted() -> None:
    found = one(conv("c", 16, 32, groups=4), "bdwp")
    assert [(p.m, p.k, p.n, p.count) for stage in (Stage.FF, Stage.BP, Stage.WU) for p in found[stage]] == [
        (128, 36, 8, 4),
        (128, 72, 4, 4),
        (36, 128, 8, 4),
    ]


def test_tails() -> None:
    # 27 = 3 groups of 8 and 3 more, of which 2 stay; 3 input channels are too few for BP's groups of 8 along C_out = 6.
    found = one(conv("c", 3, 6), "bdwp")
    assert size(found[Stage.FF][0]) == (128, 27, 6, P28)
    assert found[Stage.FF][0].macs_kept == 128 * (3 * 2 + 2) * 6
    assert size(found[Stage.BP][0]) == (128, 54, 3, None)
    # 12 output channels fill one group and half another in each of 9 taps: padded to 16.
    padded = one(conv("c", 8, 12), "bdwp")[Stage.BP][0]
    assert size(padded) == (128, 9 * 16, 8, P28)
    assert padded.macs_kept == 128 * 9 * 4 * 8
    assert one(linear("l", 20, 12), "bdwp")[Stage.BP][0].macs_kept == 32 * 4 * 20
    assert one(linear("l", 7, 12), "bdwp")[Stage.FF][0].pattern is None
    # A padded layer does not change what dense means.
    layer = conv("c", 8, 12)
    assert training_products([layer], "bdwp", P28, False).macs_dense == 3 * layer.macs


PRUNED: dict[str, int] = dict.fromkeys(("ste", "sr-ste", "sdgp", "sdwp", "mvue"), 1)
PRUNED |= {"dense": 0, "bdwp": 2, "bi-mask": 2, "transposable": 2, "bdwp+mvue": 3}
"""Products of three that a method prunes."""


@pytest.mark.parametrize("pattern", [Pattern(2, 4), Pattern(2, 8), Pattern(2, 16), Pattern(1, 16)])
def test_bounds_of_equal_products(pattern: Pattern) -> None:
    """Three equal products of which 0, 1, 2 or 3 are pruned to r = N/M: 3 / (3 - pruned (1 - r))."""
    r = pattern.n / pattern.m
    layers = [linear(f"l{i}", 64, 64) for i in range(4)]
    assert set(PRUNED) == set(METHODS)
    for method, count in PRUNED.items():
        step = training_products(layers, method, pattern, first_and_last_dense=False)
        assert step.bound == pytest.approx(3 / (3 - count * (1 - r)))


@given(
    networks(),
    st.sampled_from((Pattern(2, 4), Pattern(2, 8), Pattern(1, 16))),
    st.sampled_from(sorted(set(METHODS) - {"dense"})),
)
def test_no_bound_is_above_that_of_the_pattern_and_all_batches_have_the_same(
    layers: list[ConvLayer | LinearLayer], pattern: Pattern, method: str
) -> None:
    """Windows of an input gradient that meet padding are no work that a network can be spared."""
    r, pruned = pattern.n / pattern.m, PRUNED[method]
    bounds = {}
    for batch in (1, 2, 512):
        step = training_products(
            [scale_batch(layer, batch) for layer in layers], method, pattern, first_and_last_dense=False
        )
        bounds[batch] = step.bound
        assert 1 - 1e-12 <= step.bound <= (3 / (3 - pruned * (1 - r)) if pruned > 1 else 1 / r) + 1e-12
        assert training_products([scale_batch(layer, batch) for layer in layers], "dense").bound == 1
    assert method.endswith("mvue") or bounds[1] == pytest.approx(bounds[2])  # MVUE prunes along the batch


def test_borders_of_a_small_batch_are_no_part_of_the_bound() -> None:
    """3x3 on 8x8 without padding: 36 of 64 positions count in BP, at batch 2 as at 128, where they are split off."""
    layers = [square("c", 64, 64, 8, 3, 1, 0)]
    for batch in (2, 128):
        step = training_products(
            [scale_batch(layer, batch) for layer in layers], "bdwp", P28, first_and_last_dense=False
        )
        assert step.bound == pytest.approx(2.0)
    small = training_products([scale_batch(layer, 2) for layer in layers], "bdwp", P28, first_and_last_dense=False)
    assert small.macs_dense / small.macs_kept > 2.1  # what the programs multiply


def test_first_and_last_layer_stay_dense() -> None:
    layers = [linear(f"l{i}", 64, 64) for i in range(3)]
    step = training_products(layers, "bdwp", P28)
    assert {p.name for p in step.products if p.pattern} == {"l1"}
    assert {update.name: (update.ff, update.bp) for update in step.updates} == {
        "l0": (None, None),
        "l1": (P28, P28),
        "l2": (None, None),
    }
    own = [replace(layers[0], pattern=Pattern(1, 4)), *layers[1:]]
    assert training_products(own, "bdwp", P28).products[0].pattern == Pattern(1, 4)


def test_patterns_of_layers_override_the_pattern_of_the_method() -> None:
    layers = [linear("a", 64, 64, pattern=Pattern(1, 4)), linear("b", 64, 64, pattern=Pattern(2, 2))]
    step = training_products(layers, "bdwp", P28, first_and_last_dense=False)
    assert {(p.name, p.stage, p.pattern) for p in step.products if p.pattern} == {
        ("a", Stage.FF, Pattern(1, 4)),
        ("a", Stage.BP, Pattern(1, 4)),
    }
    assert training_products(layers, "sr-ste").products[0].pattern == Pattern(1, 4)
    assert all(p.pattern is None for p in training_products(layers, "dense", P28).products)


def test_order_of_execution_and_missing_gradient() -> None:
    layers = [linear("a", 64, 64, input_gradient=False), linear("b", 64, 64)]
    step = training_products(layers, "dense")
    assert [(p.name, p.stage.value) for p in step.products] == [
        ("a", "ff"),
        ("b", "ff"),
        ("b", "bp"),
        ("b", "wu"),
        ("a", "wu"),
    ]


def test_products_of_activations() -> None:
    scores = MatMulLayer(name="qk", m=5, k=3, n=7, count=2)
    step = training_products([scores], "bdwp", Pattern(1, 2))
    assert [(p.name, p.stage.value, p.m, p.k, p.n, p.count) for p in step.products] == [
        ("qk", "ff", 5, 3, 7, 2),
        ("qk.da", "bp", 5, 7, 3, 2),
        ("qk.db", "bp", 3, 5, 7, 2),
    ]
    assert step.macs_kept == step.macs_dense == 3 * scores.macs


def test_pruning_within_the_step() -> None:
    layer = conv("c", 16, 32)
    assert training_products([layer], "sdgp", P28, False).prunes == (Prune("c", Stage.BP, 128, 32, P28),)
    assert training_products([layer], "bdwp+mvue", P28, False).prunes == (Prune("c", Stage.WU, 32, 128, P28),)
    assert training_products([layer], "bdwp", P28, False).prunes == ()
    assert Prune("c", Stage.BP, 128, 32, P28).elements == 4096


def test_updates_and_host_work() -> None:
    layers = [
        conv("c", 16, 32, stride=2, kernel=1),
        host_layer("BatchNormalization", "bn", 1000, parameters=64),
        pool_layer("MaxPool", "pool", 1000, 250, 4),
        linear("fc", 32, 10, bias=True),
    ]
    step = training_products(layers, "bdwp", P28, first_and_last_dense=False)
    assert step.updates == (
        Update("c", 16, 32, 1, 1, P28, P28),
        Update("bn", 64, 1),
        Update("fc", 32, 10, 1, 1, P28, P28),
        Update("fc.bias", 10, 1),
    )
    assert step.update_elements == 16 * 32 + 64 + 320 + 10
    ops = {(op.name, op.stage): (op.kind, op.operations, op.bytes) for op in step.host_ops}
    assert ops["bn", Stage.FF] == ("BatchNormalization", 5000, 6000)
    assert ops["bn", Stage.BP] == ("BatchNormalization", 9000, 10000)
    assert ops["pool", Stage.FF] == ("MaxPool", 1000, 2500)
    assert ops["fc.bias", Stage.WU] == ("ReduceSum", 320, 640)
    # A projection with stride 2 leaves three quarters of its input gradient zero.
    assert ops["c.dx", Stage.BP] == ("ConstantOfShape", 0, 2 * 48 * 2 * 16)


def test_refused_requests() -> None:
    layers = [linear("a", 64, 64)]
    with pytest.raises(ValueError, match="method is 'bwdp'; known methods: dense, ste, sr-ste, sdgp, sdwp, bdwp"):
        training_products(layers, "bwdp", P28)
    with pytest.raises(ValueError, match="method 'bdwp' prunes, but pattern is None"):
        training_products(layers, "bdwp")
    with pytest.raises(ValueError, match="no products"):
        training_products([host_layer("Relu", "r", 5)], "dense")
    with pytest.raises(ValueError, match="several weight layers have the name 'a'"):
        training_products([*layers, *layers], "dense")
    with pytest.raises(ValueError, match="'Fold'; known kinds: Abs, Acos"):
        host_layer("Fold", "r", 5)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("batch", 0, "batch of a convolution is 0"),
        ("groups", 3, "channels_in of layer 'c' is 16; it must be a multiple of groups, 3"),
        ("stride", (0, 1), "stride of a convolution is 0"),
        ("padding", (0, -1), "padding of a convolution is -1"),
        ("kernel", (11, 3), "layer 'c' has no output"),
    ],
)
def test_illegal_convolutions(field: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ConvLayer(name="c", shape=replace(conv("c", 16, 32).shape, **{field: value}))


@pytest.mark.parametrize("name", MODELS)
def test_a_larger_batch_scales_every_layer(name: str) -> None:
    assert [scale_batch(layer, 3) for layer in load_model(name, 2)] == load_model(name, 6)


@pytest.mark.parametrize("method", METHODS)
def test_same_products_as_the_tape_of_a_run(method: str) -> None:
    """The network of `nmsat demo`, multiplied in NumPy, records what the shape program says."""
    pattern = None if method == "dense" else Pattern(2, 8)
    tape = Tape()
    ctx = Context(arithmetic("fast"), make_method(method, pattern), tape)
    model = digits_cnn(np.random.default_rng(0))
    prepare(model, ctx)
    out = model.forward(np.ones((8, 8, 8, 1), np.float32), ctx)
    model.backward(np.ones_like(out), ctx)

    def layer(name: str, edge: int, c_in: int, c_out: int) -> ConvLayer:
        shape = ConvShape(8, edge, edge, c_in, c_out, (3, 3), padding=(1, 1))
        return ConvLayer(name=name, shape=shape, input_gradient=name != "conv1")

    layers = [layer("conv1", 8, 1, 16), layer("conv2", 8, 16, 32), layer("conv3", 4, 32, 32)]
    ends = [("fc1", 128, 64), ("fc2", 64, 10)]
    step: Step = training_products(
        [*layers, *(LinearLayer(name=n, rows=8, features_in=i, features_out=o) for n, i, o in ends)], method, pattern
    )

    def key(p: Product) -> tuple[str, str, int, int, int, str]:
        return p.name, p.stage.value, p.m, p.k, p.n, str(p.pattern)

    assert sorted(map(key, step.products)) == sorted(map(key, tape.products))
    assert step.macs_kept == tape.macs_kept
    assert forward_macs(layers) == sum(p.macs_dense for p in tape.of(Stage.FF) if "conv" in p.name)


def test_names_of_weight_layers_are_found_once() -> None:
    """Every program asks for them: steps of 10,000 layers took minutes."""
    step = training_products(
        [LinearLayer(name=name, rows=8, features_in=64, features_out=64) for name in "abc"], "dense"
    )
    assert step.weight_layers is step.weight_layers
    assert step.weight_layers == {"a", "b", "c"}
    assert replace(step, updates=(), frozen=("a",)).weight_layers == {"a"}
