"""Operators of ONNX as layers: sizes by hand, values by onnx's reference where a layer stands for a product."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from nmsat.algorithms.core.tape import Pattern, Stage
from nmsat.dataflow.network.layers import ConvLayer, HostLayer, LinearLayer, MatMulLayer
from nmsat.dataflow.network.readers.onnx import read_onnx, read_onnx_model
from nmsat.dataflow.network.step import parameters, training_products
from tests.network.macs import forward_macs
from tests.network.onnx_files import ints, save, weight

if TYPE_CHECKING:
    from pathlib import Path

node = helper.make_node


def conv_file(path: Path, given: list[onnx.TensorProto], extra: list[Any], inputs: dict[str, list[Any]]) -> Path:
    """Conv 16 -> 64, 3 x 3, on 8 x 8 with an open batch; its weights w come from wherever the caller puts them."""
    nodes = [*extra, node("Conv", ["x", "w"], ["y"], "conv", pads=[1, 1, 1, 1])]
    return save(path, nodes, {"x": ["n", 16, 8, 8], **inputs}, {"y": ["n", 64, 8, 8]}, given, check=False)


def test_weights_come_from_anywhere(tmp_path: Path) -> None:
    w = weight("w", 64, 16, 3, 3)
    plain = read_onnx(conv_file(tmp_path / "a.onnx", [w], [], {}), 3)
    (layer,) = plain
    assert isinstance(layer, ConvLayer)
    assert (layer.macs, layer.weights, layer.weight) == (3 * 589_824, 9216, "w")
    constant = [node("Constant", [], ["w"], "make", value=w)]
    assert read_onnx(conv_file(tmp_path / "b.onnx", [], constant, {}), 3) == plain
    fed = read_onnx_model(conv_file(tmp_path / "c.onnx", [], [], {"w": [64, 16, 3, 3]}), 3)
    assert fed.layers == plain
    assert "graph inputs 'w'" in fed.notes[0]
    old = onnx.load(conv_file(tmp_path / "d.onnx", [], constant, {}))
    old.ir_version = 3
    onnx.save(old, tmp_path / "d.onnx")
    assert read_onnx(tmp_path / "d.onnx", 3) == plain
    through = [node("Transpose", ["t"], ["u"], "turn", perm=[2, 0, 1, 3]), node("Identity", ["u"], ["w"], "same")]
    *host, last = read_onnx(conv_file(tmp_path / "e.onnx", [weight("t", 16, 3, 64, 3)], through, {}), 3)
    assert isinstance(last, ConvLayer)
    assert (last.macs, last.weight, len(host)) == (layer.macs, "t", 2)
    indices = numpy_helper.from_array(np.array([5]), "i")
    sparse = helper.make_sparse_tensor(weight("w", 1), indices, [64 * 16 * 9])
    model = onnx.load(conv_file(tmp_path / "f.onnx", [], [], {}))
    sparse.values.name, sparse.dims[:] = "w", [64, 16, 3, 3]
    model.graph.sparse_initializer.append(sparse)
    onnx.save(model, tmp_path / "f.onnx")
    assert read_onnx(tmp_path / "f.onnx", 3) == plain


def test_gemm_weights_as_graph_inputs(tmp_path: Path) -> None:
    nodes = [
        node("Gemm", ["x", "w1", "b1"], ["a"], "one"),
        node("Gemm", ["a", "w2", "b2"], ["b"], "two"),
        node("Gemm", ["b", "w3"], ["y"], "three"),
    ]
    inputs: dict[str, list[Any]] = {"x": [4, 512]}
    for name in ("w1", "w2", "w3"):
        inputs[name] = [512, 512]
    inputs |= {"b1": [512], "b2": [512]}
    layers = read_onnx(save(tmp_path / "g.onnx", nodes, inputs, {"y": [4, 512]}, []))
    assert [(type(x), getattr(x, "bias", None)) for x in layers] == [
        (LinearLayer, True),
        (LinearLayer, True),
        (LinearLayer, False),
    ]
    assert parameters(layers) == 3 * 512 * 512 + 2 * 512
    step = training_products(layers, "bdwp", Pattern(2, 8))
    assert {p.name for p in step.products if p.pattern} == {"two"}
    # Two activations stay two activations.
    two = save(
        tmp_path / "h.onnx",
        [node("MatMul", ["a", "b"], ["y"], "p")],
        {"a": [2, 4, 8], "b": [2, 8, 3]},
        {"y": [2, 4, 3]},
        [],
    )
    assert isinstance(read_onnx(two)[0], MatMulLayer)


def test_a_weight_used_twice_is_counted_and_updated_once(tmp_path: Path) -> None:
    nodes = [
        node("Conv", ["x", "w"], ["a"], "a", pads=[1, 1, 1, 1]),
        node("Conv", ["a", "w"], ["y"], "b", pads=[1] * 4),
    ]
    shape: list[Any] = [2, 32, 8, 8]
    layers = read_onnx(save(tmp_path / "s.onnx", nodes, {"x": shape}, {"y": shape}, [weight("w", 32, 32, 3, 3)]))
    assert (forward_macs(layers), parameters(layers)) == (2 * 2 * 64 * 32 * 288, 9216)
    step = training_products(layers, "bdwp", Pattern(2, 8), first_and_last_dense=False)
    (update,) = step.updates
    assert (update.elements, update.ff, update.bp, update.shared) == (9216, Pattern(2, 8), Pattern(2, 8), ("b",))
    assert len([p for p in step.products if p.stage is Stage.WU]) == 2
    nodes = [
        node("Gather", ["w", "ids"], ["e"], "embed"),
        node("Transpose", ["w"], ["t"], "turn", perm=[1, 0]),
        node("MatMul", ["e", "t"], ["y"], "head"),
    ]
    tied = save(
        tmp_path / "t.onnx",
        nodes,
        {"x": [1]},
        {"y": [3, 128]},
        [weight("w", 128, 64), ints("ids", 1, 2, 3)],
        check=False,
    )
    model = onnx.load(tied)
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("ids", TensorProto.INT64, [3]))
    del model.graph.initializer[1]
    onnx.save(model, tied)
    layers = read_onnx(tied)
    assert (parameters(layers), [layer.parameters for layer in layers if isinstance(layer, HostLayer)]) == (
        8192,
        [0, 0],
    )
    assert sum(update.elements for update in training_products(layers, "dense").updates) == 8192


def test_conv_transpose_is_a_product_and_a_sum(tmp_path: Path) -> None:
    """The product that the layer stands for, added up as Col2Im does, is what onnx computes."""
    nodes = [node("ConvTranspose", ["x", "w"], ["y"], "up", strides=[2, 2])]
    path = save(tmp_path / "u.onnx", nodes, {"x": [2, 4, 3, 3]}, {"y": [2, 6, 6, 6]}, [weight("w", 4, 6, 2, 2)])
    layer, fold = read_onnx(path)
    assert isinstance(layer, LinearLayer)
    assert (layer.rows, layer.features_in, layer.features_out, layer.macs) == (18, 4, 24, 2 * 9 * 4 * 24)
    assert isinstance(fold, HostLayer)
    assert (fold.kind, fold.ff_operations) == ("Col2Im", 18 * 24)
    rng = np.random.default_rng(3)
    model = onnx.load(path)
    w = rng.standard_normal((4, 6, 2, 2)).astype(np.float32)
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(w, "w"))
    x = rng.standard_normal((2, 4, 3, 3)).astype(np.float32)
    outputs = ReferenceEvaluator(model).run(None, {"x": x})
    assert isinstance(outputs, list)
    want = np.asarray(outputs[0])
    columns = x.transpose(0, 2, 3, 1).reshape(layer.rows, 4) @ w.reshape(4, layer.features_out)
    got = columns.reshape(2, 3, 3, 6, 2, 2).transpose(0, 3, 1, 4, 2, 5).reshape(2, 6, 6, 6)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_lstm_is_products_per_step(tmp_path: Path) -> None:
    nodes = [node("LSTM", ["x", "w", "r", "b"], ["y"], "lstm", hidden_size=32)]
    weights = [weight("w", 1, 128, 16), weight("r", 1, 128, 32), weight("b", 1, 256)]
    path = save(tmp_path / "l.onnx", nodes, {"x": [10, "n", 16]}, {"y": [10, 1, "n", 32]}, weights)
    read = read_onnx_model(path, 4)
    given, stepped, gates = read.layers
    assert "dimension 1 of input 'x'" in read.notes[0]
    assert isinstance(given, LinearLayer)
    assert isinstance(stepped, LinearLayer)
    assert (given.rows, given.features_in, given.features_out, given.steps) == (40, 16, 128, 1)
    assert (stepped.rows, stepped.features_in, stepped.features_out, stepped.steps) == (40, 32, 128, 10)
    assert forward_macs(read.layers) == 10 * 4 * (16 + 32) * 128
    assert parameters(read.layers) == 128 * 16 + 128 * 32 + 256
    assert isinstance(gates, HostLayer)
    step = training_products(read.layers, "bdwp", Pattern(2, 8), first_and_last_dense=False)
    runs = {stage: [p for p in step.products if p.stage is stage and "recurrent" in p.name] for stage in Stage}
    assert [(p.m, p.k, p.n) for p in runs[Stage.FF]] == [(4, 32, 128)] * 10
    # Nothing learns the initial state: its gradient is not computed.
    assert [(p.m, p.k, p.n) for p in runs[Stage.BP]] == [(4, 128, 32)] * 9
    assert [(p.m, p.k, p.n) for p in runs[Stage.WU]] == [(32, 40, 128)]
    assert [p.name for p in runs[Stage.BP]] == [p.name for p in reversed(runs[Stage.FF])][:-1]


def test_an_initial_state_that_is_learnt_and_peepholes(tmp_path: Path) -> None:
    nodes = [node("LSTM", ["x", "w", "r", "", "", "h", "", "p"], ["y"], "lstm", hidden_size=32)]
    weights = [weight("w", 1, 128, 16), weight("r", 1, 128, 32), weight("h", 1, 4, 32), weight("p", 1, 96)]
    read = read_onnx_model(save(tmp_path / "l.onnx", nodes, {"x": [10, 4, 16]}, {"y": [10, 1, 4, 32]}, weights))
    assert parameters(read.layers) == 128 * 16 + 128 * 32 + 4 * 32 + 96
    step = training_products(read.layers, "dense")
    back = [p for p in step.products if p.stage is Stage.BP and "recurrent" in p.name]
    assert [(p.m, p.k, p.n) for p in back] == [(4, 128, 32)] * 10
    assert 96 + 4 * 32 in [update.elements for update in step.updates]


def test_an_initial_state_of_zeros_is_not_learnt(tmp_path: Path) -> None:
    nodes = [node("LSTM", ["x", "w", "r", "", "", "h", "h"], ["y"], "lstm", hidden_size=32)]
    zeros = numpy_helper.from_array(np.zeros((1, 4, 32), np.float32), "h")
    weights = [weight("w", 1, 128, 16), weight("r", 1, 128, 32), zeros]
    read = read_onnx_model(save(tmp_path / "l.onnx", nodes, {"x": [10, 4, 16]}, {"y": [10, 1, 4, 32]}, weights))
    assert parameters(read.layers) == 128 * 16 + 128 * 32
    back = [p for p in training_products(read.layers, "dense").products if p.stage is Stage.BP]
    assert [p.name for p in back] == [f"lstm.recurrent/run#{run}" for run in range(10, 1, -1)]


@pytest.mark.parametrize(
    ("equation", "a", "b", "expected"),
    [
        ("bsi,io->bso", [4, 16, 64], [64, 128], (64, 64, 128, 1)),
        ("bshd,hde->bse", [2, 5, 4, 8], [4, 8, 16], (10, 32, 16, 1)),
        ("becd,edf->becf", [2, 3, 5, 8], [3, 8, 4], (10, 8, 4, 3)),
        ("...i,oi->...o", [2, 7, 8], [4, 8], (14, 8, 4, 1)),
    ],
)
def test_einsum_with_a_weight(
    tmp_path: Path, equation: str, a: list[Any], b: list[int], expected: tuple[int, int, int, int]
) -> None:
    out = list(np.einsum(equation, np.zeros(a), np.zeros(b)).shape)
    path = save(
        tmp_path / "e.onnx",
        [node("Einsum", ["x", "w"], ["y"], "e", equation=equation)],
        {"x": a},
        {"y": out},
        [weight("w", *b)],
    )
    (layer,) = read_onnx(path)
    assert isinstance(layer, LinearLayer)
    assert (layer.rows, layer.features_in, layer.features_out, layer.count) == expected


def test_einsum_of_activations(tmp_path: Path) -> None:
    path = save(
        tmp_path / "q.onnx",
        [node("Einsum", ["q", "k"], ["y"], "scores", equation="bhqd,bhkd->bhqk")],
        {"q": [2, 4, 5, 8], "k": [2, 4, 6, 8]},
        {"y": [2, 4, 5, 6]},
        [],
    )
    layer = MatMulLayer(name="scores", m=5, k=8, n=6, count=8, gradient_a=False, gradient_b=False)
    assert read_onnx(path) == [layer]


def test_attention_of_opset_23(tmp_path: Path) -> None:
    nodes = [node("MatMul", ["x", f"w{part}"], [part], part) for part in "qkv"]
    nodes += [
        node("Attention", ["q", "k", "v"], ["a"], "att", q_num_heads=4, kv_num_heads=2),
        node("MatMul", ["a", "wo"], ["y"], "out"),
    ]
    weights = [weight("wq", 64, 64), weight("wk", 64, 32), weight("wv", 64, 32), weight("wo", 64, 64)]
    path = save(tmp_path / "a.onnx", nodes, {"x": [2, 16, 64]}, {"y": [2, 16, 64]}, weights, opset=23, check=False)
    layers = {layer.name: layer for layer in read_onnx(path)}
    assert layers["att.scores"] == MatMulLayer(name="att.scores", m=16, k=16, n=16, count=8)
    assert layers["att.context"] == MatMulLayer(name="att.context", m=16, k=16, n=16, count=8)
    softmax = layers["att.softmax"]
    assert isinstance(softmax, HostLayer)
    assert softmax.ff_operations == 5 * 2 * 4 * 16 * 16


def test_constant_conditions_functions_and_sums(tmp_path: Path) -> None:
    def branch(name: str, operator: str) -> onnx.GraphProto:
        return helper.make_graph(
            [node(operator, ["a", "w"], [f"{name}.o"], name)],
            name,
            [],
            [helper.make_tensor_value_info(f"{name}.o", TensorProto.FLOAT, [2, 8])],
        )

    nodes = [
        node("Shape", ["x"], ["shape"], "shape"),
        node("Size", ["shape"], ["rank"], "rank"),
        node("Equal", ["rank", "two"], ["flat"], "flat"),
        node("Relu", ["x"], ["a"], "act"),
        node("If", ["flat"], ["z"], "choose", then_branch=branch("then", "MatMul"), else_branch=branch("else", "Add")),
        node("Sum", ["z", "x", "x"], ["y"], "sum"),
    ]
    two = numpy_helper.from_array(np.array(2), "two")
    path = save(tmp_path / "i.onnx", nodes, {"x": [2, 8]}, {"y": [2, 8]}, [weight("w", 8, 8), two])
    layers = read_onnx(path)
    assert [layer.name for layer in layers] == ["act", "then", "sum"]
    assert forward_macs(layers) == 128
    hidden = node("If", ["c"], ["y"], "data", then_branch=branch("then", "MatMul"), else_branch=branch("else", "Add"))
    cond = node("ReduceSum", ["x"], ["s"], "s", keepdims=0)
    path = save(
        tmp_path / "j.onnx",
        [cond, node("Cast", ["s"], ["c"], "c", to=TensorProto.BOOL), node("Relu", ["x"], ["a"], "act"), hidden],
        {"x": [2, 8]},
        {"y": [2, 8]},
        [weight("w", 8, 8)],
    )
    with pytest.raises(ValueError, match=r"j\.onnx: node 'data' \(If\) runs MatMul in a branch or loop"):
        read_onnx(path)


def test_quantized_products(tmp_path: Path) -> None:
    scale = numpy_helper.from_array(np.array(0.5, np.float32), "s")
    nodes = [
        node("QuantizeLinear", ["x", "s"], ["q"], "q"),
        node("DequantizeLinear", ["q", "s"], ["xd"], "xd"),
        node("DequantizeLinear", ["w8", "s"], ["wd"], "wd"),
        node("Conv", ["xd", "wd"], ["y"], "conv"),
    ]
    w8 = numpy_helper.from_array(np.ones((64, 32, 3, 3), np.int8), "w8")
    model = save(tmp_path / "q.onnx", nodes, {"x": [2, 32, 8, 8]}, {"y": [2, 64, 6, 6]}, [scale, w8], check=False)
    *host, conv = read_onnx(model)
    assert isinstance(conv, ConvLayer)
    assert (conv.macs, conv.weight) == (2 * 36 * 64 * 288, "w8")
    assert {layer.kind for layer in host if isinstance(layer, HostLayer)} == {"QuantizeLinear", "DequantizeLinear"}


def test_unknown_operators_are_host_work_unless_they_may_multiply(tmp_path: Path) -> None:
    nodes = [node("MatMul", ["x", "w"], ["a"], "p"), node("Odd", ["a"], ["y"], "odd", domain="our")]
    path = save(tmp_path / "k.onnx", nodes, {"x": [2, 8]}, {"y": [2, 8]}, [weight("w", 8, 8)], check=False)
    model = onnx.load(path)
    model.opset_import.append(helper.make_opsetid("our", 1))
    onnx.save(model, path)
    read = read_onnx_model(path)
    assert isinstance(read.layers[-1], HostLayer)
    assert not read.layers[-1].cost_known
    assert "our.Odd" in read.notes[0]
    with pytest.raises(ValueError, match=r"k\.onnx: the cost of our\.Odd on the host is not known"):
        read_onnx(path, strict=True)
    model.graph.node[1].input.append("w")
    onnx.save(model, path)
    with pytest.raises(
        ValueError, match=r"k\.onnx: node 'odd' \(Odd\) is not supported: our\.Odd reads the constant 'w'"
    ):
        read_onnx(path)
    del model.graph.node[1].input[1]
    model.graph.node[1].op_type = "FlashAttention"
    onnx.save(model, path)
    with pytest.raises(ValueError, match=r"our\.FlashAttention multiplies matrices"):
        read_onnx(path)


def test_fused_operators_of_microsoft(tmp_path: Path) -> None:
    ms = "com.microsoft"
    nodes = [
        node("FusedMatMul", ["x", "w"], ["a"], "p", domain=ms, transB=1),
        node("BiasGelu", ["a", "b"], ["g"], "gelu", domain=ms),
        node("SkipLayerNormalization", ["g", "x", "s", "b"], ["n"], "norm", domain=ms),
        node("MatMul", ["n", "w"], ["y"], "q"),
    ]
    weights = [weight("w", 16, 16), weight("b", 16), weight("s", 16)]
    path = save(tmp_path / "m.onnx", nodes, {"x": [2, 5, 16]}, {"y": [2, 5, 16]}, weights, check=False)
    model = onnx.load(path)
    model.opset_import.append(helper.make_opsetid(ms, 1))
    onnx.save(model, path)
    layers = read_onnx(path, strict=True)
    assert [layer.name for layer in layers] == ["p", "gelu", "norm", "q"]
    assert forward_macs(layers) == 2 * 10 * 256
    assert parameters(layers) == 256 + 32


def test_products_of_constants_run_in_every_step(tmp_path: Path) -> None:
    """Places through a small network, as in Swin V2: its weights are learnt, so what it makes is no constant."""
    nodes = [
        helper.make_node("MatMul", ["places", "w1"], ["a"], "first"),
        helper.make_node("Add", ["a", "b1"], ["b"], "bias"),
        helper.make_node("Relu", ["b"], ["c"], "relu"),
        helper.make_node("MatMul", ["c", "w2"], ["d"], "second"),
        helper.make_node("MatMul", ["x", "w"], ["z"], "main"),
        helper.make_node("Add", ["z", "d"], ["y"], "add"),
    ]
    more = [weight("places", 9, 2), weight("w1", 2, 32), weight("b1", 32), weight("w2", 32, 16), weight("w", 8, 16)]
    path = save(tmp_path / "s.onnx", nodes, {"x": ["n", 9, 8]}, {"y": ["n", 9, 16]}, more)
    layers = read_onnx(path, 4, strict=True)
    found = {layer.name: layer for layer in layers if isinstance(layer, LinearLayer)}
    assert {name: layer.macs for name, layer in found.items()} == {
        "first": 9 * 2 * 32,
        "second": 9 * 32 * 16,
        "main": 4 * 9 * 8 * 16,
    }
    assert [layer.input_gradient for layer in found.values()] == [False, True, False]
    assert parameters(layers) == 2 * 32 + 32 + 32 * 16 + 8 * 16


@pytest.mark.parametrize("constant", [True, False])
def test_sizes_that_scales_give_are_known(tmp_path: Path, constant: bool) -> None:
    """As a U-Net is exported: 8 x 8 becomes 16 x 24 before the convolution 16 -> 64, 3 x 3."""
    scales = numpy_helper.from_array(np.array([1, 1, 2, 3], np.float32), "s")
    grown = node("Resize", ["x", "", "s"], ["r"], "grow", mode="nearest")
    conv = node("Conv", ["r", "w"], ["y"], "conv", pads=[1, 1, 1, 1])
    before = [node("Constant", [], ["s"], "scales", value=scales)] if constant else []
    given = [weight("w", 64, 16, 3, 3), *([] if constant else [scales])]
    shapes = {"x": ["n", 16, 8, 8]}, {"y": ["n", 64, 16, 24]}
    path = save(tmp_path / "a.onnx", [*before, grown, conv], *shapes, given, check=False)
    assert [layer.macs for layer in read_onnx(path, 2) if isinstance(layer, ConvLayer)] == [2 * 16 * 24 * 64 * 9 * 16]


@pytest.mark.parametrize("scale", [1e30, float("nan"), float("inf"), -2.0, 0.0])
def test_scales_without_bounds_are_refused(tmp_path: Path, scale: float) -> None:
    scales = numpy_helper.from_array(np.array([1, 1, scale, 1], np.float32), "s")
    nodes = [node("Resize", ["x", "", "s"], ["r"], "grow"), node("Conv", ["r", "w"], ["y"], "conv")]
    given = [weight("w", 4, 3, 1, 1), scales]
    path = save(tmp_path / "a.onnx", nodes, {"x": [1, 3, 8, 8]}, {"y": [1, 4, "h", 8]}, given, check=False)
    with pytest.raises(ValueError, match=r"a\.onnx: node"):
        read_onnx(path, 1)
