"""Einsum of ONNX as products of two operands each."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from nmsat.dataflow.network.layers import HostLayer, Layer, LinearLayer, MatMulLayer, host_layer
from nmsat.dataflow.network.readers.onnx_ask import attributes

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from onnx import NodeProto

    from nmsat.dataflow.network.readers.onnx_state import ReaderState


@dataclass(frozen=True)
class _Operand:
    """Labels of more than one element; weight: the constant that it is, None for what depends on the inputs."""

    labels: frozenset[str]
    weight: str | None
    graded: bool


def einsum(reader: ReaderState, node: NodeProto) -> tuple[Layer, ...]:
    """Return the products of Einsum, operands from left to right as ONNX Runtime takes them.

    Of two operands, labels in both that are wanted after are copies, labels in both alone the reduction, the others
    rows and columns. What only one operand has and nobody wants after is summed before. Without reduction, rows and
    columns the product is elementwise, and one operand alone a sum or a transposition: host work.
    """
    equation = attributes(node)["equation"].decode()
    terms, result, sizes = _labels(reader, node, equation)
    name = reader.name(node)
    if len(terms) == 1:
        kind = "Transpose" if set(terms[0]) == set(result) else "ReduceSum"
        return (reader.graded_host(host_layer(kind, name, prod(reader.shape(node, node.input[0]))), node.input),)
    operands = [
        _Operand(
            # A size of 1 is repeated along what the others have there, and so is a weight that is repeated itself.
            frozenset(
                label
                for label, size in zip(term, reader.distinct(each, reader.shape(node, each)), strict=True)
                if size > 1
            ),
            reader.static.get(each),
            each in reader.graded,
        )
        for term, each in zip(terms, node.input, strict=True)
    ]
    layers: list[Layer] = []
    first = operands[0]
    for at, second in enumerate(operands[1:], 1):
        if first.weight is not None and second.weight is not None:
            raise reader.error(
                node,
                f"multiplies weights by each other before anything that depends on the inputs ({equation!r}); put the "
                f"activations first",
            )
        wanted = frozenset(result).union(*(later.labels for later in operands[at + 1 :]))
        for one, other in ((first, second), (second, first)):
            summed = sorted(one.labels - other.labels - wanted)
            if summed and one.weight is not None:
                raise reader.error(
                    node,
                    f"sums the weight {one.weight!r} along {', '.join(summed)} before it is multiplied ({equation!r}); "
                    f"export it summed",
                )
        part = name if len(operands) == 2 else f"{name}.{at}"
        layers.extend(_pair(reader, part, first, second, wanted, sizes, len(layers)))
        first = _Operand((first.labels | second.labels) & wanted, None, first.graded or second.graded)
    return tuple(layers)


def _pair(
    reader: ReaderState,
    name: str,
    a: _Operand,
    b: _Operand,
    wanted: Collection[str],
    sizes: Mapping[str, int],
    before: int,
) -> list[Layer]:
    """Return the product of two operands, and the sums in front of it; before: layers of the node in front of it."""

    def size(labels: Collection[str]) -> int:
        return prod(sizes[label] for label in labels)

    layers: list[Layer] = []
    for one, other in ((a, b), (b, a)):
        if one.labels - other.labels - frozenset(wanted):
            layers.append(_host(reader, "ReduceSum", f"{name}.sum", size(one.labels), one.graded))
    shared = a.labels & b.labels
    count, k = size(shared.intersection(wanted)), size(shared.difference(wanted))
    m, n = size((a.labels - b.labels).intersection(wanted)), size((b.labels - a.labels).intersection(wanted))
    learnt = a.weight if a.weight is not None else b.weight
    if k == 1 and (m == 1 or n == 1):
        layers.append(_host(reader, "Mul", name, count * m * n, a.graded or b.graded))
        if learnt is not None and learnt in reader.weights:
            reader.learnt[len(reader.layers) + before + len(layers) - 1] = (learnt,)
        return layers
    if learnt is None:
        layers.append(
            MatMulLayer(name=name, m=m, k=k, n=n, count=count, gradient_a=a.graded, gradient_b=b.graded),
        )
        return layers
    right = b.weight is not None
    layers.append(
        LinearLayer(
            name=name,
            rows=m if right else n,
            features_in=k,
            features_out=n if right else m,
            count=count,
            input_gradient=(a if right else b).graded,
            weight=learnt,
        )
    )
    return layers


def _host(reader: ReaderState, kind: str, name: str, elements: int, graded: bool) -> HostLayer:
    layer = host_layer(kind, name, elements)
    return layer if graded else reader.graded_host(layer, ())


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
