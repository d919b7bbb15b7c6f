"""What is known while the nodes of an ONNX graph become layers."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from nmsat.dataflow.network.readers.onnx_load import captured, node_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from onnx import NodeProto

    from nmsat.dataflow.network.layers import HostLayer, Layer
    from nmsat.dataflow.network.readers.onnx_load import Weight
    from nmsat.dataflow.network.readers.onnx_shapes import Tensors


@dataclass
class ReaderState:
    """State while the nodes are read in order.

    static: tensors that depend on weights and constants only -> the weight that they are, '' for none; graded: tensors
    that need a gradient because something learnt lies before them; owner: the linear layer that made a tensor;
    sources: the constants that a constant tensor is put together from; used: constants already counted; learnt:
    constants that host layers learn, by layer; tables, plain: those of them that stand as whole matrices in sums and
    products of elements, and those that are read otherwise; counted: those that count;
    names: those given to layers; numbers: how many of
    a name were; readers: how many nodes read a tensor; one: constants -> the constant that they are, see `onnx_same`.
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

    def __post_init__(self) -> None:
        self.readers.update(name for node in self.tensors.nodes for name in (*node.input, *captured(node)))
        self.static.update(dict.fromkeys(self.tensors.values, ""))
        self.static.update({name: self.one.get(name, name) for name in self.weights})
        self.sources.update({name: frozenset({kept}) for name, kept in self.one.items()})
        self.graded.update(name for name, weight in self.weights.items() if weight.learnt)

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
