"""What the operators of ONNX do to the dimensions of tensors; see `onnx_axes`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from onnx import numpy_helper

from nmsat.dataflow.network.readers.onnx_ask import attributes
from nmsat.dataflow.network.readers.onnx_follow import is_number, number
from nmsat.dataflow.network.readers.onnx_load import MAX_RANK

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnx import GraphProto, NodeProto, TensorProto

    from nmsat.dataflow.network.readers.onnx_follow import Axes, Axis, Dim, Entry, Follow, Rule


def _alike(follow: Follow, node: NodeProto) -> Sequence[Axes | None]:
    """Follow an operator that works element by element, or along dimensions that it keeps."""
    if node.op_type in ("Cast", "Identity") and node.input[0] in follow.vectors:
        follow.vectors[node.output[0]] = follow.vectors[node.input[0]]
    return (follow.joined(follow.axes.get(name) for name in node.input),)


def _nothing(_: Follow, __: NodeProto) -> Sequence[Axes | None]:
    return ()


def _constant(follow: Follow, node: NodeProto) -> Sequence[Axes | None]:
    given = attributes(node)
    if "value" in given:
        _take(follow, given["value"], node.output[0])
    return ()


def _take(follow: Follow, tensor: TensorProto, name: str) -> None:
    """Take up a constant within a body."""
    follow.axes[name] = ((),) * len(tensor.dims)
    if len(tensor.dims) < 2 and sum(tensor.dims) < 64 and not tensor.external_data:
        value = numpy_helper.to_array(tensor)
        if value.dtype.kind == "i":
            follow.vectors[name] = [int(each) for each in value.ravel()]


def _transpose(follow: Follow, node: NodeProto) -> Sequence[Axes | None]:
    axes = follow.of(node, 0)
    order = attributes(node).get("perm") or range(len(axes or ()))[::-1]
    return (tuple(axes[at] for at in order) if axes is not None and len(order) == len(axes) else None,)


def _gather(follow: Follow, node: NodeProto) -> Sequence[Axes | None]:
    data, places, axis = follow.of(node, 0), follow.of(node, 1), int(attributes(node).get("axis", 0))
    entries, wanted = (follow.vectors.get(name) for name in node.input[:2])
    if entries is not None and wanted is not None and all(isinstance(at, int) for at in wanted):
        picked = [at for at in wanted if isinstance(at, int) and -len(entries) <= at < len(entries)]
        follow.vectors[node.output[0]] = [entries[at] for at in picked]
    if data is None or places is None or not -len(data) <= axis < len(data):
        return (None,)
    axis %= len(data)
    if node.input[1] in follow.numbers:
        follow.stepped(data, axis)
    return ((*data[:axis], *places, *data[axis + 1 :]),)


def _matmul(follow: Follow, node: NodeProto) -> Sequence[Axes | None]:
    a, b = follow.of(node, 0), follow.of(node, 3 if node.op_type == "QLinearMatMul" else 1)
    if a is None or b is None or min(len(a), len(b)) < 2:
        return (None,)
    if any(a) and any(b):
        follow.multiplied(a, b)
    return ((*(follow.joined((a[:-2], b[:-2])) or ()), a[-2], b[-1]),)


def _gemm(follow: Follow, node: NodeProto) -> Sequence[Axes | None]:
    a, given = follow.of(node, 0), attributes(node)
    return ((a[1 if given.get("transA") else 0], ()) if a is not None and len(a) == 2 else None,)


def _conv(follow: Follow, node: NodeProto) -> Sequence[Axes | None]:
    x = follow.of(node, 0)
    return ((x[0], (), *x[2:]) if x is not None and len(x) > 2 else None,)


def _unsqueeze(follow: Follow, node: NodeProto) -> Sequence[Axes | None]:
    axes, places = follow.of(node, 0), follow.numbers_of(node, 1, "axes")
    if node.input[0] in follow.vectors:
        follow.vectors[node.output[0]] = follow.vectors[node.input[0]]
    if axes is None or places is None:
        return (None,)
    rank = len(axes) + len(places)
    new = {place % rank for place in places}
    left = iter(axes)
    return (tuple(() if at in new else next(left, ()) for at in range(rank)),)


def _squeeze(follow: Follow, node: NodeProto) -> Sequence[Axes | None]:
    axes, places = follow.of(node, 0), follow.numbers_of(node, 1, "axes")
    if node.input[0] in follow.vectors:
        follow.vectors[node.output[0]] = follow.vectors[node.input[0]]
    if not axes or places is None:
        return (None,)
    gone = {place % len(axes) for place in places}
    return (tuple(axis for at, axis in enumerate(axes) if at not in gone),)


def _reduce(follow: Follow, node: NodeProto) -> Sequence[Axes | None]:
    axes = follow.of(node, 0)
    places = follow.numbers_of(node, 1, "axis" if node.op_type.startswith("Arg") else "axes")
    if not axes or places is None:
        return (None,)
    gone, kept = {place % len(axes) for place in places}, attributes(node).get("keepdims", 1)
    return (tuple(() if at in gone else axis for at, axis in enumerate(axes) if kept or at not in gone),)


def _concat(follow: Follow, node: NodeProto) -> Sequence[Axes | None]:
    parts = [follow.vectors.get(name) for name in node.input]
    if all(part is not None for part in parts):
        follow.vectors[node.output[0]] = [each for part in parts for each in part or ()]
    tensors = [follow.axes.get(name) for name in node.input]
    axis = int(attributes(node).get("axis", 0))
    along = [
        tuple(() if at == axis % len(axes) else each for at, each in enumerate(axes)) if axes else axes
        for axes in tensors
    ]
    return (follow.joined(along),)


def _split(follow: Follow, node: NodeProto) -> Sequence[Axes | None]:
    return (follow.of(node, 0),) * len(node.output)


def _shape(follow: Follow, node: NodeProto) -> Sequence[Axes | None]:
    axes, given = follow.of(node, 0), attributes(node)
    if axes is not None:
        entries: list[Entry] = [axis or None for axis in axes]
        follow.vectors[node.output[0]] = entries[slice(given.get("start", 0), given.get("end"))]
    return (((),),)


def _mul(follow: Follow, node: NodeProto) -> Sequence[Axes | None]:
    entries = [follow.vectors.get(name) for name in node.input]
    if all(entry is not None and len(entry) == 1 for entry in entries):
        a, b = (entry[0] for entry in entries if entry)
        if isinstance(a, int) and isinstance(b, int) and abs(a) < 1 << 32 and abs(b) < 1 << 32:
            follow.vectors[node.output[0]] = [a * b]
        elif isinstance(a, tuple) and isinstance(b, tuple) and len(a + b) <= MAX_RANK:
            follow.vectors[node.output[0]] = [a + b]
        elif isinstance(a, tuple) and isinstance(b, int) and len(a) < MAX_RANK:
            follow.vectors[node.output[0]] = [(*a, number(b))]  # samples times heads
    return (follow.joined(follow.axes.get(name) for name in node.input),)


def _arithmetic(follow: Follow, node: NodeProto) -> Sequence[Axes | None]:
    """Follow what computes sizes and places too: Add, Sub, Mod and Div of whole numbers."""
    entries = [follow.vectors.get(name, []) for name in node.input]
    if [len(entry) for entry in entries] == [1, 1]:
        a, b = (entry[0] for entry in entries)
        if isinstance(a, int) and isinstance(b, int):
            # Mod and Div of numbers below 0 are not asked for here
            if node.op_type in ("Add", "Sub"):
                follow.vectors[node.output[0]] = [a + b if node.op_type == "Add" else a - b]
            elif a >= 0 and b > 0:
                follow.vectors[node.output[0]] = [a % b if node.op_type == "Mod" else a // b]
    return _alike(follow, node)


def _slice(follow: Follow, node: NodeProto) -> Sequence[Axes | None]:
    """Follow a part of a tensor, or of a vector of sizes from one place to another."""
    entries = follow.vectors.get(node.input[0])
    starts, ends = (follow.numbers_of(node, at, name) for at, name in ((1, "starts"), (2, "ends")))
    plain = len(node.input) < 5 or follow.vectors.get(node.input[4]) == [1]
    if entries is not None and starts and ends and plain:
        follow.vectors[node.output[0]] = entries[starts[0] : ends[0]]
    return _alike(follow, node)


def _filled(follow: Follow, node: NodeProto) -> Sequence[Axes | None]:
    """Follow what is repeated or filled to sizes that are computed."""
    entries = follow.vectors.get(node.input[-1])
    axes = None if entries is None else tuple(each if isinstance(each, tuple) else () for each in entries)
    return (follow.joined((axes, follow.of(node, 0))) if node.op_type == "Expand" else axes,)


def _reshape(follow: Follow, node: NodeProto) -> Sequence[Axes | None]:
    axes = follow.of(node, 0)
    if node.input[0] in follow.vectors:
        follow.vectors[node.output[0]] = follow.vectors[node.input[0]]
    given = attributes(node).get("shape")
    entries = list(given) if given is not None else follow.vectors.get(node.input[1]) if len(node.input) > 1 else None
    if axes is None or entries is None or entries.count(-1) > 1:
        return (None,)
    wanted: list[Entry] = [axes[at] if each == 0 and at < len(axes) else each for at, each in enumerate(entries)]
    left: list[Dim | None] = [dim for axis in axes for dim in axis or (None,)]
    free = wanted.index(-1) if -1 in wanted else len(wanted)
    before = [_taken(follow, each, left) for each in wanted[:free]]
    left.reverse()
    after = [_taken(follow, each, left, backwards=True) for each in wanted[:free:-1]]
    left.reverse()
    rest = tuple(dim for dim in left if dim is not None)
    between = [_of_inputs(rest) if len(rest) == len(left) else ()] if free < len(wanted) else []
    return ((*before, *between, *after[::-1]),)


def _of_inputs(dims: Sequence[Dim]) -> Axis:
    """Return a dimension that is the product of others, () if none of them is that of an input."""
    return tuple(dims) if any(not is_number(dim) for dim in dims) else ()


def _taken(follow: Follow, wanted: Entry, left: list[Dim | None], *, backwards: bool = False) -> Axis:
    """Return what a dimension of a reshape is made of, taken off the front of `left`; () stops what follows."""
    if isinstance(wanted, tuple) and wanted:
        order = wanted[::-1] if backwards else wanted
        if tuple(left[: len(wanted)]) == order:
            del left[: len(wanted)]
            return wanted
        if is_number(wanted[-1]) and not backwards and tuple(left[: len(wanted)]) == (*wanted[:-1], None):
            del left[: len(wanted) - 1]
            return wanted
    elif not isinstance(wanted, int) or (left and left[0] is None):
        if left and left[0] is None:
            del left[0]
            return ()
    else:
        total, count = 1, 0
        for dim in left:
            size = follow.size(dim) if dim is not None else None
            if size is None or total > wanted or (total == wanted and (size != 1 or count)):
                break
            total, count = total * size, count + 1
        some = [dim for dim in left[:count] if dim is not None]
        if 1 < total < wanted and wanted % total == 0 and left[count : count + 1] == [None] and not backwards:
            del left[:count]  # heads are a part of the features, which follow
            return (*some, number(wanted // total))
        if total == wanted:
            taken = [dim for dim in left[:count] if dim is not None and (count == 1 or follow.size(dim) != 1)]
            del left[:count]
            return _of_inputs(taken[::-1] if backwards else taken)
    left.clear()
    left.append(None)
    return ()


def _recurrent(follow: Follow, node: NodeProto) -> Sequence[Axes | None]:
    """Follow a recurrent layer: steps, samples, features; its states: directions, samples, features."""
    first = bool(attributes(node).get("layout", 0))
    x, states = follow.of(node, 0), [follow.of(node, at) for at in (5, 6)]
    follow.recurrent = True
    known = [axes[0 if first else 1] for axes in (x, *states) if axes is not None and len(axes) == 3]
    samples = follow.one(known)
    follow.samples(samples)
    steps = x[1 if first else 0] if x is not None and len(x) == 3 else ()
    if first:
        return ((samples, steps, (), ()), (samples, (), ()), (samples, (), ()))
    return ((steps, (), samples, ()), ((), samples, ()), ((), samples, ()))


def _scan(follow: Follow, node: NodeProto) -> Sequence[Axes | None]:
    given = attributes(node)
    body, count = given.get("body"), int(given.get("num_scan_inputs", 0))
    if body is None or not 0 < count <= len(node.input):
        return ()
    follow.recurrent = True
    states = [follow.axes.get(name) for name in node.input[: len(node.input) - count]]
    along = list(given.get("scan_input_axes", [0] * count))
    parts: list[Axes | None] = []
    for at, name in enumerate(node.input[len(node.input) - count :]):
        axes = follow.axes.get(name)
        axis = along[at] % len(axes) if axes and at < len(along) else 0
        parts.append(axes and (*axes[:axis], *axes[axis + 1 :]))
        follow.stepped(axes or (), axis)
    return _body(follow, body, [*states, *parts], len(states))


def _loop(follow: Follow, node: NodeProto) -> Sequence[Axes | None]:
    body = attributes(node).get("body")
    if body is None or not body.input:
        return ()
    follow.numbers.add(body.input[0].name)
    states = [follow.axes.get(name) for name in node.input[2:]]
    rank = len(body.input[0].type.tensor_type.shape.dim)
    return _body(follow, body, [((),) * rank, (), *states], len(states) + 1)[1:]


def _body(follow: Follow, body: GraphProto, fed: Sequence[Axes | None], states: int) -> Sequence[Axes | None]:
    """Follow one run; what it puts out beside its states is put beside each other in front."""
    for value, axes in zip(body.input, fed, strict=False):
        if axes is not None:
            follow.axes[value.name] = axes
    for tensor in body.initializer:
        _take(follow, tensor, tensor.name)
    follow.walk(body.node)
    made = [follow.axes.get(value.name) for value in body.output]
    return [axes if at < states or axes is None else ((), *axes) for at, axes in enumerate(made)]


RULES: Final[dict[str, Rule]] = {
    "": _alike,
    **dict.fromkeys(
        (
            "Tile",
            "Size",
            "NonZero",
            "Unique",
            "TopK",
            "GatherND",
            "GatherElements",
            "DepthToSpace",
            "Compress",
            "Range",
        ),
        _nothing,
    ),
    **dict.fromkeys(("SpaceToDepth", "Einsum", "OneHot", "Flatten", "If", "NonMaxSuppression"), _nothing),
    **dict.fromkeys(("LSTM", "GRU", "RNN"), _recurrent),
    **dict.fromkeys(("MatMul", "MatMulInteger", "QLinearMatMul", "MatMulIntegerToFloat"), _matmul),
    **dict.fromkeys(("Conv", "ConvTranspose", "QLinearConv", "ConvInteger", "FusedConv"), _conv),
    **dict.fromkeys(("MaxPool", "AveragePool", "GlobalMaxPool", "GlobalAveragePool", "LpPool"), _conv),
    **dict.fromkeys(("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL2", "ArgMax", "ArgMin"), _reduce),
    **dict.fromkeys(("Expand", "ConstantOfShape"), _filled),
    "Constant": _constant,
    "Transpose": _transpose,
    "Gather": _gather,
    "Gemm": _gemm,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Concat": _concat,
    "Split": _split,
    "Shape": _shape,
    "Mul": _mul,
    **dict.fromkeys(("Add", "Sub", "Mod", "Div"), _arithmetic),
    "Slice": _slice,
    "Reshape": _reshape,
    "Scan": _scan,
    "Loop": _loop,
}
"""Operator -> what becomes of dimensions; '' for all others."""
