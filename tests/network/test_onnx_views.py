"""Weights that are repeated or cut out of others: each element is learnt and updated once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

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
    assert model.notes == ("weights that repeat elements within themselves, each repetition counted as learnt: 'product'",)


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
    assert [layer.weights for layer in model.layers if layer.macs] == [96, 96]
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
    names = [name for name in step.output]
    graph = helper.make_graph(
        [step],
        "view",
        [helper.make_tensor_value_info(name, onnx.TensorProto.INT64, None) for name in ("w", *values)],
        [helper.make_tensor_value_info(name, onnx.TensorProto.INT64, None) for name in names],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    results = onnx.reference.ReferenceEvaluator(model).run(None, {"w": whole, **values})
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
