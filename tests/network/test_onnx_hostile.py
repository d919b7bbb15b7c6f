"""Files made to do harm: one line that names them, soon and in little memory."""

from __future__ import annotations

import io
import json
import tracemalloc
import zipfile
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from nmsat.dataflow.network.layers import LinearLayer
from nmsat.dataflow.network.readers.masks import read_masks
from nmsat.dataflow.network.readers.onnx import read_onnx
from nmsat.reports.work.text import printable
from tests.network.macs import forward_macs
from tests.network.onnx_files import ints, save, weight

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.conftest import Outcome

node = helper.make_node


def with_functions(path: Path, bodies: list[list[onnx.NodeProto]]) -> Path:
    """F0 and then a product; F0 calls what it calls."""
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("my", 1)]
    functions = [helper.make_function("my", f"F{at}", ["a"], ["c"], body, opsets) for at, body in enumerate(bodies)]
    nodes = [node("F0", ["x"], ["z"], domain="my"), node("MatMul", ["z", "w"], ["y"], "p")]
    model = onnx.load(save(path, nodes, {"x": [4, 8]}, {"y": [4, 8]}, [weight("w", 8, 8)], check=False))
    model.opset_import.append(opsets[1])
    model.functions.extend(functions)
    onnx.save(model, path)
    return path


def calls(*names: str) -> list[onnx.NodeProto]:
    places = ["a", *(f"t{at}" for at in range(1, len(names))), "c"]
    return [node(name, [places[at]], [places[at + 1]], domain="my") for at, name in enumerate(names)]


def test_functions(tmp_path: Path) -> None:
    good = with_functions(tmp_path / "good.onnx", [calls("F1", "F1"), [node("Relu", ["a"], ["c"])]])
    assert [layer.macs for layer in read_onnx(good)] == [0, 0, 256]
    with pytest.raises(ValueError, match=r"self\.onnx: function 'my\.F0' calls itself"):
        read_onnx(with_functions(tmp_path / "self.onnx", [calls("F1"), calls("F0")]))
    deep = [calls(f"F{at + 1}") for at in range(400)] + [[node("Relu", ["a"], ["c"])]]
    with pytest.raises(ValueError, match=r"deep\.onnx: functions and subgraphs are nested more than 32 deep"):
        read_onnx(with_functions(tmp_path / "deep.onnx", deep))
    laughs = [calls(f"F{at + 1}", f"F{at + 1}") for at in range(30)] + [[node("Relu", ["a"], ["c"])]]
    with pytest.raises(
        ValueError, match=r"laughs\.onnx: the model has \d+ nodes, its functions in place; at most 30000"
    ):
        read_onnx(with_functions(tmp_path / "laughs.onnx", laughs))


@contextmanager
def at_most(limit: int) -> Iterator[None]:
    """Fail if the block has more than `limit` bytes at once."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < limit
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("operator", "inputs"),
    [
        ("Tile", [ints("t", 1, 2), ints("r", 10**9)]),
        ("Expand", [ints("t", 1), ints("r", 10**6, 10**6)]),
        ("ConstantOfShape", [ints("r", 10**6, 10**6)]),
        ("Range", [numpy_helper.from_array(np.array(v), n) for n, v in (("a", 0), ("b", 10**13), ("c", 1))]),
    ],
)
def test_arithmetic_on_shapes_stays_small(tmp_path: Path, operator: str, inputs: list[onnx.TensorProto]) -> None:
    nodes = [
        node(operator, [tensor.name for tensor in inputs], ["big"], "grow"),
        node("Mul", ["big", "big"], ["more"], "more"),
        node("MatMul", ["x", "w"], ["y"], "p"),
    ]
    path = save(tmp_path / "b.onnx", nodes, {"x": [4, 8]}, {"y": [4, 8]}, [weight("w", 8, 8), *inputs], check=False)
    with at_most(1 << 28):
        assert forward_macs(read_onnx(path)) == 256


def test_shapes_out_of_bounds(tmp_path: Path) -> None:
    sizes: list[Any] = [2**40, 2**20, 8]
    path = save(
        tmp_path / "s.onnx", [node("MatMul", ["x", "w"], ["y"], "p")], {"x": sizes}, {"y": sizes}, [weight("w", 8, 8)]
    )
    with pytest.raises(ValueError, match=r"s\.onnx: rows of layer 'p' is \d+; it must be"):
        read_onnx(path)
    grown = [node("Unsqueeze", ["x" if at == 0 else f"u{at - 1}", "axis"], [f"u{at}"]) for at in range(80)]
    grown.append(node("MatMul", ["x", "w"], ["y"], "p"))
    path = save(
        tmp_path / "d.onnx", grown, {"x": [4, 8]}, {"y": [4, 8]}, [weight("w", 8, 8), ints("axis", 0)], check=False
    )
    with pytest.raises(ValueError, match=r"d\.onnx: tensor 'u62' has 65 dimensions; at most 64 are read"):
        read_onnx(path)


def test_an_archive_is_not_unpacked_before_it_fits(tmp_path: Path) -> None:
    path = tmp_path / "bomb.npz"
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|b1", "fortran_order": False, "shape": (1 << 14, 1 << 14)})
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file, file.open("fc.npy", "w") as member:
        member.write(header.getvalue())
        for _ in range(16):
            member.write(bytes(1 << 24))
    layers = [LinearLayer(name="fc", rows=8, features_in=64, features_out=64)]
    with (
        at_most(1 << 27),
        pytest.raises(
            ValueError, match=r"bomb\.npz: array 'fc' has shape \(16384, 16384\); layer 'fc' needs \(64, 64\)"
        ),
    ):
        read_masks(path, layers)
    lying = io.BytesIO()
    np.lib.format.write_array_header_1_0(lying, {"descr": "|b1", "fortran_order": False, "shape": (64, 64)})
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("fc.npy", lying.getvalue() + b"short")
    with pytest.raises(ValueError, match="array 'fc' cannot be read"):
        read_masks(path, layers)


def test_names_do_not_reach_the_terminal_as_commands(call: Callable[[str], Outcome], tmp_path: Path) -> None:
    assert printable("a\x1b[31mb\nc\x07\u202e") == "a\\x1b[31mb\nc\\x07\\u202e"
    nodes = [
        node("MatMul", ["x", "w"], ["a"], "\x1b[31mred"),
        node("Odd", ["a"], ["y"], "\x1b]0;t\x07", domain="d\x1b[2J"),
    ]
    path = save(tmp_path / "e.onnx", nodes, {"x": [4, 8]}, {"y": [4, 8]}, [weight("w", 8, 8)], check=False)
    model = onnx.load(path)
    model.opset_import.append(helper.make_opsetid("d\x1b[2J", 1))
    onnx.save(model, path)
    for flags, code in (("", 0), ("--strict", 2), ("--dense nothing", 2), ("--json", 0)):
        outcome = call(f"model {path} {flags} --config tiny")
        assert outcome.code == code
        assert "\x1b" not in outcome.out + outcome.err
        assert "\x07" not in outcome.out + outcome.err
    assert "\\x1b[31mred" in call(f"model {path} --config tiny").out


@pytest.mark.parametrize("mark", [b"NODENAME", b"TENSORAB", b"OPERATOR", b"INPUTNAM"])
def test_names_that_are_no_text(tmp_path: Path, mark: bytes) -> None:
    nodes = [node("MatMul", ["INPUTNAM", "w"], ["TENSORAB"], "NODENAME"), node("OPERATOR", ["TENSORAB"], ["y"])]
    path = save(tmp_path / "u.onnx", nodes, {"INPUTNAM": [4, 8]}, {"y": [4, 8]}, [weight("w", 8, 8)], check=False)
    path.write_bytes(path.read_bytes().replace(mark, b"\xff\xfe" * 4))
    with pytest.raises(ValueError, match=r"^u\.onnx: (broken model: a name is not UTF-8|not an ONNX file)"):
        read_onnx(path)


def test_operands_and_attributes_that_no_operator_has(tmp_path: Path) -> None:
    words = onnx.TensorProto(name="w", data_type=TensorProto.STRING, dims=(8, 8), string_data=[b"a"] * 64)
    path = save(
        tmp_path / "t.onnx",
        [node("MatMul", ["x", "w"], ["y"], "p")],
        {"x": [4, 8]},
        {"y": [4, 8]},
        [words],
        check=False,
    )
    with pytest.raises(
        ValueError, match=r"^t\.onnx: (node 'p' \(MatMul\): shape inference fails|broken model): .*string"
    ):
        read_onnx(path)
    weights = [weight("w", 1, 16, 8), weight("r", 1, 16, 4)]
    wrongs: list[dict[str, Any]] = [{"direction": "sideways"}, {"direction": "bidirectional"}, {"hidden_size": -4}]
    for wrong in wrongs:
        layer = node("LSTM", ["x", "w", "r"], ["y"], "lstm", **wrong)
        path = save(tmp_path / "l.onnx", [layer], {"x": [4, 2, 8]}, {"y": ["a"] * 4}, weights, check=False)
        with pytest.raises(ValueError, match=r"^l\.onnx: node 'lstm' \(LSTM\)"):
            read_onnx(path)


def test_tapes_that_are_deep_or_wide(call: Callable[[str], Outcome], tmp_path: Path) -> None:
    path = tmp_path / "t.tape"
    for line in ("[" * 100_000, json.dumps([1] * 100_000)):
        path.write_text('{"tape": 2}\n' + line + "\n")
        outcome = call(f"model {path}")
        assert outcome.code == 2
        assert "line 2 is not a product" in outcome.err
        assert len(outcome.err) < 600
        assert outcome.err.count("\n") == 1


def test_zero_sizes(tmp_path: Path) -> None:
    path = save(
        tmp_path / "z.onnx", [node("MatMul", ["x", "w"], ["y"], "p")], {"x": [0, 8]}, {"y": [0, 8]}, [weight("w", 8, 8)]
    )
    with pytest.raises(ValueError, match=r"z\.onnx: input 'x', dimension 0 is 0; it must be at least 1"):
        read_onnx(path)
