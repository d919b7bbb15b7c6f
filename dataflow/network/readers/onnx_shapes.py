"""Shapes of the tensors of an ONNX graph: sizes of open dimensions are fixed, shape arithmetic is evaluated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import onnx
import onnx.shape_inference
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from onnx import GraphProto, ModelProto, NodeProto, ValueInfoProto

SMALL: Final = 4096
"""Elements up to which a tensor is kept by value; larger ones (weights) only need their shape."""

FOLDED: Final = frozenset({
    *("Add", "Sub", "Mul", "Div", "Mod", "Neg", "Pow", "Sqrt", "Ceil", "Floor", "Max", "Min"),
    *("And", "Or", "Not", "Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Where"),
    *("Cast", "CastLike", "Constant", "ConstantOfShape", "Range", "Shape", "Size", "Identity"),
    *("Concat", "Expand", "Gather", "Reshape", "Slice", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze"),
    *("ReduceMax", "ReduceMin", "ReduceProd", "ReduceSum"),
})  # fmt: skip
"""Operators evaluated while reading where all their inputs are small and known."""


@dataclass(frozen=True)
class Tensors:
    """What is known of a graph: shapes by tensor, values of small constants, and the nodes that remain to run."""

    shapes: Mapping[str, tuple[int, ...]]
    values: Mapping[str, NDArray]
    nodes: Sequence[NodeProto]


def infer_tensors(model: ModelProto, where: str) -> Tensors:
    """Return shapes and constants of a model whose inputs have fixed sizes and whose weights are inputs.

    Alternates onnx.shape_inference and evaluation of shape arithmetic until nothing new is found. Raises ValueError
    naming `where` and the node for shapes that contradict each other.
    """
    constants = {tensor.name: _value(tensor, where) for tensor in model.graph.initializer}
    # Floating-point tensors may be learnt, so nothing is computed from them here.
    values = {name: value for name, value in constants.items() if value.dtype.kind != "f" or value.size == 1}
    while True:
        try:
            inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
        except onnx.shape_inference.InferenceError as error:
            raise ValueError(f"{where}: shape inference fails: {_first_line(error)}") from error
        shapes = _shapes(inferred.graph)
        found = _fold(model, shapes, values, where)
        if not found:
            return Tensors(shapes, values, tuple(model.graph.node))
        values.update(found)
        keep = [node for node in model.graph.node if not all(name in values for name in node.output if name)]
        del model.graph.node[:]
        model.graph.node.extend(keep)
        model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in found.items())


def bind_inputs(
    inputs: Sequence[ValueInfoProto], batch: int | None, sizes: Mapping[str, int], where: str, default: int
) -> int:
    """Fix the open dimensions of the inputs in place and return by what the batch of the file is to be multiplied.

    The open first dimension of an input is the batch (`default` if None is given); other open dimensions take their
    size from `sizes` by name. Raises ValueError for a size that is missing or a batch that the file does not allow.
    """
    given = dict(sizes)
    opened = False
    fixed: set[int] = set()
    for value in inputs:
        if not value.type.HasField("tensor_type"):
            raise ValueError(f"{where}: input {value.name!r} is no tensor; sequences and maps are not supported")
        for first in value.type.tensor_type.shape.dim[:1]:
            if first.HasField("dim_value"):
                fixed.add(first.dim_value)
                continue
            opened = True
            size = given.setdefault(first.dim_param, default if batch is None else batch) if first.dim_param else None
            first.dim_value = size or (default if batch is None else batch)
    for value in inputs:
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            _bind(dim, given, f"{where}: input {value.name!r}, dimension {axis}")
    if opened or batch is None or fixed in (set(), {batch}):
        return 1
    if len(fixed) > 1 or batch % min(fixed):
        raise ValueError(
            f"{where}: batch is {batch!r}, but the file fixes the first dimension of its inputs to "
            f"{', '.join(map(str, sorted(fixed)))}; use a multiple of it or export with an open batch dimension"
        )
    return batch // min(fixed)


def _bind(dim: onnx.TensorShapeProto.Dimension, given: Mapping[str, int], where: str) -> None:
    if not dim.HasField("dim_value"):
        if dim.dim_param not in given:
            raise ValueError(f"{where} is open ({dim.dim_param or 'without name'!r}); give its size in `sizes`")
        dim.dim_value = given[dim.dim_param]
    if dim.dim_value < 1:
        raise ValueError(f"{where} is {dim.dim_value!r}; it must be at least 1")


def _shapes(graph: GraphProto) -> dict[str, tuple[int, ...]]:
    """Return the shapes that are known in every dimension."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        tensor = value.type.tensor_type
        if tensor.HasField("shape") and all(dim.HasField("dim_value") for dim in tensor.shape.dim):
            shapes[value.name] = tuple(dim.dim_value for dim in tensor.shape.dim)
    return shapes


def _fold(
    model: ModelProto, shapes: Mapping[str, tuple[int, ...]], known: Mapping[str, NDArray], where: str
) -> dict[str, NDArray]:
    """Return the values of all nodes that depend on shapes and small constants only."""
    values = dict(known)
    found: dict[str, NDArray] = {}
    for node in model.graph.node:
        if node.op_type not in FOLDED or node.domain not in ("", "ai.onnx"):
            continue
        if node.op_type in ("Shape", "Size") and node.input[0] in shapes:
            feeds = {node.input[0]: np.broadcast_to(np.float32(0), shapes[node.input[0]])}
        elif all(name in values for name in node.input if name):
            feeds = {name: values[name] for name in node.input if name}
        else:
            continue
        if any(int(np.prod(shapes.get(name, (0,)))) > SMALL for name in node.output):
            continue
        results = _evaluate(model, node, feeds, where)
        if all(result.size <= SMALL for result in results.values()):
            found |= results
            values |= results
    return found


def _evaluate(model: ModelProto, node: NodeProto, feeds: Mapping[str, NDArray], where: str) -> dict[str, NDArray]:
    untyped = TensorProto.UNDEFINED
    graph = helper.make_graph(
        [node],
        "fold",
        [helper.make_tensor_value_info(name, untyped, None) for name in feeds],
        [helper.make_tensor_value_info(name, untyped, None) for name in node.output if name],
    )
    single = helper.make_model(graph, opset_imports=model.opset_import)
    try:
        results = ReferenceEvaluator(single).run(None, dict(feeds))
    except (RuntimeError, ValueError, TypeError, IndexError, NotImplementedError) as error:
        raise ValueError(
            f"{where}: constant node {node_name(node)!r} ({node.op_type}) cannot be evaluated: {_first_line(error)}"
        ) from error
    names = [name for name in node.output if name]
    return {name: np.asarray(result) for name, result in zip(names, results, strict=True)}


def _value(tensor: TensorProto, where: str) -> NDArray:
    try:
        return numpy_helper.to_array(tensor)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{where}: constant {tensor.name!r} cannot be read: {_first_line(error)}") from error


def node_name(node: NodeProto) -> str:
    """Return the name of a node, or that of its first output if it has none."""
    return node.name or next((name for name in node.output if name), node.op_type)


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
