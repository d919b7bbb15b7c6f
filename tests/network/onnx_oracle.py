"""Multiply-adds of an ONNX model by onnx's own shape inference and a formula per operator: no code of the reader."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx.inliner
import onnx.shape_inference
from onnx import helper
from onnx.reference import ReferenceEvaluator

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

COUNTED = frozenset({
    *("Conv", "ConvTranspose", "DeformConv", "QLinearConv", "ConvInteger", "Gemm", "MatMul", "QLinearMatMul"),
    *("MatMulInteger", "Einsum", "Attention", "LSTM", "GRU", "RNN"),
})  # fmt: skip
"""Operators with a formula here."""


def shapes_of(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Return the shapes that onnx infers for a whole model with fixed inputs."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.ir_version = max(copy.ir_version, 8)
    graph = onnx.shape_inference.infer_shapes(copy, data_prop=True).graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            shapes[node.output[0]] = tuple(node.attribute[0].t.dims)
    for value in (*graph.input, *graph.value_info, *graph.output):
        tensor = value.type.tensor_type
        if tensor.HasField("shape") and all(dim.HasField("dim_value") for dim in tensor.shape.dim):
            shapes[value.name] = tuple(dim.dim_value for dim in tensor.shape.dim)
    return shapes


def shapes_of_run(model: onnx.ModelProto, inputs: Sequence[NDArray[Any]]) -> dict[str, tuple[int, ...]]:
    """Return the shapes that tensors have when onnx's reference runs the model."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    names = [name for node in copy.graph.node for name in node.output if name]
    del copy.graph.output[:]
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    feeds = {value.name: array for value, array in zip(model.graph.input, inputs, strict=False)}
    results = ReferenceEvaluator(copy).run(None, feeds)
    shapes = {tensor.name: tuple(tensor.dims) for tensor in copy.graph.initializer}
    shapes |= {name: np.shape(array) for name, array in feeds.items()}
    return shapes | {name: np.shape(result) for name, result in zip(names, results, strict=True)}


def multiply_adds(model: onnx.ModelProto, inputs: Sequence[NDArray[Any]] | None = None) -> int:
    """Return the multiply-adds of the forward pass; inputs: to run the model with where onnx does not infer a shape,
    which is else a KeyError."""
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    try:
        return _count(model, shapes_of(model))
    except KeyError:
        if inputs is None:
            raise
        return _count(model, shapes_of_run(model, inputs))


def _count(model: onnx.ModelProto, shapes: dict[str, tuple[int, ...]]) -> int:
    constant = {tensor.name for tensor in model.graph.initializer}
    total = 0
    used = {value.name for value in model.graph.output}
    kept = []
    for node in reversed(model.graph.node):  # what no output needs is not run
        if used & set(node.output):
            kept.insert(0, node)
            used.update(node.input)
            for graph in (attribute.g for attribute in node.attribute if attribute.HasField("g")):
                used.update(name for inner in graph.node for name in inner.input)
                used.update(value.name for value in graph.output)
    for node in kept:
        if (node.input and all(name in constant for name in node.input if name)) or node.op_type == "Constant":
            constant.update(node.output)
        elif node.op_type in COUNTED:
            total += _of(node, shapes)
    return total


def _of(node: onnx.NodeProto, shapes: dict[str, tuple[int, ...]]) -> int:
    given = {each.name: helper.get_attribute_value(each) for each in node.attribute}
    kind, ins = node.op_type, node.input
    if kind == "Einsum":
        return _einsum(given["equation"].decode().replace(" ", ""), [shapes[name] for name in ins])
    if kind == "Attention":
        return _attention(node, given, shapes)
    if kind in ("LSTM", "GRU", "RNN"):
        x, w, r = (shapes[name] for name in ins[:3])
        return x[0] * x[1] * (prod(w) + prod(r))
    if kind == "ConvTranspose":
        return prod(shapes[ins[0]]) * prod(shapes[ins[1]][1:])
    depth = shapes[ins[0]][-1]
    if kind == "Gemm":
        depth = shapes[ins[0]][0 if given.get("transA") else 1]
    elif "Conv" in kind:
        depth = prod(shapes[ins[3 if kind == "QLinearConv" else 1]][1:])
    return prod(shapes[node.output[0]]) * depth


def _einsum(equation: str, operands: list[tuple[int, ...]]) -> int:
    """Return the products of all sizes that two operands have once what nobody else has is summed, from the left; a
    product without a sum over a label of both, and without rows or without columns, is elementwise and counts none."""
    left, _, right = equation.partition("->")
    sizes: dict[Any, int] = {}
    terms: list[set[Any]] = []
    for term, shape in zip(left.split(","), operands, strict=True):
        dots = [f"dot{at}" for at in range(len(shape) - len(term.replace("...", "")), 0, -1)]
        before, mark, after = term.partition("...")
        labels = [*before, *(dots if mark else []), *after]
        terms.append({label for label, size in zip(labels, shape, strict=True) if size > 1})
        for label, size in zip(labels, shape, strict=True):
            sizes[label] = max(size, sizes.get(label, 1))
    listed = left.replace(",", "").replace(".", "")
    out = set(right) - {"."} if "->" in equation else {label for label in listed if listed.count(label) == 1}
    out |= {label for label in sizes if label.startswith("dot")} if "..." in right or "->" not in equation else set()
    total = 0
    while len(terms) > 1:
        a, b, *rest = terms
        later = out.union(*rest)
        a, b = {x for x in a if x in b or x in later}, {x for x in b if x in a or x in later}
        if (a & b) - later or (a - b and b - a):
            total += prod(sizes[label] for label in a | b)
        terms = [(a | b) & later, *rest]
    return total


def _attention(node: onnx.NodeProto, given: dict[str, int], shapes: dict[str, tuple[int, ...]]) -> int:
    q, k, v = (shapes[name] for name in node.input[:3])
    past = shapes[node.input[4]][2] if len(node.input) > 4 and node.input[4] else 0
    if len(q) == 4:
        heads, rows, depth, keys, wide = q[1], q[2], q[3], k[2], v[3]
    else:
        heads = given["q_num_heads"]
        rows, depth, keys, wide = q[1], q[2] // heads, k[1], v[2] // given["kv_num_heads"]
    return q[0] * heads * rows * (keys + past) * (depth + wide)
