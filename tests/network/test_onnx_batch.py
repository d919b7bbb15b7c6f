"""Open sizes and the batch of ONNX files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from onnx import helper

from nmsat.dataflow.network.readers.onnx import read_onnx, read_onnx_model
from tests.network.macs import forward_macs
from tests.network.onnx_files import ints, save, weight

if TYPE_CHECKING:
    from pathlib import Path


def linear(path: Path, shape: list[Any]) -> Path:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], "proj")]
    return save(path, nodes, {"x": shape}, {"y": [*shape[:-1], 4]}, [weight("w", 8, 4)])


def test_sizes_by_name_and_by_place(tmp_path: Path) -> None:
    path = linear(tmp_path / "a.onnx", ["n", "seq", 8])
    assert forward_macs(read_onnx(path, 2, {"seq": 128})) == 2 * 128 * 32
    assert forward_macs(read_onnx(path, 2, {"x:1": 128})) == 2 * 128 * 32
    unnamed = linear(tmp_path / "b.onnx", [None, None, 8])
    with pytest.raises(ValueError, match=r"dimension 1 is open \('x:1'\); give its size: --size x:1=N"):
        read_onnx(unnamed, 2)
    assert forward_macs(read_onnx(unnamed, 2, {"x:1": 3})) == 2 * 3 * 32
    with pytest.raises(ValueError, match=r"size 'sequence' belongs to no open dimension; open are: n, seq, x:0, x:1"):
        read_onnx(path, 2, {"seq": 3, "sequence": 3})
    with pytest.raises(ValueError, match="batch is 2, but size 'n', which is the batch, is 3"):
        read_onnx(path, 2, {"seq": 3, "n": 3})


def test_the_batch_may_be_another_dimension(tmp_path: Path) -> None:
    fixed = linear(tmp_path / "f.onnx", [8, 1, 8])
    once = forward_macs(read_onnx(fixed))
    read = read_onnx_model(fixed, 32)
    assert (forward_macs(read.layers), read.batch) == (4 * once, 32)
    assert "fixes a batch of 8, the first dimension" in read.notes[0]
    read = read_onnx_model(fixed, 32, batch_dim=1)
    assert (forward_macs(read.layers), read.batch) == (32 * once, 32)
    with pytest.raises(ValueError, match=r"has the dimensions 0 \(8\), 1 \(1\), 2 \(8\); give one of them"):
        read_onnx(fixed, 32, batch_dim=3)
    opened = linear(tmp_path / "o.onnx", ["n", None, 8])
    with pytest.raises(ValueError, match=r"has the dimensions 0 \(open, 'n'\), 1 \(open\), 2 \(8\); give one of them"):
        read_onnx(opened, 32, {"x:1": 3}, batch_dim=7)
    # A name says it too.
    named = linear(tmp_path / "n.onnx", ["seq", "batch", 8])
    read = read_onnx_model(named, 5, {"seq": 7})
    assert (forward_macs(read.layers), read.batch) == (5 * 7 * 32, 5)
    assert "dimension 1 of input 'x'" in read.notes[0]


def test_a_reshape_for_another_batch_is_refused(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Reshape", ["x", "shape"], ["r"], "flat"),
        helper.make_node("MatMul", ["r", "w"], ["y"], "p"),
    ]
    path = save(
        tmp_path / "r.onnx", nodes, {"x": ["n", 2, 8]}, {"y": [1, 16]}, [weight("w", 16, 16), ints("shape", 1, 16)]
    )
    assert forward_macs(read_onnx(path, 1)) == 256
    with pytest.raises(ValueError, match=r"node 'flat' \(Reshape\) makes \(1, 16\) of \(4, 2, 8\).*fit another batch"):
        read_onnx(path, 4)
