"""The ONNX reader: small models built here, a transformer block, a network of the paper."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from nmsat.algorithms.core.tape import ConvShape, Pattern, Stage
from nmsat.dataflow.network.found import FoundModel
from nmsat.dataflow.network.layers import ConvLayer, HostLayer, LinearLayer, MatMulLayer
from nmsat.dataflow.network.models import find_model, load_model
from nmsat.dataflow.network.readers.onnx import read_onnx, read_onnx_model
from nmsat.dataflow.network.step import parameters, training_products
from tests.network.macs import forward_macs
from tests.network.onnx_files import cnn, ints, save, weight

if TYPE_CHECKING:
    from pathlib import Path

    from nmsat.dataflow.network.layers import Layer


def by_name(layers: list[Layer]) -> dict[str, Layer]:
    return {layer.name: layer for layer in layers}


def test_convolutions_pooling_and_classifier(tmp_path: Path) -> None:
    layers = by_name(read_onnx(cnn(tmp_path / "cnn.onnx"), batch=4))
    assert list(layers) == ["stem", "bn", "relu", "depthwise", "wide", "pool", "gap", "flatten", "fc"]
    stem, depthwise, wide, fc = (layers[name] for name in ("stem", "depthwise", "wide", "fc"))
    assert isinstance(stem, ConvLayer)
    assert stem.shape == ConvShape(4, 16, 16, 3, 8, (3, 3), (2, 2), (1, 1))
    assert not stem.input_gradient
    assert stem.weight == "c1.weight"
    assert isinstance(depthwise, ConvLayer)
    assert depthwise.shape == ConvShape(4, 8, 8, 8, 8, (3, 3), (1, 1), (1, 1), (1, 1), 8)
    assert depthwise.bias
    assert depthwise.input_gradient
    assert isinstance(wide, ConvLayer)
    assert wide.shape == ConvShape(4, 8, 8, 8, 16, (3, 3), (1, 1), (2, 2), (2, 2))
    assert fc == LinearLayer(name="fc", rows=4, features_in=16, features_out=10, bias=True, weight="fc.weight")
    assert forward_macs(list(layers.values())) == 4 * (64 * 8 * 27 + 64 * 8 * 9 + 64 * 16 * 72 + 160)
    # Learnt: weights, two biases, scale and shift; running statistics are not.
    assert parameters(list(layers.values())) == 8 * 27 + 8 * 9 + 8 + 16 * 72 + 170 + 16


def test_host_operators_are_counted(tmp_path: Path) -> None:
    layers = by_name(read_onnx(cnn(tmp_path / "cnn.onnx"), batch=4))
    relu, pool = layers["relu"], layers["pool"]
    assert isinstance(relu, HostLayer)
    assert (relu.kind, relu.ff_operations, relu.ff_bytes) == ("Relu", 4 * 8 * 64, 2 * 2 * 4 * 8 * 64)
    assert isinstance(pool, HostLayer)
    assert pool.ff_operations == 4 * 16 * 16 * 4
    assert pool.ff_bytes == 2 * (4 * 16 * 64 + 4 * 16 * 16)
    step = training_products(list(layers.values()), "bdwp", Pattern(2, 4))
    assert {op.name for op in step.host_ops if op.stage is Stage.FF} == {"bn", "relu", "pool", "gap", "flatten"}


def test_batch_open_fixed_and_refused(tmp_path: Path) -> None:
    opened, fixed = cnn(tmp_path / "open.onnx"), cnn(tmp_path / "fixed.onnx", batch=2)
    assert read_onnx(opened, 6) == load_model(opened, 6)
    assert read_onnx_model(opened, 6) == find_model(opened, 6)
    assert find_model("resnet9", 3) == FoundModel(load_model("resnet9", 3), 3)
    assert forward_macs(load_model(opened)) == 512 * forward_macs(load_model(opened, 1))
    assert read_onnx(fixed) == read_onnx(opened, 2)
    assert read_onnx(fixed, 6) == read_onnx(opened, 6)
    with pytest.raises(ValueError, match=r"fixed\.onnx: batch is 3.*fixes the batch.*to 2"):
        read_onnx(fixed, 3)
    with pytest.raises(ValueError, match="batch is 0"):
        read_onnx(opened, 0)


@pytest.mark.parametrize(
    ("attributes", "size", "expected", "pad"),
    [
        # SAME on 8 with a 3 x 3 stride 2 kernel pads 0 before and 1 after: the extra row is stored with the tensor.
        ({"auto_pad": "SAME_UPPER", "strides": [2, 2]}, 8, ((9, 9), (0, 0)), 2 * 3 * 81),
        ({"auto_pad": "SAME_LOWER", "strides": [2, 2]}, 8, ((9, 9), (0, 0)), 2 * 3 * 81),
        ({"auto_pad": "SAME_UPPER", "strides": [2, 2]}, 9, ((9, 9), (1, 1)), 0),
        ({"auto_pad": "VALID"}, 8, ((8, 8), (0, 0)), 0),
        ({"pads": [1, 0, 2, 3]}, 8, ((9, 11), (1, 0)), 2 * 3 * 99),
    ],
)
def test_padding(
    tmp_path: Path, attributes: dict[str, Any], size: int, expected: tuple[tuple[int, int], tuple[int, int]], pad: int
) -> None:
    node = helper.make_node("Conv", ["x", "w"], ["y"], "conv", **attributes)
    shape: list[Any] = [2, 3, size, size]
    path = save(tmp_path / "pad.onnx", [node], {"x": shape}, {"y": [2, 4, "h", "w"]}, [weight("w", 4, 3, 3, 3)])
    *host, conv = read_onnx(path)
    assert isinstance(conv, ConvLayer)
    assert ((conv.shape.height, conv.shape.width), conv.shape.padding) == expected
    assert [(layer.name, layer.ff_bytes) for layer in host if isinstance(layer, HostLayer)] == (
        [("conv.pad", 4 * pad)] if pad else []
    )


def test_one_dimensional_convolution(tmp_path: Path) -> None:
    node = helper.make_node("Conv", ["x", "w"], ["y"], "conv", strides=[2], pads=[2, 2], dilations=[2])
    path = save(tmp_path / "c.onnx", [node], {"x": ["b", 4, 32]}, {"y": ["b", 8, 16]}, [weight("w", 8, 4, 3)])
    (conv,) = read_onnx(path, 2)
    assert isinstance(conv, ConvLayer)
    assert conv.shape == ConvShape(2, 1, 32, 4, 8, (1, 3), (1, 2), (0, 2), (1, 2))


def transformer(path: Path) -> Path:
    """A pre-norm block as PyTorch traces it: open batch, shape arithmetic, heads split by Reshape and Transpose."""
    node = helper.make_node
    nodes = [
        node("LayerNormalization", ["x", "ln.s", "ln.b"], ["h"], "norm", axis=-1),
        node("Shape", ["h"], ["shape"], "shape"),
        node("Gather", ["shape", "zero"], ["b0"], "gather", axis=0),
        node("Unsqueeze", ["b0", "zeros"], ["b1"], "unsqueeze"),
        node("Concat", ["b1", "heads"], ["split"], "concat", axis=0),
        node("Concat", ["b1", "joined"], ["merge"], "concat2", axis=0),
    ]
    for part in "qkv":
        nodes += [
            node("MatMul", ["h", f"w{part}"], [f"{part}0"], f"{part}_proj"),
            node("Add", [f"b{part}", f"{part}0"], [f"{part}1"], f"{part}_bias"),
            node("Reshape", [f"{part}1", "split"], [f"{part}2"], f"{part}_heads"),
            node("Transpose", [f"{part}2"], [part], f"{part}_perm", perm=[0, 2, 3, 1] if part == "k" else [0, 2, 1, 3]),
        ]
    nodes += [
        node("MatMul", ["q", "k"], ["s0"], "scores"),
        node("Div", ["s0", "scale"], ["s1"], "scaled"),
        node("Softmax", ["s1"], ["p"], "softmax", axis=-1),
        node("MatMul", ["p", "v"], ["c0"], "context"),
        node("Transpose", ["c0"], ["c1"], "c_perm", perm=[0, 2, 1, 3]),
        node("Reshape", ["c1", "merge"], ["c2"], "c_join"),
        node("MatMul", ["c2", "wo"], ["o0"], "out_proj"),
        node("Add", ["o0", "x"], ["out"], "residual"),
    ]
    weights = [weight(f"w{part}", 64, 64) for part in "qkvo"] + [weight(f"b{part}", 64) for part in "qkv"]
    weights += [weight("ln.s", 64), weight("ln.b", 64), numpy_helper.from_array(np.array(4, np.float32), "scale")]
    weights += [numpy_helper.from_array(np.array(0), "zero"), ints("zeros", 0)]
    weights += [ints("heads", 10, 4, 16), ints("joined", 10, 64)]
    return save(path, nodes, {"x": ["batch", 10, 64]}, {"out": ["batch", 10, 64]}, weights)


def test_transformer_block(tmp_path: Path) -> None:
    layers = by_name(read_onnx(transformer(tmp_path / "block.onnx"), batch=3))
    for part in "qkv":
        assert layers[f"{part}_proj"] == LinearLayer(
            name=f"{part}_proj", rows=30, features_in=64, features_out=64, bias=True, weight=f"w{part}"
        )
    assert layers["scores"] == MatMulLayer(name="scores", m=10, k=16, n=10, count=12)
    assert layers["context"] == MatMulLayer(name="context", m=10, k=10, n=16, count=12)
    host = [layer.name for layer in layers.values() if isinstance(layer, HostLayer)]
    moved = [f"{part}_{what}" for part in "qkv" for what in ("heads", "perm")]
    assert host == ["norm", *moved, "scaled", "softmax", "c_perm", "c_join", "residual"]
    softmax = layers["softmax"]
    assert isinstance(softmax, HostLayer)
    assert softmax.ff_operations == 5 * 3 * 4 * 100
    assert parameters(list(layers.values())) == 4 * 64 * 64 + 3 * 64 + 2 * 64
    step = training_products(list(layers.values()), "bdwp", Pattern(2, 8), first_and_last_dense=False)
    attention = [p for p in step.products if p.name.startswith(("scores", "context"))]
    assert len(attention) == 6
    assert all(p.pattern is None for p in attention)
    projections = 4 * 30 * 64 * 64
    assert step.macs_dense == 3 * (projections + 2 * 12 * 10 * 10 * 16)
    assert step.macs_kept == projections // 2 + projections + 6 * 12 * 1600


def test_block_without_normalisation_needs_no_input_gradient(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["a"], "first"),
        helper.make_node("Relu", ["a"], ["b"], "act"),
        helper.make_node("MatMul", ["w2", "b"], ["c"], "left"),
    ]
    path = save(
        tmp_path / "m.onnx", nodes, {"x": [5, 8, 16]}, {"c": [5, 6, 32]}, [weight("w1", 16, 32), weight("w2", 6, 8)]
    )
    first, act, left = read_onnx(path)
    assert isinstance(first, LinearLayer)
    assert (first.rows, first.input_gradient) == (40, False)
    assert isinstance(act, HostLayer)
    assert act.bp_operations == 40 * 32 * 2 // 2
    # A weight on the left is the transposed product: 5 x 32 rows of 8 features.
    assert left == LinearLayer(name="left", rows=160, features_in=8, features_out=6, weight="w2")


def test_batched_weights_and_gemm_of_activations(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "experts"], ["y"], "experts"),
        helper.make_node("Reshape", ["y", "flat"], ["z"], "flat"),
        helper.make_node("Gemm", ["z", "z"], ["g"], "gram", transB=1),
    ]
    path = save(
        tmp_path / "m.onnx",
        nodes,
        {"x": [2, 3, 7, 16]},
        {"g": [6, 6]},
        [weight("experts", 3, 16, 8), ints("flat", 6, 56)],
    )
    layers = by_name(read_onnx(path))
    experts = layers["experts"]
    assert isinstance(experts, LinearLayer)
    assert (experts.count, experts.rows, experts.features_in, experts.features_out) == (3, 14, 16, 8)
    assert experts.macs == 2 * 3 * 7 * 16 * 8
    assert layers["gram"] == MatMulLayer(name="gram", m=6, k=56, n=6)


def test_open_sizes_besides_the_batch(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], "proj")]
    path = save(tmp_path / "s.onnx", nodes, {"x": ["b", "length", 8]}, {"y": ["b", "length", 4]}, [weight("w", 8, 4)])
    with pytest.raises(ValueError, match=r"s\.onnx: input 'x', dimension 1 is open \('length'\)"):
        read_onnx(path, 2)
    (layer,) = read_onnx(path, 2, sizes={"length": 5})
    assert layer == LinearLayer(name="proj", rows=10, features_in=8, features_out=4, input_gradient=False, weight="w")


def test_vgg19_from_a_file_equals_the_named_network(tmp_path: Path) -> None:
    """The graph that PyTorch would write, its weights in a file that is not there."""

    def outside(name: str, *shape: int) -> onnx.TensorProto:
        tensor = onnx.TensorProto(name=name, data_type=TensorProto.FLOAT, dims=shape)
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="vgg19.weights")
        return tensor

    named = [layer for layer in load_model("vgg19", 4) if layer.name != "loss"]
    nodes, weights, at = [], [], "x"
    for layer in named:
        ins: list[str] = [at]
        given: dict[str, Any] = {}
        if isinstance(layer, ConvLayer):
            weights += [outside(f"{layer.name}.w", layer.shape.channels_out, layer.shape.channels_in, 3, 3)]
            weights += [outside(f"{layer.name}.b", layer.shape.channels_out)]
            ins, given = [at, f"{layer.name}.w", f"{layer.name}.b"], {"pads": [1, 1, 1, 1]}
        elif isinstance(layer, LinearLayer):
            nodes.append(helper.make_node("Flatten", [at], ["flat"], "flatten"))
            weights += [outside("fc.w", 100, 512), outside("fc.b", 100)]
            ins, given = ["flat", "fc.w", "fc.b"], {"transB": 1}
        elif isinstance(layer, HostLayer) and layer.kind == "BatchNormalization":
            names = [f"{layer.name}.{part}" for part in ("s", "b", "mean", "var")]
            weights += [outside(name, layer.parameters // 2) for name in names]
            ins = [at, *names]
        elif isinstance(layer, HostLayer) and layer.kind == "MaxPool":
            given = {"kernel_shape": [2, 2], "strides": [2, 2]}
        kinds = {ConvLayer: "Conv", LinearLayer: "Gemm"}
        kind = layer.kind if isinstance(layer, HostLayer) else kinds[type(layer)]
        nodes.append(helper.make_node(kind, ins, [f"{layer.name}.y"], layer.name, **given))
        at = f"{layer.name}.y"
    path = save(tmp_path / "vgg19.onnx", nodes, {"x": ["n", 3, 32, 32]}, {at: ["n", 100]}, weights, check=False)
    read = [layer for layer in read_onnx(path, 4) if layer.name != "flatten"]
    assert [replace(a, weight="") if not isinstance(a, HostLayer | MatMulLayer) else a for a in read] == named


def test_weights_in_another_file_are_not_needed(tmp_path: Path) -> None:
    path = cnn(tmp_path / "cnn.onnx")
    layers = read_onnx(path, 2)
    onnx.save(onnx.load(path), tmp_path / "ext.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    (tmp_path / "w.bin").unlink()
    assert read_onnx(tmp_path / "ext.onnx", 2) == layers
