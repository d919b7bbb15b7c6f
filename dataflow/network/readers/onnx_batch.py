"""The open sizes of an ONNX model: which dimension is the batch, and what the others are."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from nmsat.dataflow.network.found import DEFAULT_BATCH

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from onnx import TensorShapeProto, ValueInfoProto

BATCH_NAME: Final = re.compile(r"(?i)(^|.*_)(batch|bs|bsz|n|b)(_?(size|dim|axis|num|n))?$")
"""Names of open dimensions that are taken for the batch wherever they stand."""


@dataclass(frozen=True)
class Binding:
    """What a batch means for a file.

    factor: by what the work of the file is multiplied; batch: images of one step, None if inputs do not agree; axis:
    the dimension that was taken for it, by input; sizes: of open dimensions by name. unit: other batches are multiples
    of it, that of a file which fixes one; 0 if there is no other.
    """

    factor: int
    batch: int | None
    axis: Mapping[str, int]
    sizes: Mapping[str, int]
    unit: int = 1


def bind_inputs(
    inputs: Sequence[ValueInfoProto],
    where: str,
    batch: int | None = None,
    sizes: Mapping[str, int] | None = None,
    batch_dim: int | None = None,
    recurrent: Mapping[str, int] | None = None,
    attended: Mapping[str, int | None] | None = None,
) -> Binding:
    """Fix the open dimensions of the inputs in place.

    batch_dim: the dimension of the inputs that is the batch; None for the one that recurrent layers take for it
    (recurrent: by input), or the one whose name says so, or that attention keeps apart where it runs along the first
    (attended: by input), or the first. An open one takes `batch` (512 if None); a
    fixed one is scaled by a whole factor. sizes: of other open dimensions, by name or as INPUT:AXIS. Raises ValueError
    for a size that is missing, unknown or of no use, and a batch that the file does not allow.
    """
    asked = dict(sizes or {})
    given: dict[str, int] = dict(asked)
    _check_tensors(inputs, where)
    axes = {value.name: _batch_axis(value, batch_dim, recurrent or {}, attended or {}, where) for value in inputs}
    opened, fixed = _bind_batch(inputs, axes, given, asked, batch, where)
    used = {name for value in inputs for _, _, names in _dims(value) for name in names}
    for value in inputs:
        for axis, dim, names in _dims(value):
            _bind(dim, names, given, f"{where}: input {value.name!r}, dimension {axis}")
    unknown = sorted(set(asked) - used)
    if unknown:
        raise ValueError(
            f"{where}: size {unknown[0]!r} belongs to no open dimension; open are: {', '.join(sorted(used)) or 'none'}"
        )
    known = {name: axis for name, axis in axes.items() if axis is not None}
    unit = 1 if opened else min(fixed) if len(fixed) == 1 else 0
    if opened or batch is None or fixed in (set(), {batch}):
        seen = opened | fixed
        return Binding(1, next(iter(seen)) if len(seen) == 1 else None, known, given, unit)
    if len(fixed) > 1 or batch % min(fixed):
        raise ValueError(
            f"{where}: batch is {batch!r}, but the file fixes the batch of its inputs to "
            f"{', '.join(map(str, sorted(fixed)))}; use a multiple of it, name another dimension (--batch-dim), or "
            f"export with an open batch dimension"
        )
    return Binding(batch // min(fixed), batch, known, given, unit)


def _bind_batch(
    inputs: Sequence[ValueInfoProto],
    axes: Mapping[str, int | None],
    given: dict[str, int],
    asked: Mapping[str, int],
    batch: int | None,
    where: str,
) -> tuple[set[int], set[int]]:
    """Fix the batch dimensions; return the sizes of those that were open and of those that the file fixes."""
    opened: set[int] = set()
    fixed: set[int] = set()
    for value in inputs:
        axis = axes[value.name]
        dims = value.type.tensor_type.shape.dim
        if axis is None:
            continue
        dim = dims[axis]
        if dim.HasField("dim_value"):
            fixed.add(dim.dim_value)
            continue
        name = dim.dim_param or f"{value.name}:{axis}"
        size = given.setdefault(name, DEFAULT_BATCH if batch is None else batch)
        if batch is not None and name in asked and size != batch:
            raise ValueError(f"{where}: batch is {batch!r}, but size {name!r}, which is the batch, is {size!r}")
        opened.add(size)
    return opened, fixed


def _dims(value: ValueInfoProto) -> Iterator[tuple[int, TensorShapeProto.Dimension, tuple[str, ...]]]:
    """Yield axis, dimension and the names that an open dimension goes by."""
    for axis, dim in enumerate(value.type.tensor_type.shape.dim):
        place = f"{value.name}:{axis}"
        names = () if dim.HasField("dim_value") else (dim.dim_param, place) if dim.dim_param else (place,)
        yield axis, dim, names


def _bind(dim: TensorShapeProto.Dimension, names: tuple[str, ...], given: Mapping[str, int], where: str) -> None:
    if names:
        size = next((given[name] for name in reversed(names) if name in given), None)
        if size is None:
            raise ValueError(f"{where} is open ({names[0]!r}); give its size: --size {names[0]}=N")
        dim.dim_value = size
    if dim.dim_value < 1:
        raise ValueError(f"{where} is {dim.dim_value!r}; it must be at least 1")


def _check_tensors(inputs: Sequence[ValueInfoProto], where: str) -> None:
    for value in inputs:
        if not value.type.HasField("tensor_type"):
            raise ValueError(f"{where}: input {value.name!r} is no tensor; sequences and maps are not supported")
        if not value.type.tensor_type.HasField("shape"):
            raise ValueError(f"{where}: input {value.name!r} has no shape; export the model with shapes")


def _batch_axis(
    value: ValueInfoProto,
    asked: int | None,
    recurrent: Mapping[str, int],
    attended: Mapping[str, int | None],
    where: str,
) -> int | None:
    """Return which dimension of an input is the batch, None for a scalar or where there is none."""
    dims = value.type.tensor_type.shape.dim
    if asked is not None:
        if asked >= len(dims) > 1:
            there = ", ".join(f"{at} ({_shown(dim)})" for at, dim in enumerate(dims))
            raise ValueError(
                f"{where}: the batch is said to be dimension {asked}, but input {value.name!r} has the dimensions "
                f"{there}; give one of them (--batch-dim)"
            )
        return asked if asked < len(dims) else None
    if not dims:
        return None
    if value.name in recurrent:
        return recurrent[value.name]
    if dims[0].dim_param and not BATCH_NAME.match(dims[0].dim_param):
        named = [axis for axis, dim in enumerate(dims) if dim.dim_param and BATCH_NAME.match(dim.dim_param)]
        if named:
            return named[0]
    if not BATCH_NAME.match(dims[0].dim_param):
        return attended.get(value.name) or 0
    return 0


def _shown(dim: TensorShapeProto.Dimension) -> str:
    """Return how a dimension is shown: its size, or the name of an open one."""
    return str(dim.dim_value) if dim.HasField("dim_value") else f"open, {dim.dim_param!r}" if dim.dim_param else "open"
