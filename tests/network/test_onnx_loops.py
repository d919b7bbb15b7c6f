"""Loop and Scan with products inside: counted as often as they run, by hand and by what onnx's reference runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from nmsat.algorithms.core.tape import Pattern, Stage
from nmsat.dataflow.network.layers import HostLayer, LinearLayer
from nmsat.dataflow.network.readers.onnx import read_onnx, read_onnx_model
from nmsat.dataflow.network.step import parameters, training_products
from tests.network.macs import forward_macs
from tests.network.onnx_files import save, weight

if TYPE_CHECKING:
    from pathlib import Path

node = helper.make_node


def tensor(name: str, shape: list[Any], kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def number(name: str, value: Any) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(value), name)


def body(nodes: list[onnx.NodeProto], outputs: list[onnx.ValueInfoProto], **kept: Any) -> onnx.GraphProto:
    """The body of a Loop: number i, condition c, state h."""
    inputs = [tensor("i", [], TensorProto.INT64), tensor("c", [], TensorProto.BOOL), tensor("h", ["n", "k"])]
    return helper.make_graph(nodes, "body", inputs, outputs, kept.get("weights"))


def looped(path: Path, inner: onnx.GraphProto, trips: str, condition: str, **kept: Any) -> Path:
    """x[4, 8] through a Loop of one state and one stacked result."""
    nodes = [*kept.get("before", []), node("Loop", [trips, condition, "x"], ["y", "all"], "loop", body=inner)]
    inputs = {"x": [4, 8]}
    model = save(path, nodes, inputs, {"y": [None, None], "all": [None, None, None]}, kept["weights"], check=False)
    onnx.checker.check_model(onnx.load(model))
    return model


STEP = (
    [node("MatMul", ["h", "w"], ["a"], "step"), node("Relu", ["a"], ["b"]), node("Identity", ["c"], ["more"])],
    [tensor("more", [], TensorProto.BOOL), tensor("b", [4, 8]), tensor("b", [4, 8])],
)


@pytest.mark.parametrize("inside", ["outside", "initializer", "constant"])
def test_a_loop_of_a_constant_number_of_runs_shares_its_weight(tmp_path: Path, inside: str) -> None:
    w = weight("w", 8, 8)
    made = [node("Constant", [], ["w"], "hold", value=w)] if inside == "constant" else []
    graph = body([*made, *STEP[0]], STEP[1], weights=[w] if inside == "initializer" else [])
    weights = [number("five", 5), *([w] if inside == "outside" else [])]
    path = looped(tmp_path / "l.onnx", graph, "five", "", weights=weights)
    layers = read_onnx(path, strict=True)
    steps = [layer for layer in layers if isinstance(layer, LinearLayer)]
    assert [layer.name for layer in steps] == ["step", *(f"step#{at}" for at in range(2, 6))]
    assert forward_macs(layers) == 5 * 4 * 8 * 8
    assert parameters(layers) == 64
    step = training_products(layers, "bdwp", Pattern(2, 8), first_and_last_dense=False)
    assert [update.elements for update in step.updates] == [64]
    assert len([p for p in step.products if p.stage is Stage.WU]) == 5
    # The first run reads the input of the network, all others what learns.
    assert len([p for p in step.products if p.stage is Stage.BP]) == 4
    stacked = [layer for layer in layers if isinstance(layer, HostLayer) and layer.kind == "Concat"]
    assert [layer.ff_bytes for layer in stacked] == [2 * 2 * 5 * 4 * 8]


def test_runs_may_change_shapes_and_end_by_themselves(tmp_path: Path) -> None:
    """Each run doubles the rows; the condition is arithmetic on its number."""
    nodes = [
        node("MatMul", ["h", "w"], ["a"], "step"),
        node("Concat", ["a", "a"], ["b"], axis=0),
        node("Less", ["i", "two"], ["more"]),
    ]
    graph = body(nodes, [tensor("more", [], TensorProto.BOOL), tensor("b", [None, 8])])
    loop = [node("Loop", ["", "yes", "x"], ["y"], "loop", body=graph)]
    weights = [weight("w", 8, 8), number("two", 2), number("yes", True)]
    path = save(tmp_path / "g.onnx", loop, {"x": [4, 8]}, {"y": [None, 8]}, weights)
    assert forward_macs(read_onnx(path)) == (4 + 8 + 16) * 64
    (y,) = ReferenceEvaluator(onnx.load(path)).run(None, {"x": np.zeros((4, 8), np.float32)})
    assert np.shape(y) == (32, 8)


def test_loops_within_loops_and_branches(tmp_path: Path) -> None:
    """Two runs of three runs, each with a branch that its number decides; the weight lies in the innermost graph."""
    w = node("Constant", [], ["w"], "hold", value=weight("w", 8, 8))
    then = helper.make_graph([w, node("MatMul", ["h2", "w"], ["t"], "deep")], "then", [], [tensor("t", [4, 8])])
    other = helper.make_graph([node("Relu", ["h2"], ["e"], "act")], "else", [], [tensor("e", [4, 8])])
    inner = helper.make_graph(
        [
            node("Less", ["i2", "two"], ["early"]),
            node("If", ["early"], ["b2"], "choose", then_branch=then, else_branch=other),
            node("Identity", ["c2"], ["more2"]),
        ],
        "inner",
        [tensor("i2", [], TensorProto.INT64), tensor("c2", [], TensorProto.BOOL), tensor("h2", [4, 8])],
        [tensor("more2", [], TensorProto.BOOL), tensor("b2", [4, 8])],
    )
    nodes = [node("Loop", ["three", "", "h"], ["b"], "inner", body=inner), node("Identity", ["c"], ["more"])]
    graph = body(nodes, [tensor("more", [], TensorProto.BOOL), tensor("b", [4, 8]), tensor("b", [4, 8])])
    weights = [number("two", 2), number("three", 3)]
    layers = read_onnx(looped(tmp_path / "n.onnx", graph, "two", "", weights=weights))
    assert forward_macs(layers) == 2 * 2 * 4 * 64
    assert sum(layer.name.startswith("act") for layer in layers) == 2
    assert parameters(layers) == 64


@pytest.mark.parametrize(("axis", "backwards"), [(0, 0), (1, 0), (1, 1)])
def test_a_scan_runs_once_per_step(tmp_path: Path, axis: int, backwards: int) -> None:
    """h = tanh(x_t w + h r), as a recurrent layer written out."""
    inner = helper.make_graph(
        [
            node("MatMul", ["s", "w"], ["a"], "input"),
            node("MatMul", ["h", "r"], ["b"], "recurrent"),
            node("Add", ["a", "b"], ["sum"]),
            node("Tanh", ["sum"], ["h2"]),
            node("Identity", ["h2"], ["out"]),
        ],
        "body",
        [tensor("h", [3, 6]), tensor("s", [3, 5])],
        [tensor("h2", [3, 6]), tensor("out", [3, 6])],
    )
    scan = node(
        "Scan", ["h0", "x"], ["hn", "y"], "scan", body=inner, num_scan_inputs=1, scan_input_axes=[axis],
        scan_input_directions=[backwards], scan_output_axes=[axis],
    )  # fmt: skip
    shape = [7, 3, 5] if axis == 0 else [3, 7, 5]
    inputs: dict[str, list[Any]] = {"h0": [3, 6], "x": shape}
    last = node("MatMul", ["y", "v"], ["z"], "head")
    outputs: dict[str, list[Any]] = {"hn": [3, 6], "z": [*shape[:2], 2]}
    path = save(
        tmp_path / "s.onnx", [scan, last], inputs, outputs, [weight("w", 5, 6), weight("r", 6, 6), weight("v", 6, 2)]
    )
    layers = read_onnx(path, strict=True)
    assert forward_macs(layers) == 7 * 3 * (5 + 6) * 6 + 21 * 6 * 2
    assert parameters(layers) == 5 * 6 + 6 * 6 + 6 * 2
    assert len(training_products(layers, "dense").updates) == 3
    if axis == 0:  # the steps come first, so the batch is dimension 1
        inputs = {"h0": ["n", 6], "x": ["t", "n", 5]}
        path = save(
            tmp_path / "b.onnx", [scan, last], inputs, outputs, [*onnx.load(path).graph.initializer], check=False
        )
        read = read_onnx_model(path, 3, {"t": 7})
        assert forward_macs(read.layers) == forward_macs(layers)
        with pytest.raises(ValueError, match=r"dimension 0 is open \('t'\); give its size: --size t=N"):
            read_onnx(path, 3)


def test_a_scan_through_stacked_weights_has_a_weight_per_run(tmp_path: Path) -> None:
    inner = helper.make_graph(
        [node("MatMul", ["h", "w1"], ["h2"], "layer")], "body", [tensor("h", [4, 8]), tensor("w1", [8, 8])],
        [tensor("h2", [4, 8])],
    )  # fmt: skip
    scan = node("Scan", ["x", "w"], ["y"], "scan", body=inner, num_scan_inputs=1)
    layers = read_onnx(save(tmp_path / "w.onnx", [scan], {"x": [4, 8]}, {"y": [4, 8]}, [weight("w", 6, 8, 8)]))
    assert (forward_macs(layers), parameters(layers)) == (6 * 4 * 64, 6 * 64)
    updates = training_products(layers, "dense").updates
    assert [update.elements for update in updates] == [64] * 6


def test_what_data_decide_is_refused_and_what_has_no_product_is_host_work(tmp_path: Path) -> None:
    found = [
        node("ReduceSum", ["a"], ["s"], keepdims=0),
        node("Cast", ["s"], ["more"], to=TensorProto.BOOL),
    ]
    graph = body([STEP[0][0], *found], [tensor("more", [], TensorProto.BOOL), tensor("a", [4, 8])])
    loop = [node("Loop", ["five", "", "x"], ["y"], "until", body=graph)]
    weights = [weight("w", 8, 8), number("five", 5)]
    path = save(tmp_path / "d.onnx", loop, {"x": [4, 8]}, {"y": [4, 8]}, weights)
    with pytest.raises(
        ValueError, match=r"node 'until' \(Loop\) runs MatMul in a branch or loop that depends on data; e"
    ):
        read_onnx(path)
    # A custom operator may hide a product in a loop as it may outside.
    model = onnx.load(path)
    model.opset_import.append(helper.make_opsetid("our", 1))
    model.graph.node[0].attribute[0].g.node[0].op_type = "Odd"
    model.graph.node[0].attribute[0].g.node[0].domain = "our"
    onnx.save(model, path)
    with pytest.raises(ValueError, match=r"\(Loop\) runs Odd in a branch"):
        read_onnx(path)
    # Without a product the loop stays one piece of host work, and what it reads from outside is no constant.
    scan = helper.make_graph([node("Add", ["x", "s"], ["o"])], "body", [tensor("s", [8])], [tensor("o", [4, 8])])
    nodes = [
        node("Scan", ["table"], ["z"], "plain", body=scan, num_scan_inputs=1),
        node("MatMul", ["z", "w"], ["y"], "p"),
    ]
    path = save(
        tmp_path / "p.onnx", nodes, {"x": [4, 8]}, {"z": [2, 4, 8], "y": [2, 4, 8]},
        [weight("w", 8, 8), weight("table", 2, 8)],
    )  # fmt: skip
    plain, product = read_onnx(path)
    assert isinstance(plain, HostLayer)
    assert not plain.cost_known
    assert isinstance(product, LinearLayer)
    assert (product.rows, product.weight) == (8, "w")


@pytest.mark.parametrize("trips", [10**12, None])
def test_endless_loops_are_refused_soon(tmp_path: Path, trips: int | None) -> None:
    graph = body(*STEP)
    weights = [weight("w", 8, 8), *([] if trips is None else [number("many", trips)])]
    path = looped(tmp_path / "e.onnx", graph, "" if trips is None else "many", "", weights=weights)
    with pytest.raises(ValueError, match=r"node 'loop' \(Loop\): all runs of its body together have more than 30000"):
        read_onnx(path)
