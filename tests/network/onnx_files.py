"""ONNX files that the tests of the reader write: parts of a graph, and a small network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

if TYPE_CHECKING:
    from pathlib import Path


def weight(name: str, *shape: int) -> onnx.TensorProto:
    return numpy_helper.from_array(np.full(shape, 0.5, np.float32), name)


def ints(name: str, *values: int) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(values, np.int64), name)


def save(
    path: Path,
    nodes: list[onnx.NodeProto],
    inputs: dict[str, list[Any]],
    outputs: dict[str, list[Any]],
    weights: list[onnx.TensorProto],
    opset: int = 17,
    check: bool = True,
) -> Path:
    """Write a model; sizes that are strings are open dimensions."""
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    if check:
        onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def cnn(path: Path, batch: int | str = "batch") -> Path:
    """A strided, a grouped, a dilated convolution with normalisation, pooling, classifier."""
    nodes = [
        helper.make_node("Conv", ["x", "c1.weight"], ["y1"], "stem", strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["y1", "s", "b", "mean", "var"], ["n1"], "bn"),
        helper.make_node("Relu", ["n1"], ["r1"], "relu"),
        helper.make_node("Conv", ["r1", "c2.weight", "c2.bias"], ["y2"], "depthwise", group=8, auto_pad="SAME_UPPER"),
        helper.make_node("Conv", ["y2", "c3.weight"], ["y3"], "wide", dilations=[2, 2], pads=[2, 2, 2, 2]),
        helper.make_node("MaxPool", ["y3"], ["p"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("GlobalAveragePool", ["p"], ["g"], "gap"),
        helper.make_node("Flatten", ["g"], ["f"], "flatten"),
        helper.make_node("Gemm", ["f", "fc.weight", "fc.bias"], ["out"], "fc", transB=1),
    ]
    weights = [weight("c1.weight", 8, 3, 3, 3), weight("c2.weight", 8, 1, 3, 3), weight("c2.bias", 8)]
    weights += [weight("c3.weight", 16, 8, 3, 3), weight("fc.weight", 10, 16), weight("fc.bias", 10)]
    weights += [weight(name, 8) for name in ("s", "b", "mean", "var")]
    return save(path, nodes, {"x": [batch, 3, 16, 16]}, {"out": [batch, 10]}, weights)
