"""Constants of an ONNX file that are one weight, stored twice: an exporter that folds constants does so.

A tied head is the usual case: the embedding stands in the file as it is, and once more transposed for the product.
Equal contents alone say little, as layers that were copied and not trained yet are equal too. So two matrices are one
weight if they have the same elements and are stored or read in different ways: one is the other transposed, or one is
a table that Gather reads and the other is not. Those of the same way stay weights of their own, and a note names them.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from nmsat.dataflow.network.readers.onnx_ask import is_standard
from nmsat.dataflow.network.readers.onnx_load import FLOATS, SEEN_THROUGH, SMALL, captured

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from nmsat.dataflow.network.readers.onnx_load import Loaded

LEAST_COMPARED: Final = 64
"""Elements from which on matrices are compared: fewer may be equal by accident."""

MOST_COMPARED: Final = 1 << 30
"""Bytes of a model that are read in whole to compare them: within a few seconds."""

ELEMENTS_AT_ONCE: Final = 1 << 18
"""Elements that are taken at once."""

COLUMNS_AT_ONCE: Final = 1 << 14
"""Columns that are taken at once."""

WORD_SEEDS: Final = (1 << 60, 1 << 61)
"""Seeds of the words that rows and columns are weighed by."""

PROBED_ELEMENTS: Final = 64
"""Elements that tell most tensors apart before they are read in whole."""

AS_BITS: Final[dict[int, np.dtype[Any]]] = {
    kind: np.dtype(f"<u{helper.tensor_dtype_to_np_dtype(kind).itemsize}") for kind in FLOATS
}
"""Elements as bits, by type: bfloat16 has none of its own in NumPy."""

Bits: TypeAlias = "NDArray[Any]"

Way: TypeAlias = tuple[bool, bool]
"""How equal matrices differ: stored transposed, and read as a table by Gather alone."""


@dataclass
class Same:
    """What was found equal.

    one: constants -> the constant of the file that they are; apart: those that are equal and stay apart; unread,
    large: such as could not be compared, without their data or for their size; merged: those of one value that several
    operators read.
    """

    one: dict[str, str] = field(default_factory=dict)
    apart: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    large: list[str] = field(default_factory=list)
    merged: list[str] = field(default_factory=list)

    def notes(self) -> tuple[str, ...]:
        """Return a line for each of these that there are."""
        twice = [f"{name!r} is {kept!r}" for name, kept in self.one.items()]
        lines = {
            "one weight that the file stores again, counted and updated once: ": twice,
            "equal, yet weights of their own, as those of copied layers are before they are trained: ": self.apart,
            "whether these are one weight is not known without their data; counted apart: ": self.unread,
            "perhaps one weight, too large to compare and counted apart: ": self.large,
            "of one value, read by several operators and counted once: ": self.merged,
        }
        notes = [f"{text}{some_of(names)}" for text, names in lines.items() if names]
        if self.merged:
            notes[-1] += "; exporters store what is equal in an untrained network once, which may then learn more"
        return tuple(notes)


def find_same(loaded: Loaded, folder: Path) -> Same:
    """Return which constants of a file are one weight; folder: where the files of its data lie, if it has any.

    Reads at most MOST_COMPARED bytes in whole, a block at a time, and only of tensors that a few elements do not tell
    apart. What cannot be read, or is too much, stays apart and is noted where a tied head may be meant.
    """
    tensors = {tensor.name: tensor for tensor in loaded.model.graph.initializer if tensor.data_type in FLOATS}
    uses = _uses(loaded, tensors)
    same = Same()
    groups: dict[tuple[object, ...], list[str]] = {}
    for name, tensor in tensors.items():
        if prod(tensor.dims) >= LEAST_COMPARED and sum(size > 1 for size in tensor.dims) > 1 and uses.get(name):
            dims = tuple(tensor.dims)
            groups.setdefault((tensor.data_type, *(sorted(dims) if len(dims) == 2 else dims)), []).append(name)
    tables = {name for name, read in uses.items() if set(read) == {("Gather", 0)}}
    left = MOST_COMPARED
    for names in groups.values():
        probed: dict[bytes, list[str]] = {}
        unread = []
        for name in names if len(names) > 1 else ():
            bits = _bits(tensors[name], folder)
            if bits is None:
                unread.append(name)
            elif _varied(bits):
                probed.setdefault(_probe(bits), []).append(name)
        if unread and 0 < len(tables.intersection(names)) < len(names):
            same.unread.extend(map(repr, names))
        for alike in probed.values():
            if len(alike) < 2:
                continue
            size = sum(_bytes(tensors[name]) for name in alike)
            if size > left:
                same.large.extend(map(repr, alike))
            else:
                left -= size
                _join(same, alike, tensors, tables, folder)
    same.merged.extend(_merged(tensors, uses, folder))
    return same


def some_of(names: Sequence[str]) -> str:
    """Return what a note lists, at most four."""
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")


def _uses(loaded: Loaded, tensors: Iterable[str]) -> dict[str, Counter[tuple[str, int]]]:
    """Return how often operators read each constant, and at which input, seen through what leaves it the same."""
    root = {name: name for name in tensors}
    uses: dict[str, Counter[tuple[str, int]]] = {}
    for node in loaded.nodes:
        through = node.op_type in SEEN_THROUGH and is_standard(node)
        if through and node.input and node.input[0] in root:
            root.update(dict.fromkeys(node.output, root[node.input[0]]))
            continue
        read = [*((name, node.op_type, at) for at, name in enumerate(node.input))]
        read += [(name, "", 0) for name in captured(node)]
        for name, kind, at in read:
            if name in root:
                uses.setdefault(root[name], Counter())[kind, at] += 1
    return uses


def _join(
    same: Same, names: Sequence[str], tensors: dict[str, TensorProto], tables: set[str], folder: Path
) -> None:
    """Take up which of some constants, that a few elements do not tell apart, are one weight."""
    found: dict[tuple[int, ...], dict[Way, list[str]]] = {}
    for name in names:
        bits = _bits(tensors[name], folder)
        if bits is not None:
            digest, swapped = _digest(bits)
            found.setdefault(digest, {}).setdefault((swapped, name in tables), []).append(name)
    for ways in found.values():
        # Of a network that was copied whole each copy has its own; one that is used often may be folded often.
        first, *others = ways.values()
        weights = min(map(len, ways.values())) if others else len(first)
        for way in ways.values():
            for at, name in enumerate(way):
                kept = first[min(at, weights - 1)]
                if name != kept:
                    same.one[name] = kept
        if weights > 1:
            same.apart.append(" and ".join(map(repr, first[:weights])))


def _merged(
    tensors: dict[str, TensorProto], uses: dict[str, Counter[tuple[str, int]]], folder: Path
) -> Iterator[str]:
    """Yield vectors of one value that several operators read: exporters make one of all zeros, and of all ones."""
    for name, read in uses.items():
        tensor = tensors[name]
        if read.total() > 1 and prod(tensor.dims) <= SMALL and sum(size > 1 for size in tensor.dims) == 1:
            bits = _bits(tensor, folder)
            if bits is not None and bool((bits == bits.flat[0]).all()):
                yield repr(name)


def _bytes(tensor: TensorProto) -> int:
    """Bytes that are read: square matrices for both ways round."""
    square = len(tensor.dims) == 2 and tensor.dims[0] == tensor.dims[1]
    return prod(tensor.dims) * AS_BITS[tensor.data_type].itemsize * (2 if square else 1)


def _bits(tensor: TensorProto, folder: Path) -> Bits | None:
    """Return the elements of a tensor as whole numbers, None if they are not there or not as they should be."""
    kind, shape = AS_BITS[tensor.data_type], tuple(tensor.dims)
    try:
        if tensor.data_location == TensorProto.EXTERNAL:
            return _external(tensor, folder, kind)
        if tensor.raw_data:
            return np.frombuffer(tensor.raw_data, kind).reshape(shape)
        return np.ascontiguousarray(numpy_helper.to_array(tensor)).view(kind).reshape(shape)
    except (ValueError, TypeError, OSError, OverflowError):
        return None


def _external(tensor: TensorProto, folder: Path, kind: np.dtype[Any]) -> Bits | None:
    """Return the elements of a tensor in a file of its own, mapped; only of regular files below the model's folder."""
    given = {entry.key: entry.value for entry in tensor.external_data}
    path = (folder / given.get("location", "")).resolve()
    if not path.is_relative_to(folder.resolve()) or not path.is_file():
        return None
    offset, shape = int(given.get("offset", 0)), tuple(tensor.dims)
    if offset < 0 or offset + prod(shape) * kind.itemsize > path.stat().st_size:
        return None
    return np.memmap(path, kind, "r", offset, shape)


def _varied(bits: Bits) -> bool:
    """Tell tensors of more than two values: not zeros, ones, a mask or the identity, which are equal by accident."""
    flat = bits.reshape(-1)
    return len(np.unique(flat[:: max(1, flat.size // SMALL)])) > 2


def _probe(bits: Bits) -> bytes:
    """Return a few elements that a transposed matrix has, too: of its diagonal; of others, evenly apart."""
    flat = bits.diagonal() if bits.ndim == 2 else bits.reshape(-1)
    return flat[:: max(1, flat.size // PROBED_ELEMENTS)].tobytes()


def _digest(bits: Bits) -> tuple[tuple[int, ...], bool]:
    """Return a digest that a matrix has in common with its transpose, and which of the two it is."""
    rows, columns = bits.shape if bits.ndim == 2 else (bits.shape[0], bits[0].size)
    matrix, swapped = bits.reshape(rows, columns), bits.ndim == 2 and rows > columns
    ways = (1, -1) if bits.ndim == 2 and rows == columns else (-1 if swapped else 1,)
    forms = [
        tuple(_form(matrix, shift, *WORD_SEEDS[::way]) for shift in range(0, 8 * bits.itemsize, 32)) for way in ways
    ]
    return min(forms), swapped or forms[0] > forms[-1]


def _form(matrix: Bits, shift: int, left: int, right: int) -> int:
    """Return u W v modulo 2^64, where u and v are of random words: read in the order in which the matrix lies.

    shift: the lowest of 32 bits of each element that are taken, so that a difference is no multiple of 2^32. Of two
    matrices that differ in them it is equal with a chance of 2^-32 at most. left, right: seeds of u and v.
    """
    total = 0
    wide = min(matrix.shape[1], COLUMNS_AT_ONCE)
    high = max(1, ELEMENTS_AT_ONCE // wide)
    for column in range(0, matrix.shape[1], wide):
        v = _words(right, column, min(wide, matrix.shape[1] - column))
        for row in range(0, matrix.shape[0], high):
            block = matrix[row : row + high, column : column + wide].astype(np.uint64)
            block = (block >> np.uint64(shift)) & np.uint64(0xFFFFFFFF)
            total += int(np.dot(_words(left, row, block.shape[0]), block @ v))
    return total % 2**64


def _words(seed: int, start: int, count: int) -> NDArray[np.uint64]:
    """Return odd random words by their place: SplitMix64 of Steele, Lea and Flood (2014)."""
    z = np.arange(start, start + count, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(seed)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (z ^ (z >> np.uint64(31))) | np.uint64(1)
