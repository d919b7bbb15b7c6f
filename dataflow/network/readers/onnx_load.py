"""An ONNX file as a graph that the rest of the reader can walk: checked, functions in place, weights by shape only.

Whatever holds a constant (initializers, dense or sparse, inside or in files of their own, Constant nodes) becomes a
`Weight`; the small ones also keep their values. Graph inputs that only stand where an operator takes its weights are
weights too: exporters leave parameters out of the file that way.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import prod
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import onnx
import onnx.checker
import onnx.inliner
from google.protobuf.message import DecodeError
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from nmsat.dataflow.network.readers.onnx_ask import STANDARD, is_standard

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from onnx import FunctionProto, GraphProto, ModelProto, NodeProto, ValueInfoProto

SMALL: Final = 4096
"""Elements up to which a constant is kept by value; larger ones (weights) only need their shape."""

MAX_NODES: Final = 30_000
"""Most nodes of a model, its functions in place and its subgraphs counted."""

MAX_DEPTH: Final = 32
"""Deepest nesting of functions and of subgraphs."""

MAX_RANK: Final = 64
"""Most dimensions of a tensor, as NumPy has it."""

FLOATS: Final = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
"""Types of tensors that can be learnt."""

PACKED: Final = tuple(
    getattr(TensorProto, name)
    for name in ("INT4", "UINT4", "INT2", "UINT2", "FLOAT4E2M1")
    if hasattr(TensorProto, name)
)
"""Types with several elements in a byte."""

FUNCTION_MARK: Final = "constant of function "
"""What the doc string of a constant begins with that stood in a function."""

SEEN_THROUGH: Final = frozenset({
    *("Identity", "Transpose", "Cast", "QuantizeLinear", "DequantizeLinear", "Reshape", "Squeeze", "Unsqueeze"),
    "Flatten",
})  # fmt: skip
"""Operators through which a weight stays the same weight."""

WEIGHT_SLOTS: Final[dict[str, tuple[int, ...]]] = {
    **dict.fromkeys(("Conv", "ConvTranspose", "FusedConv"), (1, 2)),
    **dict.fromkeys(("LSTM", "GRU", "RNN"), (1, 2, 3, 7)),
    "DeformConv": (1, 3),
    "QLinearConv": (3, 4, 5, 8),
    "ConvInteger": (1, 3),
    "BatchNormalization": (1, 2, 3, 4),
    **dict.fromkeys(("LayerNormalization", "RMSNormalization", "InstanceNormalization", "GroupNormalization"), (1, 2)),
    "SimplifiedLayerNormalization": (1,),
}
"""Inputs that hold weights, whatever their shape."""

MATRIX_SLOTS: Final[dict[str, tuple[int, ...]]] = {
    **dict.fromkeys(("Gemm", "FusedGemm"), (1, 2)),
    **dict.fromkeys(("MatMul", "FusedMatMul"), (1,)),
    "Add": (0, 1),
    "Gather": (0,),
    "PRelu": (1,),
}
"""Inputs that hold weights if a graph input stands there that is not the first: matrices, and vectors of Add."""


@dataclass(frozen=True)
class Weight:
    """A constant: its name, shape, whether it is of a floating-point type, and whether a node holds it; zero: whether
    it is known to hold nothing but zeros.

    Exporters keep what is learnt outside of the nodes, so what a node holds is learnt only where an operator reads it
    as weights.
    """

    name: str
    shape: tuple[int, ...]
    floating: bool
    held: bool = False
    zero: bool = False

    @property
    def learnt(self) -> int:
        """Learnt elements: all of a floating-point tensor with more than one element, else none."""
        size = prod(self.shape)
        return size if self.floating and size > 1 else 0


@dataclass
class Loaded:
    """A graph to walk.

    inputs: those that are fed with data; weights: constants by name; values: the small ones; scales: lists of a few
    floating-point numbers, one for each dimension of a tensor; types: of all constants; nodes: in order, without
    Constant; declared: shapes that the file states for tensors; taken: graph inputs that are taken for weights; copies:
    constants of a function -> those of its first call, which they are; marked: the first by the marks of functions.
    """

    model: ModelProto
    inputs: list[ValueInfoProto]
    nodes: list[NodeProto]
    weights: dict[str, Weight] = field(default_factory=dict)
    values: dict[str, NDArray[Any]] = field(default_factory=dict)
    scales: dict[str, NDArray[Any]] = field(default_factory=dict)
    types: dict[str, onnx.TypeProto] = field(default_factory=dict)
    declared: dict[str, onnx.TypeProto] = field(default_factory=dict)
    taken: list[str] = field(default_factory=list)
    copies: dict[str, str] = field(default_factory=dict)
    marked: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, kind: int, dims: Sequence[int], *, held: bool = False) -> None:
        """Take up a constant by its shape; held: a node holds it."""
        self.weights[name] = Weight(name, tuple(dims), kind in FLOATS, held)
        self.types[name] = helper.make_tensor_type_proto(kind, tuple(dims))


def load(path: Path) -> Loaded:
    """Return the graph of a file. Raises ValueError naming the file for one that is broken or cannot be bounded."""
    where = path.name
    model = _parse(path)
    _check_extent(model, where)
    if model.functions:
        model = _inlined(model, where)
    graph = model.graph
    for tensor in graph.initializer:
        check_tensor(tensor, where)
    _check_model(model, where)
    loaded = Loaded(model, [], [])
    for tensor in graph.initializer:
        take_tensor(loaded, tensor, where)
    for sparse in graph.sparse_initializer:
        loaded.add(sparse.values.name, sparse.values.data_type, sparse.dims)
    loaded.nodes.extend(node for node in graph.node if not take_constant(loaded, node, where))
    for value in (*graph.value_info, *graph.output):
        loaded.declared[value.name] = value.type
    open_inputs = [value for value in graph.input if value.name not in loaded.weights]
    taken = _weight_inputs(open_inputs, loaded.nodes)
    for value in open_inputs:
        if value.name in taken:
            tensor = value.type.tensor_type
            loaded.add(value.name, tensor.elem_type, [dim.dim_value for dim in tensor.shape.dim])
            loaded.taken.append(value.name)
        else:
            loaded.inputs.append(value)
    return loaded


def take_constant(loaded: Loaded, node: NodeProto, where: str) -> bool:
    """Take up a Constant node and tell whether it was one."""
    if node.op_type != "Constant" or not is_standard(node) or len(node.attribute) != 1:
        return False
    (name,), (attribute,) = node.output, node.attribute
    if node.doc_string.startswith(FUNCTION_MARK):
        loaded.copies[name] = loaded.marked.setdefault(node.doc_string, name)
    match attribute.type:
        case AttributeProto.TENSOR:
            check_tensor(attribute.t, where)
            tensor = TensorProto.FromString(attribute.t.SerializeToString())
            tensor.name = name
            take_tensor(loaded, tensor, where, held=True)
        case AttributeProto.SPARSE_TENSOR:
            sparse = attribute.sparse_tensor
            loaded.add(name, sparse.values.data_type, sparse.dims, held=True)
        case AttributeProto.FLOAT | AttributeProto.FLOATS:
            floats = np.asarray(helper.get_attribute_value(attribute), np.float32)
            take_tensor(loaded, numpy_helper.from_array(floats, name), where, held=True)
        case AttributeProto.INT | AttributeProto.INTS:
            whole = np.asarray(helper.get_attribute_value(attribute), np.int64)
            take_tensor(loaded, numpy_helper.from_array(whole, name), where)
        case _:
            loaded.add(name, TensorProto.STRING, (len(attribute.strings),) if attribute.strings else ())
    return True


def take_tensor(loaded: Loaded, tensor: TensorProto, where: str, *, held: bool = False) -> None:
    """Take up a constant tensor, by value if it is small and in the file."""
    loaded.add(tensor.name, tensor.data_type, tensor.dims, held=held)
    if prod(tensor.dims) <= SMALL and tensor.data_location != TensorProto.EXTERNAL:
        try:
            value = numpy_helper.to_array(tensor)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{where}: constant {tensor.name!r} cannot be read: {first_line(error)}") from error
        if not value.any():
            loaded.weights[tensor.name] = replace(loaded.weights[tensor.name], zero=True)
        # Floating-point tensors may be learnt, so nothing is computed from them.
        if value.dtype.kind != "f" or value.size == 1:
            loaded.values[tensor.name] = value
        elif value.ndim == 1 and value.size <= MAX_RANK:
            loaded.scales[tensor.name] = value


def check_tensor(tensor: TensorProto, where: str) -> None:
    """Refuse a tensor whose sizes and data cannot be."""
    if any(dim < 0 for dim in tensor.dims):
        raise ValueError(f"{where}: tensor {tensor.name!r} has shape {tuple(tensor.dims)}; sizes must not be negative")
    if tensor.data_type not in TensorProto.DataType.values() or tensor.data_type == TensorProto.UNDEFINED:
        raise ValueError(
            f"{where}: tensor {tensor.name!r} has data type {tensor.data_type}, which ONNX does not define"
        )
    if not tensor.raw_data:
        return
    size = prod(tensor.dims)
    width = helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    if tensor.data_type not in PACKED and len(tensor.raw_data) != size * width:
        raise ValueError(
            f"{where}: tensor {tensor.name!r} of shape {tuple(tensor.dims)} holds {len(tensor.raw_data)} bytes; "
            f"it needs {size * width}"
        )


def node_name(node: NodeProto) -> str:
    """Return the name of a node, or that of its first output if it has none; without control characters."""
    name = node.name or next((name for name in node.output if name), node.op_type)
    return name if name.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in name)


def first_line(error: Exception) -> str:
    """Return the first line of a message that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    """Yield the graphs that a node holds."""
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield attribute.g
        yield from attribute.graphs


def captured(node: NodeProto) -> set[str]:
    """Return the tensors that the graphs within a node read from outside."""
    found: set[str] = set()
    for graph in subgraphs(node):
        own = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
        own |= {out for inner in graph.node for out in inner.output}
        read = {value.name for value in graph.output}
        for inner in graph.node:
            read |= set(inner.input) | captured(inner)
        found |= read - own - {""}
    return found


def _parse(path: Path) -> ModelProto:
    try:
        model = onnx.load(path, load_external_data=False)
    except DecodeError as error:
        raise ValueError(f"{path.name}: not an ONNX file, or truncated ({first_line(error)})") from error
    _check_names(model, path.name)
    if not model.graph.node:
        raise ValueError(f"{path.name}: not an ONNX file, or truncated: the graph has no nodes")
    if not any(each.domain in STANDARD for each in model.opset_import):
        # What files of IR version 2 and before mean by saying nothing.
        model.opset_import.append(helper.make_opsetid("", 1))
    # From version 4 on, initializers need not be inputs too; before, shapes are not inferred without.
    model.ir_version = max(model.ir_version, 8)
    return model


def _check_names(model: ModelProto, where: str) -> None:
    """Refuse names that are no text: protobuf gives the bytes of what is not UTF-8."""
    pending: list[Any] = [model.graph, *model.functions]
    while pending:
        graph = pending.pop()
        for node in graph.node:
            names = (node.name, node.domain, node.op_type, node.overload, *node.input, *node.output)
            if not all(isinstance(name, str) for name in names):
                raise ValueError(f"{where}: broken model: a name is not UTF-8 ({_first_bytes(names)!r})")
            pending.extend(subgraphs(node))
        # Functions name their inputs, graphs their tensors.
        named = [*graph.input, *graph.output, *graph.initializer] if isinstance(graph, onnx.GraphProto) else []
        names = [each.name for each in named] or [*graph.input, *graph.output]
        if not all(isinstance(name, str) for name in names):
            raise ValueError(f"{where}: broken model: a name is not UTF-8 ({_first_bytes(names)!r})")


def _first_bytes(names: Iterable[object]) -> bytes:
    return next(name for name in names if isinstance(name, bytes))[:40]


def _check_extent(model: ModelProto, where: str) -> None:
    """Refuse functions that call themselves, and graphs that are too large or too deep once they are put in place."""
    functions = {(f.domain, f.name, f.overload): f for f in model.functions}
    sizes: dict[tuple[str, str, str], int] = {}
    total = _extent(model.graph.node, functions, sizes, (), where)
    if total > MAX_NODES:
        raise ValueError(f"{where}: the model has {total} nodes, its functions in place; at most {MAX_NODES} are read")


def _extent(
    nodes: Iterable[NodeProto],
    functions: Mapping[tuple[str, str, str], FunctionProto],
    sizes: dict[tuple[str, str, str], int],
    inside: tuple[str, ...],
    where: str,
) -> int:
    """Return how many nodes there are with functions in place; sizes: those of functions known by now."""
    if len(inside) > MAX_DEPTH:
        raise ValueError(f"{where}: functions and subgraphs are nested more than {MAX_DEPTH} deep")
    total = 0
    for node in nodes:
        key = (node.domain, node.op_type, node.overload)
        total += 1
        if key in functions:
            name = ".".join(key[:2])
            if name in inside:
                raise ValueError(f"{where}: function {name!r} calls itself; functions must not be recursive")
            if key not in sizes:
                sizes[key] = _extent(functions[key].node, functions, sizes, (*inside, name), where)
            total += sizes[key]
        for graph in subgraphs(node):
            total += _extent(graph.node, functions, sizes, (*inside, f"{node.op_type} {node_name(node)}"), where)
    return total


def _mark_constants(nodes: Iterable[NodeProto], mark: str) -> None:
    """Mark the constants of a function, so that those of its calls are known for the same once it is in place."""
    for at, node in enumerate(nodes):
        if node.op_type == "Constant" and not any(each.ref_attr_name for each in node.attribute):
            node.doc_string = f"{mark}/{at}"
        for number, graph in enumerate(subgraphs(node)):
            _mark_constants(graph.node, f"{mark}/{at}.{number}")


def _inlined(model: ModelProto, where: str) -> ModelProto:
    for at, function in enumerate(model.functions):
        _mark_constants(function.node, f"{FUNCTION_MARK}{at}")
    try:
        return onnx.inliner.inline_local_functions(model)
    except (onnx.checker.ValidationError, RuntimeError, ValueError) as error:
        raise ValueError(f"{where}: functions cannot be put in place: {first_line(error)}") from error


def _check_model(model: ModelProto, where: str) -> None:
    """Check the model with its initializers as inputs, since their data may be in other files."""
    try:
        onnx.checker.check_model(_without_data(model))
    except onnx.checker.ValidationError as error:
        raise ValueError(f"{where}: broken model: {' '.join(str(error).split())}") from error


def _without_data(model: ModelProto) -> ModelProto:
    light = onnx.ModelProto(ir_version=model.ir_version)
    light.opset_import.extend(model.opset_import)
    graph = light.graph
    graph.name = model.graph.name or "graph"
    graph.node.extend(model.graph.node)
    graph.input.extend(model.graph.input)
    graph.output.extend(model.graph.output)
    graph.sparse_initializer.extend(model.graph.sparse_initializer)
    known = {value.name for value in graph.input}
    for tensor in model.graph.initializer:
        if tensor.name not in known:
            graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tuple(tensor.dims)))
    return light


def _weight_inputs(inputs: Sequence[ValueInfoProto], nodes: Sequence[NodeProto]) -> set[str]:
    """Return the inputs of the graph that only stand where operators take weights, sizes all fixed."""
    readers: dict[str, list[tuple[NodeProto, int]]] = {}
    for node in nodes:
        for at, name in enumerate(node.input):
            readers.setdefault(name, []).append((node, at))

    def is_weight(name: str, rank: int, first: bool, depth: int = 0) -> bool:
        uses = readers.get(name, [])
        return bool(uses) and depth < 16 and all(in_slot(node, at, rank, first, depth) for node, at in uses)

    def in_slot(node: NodeProto, at: int, rank: int, first: bool, depth: int) -> bool:
        if at in WEIGHT_SLOTS.get(node.op_type, ()):
            return True
        if not first and at in MATRIX_SLOTS.get(node.op_type, ()):
            return rank == (1 if node.op_type == "Add" or at == 2 else 2) or node.op_type == "PRelu"
        passes = node.op_type in SEEN_THROUGH and at == 0
        return passes and all(is_weight(out, rank, first, depth + 1) for out in node.output)

    found: set[str] = set()
    for at, value in enumerate(inputs):
        tensor = value.type.tensor_type
        fixed = tensor.HasField("shape") and all(dim.dim_value > 0 for dim in tensor.shape.dim)
        if fixed and is_weight(value.name, len(tensor.shape.dim), at == 0):
            found.add(value.name)
    return found
