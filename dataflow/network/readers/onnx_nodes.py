"""The layers of an ONNX graph whose shapes are known, node by node."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from math import prod
from typing import TYPE_CHECKING, Any, Final

from onnx import helper

from nmsat.algorithms.core.tape import ConvShape
from nmsat.algorithms.core.windows import output_size
from nmsat.dataflow.network.layers import (
    ConvLayer,
    HostLayer,
    Layer,
    LinearLayer,
    MatMulLayer,
    host_layer,
    pool_layer,
    scale_batch,
)
from nmsat.dataflow.network.readers.onnx_shapes import node_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from onnx import NodeProto

    from nmsat.dataflow.network.readers.onnx_shapes import Tensors

PRODUCTS: Final = ("Conv", "Gemm", "MatMul")
"""Operators that run on SAT."""

LEARNING: Final = frozenset({
    *("Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "PRelu", "Gather", "Concat", "Expand", "Tile", "Transpose"),
    *("Cast", "LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization"),
    *("InstanceNormalization", "GroupNormalization"),
})  # fmt: skip
"""Host operators whose floating-point initializers count as learnt (besides BatchNormalization)."""

COMPARISONS: Final = frozenset({
    *("Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "And", "Or", "Xor", "Not", "ArgMax", "ArgMin"),
})  # fmt: skip
"""Operators that no gradient passes."""

AUTO_PADS: Final = ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER")
"""Ways of padding of Conv."""

POOLS: Final = ("MaxPool", "AveragePool", "GlobalMaxPool", "GlobalAveragePool")


@dataclass(frozen=True)
class Weight:
    """An initializer: its name, shape, and whether it is of a floating-point type."""

    name: str
    shape: tuple[int, ...]
    floating: bool

    @property
    def learnt(self) -> int:
        """Learnt elements: all of a floating-point tensor with more than one element, else none."""
        size = prod(self.shape)
        return size if self.floating and size > 1 else 0


def convert(tensors: Tensors, weights: Mapping[str, Weight], factor: int, where: str) -> list[Layer]:
    """Return the layers of the nodes, those that depend on the inputs with `factor` times the batch of the file.

    weights: the initializers by name; where: file name for messages. Raises ValueError naming file and node.
    """
    reader = _Reader(tensors, weights, factor, where)
    for node in tensors.nodes:
        reader.read(node)
    return reader.layers


@dataclass
class _Reader:
    """State while the nodes are read in order.

    static: tensors that depend on weights and constants only; graded: tensors that need a gradient because something
    learnt lies before them; owner: the linear layer that made a tensor; used: weights already counted; names: those
    given to layers; readers: how many nodes read a tensor.
    """

    tensors: Tensors
    weights: Mapping[str, Weight]
    factor: int
    where: str
    layers: list[Layer] = field(default_factory=list)
    static: dict[str, str] = field(default_factory=dict)
    graded: set[str] = field(default_factory=set)
    owner: dict[str, int] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    names: set[str] = field(default_factory=set)
    readers: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.readers.update(name for node in self.tensors.nodes for name in node.input)
        self.static.update(dict.fromkeys(self.tensors.values, ""))
        self.static.update({name: name for name in self.weights})
        self.graded.update(name for name, weight in self.weights.items() if weight.learnt)

    def read(self, node: NodeProto) -> None:
        """Append the layers of one node."""
        inputs = [name for name in node.input if name]
        static = bool(inputs) and all(name in self.static for name in inputs)
        if node.op_type in PRODUCTS and not static:
            layers = {"Conv": self._conv, "Gemm": self._gemm, "MatMul": self._matmul}[node.op_type](node)
        elif self._is_bias(node):
            layers = ()
        else:
            layers = (self._host(node),)
        for layer in layers:
            self.layers.append(layer if static else scale_batch(layer, self.factor))
        for name in node.output:
            if static:
                # A weight seen through a transposition or cast keeps its name.
                self.static[name] = self.static[inputs[0]]
            if any(source in self.graded for source in inputs) and node.op_type not in COMPARISONS:
                self.graded.add(name)
            if layers and isinstance(self.layers[-1], LinearLayer):
                self.owner[name] = len(self.layers) - 1

    def _conv(self, node: NodeProto) -> tuple[Layer, ...]:
        self._need_weight(node, node.input[1])
        shape, extra = self._conv_shape(node)
        try:
            layer = ConvLayer(
                name=self._name(node),
                shape=shape,
                bias=len(node.input) > 2 and bool(node.input[2]),
                input_gradient=node.input[0] in self.graded,
                weight=self.static[node.input[1]],
            )
        except ValueError as error:
            raise self._error(node, f"is no convolution: {error}") from error
        output = (shape.batch, shape.channels_out, *output_size(shape))
        inferred = self._shape(node, node.output[0])
        if inferred not in (output, (*output[:2], output[3])):
            raise self._error(node, f"has output {inferred}, but its attributes give {output}")
        self._use(node.input[1:])
        if not extra:
            return (layer,)
        elements = shape.batch * shape.height * shape.width * shape.channels_in
        return (self._graded_host(host_layer("Pad", f"{layer.name}.pad", elements), node), layer)

    def _conv_shape(self, node: NodeProto) -> tuple[ConvShape, bool]:
        """Return the convolution, 1-D ones as height 1, and whether its input must be stored with extra zeros.

        A ConvShape pads both sides alike; what one side has more is part of height and width.
        """
        given = _attributes(node)
        x, w = self._shape(node, node.input[0]), self._shape(node, node.input[1])
        groups = given.get("group", 1)
        spatial = len(x) - 2
        if spatial not in (1, 2) or len(w) != len(x):
            raise self._error(node, f"has input {x} and weights {w}; convolutions of 1 or 2 dimensions are supported")
        if x[1] != w[1] * groups:
            raise self._error(node, f"has {x[1]} input channels; weights {w} in {groups} groups need {w[1] * groups}")
        kernel = tuple(w[2:])
        stride = tuple(given.get("strides", (1,) * spatial))
        dilation = tuple(given.get("dilations", (1,) * spatial))
        mode = given.get("auto_pad", b"NOTSET").decode()
        if mode not in AUTO_PADS:
            raise self._error(node, f"has auto_pad {mode!r}; known: {', '.join(AUTO_PADS)}")
        pads = _pads(mode, given, x[2:], kernel, stride, dilation)
        sizes = tuple(size + abs(begin - end) for size, (begin, end) in zip(x[2:], pads, strict=True))

        def both(values: tuple[int, ...], flat: int) -> tuple[int, int]:
            return (values[0], values[1]) if spatial == 2 else (flat, values[0])

        height, width = both(sizes, 1)
        shape = ConvShape(
            batch=x[0],
            height=height,
            width=width,
            channels_in=x[1],
            channels_out=w[0],
            kernel=both(kernel, 1),
            stride=both(stride, 1),
            padding=both(tuple(min(pad) for pad in pads), 0),
            dilation=both(dilation, 1),
            groups=groups,
        )
        return shape, sizes != tuple(x[2:])

    def _gemm(self, node: NodeProto) -> tuple[Layer, ...]:
        given = _attributes(node)
        a, b = self._shape(node, node.input[0]), self._shape(node, node.input[1])
        if given.get("transA", 0):
            a = a[::-1]
        if given.get("transB", 0):
            b = b[::-1]
        bias = len(node.input) > 2 and bool(node.input[2])
        layer = self._product(node, a, b, bias and node.input[2] in self.static)
        if bias and not (isinstance(layer, LinearLayer) and layer.bias):
            add = host_layer("Add", f"{layer.name}.c", prod(self._shape(node, node.output[0])))
            return (layer, self._graded_host(add, node))
        self._use(node.input[2:])
        return (layer,)

    def _matmul(self, node: NodeProto) -> tuple[Layer, ...]:
        return (self._product(node, self._shape(node, node.input[0]), self._shape(node, node.input[1]), False),)

    def _product(self, node: NodeProto, a: tuple[int, ...], b: tuple[int, ...], bias: bool) -> Layer:
        """Return Y = A B with NumPy's rules for leading dimensions; a constant operand makes it a linear layer."""
        a = (1, *a) if len(a) == 1 else a
        b = (*b, 1) if len(b) == 1 else b
        if a[-1] != b[-2]:
            raise self._error(node, f"multiplies {a} by {b}; the inner sizes {a[-1]} and {b[-2]} differ")
        output = prod(self._shape(node, node.output[0]))
        m, k, n = a[-2], a[-1], b[-1]
        copies = output // (m * n)
        first, second = node.input[0], node.input[1]
        name = self._name(node)
        if second in self.static or first in self.static:
            # A constant left operand is the transposed product: Y^T = B^T A^T.
            right = second in self.static
            matrix = b if right else a
            count = prod(matrix[:-2])
            self._use((second if right else first,))
            return LinearLayer(
                name=name,
                rows=copies * (m if right else n) // count,
                features_in=k,
                features_out=n if right else m,
                count=count,
                bias=bias and right,
                input_gradient=(first if right else second) in self.graded,
                weight=self.static[second if right else first],
            )
        graded_a, graded_b = first in self.graded, second in self.graded
        return MatMulLayer(name=name, m=m, k=k, n=n, count=copies, gradient_a=graded_a, gradient_b=graded_b)

    def _is_bias(self, node: NodeProto) -> bool:
        """Take an addition right after a linear layer as its bias, as PyTorch exports nn.Linear on three dimensions."""
        if node.op_type != "Add":
            return False
        for source, bias in (node.input[:2], node.input[1::-1]):
            at = self.owner.get(source, -1)
            if at < 0 or bias not in self.static or self.readers[source] != 1:
                continue
            layer = self.layers[at]
            if not isinstance(layer, LinearLayer) or layer.bias or layer.count != 1:
                continue
            if self.tensors.shapes.get(bias) == (layer.features_out,):
                self.layers[at] = replace(layer, bias=True)
                self._use((bias,))
                return True
        return False

    def _host(self, node: NodeProto) -> HostLayer:
        name = self._name(node)
        outputs = [self.tensors.shapes[out] for out in node.output if out in self.tensors.shapes]
        inputs = [self.tensors.shapes[source] for source in node.input if source in self.tensors.shapes]
        self._shape(node, next(out for out in node.output if out))
        if node.op_type in POOLS:
            given = _attributes(node)
            window = prod(given.get("kernel_shape", inputs[0][2:]))
            layer = pool_layer(node.op_type, name, prod(inputs[0]), prod(outputs[0]), window)
        else:
            elements = max(prod(shape) for shape in (*outputs, *inputs[:1]))
            learnt = sum(self.weights[w].learnt for w in self._use(_learnt_inputs(node)))
            layer = host_layer(node.op_type, name, elements, parameters=learnt)
        return self._graded_host(layer, node)

    def _graded_host(self, layer: HostLayer, node: NodeProto) -> HostLayer:
        """Return the layer without backward work if nothing that it reads needs a gradient."""
        if any(name in self.graded for name in node.input):
            return layer
        return replace(layer, bp_operations=0, bp_bytes=0)

    def _use(self, names: Iterable[str]) -> list[str]:
        """Mark weights as counted and return those that were not before."""
        new = [name for name in dict.fromkeys(names) if name in self.weights and name not in self.used]
        self.used.update(new)
        return new

    def _need_weight(self, node: NodeProto, name: str) -> None:
        if name not in self.static:
            raise self._error(node, f"takes its weights {name!r} from another node; they must be an initializer")

    def _shape(self, node: NodeProto, name: str) -> tuple[int, ...]:
        if name not in self.tensors.shapes:
            raise self._error(node, f"uses tensor {name!r}, whose shape cannot be inferred")
        shape = self.tensors.shapes[name]
        if shape and min(shape) < 1:
            raise self._error(node, f"uses tensor {name!r} of shape {shape}; sizes must be at least 1")
        return shape

    def _name(self, node: NodeProto) -> str:
        base = name = node_name(node)
        number = 1
        while name in self.names:
            number += 1
            name = f"{base}#{number}"
        self.names.add(name)
        return name

    def _error(self, node: NodeProto, text: str) -> ValueError:
        return ValueError(f"{self.where}: node {node_name(node)!r} ({node.op_type}) {text}")


def _learnt_inputs(node: NodeProto) -> tuple[str, ...]:
    """Return the inputs of a host operator that may be learnt: no running statistics, no scales of a resize."""
    if node.op_type == "BatchNormalization":
        return tuple(node.input[:3])
    return tuple(node.input) if node.op_type in LEARNING else ()


def _attributes(node: NodeProto) -> dict[str, Any]:
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def _pads(
    mode: str,
    given: Mapping[str, Any],
    sizes: tuple[int, ...],
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
) -> list[tuple[int, int]]:
    """Return (begin, end) padding per spatial axis, auto_pad resolved as the ONNX specification of Conv says."""
    if mode == "NOTSET":
        pads = given.get("pads", (0,) * (2 * len(sizes)))
        return list(zip(pads[: len(sizes)], pads[len(sizes) :], strict=True))
    if mode == "VALID":
        return [(0, 0)] * len(sizes)
    out = []
    for size, k, s, d in zip(sizes, kernel, stride, dilation, strict=True):
        total = max((-(-size // s) - 1) * s + d * (k - 1) + 1 - size, 0)
        small, large = total // 2, total - total // 2
        out.append((small, large) if mode == "SAME_UPPER" else (large, small))
    return out
