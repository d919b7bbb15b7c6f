"""The layers of an ONNX graph whose shapes are known, node by node."""

from __future__ import annotations

import re
from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING, Final

from nmsat.dataflow.network.layers import (
    HOST_COSTS,
    ConvLayer,
    HostLayer,
    LinearLayer,
    host_layer,
    pool_layer,
    scale_batch,
)
from nmsat.dataflow.network.readers.onnx_ask import MICROSOFT, attributes, is_standard, operator
from nmsat.dataflow.network.readers.onnx_fused import BROADCAST, SAME_AS_INPUT
from nmsat.dataflow.network.readers.onnx_load import SEEN_THROUGH, WEIGHT_SLOTS, captured, node_name, subgraphs
from nmsat.dataflow.network.readers.onnx_operators import PRODUCTS
from nmsat.dataflow.network.readers.onnx_same import some_of
from nmsat.dataflow.network.readers.onnx_state import ReaderState
from nmsat.dataflow.network.readers.onnx_views import overlapping

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from onnx import NodeProto

    from nmsat.dataflow.network.layers import Layer
    from nmsat.dataflow.network.readers.onnx_load import Weight
    from nmsat.dataflow.network.readers.onnx_shapes import Tensors
    from nmsat.dataflow.network.readers.onnx_views import View

LEARNING: Final = frozenset({
    *("Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Sum", "PRelu", "Gather", "Concat", "Expand", "Tile"),
    *("Transpose", "Cast", "LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization"),
    *("InstanceNormalization", "GroupNormalization", "SkipLayerNormalization", "SkipSimplifiedLayerNormalization"),
    *("BiasGelu", "BiasAdd", "GroupNorm", "EmbedLayerNormalization", "FastGelu"),
})  # fmt: skip
"""Host operators whose floating-point constants count as learnt (besides BatchNormalization)."""

OF_ELEMENTS: Final = frozenset({"Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Sum"})
"""Operators of LEARNING that take any tensor for an operand, element by element: parameters or not."""

COMPARISONS: Final = frozenset({
    *("Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "And", "Or", "Xor", "Not", "ArgMax", "ArgMin"),
    *("Shape", "Size", "NonZero", "IsNaN", "IsInf", "Sign"),
})  # fmt: skip
"""Operators that no gradient passes."""

OF_CONSTANTS: Final = (("", "MatMul"), ("", "Gemm"))
"""Products that are counted where both operands are constants, too."""

POOLS: Final = ("MaxPool", "AveragePool", "GlobalMaxPool", "GlobalAveragePool", "LpPool", "GlobalLpPool")

MULTIPLIES: Final = re.compile(r"(?i)attention|matmul|gemm|conv|lstm|gru|rnn|linear|moe|einsum|svm|deform|scan$")
"""Names of operators that are refused where the reader does not know them: they multiply matrices."""


def convert(
    tensors: Tensors, weights: Mapping[str, Weight], factor: int, where: str, one: Mapping[str, str] | None = None
) -> tuple[list[Layer], dict[str, int], tuple[str, ...]]:
    """Return the layers of the nodes, those that depend on the inputs with `factor` times the batch of the file.

    weights: the constants by name; one: those that are another constant. Beside the layers: the tables that count as
    learnt although they may be no parameters, with their elements; notes about weights and about what is left out.
    Raises ValueError naming file and node for what cannot be read, and for an operator that is not known and may hold
    a product with weights.
    """
    reader = _Nodes(tensors, weights, factor, where, one or {})
    for node in tensors.nodes:
        reader.read(node)
    return reader.finished(), reader.counted_tables(), tuple(reader.part_notes())


class _Nodes(ReaderState):
    """Reads the nodes in order."""

    def read(self, node: NodeProto) -> None:
        """Append the layers of one node."""
        inputs = [name for name in dict.fromkeys((*node.input, *sorted(captured(node)))) if name]
        static = bool(inputs) and all(name in self.static for name in inputs)
        if operator(node) in PRODUCTS and (not static or self._of_constants(node)):
            layers = PRODUCTS[operator(node)](self, node)
        elif self._is_bias(node):
            layers = ()
        else:
            layers = (self._host(node, static=static),)
        for layer in layers:
            self.layers.append(layer if static else scale_batch(layer, self.factor))
        if static:
            self.take_constant(node, inputs)
        for name in node.output:
            if any(source in self.graded for source in inputs) and node.op_type not in COMPARISONS:
                self.graded.add(name)
            if layers and isinstance(self.layers[-1], LinearLayer) and self.layers[-1].steps == 1:
                self.owner[name] = len(self.layers) - 1

    def _of_constants(self, node: NodeProto) -> bool:
        """Tell a product of constants that a step runs, since one of them is learnt: places through a small network."""
        return operator(node) in OF_CONSTANTS and any(name in self.graded for name in node.input)

    def finished(self) -> list[Layer]:
        """Return the layers, what host operators learn counted: each constant once, and not again if it is a weight."""
        taken = {layer.weight for layer in self.layers if isinstance(layer, ConvLayer | LinearLayer)} | self.used
        # Constants that a weight is put together from are counted with it.
        taken |= {source for name in taken for source in self.sources.get(name, ())}
        for at, names in self.learnt.items():
            new = [name for name in dict.fromkeys(names) if name in self.weights and name not in taken]
            taken.update(new)
            layer = self.layers[at]
            if isinstance(layer, HostLayer):
                self.layers[at] = replace(layer, parameters=sum(self.weights[name].learnt for name in new))
                self.counted.update(new)
        return self.layers

    def counted_tables(self) -> dict[str, int]:
        """Return what counts as learnt only because elements are added to it, multiplied by it and so on, as a matrix.

        Parameters of places are of this kind, but so are buffers and what an exporter has folded: masks of attention,
        places of rotation, a table gathered into a larger one.
        """
        tables = [name for name in self.tables if name in self.counted and name not in self.plain]
        return {name: self.weights[name].learnt for name in tables}

    def part_notes(self) -> Iterator[str]:
        """Yield what of weights that are made of constants is counted more than once, or in full though repeated."""
        weighted = [layer for layer in self.layers if isinstance(layer, ConvLayer | LinearLayer) and layer.weight]
        used: dict[str, dict[str, View]] = {}
        for name in dict.fromkeys(layer.weight for layer in weighted):
            if name in self.views:
                used.setdefault(self.views[name].root, {})[name] = self.views[name]
        shared = [repr(root) for root, views in used.items() if len(views) > 1 and overlapping([*views.values()])]
        if shared:
            yield f"parts that overlap, or may, counted as weights of their own, in full: of {some_of(shared)}"
        larger = [
            repr(layer.name)
            for layer in weighted
            if layer.weight in self.views and layer.weights > prod(self.views[layer.weight].distinct)
        ]
        unused = [repr(node_name(node)) for node in self.tensors.unused if self._counts(node)]
        if unused:
            yield f"left out, as no output of the graph depends on them: {some_of(unused)}"
        if larger:
            yield f"weights that repeat elements within themselves, all of them counted as learnt: {some_of(larger)}"

    def _counts(self, node: NodeProto) -> bool:
        """Tell a node that multiplies or learns, were it used."""
        learns = any(name in self.weights and self.weights[name].learnt for name in learnt_inputs(node))
        return learns or operator(node) in PRODUCTS or _may_multiply(node) or bool(inner_products(node))

    def _take_use(self, node: NodeProto, name: str, root: str, rank: int) -> None:
        """Take up how a host operator reads a constant: as a matrix, or along the features or the channels alone."""
        if node.op_type in SEEN_THROUGH:
            return
        shape = self.tensors.shapes.get(name, ())
        rank = max(rank, len(shape))
        along = {rank - len(shape) + at for at, size in enumerate(shape) if size > 1}
        if node.op_type in OF_ELEMENTS and along not in ({rank - 1}, {1}, set()):
            self.tables[root] = None
        else:
            self.plain.add(root)

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
                self.layers[at] = replace(layer, bias=True, bias_name=self.static[bias])
                self.used.add(self.static[bias])
                return True
        return False

    def _host(self, node: NodeProto, *, static: bool) -> HostLayer:
        kind = host_kind(node)
        if kind not in HOST_COSTS:
            return self._unknown(node, kind, static=static)
        name = self.name(node)
        outputs = [self.tensors.shapes[out] for out in node.output if out in self.tensors.shapes]
        inputs = [self.tensors.shapes[source] for source in node.input if source in self.tensors.shapes]
        first = next((out for out in node.output if out), "")
        if first in self.tensors.shapes:
            self.shape(node, first)
        if kind in POOLS and inputs and outputs:
            window = prod(attributes(node).get("kernel_shape", inputs[0][2:]))
            layer = pool_layer(kind, name, prod(inputs[0]), prod(outputs[0]), window)
        else:
            # Where sizes depend on data (indices of what is not zero), those that are known stand for them.
            elements = max((prod(shape) for shape in (*outputs, *inputs[:1])), default=0)
            layer = host_layer(kind, name, elements)
            if first not in self.tensors.shapes:
                layer = replace(layer, cost_known=layer.ff_bytes == 0 and layer.ff_operations == 0)
            roots = {name: self.static.get(name, "") for name in learnt_inputs(node)}
            slots = node.op_type in WEIGHT_SLOTS
            taken = {
                name: root
                for name, root in roots.items()
                if root in self.weights and (slots or not self.weights[root].held)
            }
            self.learnt[len(self.layers)] = tuple(taken.values())
            for source, root in taken.items():
                self._take_use(node, source, root, len(outputs[0]) if outputs else 0)
        return self.graded_host(layer, node.input)

    def _unknown(self, node: NodeProto, kind: str, *, static: bool) -> HostLayer:
        """Return host work of unknown cost for an operator that is not known, unless it may multiply by weights."""
        inner = sorted(inner_products(node))
        if inner:
            raise self.error(
                node,
                f"runs {', '.join(inner)} in a branch or loop that depends on data; export the model with it unrolled, "
                f"or with a constant condition and number of runs",
            )
        holds = next(subgraphs(node), None) is not None
        if MULTIPLIES.search(node.op_type) and not holds and not static:
            raise self.error(node, f"is not supported: {kind} multiplies matrices; see the table of operators")
        heavy = [name for name in node.input if self._is_matrix(name)]
        # Of the standard none multiplies matrices but those that the reader knows or refuses.
        if heavy and not static and not is_standard(node):
            raise self.error(
                node, f"is not supported: {kind} reads the constant {heavy[0]!r}, so that a product may hide in it"
            )
        return HostLayer(name=self.name(node), kind=kind, ff_operations=0, ff_bytes=0, cost_known=False)

    def _is_matrix(self, name: str) -> bool:
        """Tell constants of two or more dimensions with as many elements as a weight has."""
        shape = self.tensors.shapes.get(name, ())
        return bool(name) and name in self.static and len([size for size in shape if size > 1]) > 1


def host_kind(node: NodeProto) -> str:
    """Return the kind of host work that an operator is: a key of HOST_COSTS where it is known."""
    if is_standard(node):
        return node.op_type
    known = node.domain == MICROSOFT
    if known and node.op_type in SAME_AS_INPUT:
        return SAME_AS_INPUT[node.op_type]
    if known and node.op_type in BROADCAST:
        return BROADCAST[node.op_type][0]
    if known and node.op_type == "EmbedLayerNormalization":
        return "LayerNormalization"
    return f"{node.domain}.{node.op_type}"


def learnt_inputs(node: NodeProto) -> tuple[str, ...]:
    """Return the inputs of a host operator that may be learnt: no running statistics, no scales of a resize."""
    if node.op_type == "BatchNormalization":
        return tuple(node.input[:3])
    return tuple(node.input) if node.op_type in LEARNING else ()


def inner_products(node: NodeProto) -> set[str]:
    """Return the operators with products in the graphs that a node holds, those that may hide one included."""
    found: set[str] = set()
    for graph in subgraphs(node):
        for inner in graph.node:
            if operator(inner) in PRODUCTS or _may_multiply(inner):
                found.add(inner.op_type)
            found |= inner_products(inner)
    return found


def _may_multiply(node: NodeProto) -> bool:
    """Tell operators that the reader does not know and whose name, or domain, says that they may multiply matrices."""
    if host_kind(node) in HOST_COSTS or next(subgraphs(node), None) is not None:
        return False
    return not is_standard(node) or bool(MULTIPLIES.search(node.op_type))
