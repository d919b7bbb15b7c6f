"""Matrix products of ONNX as layers: Gemm, MatMul and its quantized and fused forms, Einsum."""

from __future__ import annotations

from collections import Counter
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
        # A constant left operand is the transposed product: Y^T = B^T A^T.
        right = second in reader.static
        matrix, weight = (b, second) if right else (a, first)
        count = prod(matrix[:-2])
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
            input_gradient=(first if right else second) in reader.graded,
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


def einsum(reader: ReaderState, node: NodeProto) -> tuple[Layer, ...]:
    """Return Einsum of two operands as one product.

    Labels in both operands and in the result are copies, labels in both operands only the reduction, the others rows
    and columns. What only one operand has and the result has not is summed before. Without reduction, rows and columns
    it is elementwise, and with one operand a sum or a transposition: host work.
    """
    equation = attributes(node)["equation"].decode()
    terms, result, sizes = _labels(reader, node, equation)
    name = reader.name(node)
    elements = [prod(reader.shape(node, each)) for each in node.input]
    if len(terms) > 2:
        raise reader.error(node, f"multiplies {len(terms)} operands at once ({equation!r}); write two at a time")
    if len(terms) == 1:
        kind = "Transpose" if set(terms[0]) == set(result) else "ReduceSum"
        return (reader.graded_host(host_layer(kind, name, elements[0]), node.input),)
    a, b, out = set(terms[0]), set(terms[1]), set(result)
    copies, inner = a & b & out, (a & b) - out
    m, k, n = (prod(sizes[label] for label in labels) for labels in (a & out - b, inner, b & out - a))
    if k == 1 and (m == 1 or n == 1):
        work = host_layer("Mul", name, prod(sizes[label] for label in out))
        return (reader.graded_host(work, node.input),)
    first, second = node.input[0], node.input[1]
    count = prod(sizes[label] for label in copies)
    if second in reader.static or first in reader.static:
        right = second in reader.static
        weight = second if right else first
        return (
            LinearLayer(
                name=name,
                rows=m if right else n,
                features_in=k,
                features_out=n if right else m,
                count=count,
                input_gradient=(first if right else second) in reader.graded,
                weight=reader.static[weight],
            ),
        )
    graded = (first in reader.graded, second in reader.graded)
    return (MatMulLayer(name=name, m=m, k=k, n=n, count=count, gradient_a=graded[0], gradient_b=graded[1]),)


def _labels(reader: ReaderState, node: NodeProto, equation: str) -> tuple[list[list[str]], list[str], dict[str, int]]:
    """Return the labels of the operands and of the result, dots written out, and the size of each label."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    operands = left.split(",")
    shapes = [reader.shape(node, name) for name in node.input]
    if len(operands) != len(shapes):
        raise reader.error(node, f"has {len(shapes)} inputs; its equation {equation!r} is of {len(operands)}")
    sizes: dict[str, int] = {}
    terms: list[list[str]] = []
    dots: list[str] = []
    for operand, shape in zip(operands, shapes, strict=True):
        plain = operand.replace("...", "")
        wide = len(shape) - len(plain)
        if wide < 0 or (wide and "..." not in operand):
            raise reader.error(node, f"has an input of shape {shape} for {operand!r} in {equation!r}")
        hidden = [f".{at}" for at in range(wide, 0, -1)]
        dots = hidden if len(hidden) > len(dots) else dots
        before, _, after = operand.partition("...")
        labels = [*before, *hidden, *after] if "..." in operand else list(operand)
        for label, size in zip(labels, shape, strict=True):
            if 1 not in (size, sizes.setdefault(label, size)) and size != sizes[label]:
                raise reader.error(node, f"has sizes {sizes[label]} and {size} for {label!r} in {equation!r}")
            sizes[label] = max(size, sizes[label])
        terms.append(labels)
    if arrow:
        before, _, after = right.partition("...")
        result = [*before, *(dots if "..." in right else []), *after]
    else:
        times = Counter(label for term in terms for label in term)
        result = [*dots, *sorted(label for label, count in times.items() if count == 1 and label not in dots)]
    return terms, result, sizes
