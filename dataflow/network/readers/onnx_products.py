"""Matrix products of ONNX as layers: Gemm, MatMul and its quantized and fused forms."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from nmsat.dataflow.network.layers import HostLayer, Layer, LinearLayer, MatMulLayer, host_layer
from nmsat.dataflow.network.readers.onnx_ask import attributes
from nmsat.dataflow.network.readers.onnx_fused import swapped

if TYPE_CHECKING:
    from onnx import NodeProto

    from nmsat.dataflow.network.readers.onnx_ask import TensorShape
    from nmsat.dataflow.network.readers.onnx_state import ReaderState


def read_gemm(reader: ReaderState, node: NodeProto) -> tuple[Layer, ...]:
    """Return Gemm: alpha A B + beta C, A and B transposed as asked."""
    given = attributes(node)
    a, b = reader.shape(node, node.input[0]), reader.shape(node, node.input[1])
    a, b = swapped(a, given.get("transA", 0)), swapped(b, given.get("transB", 0))
    third = len(node.input) > 2 and bool(node.input[2])
    layer = product(reader, node, a, b, node.input[0], node.input[1], bias=reader.bias(node, 2) if third else "")
    if third and not (isinstance(layer, LinearLayer) and layer.bias):
        add = host_layer("Add", f"{layer.name}.c", prod(reader.shape(node, node.output[0])))
        return (layer, reader.graded_host(add, node.input))
    return (layer,)


def read_matmul(reader: ReaderState, node: NodeProto, second: int = 1) -> tuple[Layer, ...]:
    """Return MatMul with NumPy's rules; second: the input that is B."""
    given = attributes(node)
    if given.get("transBatchA") or given.get("transBatchB"):
        raise reader.error(node, "transposes a batch dimension, which is not supported")
    a, b = reader.shape(node, node.input[0]), reader.shape(node, node.input[second])
    a, b = swapped(a, given.get("transA", 0)), swapped(b, given.get("transB", 0))
    return (product(reader, node, a, b, node.input[0], node.input[second]),)


def quantized_matmul(reader: ReaderState, node: NodeProto) -> tuple[Layer, ...]:
    """Return QLinearMatMul; scaling and rounding of its results are host work."""
    (layer,) = read_matmul(reader, node, 3)
    return (layer, requantize(reader, node, layer.name))


def packed_matmul(reader: ReaderState, node: NodeProto) -> tuple[Layer, ...]:
    """Return MatMulNBits: weights of few bits, K x N as its attributes say."""
    given = attributes(node)
    x = reader.shape(node, node.input[0])
    k, n = int(given.get("K", 0)), int(given.get("N", 0))
    if x[-1] != k:
        raise reader.error(node, f"has an input of {x[-1]} features and K = {k}")
    return (
        LinearLayer(
            name=reader.name(node),
            rows=prod(x[:-1]),
            features_in=k,
            features_out=n,
            input_gradient=node.input[0] in reader.graded,
            weight=reader.need_weight(node, node.input[1]),
        ),
    )


def requantize(reader: ReaderState, node: NodeProto, name: str) -> HostLayer:
    """Return the host work that brings results back to whole numbers."""
    return host_layer("QuantizeLinear", f"{name}.requantize", prod(reader.shape(node, node.output[0])))


def product(
    reader: ReaderState, node: NodeProto, a: TensorShape, b: TensorShape, first: str, second: str, *, bias: str = ""
) -> Layer:
    """Return Y = A B with NumPy's rules for leading dimensions; a constant operand makes it a linear layer."""
    a = (1, *a) if len(a) == 1 else a
    b = (*b, 1) if len(b) == 1 else b
    if a[-1] != b[-2]:
        raise reader.error(node, f"multiplies {a} by {b}; the inner sizes {a[-1]} and {b[-2]} differ")
    output = prod(reader.shape(node, node.output[0]))
    m, k, n = a[-2], a[-1], b[-1]
    copies = output // (m * n)
    name = reader.name(node)
    if second in reader.static or first in reader.static:
        # A constant left operand is the transposed product: Y^T = B^T A^T; of two constants of the file it is data.
        right = second in reader.static
        data = right and first in reader.weights
        matrix, weight = (b, second) if right else (a, first)
        # A weight that is repeated for each sample is learnt once.
        count = prod(reader.distinct(weight, matrix)[:-2])
        if copies % count:
            raise reader.error(node, f"repeats weights of shape {matrix} in a way that is not supported")
        return LinearLayer(
            name=name,
            rows=copies * (m if right else n) // count,
            features_in=k,
            features_out=n if right else m,
            count=count,
            bias=bool(bias) and right,
            bias_name=bias if right else "",
            input_gradient=not data and (first if right else second) in reader.graded,
            weight=reader.static[weight],
        )
    return MatMulLayer(
        name=name,
        m=m,
        k=k,
        n=n,
        count=copies,
        gradient_a=first in reader.graded,
        gradient_b=second in reader.graded,
    )
