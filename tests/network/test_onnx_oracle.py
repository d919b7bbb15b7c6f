"""The ONNX reader against an oracle: models and node tests that ship with onnx, counted by its shape inference alone.

What is accepted must be exact; how much is accepted may only grow (`ACCEPTED`).
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx
import pytest

from nmsat.dataflow.network.readers.onnx import read_onnx
from tests.network.macs import forward_macs
from tests.network.onnx_oracle import COUNTED, multiply_adds

if TYPE_CHECKING:
    from collections.abc import Iterator

SHIPPED = Path(onnx.__file__).parent / "backend" / "test" / "data"

CLASSIC = {
    "bvlc_alexnet": 654_560_384,
    "densenet121": 2_834_161_664,
    "inception_v1": 1_431_556_352,
    "inception_v2": 2_018_851_840,
    "resnet50": 4_089_184_256,
    "shufflenet": 124_664_528,
    "squeezenet": 349_151_936,
    "vgg19": 19_632_062_464,
    "zfnet512": 1_481_727_008,
}
"""Multiply-adds of one image, padding counted as work."""

NODES = (
    *("conv", "convtranspose", "deformconv", "qlinearconv", "convinteger", "gemm", "matmul", "qlinearmatmul"),
    *("matmulinteger", "einsum", "lstm", "gru", "rnn", "attention"),
)
"""Modules of node tests that hold products."""

ACCEPTED = {"converted": 30, "operators": 4, "nodes": 165, "expanded": 93}
"""How many of the models with products that ship with onnx are accepted: never fewer."""


@pytest.mark.parametrize("name", CLASSIC)
def test_the_classic_networks(name: str) -> None:
    path = SHIPPED / "light" / f"light_{name}.onnx"
    assert forward_macs(read_onnx(path)) == CLASSIC[name] == multiply_adds(onnx.load(path))


def tally(models: Iterator[tuple[str, onnx.ModelProto, Path, Any]]) -> tuple[int, list[str]]:
    """Return how many models are accepted, all of them exact, and why the others are refused."""
    accepted, refused = 0, []
    for name, model, path, inputs in models:
        try:
            found = forward_macs(read_onnx(path))
        except ValueError as error:
            refused.append(f"{name}: {error}")
            continue
        assert found == multiply_adds(model, inputs), name
        accepted += 1
    return accepted, refused


def has_products(model: onnx.ModelProto) -> bool:
    return any(node.op_type in COUNTED for node in model.graph.node)


@pytest.mark.parametrize(("folder", "key"), [("pytorch-converted", "converted"), ("pytorch-operator", "operators")])
def test_models_that_ship_with_onnx(folder: str, key: str) -> None:
    def models() -> Iterator[tuple[str, onnx.ModelProto, Path, Any]]:
        for path in sorted((SHIPPED / folder).glob("*/model.onnx")):
            model = onnx.load(path)
            if has_products(model):
                yield path.parent.name, model, path, None

    accepted, refused = tally(models())
    print(f"{folder}: {accepted} accepted and exact, {len(refused)} refused")
    assert accepted >= ACCEPTED[key], refused


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("key", ["nodes", pytest.param("expanded", marks=pytest.mark.long)])
def test_node_tests_that_ship_with_onnx(tmp_path: Path, key: str) -> None:
    """One operator each; 'expanded': what the operator means in terms of others."""
    node_tests = importlib.import_module("onnx.backend.test.case.node")
    for module in NODES:
        importlib.import_module(f"onnx.backend.test.case.node.{module}")

    def models() -> Iterator[tuple[str, onnx.ModelProto, Path, Any]]:
        seen = set()
        for case in node_tests._NodeTestCases:  # the front would import every operator
            if case.model is None or case.name in seen or not has_products(case.model):
                continue
            if case.name.endswith("_expanded") is not (key == "expanded"):
                continue
            seen.add(case.name)
            path = tmp_path / f"{case.name}.onnx"
            onnx.save(case.model, path)
            yield case.name, case.model, path, case.data_sets[0][0]

    accepted, refused = tally(models())
    print(f"node tests: {accepted} accepted and exact, {len(refused)} refused", *refused, sep="\n")
    assert accepted >= ACCEPTED[key], refused
