"""The batch of sequence-first models, whatever lies between the inputs and the layer that goes through the steps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import onnx
import pytest
from onnx import TensorProto, helper

from nmsat.dataflow.network.readers.onnx import read_onnx_model
from nmsat.dataflow.network.readers.onnx_axes import batch_axes
from nmsat.dataflow.network.readers.onnx_load import load
from tests.network.macs import forward_macs
from tests.network.onnx_files import ints, save, weight

if TYPE_CHECKING:
    from pathlib import Path

node = helper.make_node
S, F, H = 10, 16, 32
LSTM = 4 * H * (F + H)
"""Multiply-adds of a sample and step."""


def lstm(source: str) -> list[onnx.NodeProto]:
    return [node("LSTM", [source, "w", "r"], ["y", "last"], "lstm", hidden_size=H)]


WEIGHTS = [weight("w", 1, 4 * H, F), weight("r", 1, 4 * H, H)]


def written(
    path: Path, nodes: list[onnx.NodeProto], x: list[Any], *more: onnx.TensorProto, words: bool = False
) -> Path:
    """Write nodes that lead from input x to a layer with result y."""
    save(path, nodes, {"x": x}, {"y": [None] * 4}, [*WEIGHTS, *more], check=False)
    if words:
        model = onnx.load(path)
        model.graph.input[0].type.tensor_type.elem_type = TensorProto.INT64
        onnx.save(model, path)
    return path


@pytest.mark.parametrize("steps", [S, "T"])
@pytest.mark.parametrize("samples", [4, "N"])
def test_words_steps_first(tmp_path: Path, steps: Any, samples: Any) -> None:
    nodes = [node("Gather", ["e", "x"], ["v"]), *lstm("v")]
    path = written(tmp_path / "a.onnx", nodes, [steps, samples], weight("e", 50, F), words=True)
    read = read_onnx_model(path, 32, {"T": S} if steps == "T" else None)
    assert (forward_macs(read.layers), read.batch) == (S * 32 * LSTM, 32)
    assert read.notes == ("the batch is dimension 1 of input 'x'; --batch-dim says otherwise",)


ANY = {"steps": S, "samples": 4, "features": 8}
PLACES = ("steps", "samples", "features")

WAYS: dict[str, tuple[list[onnx.NodeProto], tuple[str, str, str]]] = {
    "cast": ([node("Cast", ["l"], ["v"], to=1)], PLACES),
    "added and normalised": (
        [node("Add", ["l", "b"], ["a"]), node("LayerNormalization", ["a", "b"], ["v"])],
        PLACES,
    ),
    "samples first": ([node("Transpose", ["l"], ["v"], perm=[1, 0, 2])], ("samples", "steps", "features")),
    "one wide dimension": ([node("Unsqueeze", ["l", "zero"], ["u"]), node("Squeeze", ["u", "zero"], ["v"])], PLACES),
    "by row and back": ([node("Reshape", ["l", "rows"], ["f"]), node("Reshape", ["f", "back"], ["v"])], PLACES),
    "by computed sizes": (
        [
            node("Shape", ["l"], ["s"]),
            node("Gather", ["s", "zero"], ["t"]),
            node("Gather", ["s", "one"], ["n"]),
            node("Mul", ["t", "n"], ["tn"]),
            node("Concat", ["tn", "minus"], ["flat"], axis=0),
            node("Concat", ["t", "n", "minus"], ["whole"], axis=0),
            node("Reshape", ["l", "flat"], ["f"]),
            node("Relu", ["f"], ["g"]),
            node("Reshape", ["g", "whole"], ["v"]),
        ],
        PLACES,
    ),
}
"""Nodes from 'l', a product of x, to 'v'."""


@pytest.mark.parametrize("way", WAYS)
def test_what_lies_between(tmp_path: Path, way: str) -> None:
    between, places = WAYS[way]
    nodes = [node("MatMul", ["x", "p"], ["l"], "proj"), *between, *lstm("v")]
    more = [weight("p", 8, F), weight("b", F), ints("zero", 0), ints("one", 1), ints("minus", -1)]
    more += [ints("rows", -1, F), ints("back", S, 4, F)]
    fixed = written(tmp_path / "f.onnx", nodes, [ANY[place] for place in places], *more)
    whole = S * (8 * F + LSTM)
    read = read_onnx_model(fixed, 4)
    assert (forward_macs(read.layers), read.batch) == (4 * whole, 4)
    read = read_onnx_model(fixed, 12)
    assert (forward_macs(read.layers), read.batch) == (12 * whole, 12)
    if way != "by row and back":  # whose sizes fit one batch only
        sizes = [place if place != "features" else 8 for place in places]
        read = read_onnx_model(written(tmp_path / "o.onnx", nodes, sizes, *more), 12, {"steps": S})
        assert (forward_macs(read.layers), read.batch) == (12 * whole, 12)


def test_what_meets_the_samples_has_them_too(tmp_path: Path) -> None:
    """A mask, and an initial state, are fed beside the sequence."""
    nodes = [
        node("Unsqueeze", ["mask", "two"], ["m"]),
        node("Mul", ["x", "m"], ["v"]),
        node("LSTM", ["v", "w", "r", "", "", "start", "start"], ["y"], "lstm", hidden_size=H),
    ]
    inputs = {"x": ["T", "N", F], "mask": ["T", "N"], "start": [1, "N", H]}
    path = save(tmp_path / "m.onnx", nodes, inputs, {"y": [None] * 4}, [*WEIGHTS, ints("two", 2)], check=False)
    read = read_onnx_model(path, 6, {"T": S})
    assert (forward_macs(read.layers), read.batch) == (S * 6 * LSTM, 6)
    inputs = {"mask": [S, 4], "x": [S, 4, F], "start": [1, 4, H]}
    path = save(tmp_path / "n.onnx", nodes, inputs, {"y": [None] * 4}, [*WEIGHTS, ints("two", 2)], check=False)
    read = read_onnx_model(path, 8)
    assert (forward_macs(read.layers), read.batch) == (S * 8 * LSTM, 8)


def scan(path: Path, shape: list[Any], axis: int) -> Path:
    body = helper.make_graph(
        [node("MatMul", ["h", "u"], ["hu"], "step"), *(node("Add", ["hu", "part"], [name]) for name in "go")],
        "body",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("h", "part")],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "go"],
    )
    nodes = [
        node("MatMul", ["x", "p"], ["l"], "proj"),
        node("Scan", ["h0", "l"], ["z", "y"], "scan", body=body, num_scan_inputs=1, scan_input_axes=[axis]),
    ]
    inputs = {"x": shape, "h0": [shape[1 - axis], F]}
    return save(path, nodes, inputs, {"y": [None] * 3}, [weight("p", 8, F), weight("u", F, F)], check=False)


def test_scans(tmp_path: Path) -> None:
    whole = S * (8 * F + F * F)
    for axis, shape in ((0, [S, 4, 8]), (1, [4, S, 8]), (0, ["T", "N", 8]), (1, ["N", "T", 8])):
        read = read_onnx_model(scan(tmp_path / "s.onnx", shape, axis), 12, {"T": S} if "T" in shape else None)
        assert (forward_macs(read.layers), read.batch) == (12 * whole, 12)


def test_what_cannot_be_followed_is_said(tmp_path: Path) -> None:
    nodes = [node("Flatten", ["x"], ["f"]), node("Reshape", ["f", "back"], ["v"]), *lstm("v")]
    path = written(tmp_path / "u.onnx", nodes, [S, 4, F], ints("back", S, 4, F))
    (note,) = read_onnx_model(path).notes
    assert "a recurrent layer or scan takes for the batch could not be followed: dimension 0 of input 'x'" in note
    assert read_onnx_model(path, batch_dim=1).batch == 4
    linear = [node("MatMul", ["x", "p"], ["y"], "proj")]
    path = written(tmp_path / "l.onnx", linear, ["s0", "s1", 8], weight("p", 8, F))
    (note,) = read_onnx_model(path, 2, {"s1": 3}).notes
    assert "no name of an open dimension says that it is the batch: dimension 0 of input 'x'" in note
    assert not read_onnx_model(written(tmp_path / "i.onnx", linear, ["s0", 4, 8], weight("p", 8, F)), 2).notes


def test_following_stays_small_and_leaves_what_is_wrong_to_others(tmp_path: Path) -> None:
    nodes = [node("Shape", ["x"], ["c0"]), node("Gather", ["c0", "zero"], ["m0"])]
    for at in range(60):
        nodes += [node("Concat", [f"c{at}"] * 2, [f"c{at + 1}"], axis=0), node("Mul", [f"m{at}"] * 2, [f"m{at + 1}"])]
        nodes.append(node("Gather", [f"g{at}" if at else "x"] * 2, [f"g{at + 1}"]))
    nodes.append(node("Transpose", ["x"], ["v"], perm=[7, 1, 0]))
    loaded = load(written(tmp_path / "b.onnx", [*nodes, *lstm("v")], ["T", "N", F], ints("zero", 0), words=True))
    found = batch_axes(loaded)
    assert (found.found, found.unsure) == ({}, True)
    with pytest.raises(ValueError, match=r"^b\.onnx: tensor .g5. has 65 dimensions"):
        read_onnx_model(tmp_path / "b.onnx", 2, {"T": S})


def attention(path: Path, x: list[Any], *, first: bool, whole: bool = False) -> Path:
    """Write attention of 2 heads of 8 over x, samples first or steps first; whole: heads by their own dimension."""
    steps, samples = (1, 0) if first else (0, 1)
    order = [samples, 2, steps, 3] if whole else [1, 0, 2]
    split = [0, 0, 2, 8] if whole else [x[0], 2 * x[1], 8]
    turned = [0, 1, 3, 2] if whole else [0, 2, 1]
    nodes = []
    for name in "qkv":
        nodes += [
            node("MatMul", ["x", f"w{name}"], [f"l{name}"], name),
            node("Reshape", [f"l{name}", "split"], [f"h{name}"]),
            node("Transpose", [f"h{name}"], [name], perm=order),
        ]
    nodes += [
        node("Transpose", ["k"], ["kt"], perm=turned),
        node("MatMul", ["q", "kt"], ["s"], "scores"),
        node("Softmax", ["s"], ["p"]),
        node("MatMul", ["p", "v"], ["y"], "mixed"),
    ]
    weights = [weight(f"w{name}", 16, 16) for name in "qkv"]
    made = {"y": [None] * (4 if whole else 3)}
    return save(path, nodes, {"x": [*x, 16]}, made, [*weights, ints("split", *split)], check=False)


@pytest.mark.parametrize("whole", [False, True])
def test_attention_that_runs_along_the_first_dimension(tmp_path: Path, whole: bool) -> None:
    read = read_onnx_model(attention(tmp_path / "a.onnx", [7, 3], first=False, whole=whole))
    assert (read.batch, read.notes) == (3, ("the batch is dimension 1 of input 'x'; --batch-dim says otherwise",))
    assert forward_macs(read.layers) == 3 * 7 * 3 * 256 + 2 * 3 * 7 * 7 * 16
    four = read_onnx_model(attention(tmp_path / "b.onnx", [7, 3], first=False, whole=whole), 12)
    assert forward_macs(four.layers) == 4 * forward_macs(read.layers)
    if whole:
        read = read_onnx_model(attention(tmp_path / "c.onnx", [3, 7], first=True, whole=True))
        assert (read.batch, read.notes) == (3, ())
        assert forward_macs(read.layers) == 3 * 7 * 3 * 256 + 2 * 3 * 7 * 7 * 16
        opened = attention(tmp_path / "d.onnx", ["u", "v"], first=False, whole=True)
        read = read_onnx_model(opened, 5, {"u": 7})
        assert (forward_macs(read.layers), read.batch) == (5 * 7 * 3 * 256 + 2 * 5 * 7 * 7 * 16, 5)


def test_a_name_that_says_batch_counts_more_than_attention(tmp_path: Path) -> None:
    path = attention(tmp_path / "a.onnx", ["batch", "v"], first=False, whole=True)
    assert read_onnx_model(path, 5, {"v": 7}).batch == 5


def test_attention_without_samples_is_said(tmp_path: Path) -> None:
    nodes = [
        node("MatMul", ["x", "w1"], ["q"], "q"),
        node("Transpose", ["x"], ["t"], perm=[1, 0]),
        node("MatMul", ["q", "t"], ["y"], "scores"),
    ]
    path = save(tmp_path / "a.onnx", nodes, {"x": [7, 16]}, {"y": [7, 7]}, [weight("w1", 16, 16)])
    (note,) = read_onnx_model(path).notes
    assert note.startswith("attention runs along it, and what it keeps apart could not be followed: dimension 0 of")
