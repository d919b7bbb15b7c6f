"""Reader of ONNX models: a list of layers from a graph, weights by shape only.

Products: Conv (1-D and 2-D), Gemm, MatMul. Host operators: the keys of `dataflow.network.layers.HOST_COSTS`, listed
under the names of their nodes. Nodes that depend on shapes and constants only are evaluated while reading and not
listed. Anything else is refused by operator and node. External weight files are not needed.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import onnx
import onnx.checker
import onnx.inliner
from google.protobuf.message import DecodeError
from onnx import TensorProto, helper

from nmsat.dataflow.network.layers import HOST_COSTS
from nmsat.dataflow.network.readers.onnx_nodes import PRODUCTS, Weight, convert
from nmsat.dataflow.network.readers.onnx_shapes import SMALL, bind_inputs, infer_tensors, node_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from onnx import GraphProto, ModelProto

    from nmsat.dataflow.network.layers import Layer

DEFAULT_BATCH: Final = 512
"""Batch of a model whose batch dimension is open, unless the caller gives one."""

FLOATS: Final = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
"""Types of tensors that can be learnt."""

PACKED: Final = (TensorProto.INT4, TensorProto.UINT4, TensorProto.FLOAT4E2M1)
"""Types with several elements in a byte."""


def read_onnx(path: str | Path, batch: int | None = None, sizes: Mapping[str, int] | None = None) -> list[Layer]:
    """Return the layers of an ONNX file in the order of its nodes.

    batch: images per step; an open first dimension of the inputs takes it (512 if None), a model exported with a fixed
    batch is scaled by a whole factor. sizes: sizes of other open dimensions by name, such as {"sequence": 128}.
    Raises FileNotFoundError; ValueError naming file and node for a broken or truncated file, an unsupported operator,
    sizes that are missing or contradict each other.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {str(path)!r}")
    where = path.name
    if batch is not None and batch < 1:
        raise ValueError(f"batch is {batch!r}; it must be at least 1")
    try:
        return _layers(_load(path), where, batch, sizes or {})
    except UnicodeDecodeError as error:
        raise ValueError(f"{where}: broken model: a name is not UTF-8 ({error})") from error


def _layers(model: ModelProto, where: str, batch: int | None, sizes: Mapping[str, int]) -> list[Layer]:
    _check_operators(model.graph, where)
    weights = _strip_weights(model.graph, where)
    _check_model(model, where)
    inputs = [value for value in model.graph.input if value.name not in weights]
    factor = bind_inputs(inputs, batch, sizes, where, DEFAULT_BATCH)
    _forget_shapes(model.graph)
    layers = convert(infer_tensors(model, where), weights, factor, where)
    if not any(layer.macs for layer in layers):
        raise ValueError(f"{where}: the graph has no product ({', '.join(PRODUCTS)}) that depends on its inputs")
    return layers


def _load(path: Path) -> ModelProto:
    try:
        model = onnx.load(path, load_external_data=False)
    except DecodeError as error:
        raise ValueError(f"{path.name}: not an ONNX file, or truncated ({error})") from error
    if not model.graph.node:
        raise ValueError(f"{path.name}: not an ONNX file, or truncated: the graph has no nodes")
    return onnx.inliner.inline_local_functions(model) if model.functions else model


def _check_operators(graph: GraphProto, where: str) -> None:
    unknown: dict[str, list[str]] = {}
    for node in graph.node:
        known = node.op_type in HOST_COSTS or node.op_type in PRODUCTS
        if not known or node.domain not in ("", "ai.onnx"):
            kind = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
            unknown.setdefault(kind, []).append(node_name(node))
    if unknown:
        found = "; ".join(f"{kind} at {', '.join(map(repr, names[:3]))}" for kind, names in unknown.items())
        raise ValueError(
            f"{where}: unsupported operators: {found}. Products on SAT: {', '.join(PRODUCTS)}. "
            f"On the host: {', '.join(sorted(HOST_COSTS))}"
        )


def _strip_weights(graph: GraphProto, where: str) -> dict[str, Weight]:
    """Turn large initializers into inputs of the graph, so that the rest handles shapes only; return all of them."""
    weights: dict[str, Weight] = {}
    small = []
    inputs = {value.name for value in graph.input}
    for tensor in graph.initializer:
        size = int(np.prod(tensor.dims, dtype=np.int64))
        _check_data(tensor, size, where)
        weights[tensor.name] = Weight(tensor.name, tuple(tensor.dims), tensor.data_type in FLOATS)
        external = tensor.data_location == TensorProto.EXTERNAL
        if size <= SMALL and not external:
            small.append(tensor)
        elif tensor.name not in inputs:
            graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tuple(tensor.dims)))
    kept = [TensorProto.FromString(tensor.SerializeToString()) for tensor in small]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    return weights


def _check_data(tensor: TensorProto, size: int, where: str) -> None:
    if any(dim < 0 for dim in tensor.dims):
        raise ValueError(f"{where}: tensor {tensor.name!r} has shape {tuple(tensor.dims)}; sizes must not be negative")
    if tensor.data_type not in TensorProto.DataType.values() or tensor.data_type == TensorProto.UNDEFINED:
        raise ValueError(
            f"{where}: tensor {tensor.name!r} has data type {tensor.data_type}, which ONNX does not define"
        )
    if not tensor.raw_data:
        return
    width = helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    if tensor.data_type not in PACKED and len(tensor.raw_data) != size * width:
        raise ValueError(
            f"{where}: tensor {tensor.name!r} of shape {tuple(tensor.dims)} holds {len(tensor.raw_data)} bytes; "
            f"it needs {size * width}"
        )


def _check_model(model: ModelProto, where: str) -> None:
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        raise ValueError(f"{where}: broken model: {' '.join(str(error).split())}") from error


def _forget_shapes(graph: GraphProto) -> None:
    """Drop stored shapes: they may speak of open dimensions that now have sizes."""
    del graph.value_info[:]
    for value in graph.output:
        value.type.tensor_type.ClearField("shape")
