"""Graphs within ONNX nodes, put in place: the branch that a constant condition takes, and loops that run a known
number of times.

A body becomes as many copies of its nodes as it runs, tensors under names of their own, so that shapes may change from
run to run; its constants exist once, so that a weight that every run reads is one weight.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np
from onnx import AttributeProto, GraphProto, NodeProto, TensorProto, helper

from nmsat.dataflow.network.readers.onnx_ask import attributes, is_standard
from nmsat.dataflow.network.readers.onnx_load import MAX_NODES, node_name, take_constant, take_tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from nmsat.dataflow.network.readers.onnx_load import Loaded

AXES_AS_INPUT: Final = 13
"""Opset from which Unsqueeze takes its axes as an input."""

SCAN_WITHOUT_BATCH: Final = 9
"""Opset from which Scan has no batch dimension of its own."""


NODE_BYTES: Final = 400
"""Bytes of a node in a file, names and attributes, that few have more of."""


class GraphWalk(Protocol):
    """What is known while nodes are visited in order; see `onnx_shapes`."""

    loaded: Loaded
    where: str
    values: dict[str, NDArray[Any]]
    shapes: dict[str, tuple[int, ...]]
    lost: dict[str, str]
    nodes: list[NodeProto]
    opsets: dict[str, int]

    def visit(self, node: NodeProto, depth: int = 0) -> None:
        """Take one node."""
        ...

    def keep(self, name: str, value: NDArray[Any]) -> None:
        """Take up a value that is known."""
        ...

    def take(self, name: str) -> None:
        """Take up the type of a constant of the file."""
        ...


@dataclass
class GraphsInPlace:
    """Puts graphs in place. placed: how many were, for names; copied: nodes of all runs of loops."""

    walk: GraphWalk
    placed: int = 0
    copied: int = 0

    def branch(self, node: NodeProto, depth: int) -> None:
        """Visit the nodes of the branch that a constant condition takes."""
        wanted = "then_branch" if bool(self.walk.values[node.input[0]].all()) else "else_branch"
        graph = next((each.g for each in node.attribute if each.name == wanted), None)
        if graph is None:
            raise ValueError(f"{self.walk.where}: node {node_name(node)!r} (If) has no {wanted}")
        self.placed += 1
        made = _made(graph)
        names = {name: f"{name}/branch{self.placed}" for name in made}
        names |= {value.name: new for value, new in zip(graph.output, node.output, strict=False) if value.name in made}
        for tensor in graph.initializer:
            self._constant(tensor, names[tensor.name])
        for value, new in zip(graph.output, node.output, strict=False):
            if value.name not in made:  # passed through from outside
                self.walk.visit(helper.make_node("Identity", [value.name], [new]), depth + 1)
        for each in graph.node:
            self.walk.visit(_renamed(each, names), depth + 1)

    def loop(self, node: NodeProto, depth: int) -> bool:
        """Visit the body of a Loop or Scan as often as it runs; False, and nothing visited, if data decide that."""
        runs = (_loop if node.op_type == "Loop" else _scan)(self.walk, node)
        if runs is None:
            return False
        before = len(self.walk.nodes)
        self.placed += 1
        mark = f"/loop{self.placed}"
        body = self._hoisted(runs.body, mark)
        states, collected = list(runs.states), [[] for _ in range(len(body.output) - runs.leading - len(runs.states))]
        trips = 0
        while runs.trips is None or trips < runs.trips:
            fed = runs.feed(f"{mark}.{trips}", trips, states)
            done = self._run(node, body, fed, f"{mark}.{trips}", depth)
            trips += 1
            states = done[runs.leading : runs.leading + len(states)]
            for kept, name in zip(collected, done[runs.leading + len(states) :], strict=True):
                kept.append(name)
            if runs.leading:
                goes_on = self.walk.values.get(done[0])
                if goes_on is None:
                    del self.walk.nodes[before:]
                    return False
                if not goes_on.all():
                    break
        for name, out in zip((*states, *[""] * len(collected)), node.output, strict=False):
            if name and out:
                self.walk.visit(helper.make_node("Identity", [name], [out]), depth + 1)
        for kept, out, axis, backwards in zip(
            collected, node.output[len(states) :], runs.axes, runs.backwards, strict=False
        ):
            self.stacked(node, kept[::-1] if backwards else kept, out, axis, depth)
        return True

    def _run(self, node: NodeProto, body: GraphProto, fed: Sequence[str], mark: str, depth: int) -> list[str]:
        """Visit one run of a body and return the names of its results."""
        # A node stands for as many as it has of what an ordinary one takes in the file.
        self.copied += max(1, body.ByteSize() // NODE_BYTES, len(body.node))
        if self.copied > MAX_NODES:
            raise ValueError(
                f"{self.walk.where}: node {node_name(node)!r} ({node.op_type}): all runs of its body together have "
                f"more than {MAX_NODES} nodes; export fewer steps"
            )
        names = {out: f"{out}{mark}" for each in body.node for out in each.output if out}
        names |= {value.name: name for value, name in zip(body.input, fed, strict=False)}
        for each in body.node:
            self.walk.visit(_renamed(each, names), depth + 1)
        return [names.get(value.name, value.name) for value in body.output]

    def stacked(self, node: NodeProto, parts: Sequence[str], out: str, axis: int, depth: int) -> None:
        """Visit what puts the results of all runs beside each other, along a dimension of its own."""
        if not out:
            return
        if not parts:
            self.walk.lost[out] = f"node {node_name(node)!r} ({node.op_type}) never runs"
            return
        wide = [f"{name}/wide" for name in parts]
        for name, made in zip(parts, wide, strict=True):
            if self.walk.opsets.get("", self.walk.opsets.get("ai.onnx", 0)) < AXES_AS_INPUT:
                self.walk.visit(helper.make_node("Unsqueeze", [name], [made], axes=[axis]), depth + 1)
            else:
                self.walk.keep(f"{made}.axes", np.array([axis], np.int64))
                self.walk.visit(helper.make_node("Unsqueeze", [name, f"{made}.axes"], [made]), depth + 1)
        self.walk.visit(helper.make_node("Concat", wide, [out], f"{node_name(node)}.stack", axis=axis), depth + 1)

    def _hoisted(self, graph: GraphProto, mark: str) -> GraphProto:
        """Return a body without its constants, those of graphs within it included: they are taken up once."""
        out = GraphProto.FromString(graph.SerializeToString())
        self._hoist(out, {}, mark)
        return out

    def _hoist(self, graph: GraphProto, outer: Mapping[str, str], mark: str) -> None:
        shadows = _made(graph) | {value.name for value in graph.input}
        names = {name: new for name, new in outer.items() if name not in shadows}
        for tensor in graph.initializer:
            names[tensor.name] = f"{tensor.name}{mark}"
            self._constant(tensor, names[tensor.name])
        del graph.initializer[:]
        nodes: list[NodeProto] = []
        for node in graph.node:
            if _is_constant(node):
                out = node.output[0]
                names[out] = f"{out}{mark}"
                renamed = NodeProto.FromString(node.SerializeToString())
                renamed.output[0] = names[out]
                if take_constant(self.walk.loaded, renamed, self.walk.where):
                    self.walk.take(names[out])
                continue
            nodes.append(node)
        for node in nodes:
            node.input[:] = [names.get(name, name) for name in node.input]
            for at, attribute in enumerate(node.attribute):
                if attribute.type == AttributeProto.GRAPH:
                    self._hoist(attribute.g, names, f"{mark}.{node_name(node)}.{at}")
        for value in graph.output:
            value.name = names.get(value.name, value.name)
        kept = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del graph.node[:]
        graph.node.extend(kept)

    def _constant(self, tensor: TensorProto, name: str) -> None:
        own = TensorProto.FromString(tensor.SerializeToString())
        own.name = name
        take_tensor(self.walk.loaded, own, self.walk.where)
        self.walk.take(name)


@dataclass(frozen=True)
class _Runs:
    """How a loop runs.

    trips: how often, None until the body says that it ends; states: what goes from run to run; leading: results of the
    body before the states; feed: names of what a run is given, made from its mark, number and states; axes, backwards:
    how the other results are put beside each other.
    """

    body: GraphProto
    trips: int | None
    states: Sequence[str]
    leading: int
    feed: Callable[[str, int, Sequence[str]], list[str]]
    axes: Sequence[int]
    backwards: Sequence[bool]


def _loop(walk: GraphWalk, node: NodeProto) -> _Runs | None:
    """Return the runs of a Loop, None if number of runs or condition come from data."""
    body = attributes(node)["body"]
    most, condition = (*node.input[:2], "", "")[:2]
    if any(name and name not in walk.values for name in (most, condition)):
        return None
    if most and walk.values[most].size != 1:
        raise ValueError(f"{walk.where}: node {node_name(node)!r} (Loop): how often it runs must be one number")
    trips = int(walk.values[most].item()) if most else None
    if condition and not walk.values[condition].all():
        trips = 0
    states = list(node.input[2:])
    # A body may take its number as a tensor of one element.
    sizes = (1,) * (len(body.input[0].type.tensor_type.shape.dim) if body.input else 0)

    def feed(mark: str, number: int, states: Sequence[str]) -> list[str]:
        walk.keep(f"{node_name(node)}{mark}.number", np.full(sizes, number, np.int64))
        walk.keep(f"{node_name(node)}{mark}.goes_on", np.array(True))
        return [f"{node_name(node)}{mark}.number", f"{node_name(node)}{mark}.goes_on", *states]

    others = len(body.output) - 1 - len(states)
    if others < 0:
        raise ValueError(f"{walk.where}: node {node_name(node)!r} (Loop): its body has too few results")
    return _Runs(body, trips, states, 1, feed, [0] * others, [False] * others)


def _scan(walk: GraphWalk, node: NodeProto) -> _Runs | None:
    """Return the runs of a Scan, None if the length of what it goes through is not known."""
    if walk.opsets.get("", walk.opsets.get("ai.onnx", 0)) < SCAN_WITHOUT_BATCH:
        return None
    given = attributes(node)
    body, count = given["body"], int(given["num_scan_inputs"])
    if not 0 < count <= len(node.input):
        raise ValueError(f"{walk.where}: node {node_name(node)!r} (Scan): num_scan_inputs is {count!r}")
    states, through = list(node.input[: len(node.input) - count]), list(node.input[len(node.input) - count :])
    if any(name not in walk.shapes for name in through):
        return None
    axes = list(given.get("scan_input_axes", [0] * count))
    turned = list(given.get("scan_input_directions", [0] * count))
    others = len(body.output) - len(states)
    if others < 0 or len(axes) != count or len(turned) != count:
        raise ValueError(f"{walk.where}: node {node_name(node)!r} (Scan): inputs, axes and its body do not fit")
    lengths: set[int] = set()
    for at, name in enumerate(through):
        rank = len(walk.shapes[name])
        if not -rank <= axes[at] < rank:
            raise ValueError(f"{walk.where}: node {node_name(node)!r} (Scan): {name!r} has no dimension {axes[at]}")
        lengths.add(walk.shapes[name][axes[at]])
    if len(lengths) != 1:
        raise ValueError(
            f"{walk.where}: node {node_name(node)!r} (Scan): goes through tensors of {sorted(lengths)} steps at once"
        )
    (trips,) = lengths

    def feed(mark: str, number: int, states: Sequence[str]) -> list[str]:
        names = [f"{name}{mark}" for name in through]
        for at, name in enumerate(through):
            place = f"{names[at]}.place"
            walk.keep(place, np.array(trips - 1 - number if turned[at] else number, np.int64))
            walk.visit(helper.make_node("Gather", [name, place], [names[at]], axis=axes[at]))
        return [*states, *names]

    out_axes = list(given.get("scan_output_axes", [0] * others))
    backwards = [bool(each) for each in given.get("scan_output_directions", [0] * others)]
    return _Runs(body, trips, states, 0, feed, out_axes, backwards)


def _is_constant(node: NodeProto) -> bool:
    return node.op_type == "Constant" and is_standard(node) and len(node.attribute) == 1


def _made(graph: GraphProto) -> set[str]:
    """Return the tensors that a graph makes or holds."""
    made = {tensor.name for tensor in graph.initializer} | {out for each in graph.node for out in each.output}
    return made - {""}


def _renamed(node: NodeProto, names: Mapping[str, str]) -> NodeProto:
    """Return a node with its tensors renamed, those of its subgraphs too where they come from outside; a node without
    a name is called what it was called before."""
    out = NodeProto.FromString(node.SerializeToString())
    out.name = node_name(node)
    for listed in (out.input, out.output):
        listed[:] = [names.get(name, name) for name in listed]
    for attribute in out.attribute:
        if attribute.type == AttributeProto.GRAPH:
            _rename_graph(attribute.g, names)
    return out


def _rename_graph(graph: GraphProto, names: Mapping[str, str]) -> None:
    own = _made(graph) | {value.name for value in graph.input}
    outer = {old: new for old, new in names.items() if old not in own}
    nodes = [_renamed(node, outer) for node in graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    for value in graph.output:
        value.name = outer.get(value.name, value.name)
