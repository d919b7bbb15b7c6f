"""Which elements of a constant a tensor holds that is made of it: by slices, splits, repetition, other shapes.

Slices that are equal, however they were written, are one weight; what repeats elements (Expand, Tile) adds none.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate, pairwise
from math import prod
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np

from nmsat.dataflow.network.readers.onnx_ask import attributes, is_standard

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray
    from onnx import NodeProto

Factor: TypeAlias = tuple[int, int]
"""Size, and how many elements of the constant lie between neighbours: 0 where elements are repeated."""

MOST_MARKED: Final = 1 << 26
"""Elements of a constant up to which those that slices hold are marked one by one."""


@dataclass(frozen=True)
class View:
    """Elements of a constant: its name and size, the place of the first one, factors by dimension, slowest first."""

    root: str
    size: int
    offset: int
    dims: tuple[tuple[Factor, ...], ...]

    @property
    def distinct(self) -> tuple[int, ...]:
        """The shape, repeated elements counted once."""
        return tuple(prod(size for size, stride in dim if stride) for dim in self.dims)

    @property
    def whole(self) -> bool:
        """Whether it holds all elements of the constant."""
        return prod(self.distinct) == self.size

    @property
    def key(self) -> tuple[Any, ...]:
        """What views of the same elements have in common."""
        factors = sorted((f for dim in self.dims for f in dim if f[1] and f[0] > 1), key=lambda f: -f[1])
        return (self.root, self.offset, _merged(factors))

    def mark(self, places: NDArray[np.bool_]) -> int:
        """Mark the elements, and return how many of them were marked before."""
        at = np.array([self.offset])
        for size, stride in self.key[2]:
            at = np.add.outer(at, np.arange(size) * stride).ravel()
        before = int(places[at].sum())
        places[at] = True
        return before


def whole_view(name: str, shape: Sequence[int]) -> View:
    """Return a constant as it is."""
    strides = [*accumulate(reversed(shape[1:]), lambda a, b: a * b, initial=1)][::-1]
    dims = tuple(((size, stride),) if size > 1 else () for size, stride in zip(shape, strides, strict=False))
    return View(name, prod(shape), 0, dims)


def overlapping(views: Sequence[View]) -> bool:
    """Tell whether some views of one constant have elements in common; of a large one, whether they may have."""
    size = views[0].size
    if size <= MOST_MARKED:
        places = np.zeros(size, bool)
        return any(view.mark(places) for view in views)
    spans = sorted((v.offset, v.offset + sum((n - 1) * stride for n, stride in v.key[2])) for v in views)
    return any(first[1] >= second[0] for first, second in pairwise(spans))


def views_of(
    node: NodeProto,
    view: View,
    values: Mapping[str, NDArray[Any]],
    shapes: Mapping[str, tuple[int, ...]],
) -> Sequence[View | None]:
    """Return what each output of a node holds of the constant behind its first input; None or nothing if unknown.

    values, shapes: those that are known.
    """
    rule = VIEW_RULES.get(node.op_type) if is_standard(node) else None
    known = [values.get(name) for name in node.input[1:]]
    out = [shapes.get(name, ()) for name in node.output]
    try:
        return rule(node, view, known, out) if rule is not None else ()
    except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError):
        return ()


ViewInputs: TypeAlias = "list[NDArray[Any] | None]"

ViewRule: TypeAlias = "Callable[[NodeProto, View, ViewInputs, list[tuple[int, ...]]], Sequence[View | None]]"


def _same(_node: NodeProto, view: View, _known: object, _out: object) -> Sequence[View | None]:
    return (view,)


def _transpose(node: NodeProto, view: View, _known: object, _out: object) -> Sequence[View | None]:
    order = attributes(node).get("perm", range(len(view.dims))[::-1])
    return (_with(view, [view.dims[at] for at in order]),)


def _reshape(_node: NodeProto, view: View, _known: object, out: list[tuple[int, ...]]) -> Sequence[View | None]:
    left = [factor for dim in view.dims for factor in dim]
    dims: list[tuple[Factor, ...]] = []
    for wanted in out[0]:
        dim: list[Factor] = []
        missing = wanted
        while missing > 1:
            size, stride = left.pop(0)
            if size > missing and size % missing == 0:
                left[:0] = _split_front(size, stride, missing)
                size, stride = left.pop(0)
            if missing % size:
                return ()
            dim.append((size, stride))
            missing //= size
        dims.append(_merged(dim))
    return () if left else (_with(view, dims),)


def _split_front(size: int, stride: int, wanted: int) -> list[Factor]:
    """Return a factor as two, the first of `wanted` elements."""
    inner = size // wanted
    return [(wanted, stride * inner), (inner, stride)]


def _expand(_node: NodeProto, view: View, _known: object, out: list[tuple[int, ...]]) -> Sequence[View | None]:
    padded = [()] * (len(out[0]) - len(view.dims)) + list(view.dims)
    dims = [((size, 0),) if not dim and size > 1 else dim for dim, size in zip(padded, out[0], strict=True)]
    return (_with(view, dims),)


def _tile(_node: NodeProto, view: View, known: list[NDArray[Any] | None], _out: object) -> Sequence[View | None]:
    if known[0] is None:
        return ()
    times = [int(each) for each in known[0]]
    dims = [((each, 0), *dim) if each > 1 else dim for each, dim in zip(times, view.dims, strict=True)]
    return (_with(view, dims),)


def _slice(node: NodeProto, view: View, known: list[NDArray[Any] | None], _out: object) -> Sequence[View | None]:
    given = attributes(node)
    if len(node.input) > 1:
        lists = [None if value is None else [int(each) for each in value.ravel()] for value in known]
        starts, ends, axes, steps = (*lists, None, None)[:4]
        if any(name and value is None for name, value in zip(node.input[1:], lists, strict=True)):
            return ()
    else:
        starts, ends, axes, steps = given["starts"], given["ends"], given.get("axes"), None
    out: View | None = view
    for at, (start, end) in enumerate(zip(starts or (), ends or (), strict=True)):
        axis = axes[at] if axes else at
        out = _part(out, axis, range(_length(view, axis))[slice(start, end, steps[at] if steps else 1)])
    return (out,)


def _split(node: NodeProto, view: View, _known: object, out: list[tuple[int, ...]]) -> Sequence[View | None]:
    axis = attributes(node).get("axis", 0)
    ends = [*accumulate((shape[axis] for shape in out), initial=0)]
    return [_part(view, axis, range(start, end)) for start, end in pairwise(ends)]


def _gather(node: NodeProto, view: View, known: list[NDArray[Any] | None], _out: object) -> Sequence[View | None]:
    axis, places = attributes(node).get("axis", 0), known[0]
    if places is None or places.ndim > 1 or not places.size:
        return ()
    length = _length(view, axis)
    at = [int(each) % length for each in places.ravel()]
    step = at[1] - at[0] if len(at) > 1 else 1
    if step == 0 or any(b - a != step for a, b in pairwise(at)):
        return ()
    part = _part(view, axis, range(at[0], at[-1] + (1 if step > 0 else -1), step))
    if part is None or places.ndim:
        return (part,)
    axis %= len(view.dims)
    return (_with(part, [*part.dims[:axis], *part.dims[axis + 1 :]], part.offset),)


VIEW_RULES: Final[dict[str, ViewRule]] = {
    **dict.fromkeys(("Identity", "Cast", "CastLike", "QuantizeLinear", "DequantizeLinear"), _same),
    **dict.fromkeys(("Reshape", "Squeeze", "Unsqueeze", "Flatten"), _reshape),
    "Transpose": _transpose,
    "Expand": _expand,
    "Tile": _tile,
    "Slice": _slice,
    "Split": _split,
    "Gather": _gather,
}
"""Operator -> what its outputs hold of its first input."""


def _with(view: View, dims: Sequence[tuple[Factor, ...]], offset: int | None = None) -> View:
    return View(view.root, view.size, view.offset if offset is None else offset, tuple(dims))


def _length(view: View, axis: int) -> int:
    return prod(size for size, _ in view.dims[axis])


def _part(view: View | None, axis: int, taken: range) -> View | None:
    """Return a view of the elements at some places along an axis, None if it is not one of regular steps."""
    if view is None or not taken:
        return None
    if len(taken) == _length(view, axis):
        return view  # all of them, in whatever order
    axis %= len(view.dims)
    dim = view.dims[axis]
    if len(dim) != 1:
        return None
    stride = dim[0][1]
    kept = ((len(taken), stride * abs(taken.step)),) if len(taken) > 1 else ()
    offset = view.offset + min(taken[0], taken[-1]) * stride
    return _with(view, [*view.dims[:axis], kept, *view.dims[axis + 1 :]], offset)


def _merged(factors: Sequence[Factor]) -> tuple[Factor, ...]:
    """Return factors with those that continue each other as one."""
    out: list[Factor] = []
    for size, stride in factors:
        if out and out[-1][1] == size * stride and (stride or not out[-1][1]):
            out[-1] = (out[-1][0] * size, stride)
        else:
            out.append((size, stride))
    return tuple(out)
