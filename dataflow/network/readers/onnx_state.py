"""What is known while the nodes of an ONNX graph become layers."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from nmsat.dataflow.network.readers.onnx_ask import is_standard, operator
from nmsat.dataflow.network.readers.onnx_load import SEEN_THROUGH, captured, node_name, subgraphs
from nmsat.dataflow.network.readers.onnx_views import View, views_of, whole_view

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from onnx import NodeProto

    from nmsat.dataflow.network.layers import HostLayer, Layer
    from nmsat.dataflow.network.readers.onnx_ask import TensorShape
    from nmsat.dataflow.network.readers.onnx_load import Weight
    from nmsat.dataflow.network.readers.onnx_shapes import Tensors

RANDOM: Final = ("Random", "Bernoulli", "Multinomial")
"""What the names of operators begin with that give something else each time."""


@dataclass
class ReaderState:
    """State while the nodes are read in order.

    static: tensors that depend on weights and constants only -> the weight that they are, '' for none; graded: tensors
    that need a gradient because something learnt lies before them; owner: the linear layer that made a tensor;
    sources: the constants that a constant tensor is put together from; used: constants already counted; learnt:
    constants that host layers learn, by layer; tables, plain: those of them that stand as whole matrices in sums and
    products of elements, and those that are read otherwise; counted: those that count;
    names: those given to layers; numbers: how many of
    a name were; readers: how many nodes read a tensor; one: constants -> the constant that they are, see `onnx_same`;
    views: which elements of a constant a tensor holds; parts: tensors by the elements that they hold; made: constant
    tensors by how they are made; alike: those that are made as another one is.
    """

    tensors: Tensors
    weights: Mapping[str, Weight]
    factor: int
    where: str
    one: Mapping[str, str] = field(default_factory=dict)
    layers: list[Layer] = field(default_factory=list)
    static: dict[str, str] = field(default_factory=dict)
    graded: set[str] = field(default_factory=set)
    owner: dict[str, int] = field(default_factory=dict)
    sources: dict[str, frozenset[str]] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    learnt: dict[int, tuple[str, ...]] = field(default_factory=dict)
    tables: dict[str, None] = field(default_factory=dict)
    plain: set[str] = field(default_factory=set)
    counted: set[str] = field(default_factory=set)
    names: set[str] = field(default_factory=set)
    numbers: Counter[str] = field(default_factory=Counter)
    readers: Counter[str] = field(default_factory=Counter)
    views: dict[str, View] = field(default_factory=dict)
    parts: dict[tuple[Any, ...], str] = field(default_factory=dict)
    made: dict[tuple[Any, ...], str] = field(default_factory=dict)
    alike: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.readers.update(name for node in self.tensors.nodes for name in (*node.input, *captured(node)))
        self.static.update(dict.fromkeys(self.tensors.values, ""))
        self.static.update({name: self.one.get(name, name) for name in self.weights})
        self.sources.update({name: frozenset({kept}) for name, kept in self.one.items()})
        self.graded.update(name for name, weight in self.weights.items() if weight.learnt)
        self.views.update({name: whole_view(name, each.shape) for name, each in self.weights.items() if each.learnt})

    def take_constant(self, node: NodeProto, inputs: Sequence[str]) -> None:
        """Take up a node of constants: what its outputs are. The same elements of a constant, and what is made of the
        same in the same way, are one weight.
        """
        view = self.views.get(node.input[0]) if node.input else None
        seen = views_of(node, view, self.tensors.values, self.tensors.shapes) if view is not None else ()
        for at, name in enumerate(node.output):
            if not name:
                continue
            self.sources[name] = frozenset().union(*(self.sources.get(each, {each}) for each in inputs))
            part = seen[at] if at < len(seen) else None
            through = node.op_type in SEEN_THROUGH and is_standard(node)
            self.alike[name] = self.made.setdefault((*self._making(node), at), name)
            if part is not None:
                self.views[name] = part
                self.static[name] = self.static[part.root] if part.whole else self.parts.setdefault(part.key, name)
            elif through:
                # A weight seen through a transposition or cast keeps its name.
                self.static[name] = self.static[inputs[0]]
            else:
                self.static[name] = self.static.get(self.alike[name], name)

    def _making(self, node: NodeProto) -> tuple[Any, ...]:
        """Return how a constant is made: operator, attributes and inputs; of random numbers each is its own."""
        if node.op_type.startswith(RANDOM) or next(subgraphs(node), None) is not None:
            return (id(node),)
        given = sorted(attribute.SerializeToString() for attribute in node.attribute)
        read: list[Any] = []
        for name in node.input:
            value = self.tensors.values.get(name)
            if value is not None and value.dtype.kind in "biuf":
                read.append((value.shape, value.dtype.str, value.tobytes()))
            else:
                read.append(self.alike.get(name, name))
        return (operator(node), *given, *read)

    def distinct(self, name: str, shape: TensorShape) -> TensorShape:
        """Return the shape of a constant, elements that are repeated counted once; shape: as it is."""
        return self.views[name].distinct if name in self.views else shape

    def shape(self, node: NodeProto, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor that a node uses; all sizes at least 1."""
        if name not in self.tensors.shapes:
            why = f" ({self.tensors.lost[name]})" if name in self.tensors.lost else ""
            raise self.error(node, f"uses tensor {name!r}, whose shape cannot be inferred{why}")
        shape = self.tensors.shapes[name]
        if shape and min(shape) < 1:
            raise self.error(node, f"uses tensor {name!r} of shape {shape}; sizes must be at least 1")
        return shape

    def name(self, node: NodeProto) -> str:
        """Return a name for the layer of a node that no layer has yet."""
        base = name = node_name(node)
        while name in self.names:
            # Counted on from where it stood: a file may call all its nodes alike.
            self.numbers[base] += 1
            name = f"{base}#{self.numbers[base] + 1}"
        self.names.add(name)
        return name

    def need_weight(self, node: NodeProto, name: str) -> str:
        """Return the weight behind a tensor that must be one."""
        if name not in self.static:
            raise self.error(node, f"takes its weights {name!r} from another node; they must be an initializer")
        return self.static[name]

    def bias(self, node: NodeProto, at: int) -> str:
        """Return the constant that stands at an input, '' if there is none."""
        name = node.input[at] if len(node.input) > at else ""
        if name not in self.static:
            return ""
        self.used.add(self.static[name])
        return self.static[name]

    def graded_host(self, layer: HostLayer, names: Iterable[str]) -> HostLayer:
        """Return the layer without backward work if none of the tensors that it reads needs a gradient."""
        if any(name in self.graded for name in names):
            return layer
        return replace(layer, bp_operations=0, bp_bytes=0)

    def error(self, node: NodeProto, text: str) -> ValueError:
        """Return an error that names file, node and operator."""
        return ValueError(f"{self.where}: node {node_name(node)!r} ({node.op_type}) {text}")
