"""Which dimensions of inputs the dimensions of tensors are, node by node; see `onnx_axes`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias

from onnx import TensorProto

from nmsat.dataflow.network.readers.onnx_ask import attributes
from nmsat.dataflow.network.readers.onnx_load import MAX_RANK

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from onnx import NodeProto, ValueInfoProto

    from nmsat.dataflow.network.readers.onnx_load import Loaded

Dim: TypeAlias = tuple[str, int]
"""An input and one of its dimensions, or a `number`."""

Axis: TypeAlias = tuple[Dim, ...]
"""The dimensions of inputs that a dimension of a tensor is the product of, the slowest first; () if it is of none.

Among them may be a part of the features as `number`, as in samples times heads of attention."""

Axes: TypeAlias = tuple[Axis, ...]

Entry: TypeAlias = int | Axis | None
"""An element of a vector of sizes: a number, the size of a dimension, or not known."""

MALFORMED: Final = (LookupError, TypeError, ValueError, ArithmeticError, AttributeError)
"""What rules raise for a node whose attributes or inputs cannot be; shape inference says what is wrong with it."""

WHOLE: Final = (TensorProto.INT64, TensorProto.INT32, TensorProto.INT16, TensorProto.INT8, TensorProto.UINT8)
"""Types of words and of places."""


def number(count: int) -> Dim:
    """Return what stands for so many features beside the dimensions of inputs."""
    return "", count


def is_number(dim: Dim) -> bool:
    """Tell a `number` from a dimension of an input, whose name is not empty."""
    return not dim[0]


class Follow:
    """Dimensions of tensors by those of inputs.

    rules: by operator, '' for all others; sizes: of the inputs, None where open; whole: inputs of whole numbers; axes:
    of tensors; vectors: tensors that hold sizes; batch: dimensions that hold samples; recurrent: whether a layer goes
    through steps; numbers: tensors that count the runs of a loop; apart, along: dimensions that products of two tensors
    keep apart, as attention does samples, and those that they run along.
    """

    def __init__(self, loaded: Loaded, rules: Mapping[str, Rule]) -> None:
        self.rules = rules
        self.sizes = {value.name: _sizes(value) for value in loaded.inputs}
        self.whole = {value.name for value in loaded.inputs if value.type.tensor_type.elem_type in WHOLE}
        self.axes: dict[str, Axes] = {name: ((),) * len(weight.shape) for name, weight in loaded.weights.items()}
        self.axes |= {name: tuple(((name, at),) for at in range(len(sizes))) for name, sizes in self.sizes.items()}
        self.vectors: dict[str, list[Entry]] = {
            name: [int(each) for each in value.ravel()]
            for name, value in loaded.values.items()
            if value.dtype.kind == "i" and value.ndim < 2
        }
        self.batch: list[Dim] = []
        self.apart: set[Dim] = set()
        self.along: set[Dim] = set()
        self.recurrent = False
        self.numbers: set[str] = set()
        self._same: dict[Dim, Dim] = {}

    def root(self, dim: Dim) -> Dim:
        """Return the dimension that stands for all that are the same."""
        while dim in self._same:
            dim = self._same[dim]
        return dim

    def walk(self, nodes: Iterable[NodeProto]) -> None:
        """Follow the dimensions through nodes in order."""
        for node in nodes:
            try:
                outputs = self.rules.get(node.op_type, self.rules[""])(self, node)
            except MALFORMED:
                continue
            for name, axes in zip(node.output, outputs, strict=False):
                if name and axes is not None and len(axes) <= MAX_RANK:
                    self.axes[name] = axes
                if len(self.vectors.get(name, ())) > MAX_RANK:
                    del self.vectors[name]
            if len(node.input) == len(node.output) == 1 and node.input[0] in self.numbers:
                self.numbers.add(node.output[0])

    def of(self, node: NodeProto, at: int) -> Axes | None:
        """Return the dimensions of an input of a node, None if they are not known."""
        return self.axes.get(node.input[at]) if len(node.input) > at else None

    def joined(self, tensors: Iterable[Axes | None]) -> Axes | None:
        """Return what tensors have together, element by element: dimensions count from the last."""
        known = [axes for axes in tensors if axes is not None]
        rank = max(map(len, known), default=0)
        wide = [((),) * (rank - len(axes)) + axes for axes in known]
        return tuple(self.one(parts) for parts in zip(*wide, strict=True)) if known else None

    def one(self, parts: Iterable[Axis]) -> Axis:
        """Return the dimension that several are; () stands for one that is repeated along it."""
        some = [part for part in parts if part]
        for part in some[1:]:
            if len(part) == len(some[0]) == 1:
                a, b = self.root(some[0][0]), self.root(part[0])
                if a != b:
                    self._same[b] = a
        return some[0] if some else ()

    def samples(self, axis: Axis) -> None:
        """Take up that a dimension holds samples."""
        if len(axis) == 1:
            self.batch.append(axis[0])

    def multiplied(self, a: Axes, b: Axes) -> None:
        """Take up a product of two tensors of which neither is a weight."""
        self.apart |= {dim for axis in (*a[:-2], *b[:-2]) for dim in axis if not is_number(dim)}
        self.along |= {dim for axis in (*a[-2:], *b[-2:]) for dim in axis if not is_number(dim)}

    def stepped(self, axes: Axes, axis: int) -> None:
        """Take up that a loop goes through a dimension; of the others the first holds samples, the last features."""
        self.recurrent = True
        left = (*axes[:axis], *axes[axis + 1 :])
        if len(left) > 1 or (len(left) == 1 and len(left[0]) == 1 and left[0][0][0] in self.whole):
            self.samples(left[0])

    def size(self, dim: Dim) -> int | None:
        """Return the size of a dimension of an input, None if it is open."""
        return dim[1] if is_number(dim) else self.sizes[dim[0]][dim[1]]

    def numbers_of(self, node: NodeProto, at: int, name: str) -> list[int] | None:
        """Return whole numbers that an attribute or an input of a node holds, None if neither does."""
        given = attributes(node).get(name)
        if given is not None:
            return [given] if isinstance(given, int) else list(given)
        entries = self.vectors.get(node.input[at]) if len(node.input) > at else None
        return None if entries is None else [each for each in entries if isinstance(each, int)]


Rule: TypeAlias = "Callable[[Follow, NodeProto], Sequence[Axes | None]]"


def _sizes(value: ValueInfoProto) -> list[int | None]:
    return [dim.dim_value if dim.HasField("dim_value") else None for dim in value.type.tensor_type.shape.dim]
