"""Einsum of several operands: sizes by hand and by the oracle."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import helper

from nmsat.dataflow.network.layers import HostLayer
from nmsat.dataflow.network.readers.onnx import read_onnx
from nmsat.dataflow.network.step import parameters
from tests.network.macs import forward_macs
from tests.network.onnx_files import save, weight
from tests.network.onnx_oracle import multiply_adds

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("equation", "shapes", "macs", "kinds"),
    [
        ("bsi,ir,ro->bso", ([2, 7, 16], [16, 4], [4, 24]), 14 * 16 * 4 + 14 * 4 * 24, ["weight", "weight"]),
        ("bi,i,io->bo", ([3, 8], [8], [8, 5]), 3 * 8 * 5, ["Mul", "weight"]),
        ("bic,io->bo", ([3, 8, 6], [8, 5]), 3 * 8 * 5, ["ReduceSum", "weight"]),
        ("...ij,...jk->...ik", ([4, 7, 8], [1, 8, 3]), 4 * 7 * 8 * 3, ["weight"]),
    ],
)
def test_operands_are_taken_two_at_a_time(
    tmp_path: Path, equation: str, shapes: tuple[list[int], ...], macs: int, kinds: list[str]
) -> None:
    first, *others = shapes
    weights = [weight(f"w{at}", *shape) for at, shape in enumerate(others)]
    out = list(np.einsum(equation, *(np.zeros(shape) for shape in shapes)).shape)
    nodes = [helper.make_node("Einsum", ["x", *(w.name for w in weights)], ["y"], "e", equation=equation)]
    path = save(tmp_path / "e.onnx", nodes, {"x": first}, {"y": out}, weights)
    layers = read_onnx(path, strict=True)
    assert [layer.kind if isinstance(layer, HostLayer) else "weight" for layer in layers] == kinds
    assert forward_macs(layers) == macs == multiply_adds(onnx.load(path))
    assert parameters(layers) == sum(int(np.prod(shape)) for shape in others)


def test_what_changes_weights_first_is_refused(tmp_path: Path) -> None:
    nodes = [helper.make_node("Einsum", ["x", "w"], ["y"], "e", equation="bi,ioc->bo")]
    path = save(tmp_path / "s.onnx", nodes, {"x": [3, 8]}, {"y": [3, 5]}, [weight("w", 8, 5, 6)])
    with pytest.raises(ValueError, match=r"node 'e' \(Einsum\) sums the weight 'w' along c before"):
        read_onnx(path)
    nodes = [helper.make_node("Einsum", ["a", "b", "x"], ["y"], "e", equation="ir,ro,bi->bo")]
    path = save(tmp_path / "e.onnx", nodes, {"x": [2, 8]}, {"y": [2, 5]}, [weight("a", 8, 3), weight("b", 3, 5)])
    with pytest.raises(ValueError, match=r"node 'e' \(Einsum\) multiplies weights by each other"):
        read_onnx(path)
