"""Shapes of the tensors of an ONNX graph, node by node: shape arithmetic is evaluated, constant branches and
loops are put in place.

Each node is asked once, in order, with what is known by then: `onnx.shape_inference.infer_node_outputs` for operators
with a schema, the rules of `onnx_fused` for the others, and for what neither knows the shape that the file states.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import onnx
import onnx.checker
import onnx.defs
import onnx.shape_inference
from onnx import AttributeProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from nmsat.dataflow.network.readers.onnx_ask import is_standard, operator
from nmsat.dataflow.network.readers.onnx_fused import fused_shape
from nmsat.dataflow.network.readers.onnx_inner import GraphsInPlace
from nmsat.dataflow.network.readers.onnx_load import (
    MAX_DEPTH,
    MAX_RANK,
    SMALL,
    captured,
    first_line,
    node_name,
    take_constant,
)
from nmsat.dataflow.network.readers.onnx_sequences import Sequences

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from numpy.typing import NDArray
    from onnx import NodeProto, TypeProto

    from nmsat.dataflow.network.readers.onnx_load import Loaded

FOLDED: Final = frozenset({
    *("Add", "Sub", "Mul", "Div", "Mod", "Neg", "Abs", "Pow", "Sqrt", "Ceil", "Floor", "Round", "Max", "Min", "Sum"),
    *("And", "Or", "Not", "Xor", "Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Where", "Sign"),
    *("Cast", "CastLike", "ConstantOfShape", "Range", "Shape", "Size", "Identity", "NonZero"),
    *("Concat", "Expand", "Gather", "GatherND", "Reshape", "Slice", "Split", "Squeeze", "Tile", "Transpose"),
    *("Unsqueeze", "Flatten", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceSum", "ScatterND", "Trilu", "CumSum"),
})  # fmt: skip
"""Operators evaluated while reading where all their inputs are small and known, and their outputs too."""

QUICK: Final[dict[str, Callable[..., Any]]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Equal": np.equal,
    "Less": np.less,
    "Greater": np.greater,
    "Where": np.where,
    "Identity": np.array,
}
"""Operators that are a function of NumPy with the same meaning: evaluating them takes no time."""

MAX_FOLDED: Final = 10_000
"""Most nodes that are evaluated by the reference of onnx, about a millisecond each."""

EVALUATION: Final = (
    *(RuntimeError, ValueError, TypeError, LookupError, AttributeError, AssertionError, ArithmeticError),
    *(NotImplementedError, MemoryError),
)
"""What evaluating a node raises."""

LOOPS: Final = ("Loop", "Scan")
"""Operators whose body runs more than once."""

SCALED: Final = ("Resize", "Upsample")
"""Operators whose output is as large as constants of floating point say."""

SAME_SIZE: Final = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")
"""Operators whose output holds as many elements as their input."""


@dataclass(frozen=True)
class Tensors:
    """What is known of a graph.

    shapes: by tensor; values: of small constants; nodes: those that remain to run; lost: why the shape of a tensor is
    not known; unused: nodes that no output of the graph depends on, not among the others.
    """

    shapes: Mapping[str, tuple[int, ...]]
    values: Mapping[str, NDArray[Any]]
    nodes: Sequence[NodeProto]
    lost: Mapping[str, str] = field(default_factory=dict)
    unused: Sequence[NodeProto] = ()


def infer_tensors(
    loaded: Loaded, sizes: Mapping[str, int], where: str, unrolled: Callable[[NodeProto], bool] = lambda _: True
) -> Tensors:
    """Return shapes and constants of a graph whose inputs have fixed sizes.

    sizes: of open dimensions by name, for shapes that the file states; unrolled: whether a loop that runs a known
    number of times is put in place run by run. Raises ValueError naming `where` and the node
    for shapes that contradict each other.
    """
    walk = _Walk(loaded, sizes, where, unrolled)
    for node in loaded.nodes:
        walk.visit(node)
    used, unused = _reaching(walk.nodes, [value.name for value in loaded.model.graph.output])
    return Tensors(walk.shapes, loaded.values, used, walk.lost, unused)


def _reaching(
    nodes: Sequence[NodeProto], outputs: Iterable[str]
) -> tuple[tuple[NodeProto, ...], tuple[NodeProto, ...]]:
    """Return the nodes that outputs depend on, and the others."""
    wanted = set(outputs)
    used: list[NodeProto] = []
    unused: list[NodeProto] = []
    for node in reversed(nodes):
        if wanted.isdisjoint(node.output):
            unused.append(node)
        else:
            used.append(node)
            wanted.update(node.input, captured(node))
            wanted.discard("")
    return tuple(used[::-1]), tuple(unused[::-1])


class _Walk:
    """State while the nodes are visited in order; types: what is known of tensors, shapes: where all sizes are."""

    def __init__(
        self, loaded: Loaded, sizes: Mapping[str, int], where: str, unrolled: Callable[[NodeProto], bool]
    ) -> None:
        self.loaded, self.sizes, self.where, self.unrolled = loaded, sizes, where, unrolled
        self.values = loaded.values
        self.opsets = {entry.domain: entry.version for entry in loaded.model.opset_import}
        self.imports = list(loaded.model.opset_import)
        self.types: dict[str, TypeProto] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.lost: dict[str, str] = {}
        self.nodes: list[NodeProto] = []
        self._schemas: dict[tuple[str, str], onnx.defs.OpSchema | None] = {}
        self._inner = GraphsInPlace(self)
        self._sequences = Sequences(self, self._inner)
        self._folded = 0
        for name, kind in (*loaded.types.items(), *((value.name, value.type) for value in loaded.inputs)):
            self._note(name, kind)

    def visit(self, node: NodeProto, depth: int = 0) -> None:
        """Take one node: a constant, a branch that is known, arithmetic to evaluate, or work that remains."""
        if depth > MAX_DEPTH:
            raise ValueError(f"{self.where}: branches are nested more than {MAX_DEPTH} deep")
        if take_constant(self.loaded, node, self.where):
            self.take(node.output[0])
            return
        if node.op_type == "If" and node.input and node.input[0] in self.values:
            self._inner.branch(node, depth)
            return
        if node.op_type in LOOPS and is_standard(node) and self.unrolled(node) and self._inner.loop(node, depth):
            return
        if self._sequences.take(node, depth) or self._quick(node):
            return
        types = self._infer(node)
        for name in node.output:
            if name:
                self._note(name, types.get(name))
        self._check_size(node)
        if not self._fold(node):
            self.nodes.append(node)
            self._explain(node)

    def take(self, name: str) -> None:
        """Take up the type of a constant of the file."""
        self._note(name, self.loaded.types[name])

    def _note(self, name: str, kind: TypeProto | None) -> None:
        """Keep what is known of a tensor; where that is less than the file states, what it states."""
        shape = _sizes(kind, {})
        if shape is None:
            stated = _sizes(self.loaded.declared.get(name), self.sizes)
            if stated is not None:
                declared = self.loaded.declared[name].tensor_type.elem_type
                known = kind.tensor_type.elem_type if kind is not None else 0
                shape, kind = stated, helper.make_tensor_type_proto(known or declared, stated)
        rank = len(kind.tensor_type.shape.dim) if kind is not None else 0
        if rank > MAX_RANK:
            raise ValueError(f"{self.where}: tensor {name!r} has {rank} dimensions; at most {MAX_RANK} are read")
        if kind is not None:
            self.types[name] = kind
        if shape is not None:
            self.shapes[name] = shape

    def _infer(self, node: NodeProto) -> Mapping[str, TypeProto]:
        """Return the types of the outputs, as far as they are known."""
        inputs = [name for name in node.input if name]
        fused = fused_shape(node, [self.shapes.get(name) for name in node.input])
        if fused is not None:
            kinds = [self.types[name].tensor_type.elem_type for name in inputs if name in self.types]
            kind = kinds[0] if kinds else TensorProto.FLOAT
            return {
                name: helper.make_tensor_type_proto(kind, shape)
                for name, shape in zip(node.output, fused, strict=False)
                if name and shape is not None
            }
        schema = self._schema(node)
        if schema is None or any(name not in self.types for name in inputs) or _has_graph(node):
            return {}
        known = {name: self.types[name] for name in inputs}
        constants = {**self.loaded.scales, **self.values} if node.op_type in SCALED else self.values
        data = {name: numpy_helper.from_array(constants[name], name) for name in inputs if name in constants}
        try:
            return onnx.shape_inference.infer_node_outputs(
                schema, node, known, data, opset_imports=self.imports, ir_version=self.loaded.model.ir_version
            )
        except (onnx.shape_inference.InferenceError, onnx.checker.ValidationError, KeyError, RuntimeError) as error:
            shapes = ", ".join(f"{name!r} {self.shapes.get(name, 'of unknown shape')}" for name in inputs)
            raise ValueError(
                f"{self.where}: node {node_name(node)!r} ({node.op_type}): shape inference fails: "
                f"{first_line(error)}; inputs: {shapes}"
            ) from error

    def _schema(self, node: NodeProto) -> onnx.defs.OpSchema | None:
        domain, kind = key = operator(node)
        if key not in self._schemas:
            version = self.opsets.get(domain, self.opsets.get("ai.onnx", 0) if not domain else 0)
            try:
                self._schemas[key] = onnx.defs.get_schema(kind, version, domain)
            except onnx.defs.SchemaError:
                self._schemas[key] = None
        return self._schemas[key]

    def _check_size(self, node: NodeProto) -> None:
        """Refuse a reshape that invents or loses elements: one written for another batch."""
        if node.op_type not in SAME_SIZE or not node.input:
            return
        before, after = self.shapes.get(node.input[0]), self.shapes.get(node.output[0])
        if before is not None and after is not None and prod(before) != prod(after):
            raise ValueError(
                f"{self.where}: node {node_name(node)!r} ({node.op_type}) makes {after} of {before}, which holds "
                f"{prod(before)} elements and not {prod(after)}; its sizes are written into the file and fit another "
                f"batch or size than this"
            )

    def _explain(self, node: NodeProto) -> None:
        """Keep why shapes are not known: the first node whose outputs cannot be told."""
        for name in node.output:
            if name and name not in self.shapes:
                before = next((self.lost[source] for source in node.input if source in self.lost), None)
                self.lost[name] = before or f"not known from {node_name(node)!r} ({node.op_type}) on"

    def _fold(self, node: NodeProto) -> bool:
        """Evaluate a node that depends on shapes and small constants only, where its outputs are small as well."""
        if node.op_type not in FOLDED or not is_standard(node):
            return False
        if node.op_type == "Shape" and node.input[0] in self.shapes:
            given = {attribute.name: attribute.i for attribute in node.attribute}
            shape = self.shapes[node.input[0]][slice(given.get("start", 0), given.get("end"))]
            self.keep(node.output[0], np.array(shape, np.int64))
            return True
        if node.op_type == "Size" and node.input[0] in self.shapes:
            self.keep(node.output[0], np.array(prod(self.shapes[node.input[0]]), np.int64))
            return True
        if not all(name in self.values for name in node.input if name):
            self._scales(node)
            return False
        outputs = [name for name in node.output if name]
        bounded = all(name in self.shapes and prod(self.shapes[name]) <= SMALL for name in outputs)
        if not bounded and node.op_type != "NonZero":
            return False
        feeds = {name: self.values[name] for name in node.input if name}
        for name, value in self._evaluate(node, feeds).items():
            self.keep(name, value)
        return True

    def _scales(self, node: NodeProto) -> None:
        """Evaluate a list of a few floating-point numbers from others of the kind; the node remains, as they may be
        learnt: for how much larger a Resize makes something, they are numbers.
        """
        known = {**self.loaded.scales, **self.values}
        names = [name for name in node.output if name]
        few = all(len(shape := self.shapes.get(name, (0, 0))) < 2 and prod(shape) <= MAX_RANK for name in names)
        if few and all(name in known for name in node.input if name):
            self.loaded.scales.update(self._evaluate(node, {name: known[name] for name in node.input if name}))

    def _quick(self, node: NodeProto) -> bool:
        """Evaluate a node that NumPy evaluates by a function of its own, before anything is inferred."""
        plain = node.op_type in QUICK and is_standard(node) and not node.attribute
        if not plain or not all(name in self.values for name in node.input) or len(node.output) != 1:
            return False
        inputs = [self.values[name] for name in node.input]
        try:
            shape = np.broadcast_shapes(*(value.shape for value in inputs))
            if prod(shape) > SMALL:
                return False
            self.keep(node.output[0], np.asarray(QUICK[node.op_type](*inputs)))
        except EVALUATION:  # the reference says what is wrong
            return False
        return True

    def keep(self, name: str, value: NDArray[Any]) -> None:
        """Take up a value that is known."""
        self.values[name] = value
        self.shapes[name] = value.shape
        self.types[name] = helper.make_tensor_type_proto(helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)

    def _evaluate(self, node: NodeProto, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        self._folded += 1
        if self._folded > MAX_FOLDED:
            raise ValueError(f"{self.where}: more than {MAX_FOLDED} nodes depend on constants only; fold them first")
        names = [name for name in node.output if name]
        untyped = TensorProto.UNDEFINED
        graph = helper.make_graph(
            [node],
            "fold",
            [helper.make_tensor_value_info(name, untyped, None) for name in feeds],
            [helper.make_tensor_value_info(name, untyped, None) for name in names],
        )
        single = helper.make_model(graph, opset_imports=self.imports)
        try:
            results = ReferenceEvaluator(single).run(None, dict(feeds))
        except EVALUATION as error:
            raise ValueError(
                f"{self.where}: constant node {node_name(node)!r} ({node.op_type}) cannot be evaluated: "
                f"{first_line(error)}"
            ) from error
        return {name: np.asarray(result) for name, result in zip(names, results, strict=True)}


def _sizes(kind: TypeProto | None, sizes: Mapping[str, int]) -> tuple[int, ...] | None:
    """Return a shape if all its dimensions are known; sizes: of open ones by name."""
    if kind is None or not kind.HasField("tensor_type") or not kind.tensor_type.HasField("shape"):
        return None
    dims: list[int] = []
    for dim in kind.tensor_type.shape.dim:
        size = dim.dim_value if dim.HasField("dim_value") else sizes.get(dim.dim_param)
        if size is None:
            return None
        dims.append(size)
    return tuple(dims)


def _has_graph(node: NodeProto) -> bool:
    return any(attribute.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS) for attribute in node.attribute)
