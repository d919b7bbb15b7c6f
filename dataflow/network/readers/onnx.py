"""Reader of ONNX models: a list of layers from a graph, weights by shape only.

Products: the keys of `onnx_operators.PRODUCTS`. Host operators: those of `dataflow.network.layers.HOST_COSTS`, listed
under the names of their nodes; an operator that is not known is host work of unknown cost, unless a product may hide
in it: then it is refused by operator and node. Nodes that depend on shapes and constants only are evaluated while
reading and not listed. External weight files are not needed; where they are, weights that are stored twice are found.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from nmsat.dataflow.network.found import FoundModel
from nmsat.dataflow.network.layers import HostLayer
from nmsat.dataflow.network.readers.onnx_axes import batch_axes
from nmsat.dataflow.network.readers.onnx_batch import BATCH_NAME, bind_inputs
from nmsat.dataflow.network.readers.onnx_load import load
from nmsat.dataflow.network.readers.onnx_nodes import convert, inner_products
from nmsat.dataflow.network.readers.onnx_same import find_same, some_of
from nmsat.dataflow.network.readers.onnx_shapes import infer_tensors

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nmsat.dataflow.network.layers import Layer
    from nmsat.dataflow.network.readers.onnx_axes import BatchAxes
    from nmsat.dataflow.network.readers.onnx_batch import Binding
    from nmsat.dataflow.network.readers.onnx_load import Loaded


def read_onnx(
    path: str | Path,
    batch: int | None = None,
    sizes: Mapping[str, int] | None = None,
    *,
    batch_dim: int | None = None,
    strict: bool = False,
) -> list[Layer]:
    """Return the layers of an ONNX file in the order of its nodes; see `read_onnx_model`."""
    return read_onnx_model(path, batch, sizes, batch_dim=batch_dim, strict=strict).layers


def read_onnx_model(
    path: str | Path,
    batch: int | None = None,
    sizes: Mapping[str, int] | None = None,
    *,
    batch_dim: int | None = None,
    strict: bool = False,
) -> FoundModel:
    """Return the layers of an ONNX file and what was decided on the way.

    batch: images per step; an open batch dimension of the inputs takes it (512 if None), a model exported with a fixed
    batch is scaled by a whole factor. sizes: sizes of other open dimensions by name, such as {"sequence": 128}.
    batch_dim: which dimension of the inputs is the batch (None: what recurrent layers take for it, or names say, or
    attention keeps apart, else the first). strict: refuse operators whose cost is not known.
    Raises FileNotFoundError; ValueError naming file and node for a broken or truncated file, an operator in which a
    product may hide, sizes that are missing or contradict each other.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {str(path)!r}")
    where = path.name
    if batch is not None and batch < 1:
        raise ValueError(f"batch is {batch!r}; it must be at least 1")
    try:
        loaded = load(path)
        recurrent = batch_axes(loaded)
        guessed = _guessed(loaded, recurrent, batch_dim)
        bound = bind_inputs(loaded.inputs, where, batch, sizes, batch_dim, recurrent.found, recurrent.attended)
        tensors = infer_tensors(loaded, bound.sizes, where, lambda node: bool(inner_products(node)))
        same = find_same(loaded, path.parent)
        layers, tables, parts = convert(tensors, loaded.weights, bound.factor, where, {**same.one, **loaded.copies})
    except UnicodeDecodeError as error:
        raise ValueError(f"{where}: broken model: a name is not UTF-8 ({error})") from error
    except ValueError as error:
        if str(error).startswith(where):
            raise
        raise ValueError(f"{where}: {error}") from error
    if not any(layer.macs for layer in layers):
        raise ValueError(f"{where}: the graph has no product that depends on its inputs")
    unknown = sorted({layer.kind for layer in layers if isinstance(layer, HostLayer) and not layer.cost_known})
    if strict and unknown:
        raise ValueError(f"{where}: the cost of {', '.join(unknown)} on the host is not known")
    notes = (*_notes(loaded, bound), *guessed, *same.notes(), *parts, *_table_note(tables), *_unknown_note(unknown))
    return FoundModel(layers, bound.batch, notes, bound.unit)


def _notes(loaded: Loaded, bound: Binding) -> tuple[str, ...]:
    """Return what the reader decided about inputs and batch."""
    out = []
    if loaded.taken:
        shown = ", ".join(map(repr, loaded.taken[:4])) + (", ..." if len(loaded.taken) > 4 else "")
        out.append(f"taken for weights, since operators read them as such: graph inputs {shown}")
    axes = {name: axis for name, axis in bound.axis.items() if axis}
    if axes:
        name, axis = next(iter(axes.items()))
        out.append(f"the batch is dimension {axis} of input {name!r}; --batch-dim says otherwise")
    elif bound.factor > 1:
        out.append(
            f"the file fixes a batch of {(bound.batch or 0) // bound.factor}, the first dimension of its inputs; all "
            f"work is taken {bound.factor} times; --batch-dim names another dimension"
        )
    return tuple(out)


def _guessed(loaded: Loaded, recurrent: BatchAxes, batch_dim: int | None) -> tuple[str, ...]:
    """Return a line where the first dimension is taken for the batch and something else may be meant."""
    if batch_dim is not None:
        return ()
    for value in loaded.inputs:
        dims = value.type.tensor_type.shape.dim
        if len(dims) < 2 or value.name in recurrent.found:
            continue
        says = f"dimension 0 of input {value.name!r} is taken for the batch; --batch-dim says otherwise"
        if recurrent.unsure:
            return (f"which dimension a recurrent layer or scan takes for the batch could not be followed: {says}",)
        names = [dim.dim_param for dim in dims if not dim.HasField("dim_value")]
        if recurrent.attended.get(value.name, 0) is None and not any(map(BATCH_NAME.match, names)):
            return (f"attention runs along it, and what it keeps apart could not be followed: {says}",)
        if len(names) > 1 and not any(map(BATCH_NAME.match, names)):
            return (f"no name of an open dimension says that it is the batch: {says}",)
    return ()


def _table_note(tables: Mapping[str, int]) -> tuple[str, ...]:
    if not tables:
        return ()
    names = some_of([repr(name) for name in tables])
    text = (
        f"counted as learnt, as elements are added to or multiplied by them: {names}, {sum(tables.values())} elements; "
        f"right for parameters (of places), not for masks and tables that an exporter folded: export with "
        f"optimize=False, or do_constant_folding=False, to avoid"
    )
    return (text,)


def _unknown_note(unknown: list[str]) -> tuple[str, ...]:
    if not unknown:
        return ()
    return (f"host work of unknown cost, not counted: {', '.join(unknown)} (--strict refuses)",)
