"""Weights that are repeated or cut out of others: each element is learnt and updated once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx.reference
import pytest
from onnx import helper, numpy_helper

from nmsat.dataflow.network.layers import LinearLayer
from nmsat.dataflow.network.readers import onnx_views
from nmsat.dataflow.network.readers.onnx import read_onnx_model
from nmsat.dataflow.network.readers.onnx_views import View, views_of, whole_view
from nmsat.dataflow.network.step import parameters, training_products
from tests.network.onnx_files import ints, save, weight

if TYPE_CHECKING:
    from pathlib import Path

    from nmsat.dataflow.network.found import FoundModel

node = helper.make_node


def updated(model: FoundModel) -> list[int]:
    return sorted(update.elements for update in training_products(model.layers, "dense").updates)


OPEN = [
    node("Shape", ["x"], ["s"]),
    node("Gather", ["s", "zero"], ["b"]),
    node("Concat", ["b", "ones"], ["sizes"], axis=0),
]
REPEATED = {
    "Expand": [*OPEN, node("Expand", ["w", "sizes"], ["v"])],
    "Tile": [*OPEN, node("Tile", ["w", "sizes"], ["v"])],
    "turned": [
        *OPEN,
        node("Transpose", ["w"], ["t"], perm=[0, 2, 1]),
        node("Expand", ["t", "sizes"], ["e"]),
        node("Transpose", ["e"], ["v"], perm=[0, 2, 1]),
    ],
}


@pytest.mark.parametrize("kind", REPEATED)
@pytest.mark.parametrize("product", ["MatMul", "Einsum"])
def test_a_weight_repeated_for_each_sample_is_learnt_once(tmp_path: Path, kind: str, product: str) -> None:
    given = {"equation": "bik,bkn->bin"} if product == "Einsum" else {}
    nodes = [*REPEATED[kind], node(product, ["x", "v"], ["y"], "product", **given)]
    weights = [weight("w", 1, 8, 6), ints("zero", 0), ints("ones", 1, 1)]
    path = save(tmp_path / "a.onnx", nodes, {"x": ["batch", 5, 8]}, {"y": ["batch", 5, 6]}, weights)
    for batch in (1, 4):
        model = read_onnx_model(path, batch)
        assert updated(model) == [48]
        assert parameters(model.layers) == 48
        assert sum(layer.macs for layer in model.layers) == batch * 5 * 48
        assert model.notes == ()


def test_heads_that_are_repeated(tmp_path: Path) -> None:
    nodes = [
        node("Expand", ["w", "sizes"], ["e"]),
        node("Reshape", ["e", "flat"], ["v"]),
        node("MatMul", ["x", "v"], ["y"], "product"),
    ]
    weights = [weight("w", 2, 8, 6), ints("sizes", 3, 2, 8, 6), ints("flat", 6, 8, 6)]
    model = read_onnx_model(save(tmp_path / "a.onnx", nodes, {"x": [6, 5, 8]}, {"y": [6, 5, 6]}, weights))
    assert updated(model) == [96]
    assert sum(layer.macs for layer in model.layers) == 6 * 5 * 48


def test_a_weight_that_repeats_its_own_columns_is_noted(tmp_path: Path) -> None:
    nodes = [node("Tile", ["w", "times"], ["v"]), node("MatMul", ["x", "v"], ["y"], "product")]
    weights = [weight("w", 8, 6), ints("times", 1, 2)]
    model = read_onnx_model(save(tmp_path / "a.onnx", nodes, {"x": [5, 8]}, {"y": [5, 12]}, weights))
    assert model.notes == ("weights that repeat elements within themselves, all of them counted as learnt: 'product'",)


def cut(path: Path, *parts: list[onnx.NodeProto], constants: list[onnx.TensorProto], size: int = 4) -> FoundModel:
    """Products of x with parts of w[12, 8], each made by some nodes under the name p0, p1, ..."""
    nodes = [each for part in parts for each in part]
    for at in range(len(parts)):
        nodes += [node("Gemm", ["x", f"p{at}"], [f"y{at}"], f"product{at}", transB=1)]
    nodes += [node("Sum", [f"y{at}" for at in range(len(parts))], ["y"], "sum")]
    weights = [weight("w", 12, 8), *constants]
    return read_onnx_model(save(path, nodes, {"x": [5, 8]}, {"y": [5, size]}, weights))


def test_equal_slices_are_one_weight_however_they_are_written(tmp_path: Path) -> None:
    numbers = [ints("four", 4), ints("eight", 8), ints("minus", -4), ints("back", -8), ints("thirds", 4, 4, 4)]
    rows = ints("rows", 4, 5, 6, 7)
    model = cut(
        tmp_path / "a.onnx",
        [node("Slice", ["w", "four", "eight"], ["p0"])],
        [node("Slice", ["w", "back", "minus"], ["p1"])],
        [node("Split", ["w", "thirds"], ["a", "p2", "c"], axis=0)],
        [node("Gather", ["w", "rows"], ["p3"])],
        constants=[*numbers, rows],
    )
    assert updated(model) == [32]
    assert parameters(model.layers) == 32
    assert model.notes == ()


def test_slices_apart_are_weights_of_their_own(tmp_path: Path) -> None:
    numbers = [ints("zero", 0), ints("four", 4), ints("eight", 8), ints("twelve", 12)]
    model = cut(
        tmp_path / "a.onnx",
        [node("Slice", ["w", "zero", "four"], ["p0"])],
        [node("Slice", ["w", "eight", "twelve"], ["p1"])],
        constants=numbers,
    )
    assert updated(model) == [32, 32]
    assert model.notes == ()


@pytest.mark.parametrize("marked", [onnx_views.MOST_MARKED, 1])
def test_slices_that_overlap_are_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, marked: int) -> None:
    monkeypatch.setattr(onnx_views, "MOST_MARKED", marked)
    numbers = [ints("zero", 0), ints("four", 4), ints("three", 3), ints("seven", 7)]
    model = cut(
        tmp_path / "a.onnx",
        [node("Slice", ["w", "zero", "four"], ["p0"])],
        [node("Slice", ["w", "three", "seven"], ["p1"])],
        constants=numbers,
    )
    assert model.notes == ("parts that overlap, or may, counted as weights of their own, in full: of 'w'",)


def test_weights_made_alike_are_one(tmp_path: Path) -> None:
    scale = numpy_helper.from_array(np.arange(8, dtype=np.float32), "scale")
    first, second = ([node("Mul", ["w", "scale"], [f"p{at}"])] for at in range(2))
    model = cut(tmp_path / "a.onnx", first, second, constants=[scale], size=12)
    assert [layer.weights for layer in model.layers if isinstance(layer, LinearLayer)] == [96, 96]
    assert 96 + 8 >= parameters(model.layers) >= 96


VIEWED: list[tuple[onnx.NodeProto, dict[str, Any]]] = [
    (node("Slice", ["w", "a", "b", "c", "d"], ["y"]), {"a": [9, 1], "b": [2, 7], "c": [0, 2], "d": [-2, 3]}),
    (node("Gather", ["w", "a"], ["y"], axis=1), {"a": -2}),
    (node("Gather", ["w", "a"], ["y"], axis=2), {"a": [5, 3, 1]}),
    (node("Split", ["w", "a"], ["y", "z"], axis=2), {"a": [3, 5]}),
    (node("Tile", ["w", "a"], ["y"]), {"a": [2, 1, 3]}),
    (node("Transpose", ["w"], ["y"], perm=[2, 0, 1]), {}),
    (node("Reshape", ["w", "a"], ["y"]), {"a": [5, 12, 4]}),
    (node("Unsqueeze", ["w", "a"], ["y"]), {"a": [1]}),
]


@pytest.mark.parametrize("case", range(len(VIEWED)))
def test_views_hold_what_the_reference_gives(case: int) -> None:
    """The places that a view says are those of the elements that onnx's reference makes of a count of all places."""
    step, constants = VIEWED[case]
    values = {name: np.array(value, np.int64) for name, value in constants.items()}
    whole = np.arange(240, dtype=np.int64).reshape(10, 3, 8)
    names = list(step.output)
    graph = helper.make_graph(
        [step],
        "view",
        [helper.make_tensor_value_info(name, onnx.TensorProto.INT64, None) for name in ("w", *values)],
        [helper.make_tensor_value_info(name, onnx.TensorProto.INT64, None) for name in names],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    run = onnx.reference.ReferenceEvaluator(model).run(None, {"w": whole, **values})
    results = [np.asarray(result) for result in run]
    shapes = {name: result.shape for name, result in zip(names, results, strict=True)}
    views = views_of(step, whole_view("w", whole.shape), values, shapes)
    assert len(views) == len(results)
    for view, result in zip(views, results, strict=True):
        assert isinstance(view, View)
        places = np.zeros(240, bool)
        assert view.mark(places) == 0
        assert np.flatnonzero(places).tolist() == sorted(set(result.ravel().tolist()))
        assert np.prod(view.distinct) == len(set(result.ravel().tolist()))
        assert len(view.distinct) == result.ndim


def product_of(
    tmp_path: Path, *nodes: onnx.NodeProto, constants: list[onnx.TensorProto], opset: int = 17
) -> FoundModel:
    """What nodes make of x[5, 8] and w[12, 8]: y[5, 4]."""
    path = tmp_path / "a.onnx"
    save(path, list(nodes), {"x": [5, 8]}, {"y": [5, 4]}, [weight("w", 12, 8), *constants], opset, check=False)
    return read_onnx_model(path)


@pytest.mark.parametrize("opset", [11, 17])
def test_sequences_of_weights_are_followed(tmp_path: Path, opset: int) -> None:
    nodes = [
        node("SplitToSequence", ["w", "sizes"], ["s"], axis=0),
        node("SequenceAt", ["s", "one"], ["a"]),
        node("SequenceErase", ["s", "zero"], ["shorter"]),
        node("SequenceAt", ["shorter", "minus"], ["b"]),
        node("Gemm", ["x", "a"], ["p"], "first", transB=1),
        node("Gemm", ["x", "b"], ["q"], "second", transB=1),
        node("Add", ["p", "q"], ["y"], "add"),
    ]
    places = {"one": 1, "zero": 0, "minus": -2}
    numbers = [numpy_helper.from_array(np.array(value), name) for name, value in places.items()]
    numbers.append(ints("sizes", 4, 4, 4))
    model = product_of(tmp_path, *nodes, constants=numbers, opset=opset)
    assert updated(model) == [32]
    assert model.notes == ()


def test_sequences_put_together_again(tmp_path: Path) -> None:
    nodes = [
        node("SplitToSequence", ["x"], ["s"], axis=0, keepdims=0),
        node("SequenceLength", ["s"], ["n"]),
        node("SequenceInsert", ["s", "row"], ["longer"]),
        node("ConcatFromSequence", ["longer"], ["z"], "join", axis=0, new_axis=1),
        node("Gemm", ["z", "w"], ["y"], "product", transB=1),
    ]
    model = product_of(tmp_path, *nodes, constants=[weight("row", 8)])
    assert sum(layer.macs for layer in model.layers) == 6 * 96
    assert model.notes == ()


def test_a_place_that_a_sequence_does_not_have(tmp_path: Path) -> None:
    nodes = [
        node("SplitToSequence", ["w", "four"], ["s"], axis=0),
        node("SequenceAt", ["s", "four"], ["a"], "at"),
        node("Gemm", ["x", "a"], ["y"], "first", transB=1),
    ]
    with pytest.raises(ValueError, match=r"node 'at' .* asks for place 4 of a sequence; it must be below 3"):
        product_of(tmp_path, *nodes, constants=[numpy_helper.from_array(np.array(4), "four")])


def test_what_reaches_no_output_is_left_out(tmp_path: Path) -> None:
    nodes = [
        node("MatMul", ["x", "large"], ["unused"], "spare"),
        node("Relu", ["unused"], ["more"], "relu"),
        node("Slice", ["w", "zero", "four"], ["part"]),
        node("Gemm", ["x", "part"], ["y"], "product", transB=1),
    ]
    model = product_of(tmp_path, *nodes, constants=[weight("large", 8, 100), ints("zero", 0), ints("four", 4)])
    assert [layer.name for layer in model.layers if layer.macs] == ["product"]
    assert "relu" not in [layer.name for layer in model.layers]
    assert updated(model) == [32]
    assert model.notes == ("left out, as no output of the graph depends on them: 'spare'",)


def test_scales_of_a_resize_that_are_put_together(tmp_path: Path) -> None:
    def held(name: str, *values: float) -> onnx.NodeProto:
        return node("Constant", [], [name], value=numpy_helper.from_array(np.array(values, np.float32), f"{name}.v"))

    nodes = [
        held("kept", 1.0, 1.0),
        held("grown", 2.0, 2.0),
        node("Concat", ["kept", "grown"], ["scales"], axis=0),
        node("Resize", ["x", "", "scales"], ["r"], "grow", mode="nearest"),
        node("Conv", ["r", "k"], ["y"], "conv"),
    ]
    path = tmp_path / "a.onnx"
    save(path, nodes, {"x": [1, 3, 4, 5]}, {"y": [1, 2, 8, 10]}, [weight("k", 2, 3, 1, 1)])
    model = read_onnx_model(path)
    assert sum(layer.macs for layer in model.layers) == 8 * 10 * 6
    assert parameters(model.layers) == 6


def test_a_constant_of_a_function_is_one_weight(tmp_path: Path) -> None:
    opsets = [helper.make_opsetid("", 17)]
    held = numpy_helper.from_array(np.arange(64, dtype=np.float32).reshape(8, 8), "held")
    body = [node("Constant", [], ["k"], value=held), node("MatMul", ["a", "k"], ["c"], "product")]
    function = helper.make_function("own", "Twice", ["a"], ["c"], body, opsets)
    graph = helper.make_graph(
        [node("Twice", ["x"], ["m"], domain="own"), node("Twice", ["m"], ["y"], domain="own")],
        "test",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [4, 8])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [4, 8])],
    )
    opsets.append(helper.make_opsetid("own", 1))
    onnx.save(helper.make_model(graph, opset_imports=opsets, functions=[function], ir_version=9), tmp_path / "a.onnx")
    model = read_onnx_model(tmp_path / "a.onnx")
    assert sum(layer.macs for layer in model.layers) == 2 * 4 * 64
    assert updated(model) == [64]
    assert parameters(model.layers) == 64
