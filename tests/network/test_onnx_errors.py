"""The ONNX reader on files that it cannot take: each is refused with its file and node."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from onnx import helper

from nmsat.dataflow.network.readers.onnx import read_onnx
from tests.network.onnx_files import cnn, save, weight

if TYPE_CHECKING:
    from pathlib import Path

    import onnx


def test_unsupported_operators_are_named(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["y"], "conv"),
        helper.make_node("ConvTranspose", ["y", "w"], ["z"], "up"),
        helper.make_node("Det", ["z"], ["d"], "determinant"),
    ]
    path = save(tmp_path / "u.onnx", nodes, {"x": [1, 3, 8, 8]}, {"d": [1, 3]}, [weight("w", 3, 3, 3, 3)])
    with pytest.raises(ValueError, match=r"u\.onnx: .*ConvTranspose at 'up'; Det at 'determinant'.*Conv, Gemm, MatMul"):
        read_onnx(path)
    cube = [helper.make_node("Conv", ["x", "w"], ["y"], "cube")]
    path = save(tmp_path / "v.onnx", cube, {"x": [1, 3, 8, 8, 8]}, {"y": [1, 2, 6, 6, 6]}, [weight("w", 2, 3, 3, 3, 3)])
    with pytest.raises(ValueError, match=r"v\.onnx: node 'cube' \(Conv\).*1 or 2 dimensions"):
        read_onnx(path)
    made = [helper.make_node("Relu", ["k"], ["w"], "make"), helper.make_node("Conv", ["x", "w"], ["y"], "dynamic")]
    path = save(tmp_path / "w.onnx", made, {"x": [1, 3, 8, 8], "k": [2, 3, 3, 3]}, {"y": [1, 2, 6, 6]}, [])
    with pytest.raises(ValueError, match=r"w\.onnx: node 'dynamic' \(Conv\) takes its weights 'w' from another node"):
        read_onnx(path)


def test_broken_files(tmp_path: Path) -> None:
    whole = cnn(tmp_path / "cnn.onnx").read_bytes()
    for name, data in (
        ("empty.onnx", b""),
        ("text.onnx", b"this is not a model\n" * 9),
        ("random.onnx", bytes(np.random.default_rng(1).integers(0, 256, 500, np.uint8))),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ValueError, match=name):
            read_onnx(tmp_path / name)
    with pytest.raises(FileNotFoundError, match=r"missing\.onnx"):
        read_onnx(tmp_path / "missing.onnx")
    # Wherever a file is cut, the answer is a ValueError that names it.
    cut = tmp_path / "cut.onnx"
    for at in range(0, len(whole), 29):
        cut.write_bytes(whole[:at])
        with pytest.raises(ValueError, match=r"cut\.onnx"):
            read_onnx(cut)


def one_conv_file(path: Path, nodes: list[onnx.NodeProto], *weights: onnx.TensorProto) -> Path:
    return save(path, nodes, {"x": [1, 3, 8, 8]}, {"y": [1, 2, "h", "w"]}, list(weights), check=False)


def test_broken_graphs_name_file_and_node(tmp_path: Path) -> None:
    path = one_conv_file(tmp_path / "a.onnx", [helper.make_node("Conv", ["x", "gone"], ["y"], "conv")])
    with pytest.raises(ValueError, match=r"(?s)a\.onnx: broken model.*gone"):
        read_onnx(path)
    path = one_conv_file(
        tmp_path / "b.onnx", [helper.make_node("Conv", ["x", "w"], ["y"], "narrow")], weight("w", 2, 5, 3, 3)
    )
    with pytest.raises(ValueError, match=r"b\.onnx: .*narrow.*5.*3"):
        read_onnx(path)
    path = one_conv_file(
        tmp_path / "c.onnx", [helper.make_node("Conv", ["x", "w"], ["y"], "huge")], weight("w", 2, 3, 9, 9)
    )
    with pytest.raises(ValueError, match=r"c\.onnx: .*huge"):
        read_onnx(path)
    short = weight("w", 2, 3, 3, 3)
    short.raw_data = short.raw_data[:-4]
    path = one_conv_file(tmp_path / "d.onnx", [helper.make_node("Conv", ["x", "w"], ["y"], "conv")], short)
    with pytest.raises(ValueError, match=r"d\.onnx: tensor 'w'.*holds 212 bytes; it needs 216"):
        read_onnx(path)
    path = save(
        tmp_path / "e.onnx",
        [helper.make_node("MatMul", ["x", "w"], ["y"], "product")],
        {"x": [4, 8]},
        {"y": [4, 2]},
        [weight("w", 9, 2)],
        check=False,
    )
    with pytest.raises(ValueError, match=r"e\.onnx: .*product"):
        read_onnx(path)


def test_broken_attributes_name_file_and_node(tmp_path: Path) -> None:
    cases: list[tuple[str, dict[str, Any], str]] = [
        ("f.onnx", {"strides": [0, 0]}, "node name: conv"),
        (
            "g.onnx",
            {"group": 3},
            r"node 'conv' \(Conv\) has 3 input channels; weights \(2, 3, 3, 3\) in 3 groups need 9",
        ),
        ("h.onnx", {"auto_pad": "SAME"}, r"node 'conv' \(Conv\) has auto_pad 'SAME'; known: NOTSET"),
        ("i.onnx", {"kernel_shape": [5, 5]}, r"node 'conv' \(Conv\) has output \(1, 2, 4, 4\)"),
        ("j.onnx", {"group": 1.5}, r"broken model.*'conv : group'"),
    ]
    for name, attributes, message in cases:
        path = one_conv_file(
            tmp_path / name,
            [helper.make_node("Conv", ["x", "w"], ["y"], "conv", **attributes)],
            weight("w", 2, 3, 3, 3),
        )
        with pytest.raises(ValueError, match=f"{name}: .*{message}"):
            read_onnx(path)
    pool = helper.make_node("MaxPool", ["z"], ["y"], "pool", kernel_shape=[9, 9])
    path = one_conv_file(
        tmp_path / "k.onnx", [helper.make_node("Conv", ["x", "w"], ["z"], "conv"), pool], weight("w", 2, 3, 3, 3)
    )
    with pytest.raises(ValueError, match=r"k\.onnx: node 'pool' \(MaxPool\).*must be at least 1"):
        read_onnx(path)
