"""N:M sparsity: which elements of a group stay, and the packed form that SAT streams (docs/arithmetic.md, "Pruning").

A group is M consecutive elements along the reduction axis. The last group of an axis that M does not divide is padded
with absent elements, which are never chosen before present ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from nmsat.algorithms.core.numeric import between, to_half
from nmsat.algorithms.core.packed import Packed
from nmsat.algorithms.core.tape import Pattern

if TYPE_CHECKING:
    from numpy.typing import NDArray


def mask_master(w: NDArray[np.floating], n: int, m: int, axis: int = 0) -> NDArray[np.bool_]:
    """Return the mask that binary32 magnitudes give: outside SAT's contract, to measure what rounding first costs."""
    Pattern(n, m)
    bits = w.astype(np.float32, copy=False).view(np.uint32) & np.uint32(0x7FFFFFFF)
    return _ungrouped(_largest(_grouped(bits, m, axis), n), w.shape, axis)


def mask(w: NDArray[np.floating], n: int, m: int, axis: int = 0) -> NDArray[np.bool_]:
    """Return which elements of w stay: the n largest magnitudes of each group of m along axis.

    w: float16 or float32 of any shape. Magnitudes compare as binary16 bit patterns without sign, so a NaN is the
    largest; float32 is rounded to binary16 first, which can turn unequal values into a tie. A tie keeps the lower
    index. Result: bool of w's shape. Raises ValueError for an illegal pattern, TypeError for another dtype.
    """
    Pattern(n, m)
    if w.ndim == 2 and (c := between(w)) is not None:
        half = _as_half(w)
        return c.mask(half, n, m) if axis % 2 == 0 else c.mask(half.T, n, m).T
    rows = _grouped(magnitude(w), m, axis)
    return _ungrouped(_largest(rows, n), w.shape, axis)


def prune(w: NDArray[np.floating], n: int, m: int, axis: int = 0) -> NDArray[np.floating]:
    """Return w with +0 in place of the elements that `mask` drops: same dtype and shape, kept elements bit for bit."""
    return np.where(mask(w, n, m, axis), w, w.dtype.type(0))


def pack(w: NDArray[np.floating], n: int, m: int, axis: int = 0) -> Packed:
    """Prune and pack a matrix along axis; the other axes, in order, become the columns.

    w: float16 or float32 (rounded to binary16). Packing a pruned matrix gives the same as packing the dense one. `axis`
    becomes k of the result: pack(w, n, m, axis=1) of w[r, c] is the packed form of w.T.
    """
    Pattern(n, m)
    if w.ndim == 2 and (c := between(w)) is not None:
        half = _as_half(w)
        pairs = c.pack(half if axis % 2 == 0 else half.T, n, m)
        return Packed(pairs.values, pairs.index, pairs.filler, w.shape[axis], n, m)
    return pack_kept(w, mask(w, n, m, axis), n, m, axis)


def pack_kept(w: NDArray[np.floating], keep: NDArray[np.bool_], n: int, m: int, axis: int = 0) -> Packed:
    """Pack the elements that a given mask keeps; groups that keep fewer than n end in fillers.

    w, keep: same shape. Raises ValueError if a group keeps more than n elements.
    """
    Pattern(n, m)
    if keep.shape != w.shape:
        raise ValueError(f"keep has shape {keep.shape}; it must be that of w, {w.shape}")
    half = _grouped(_as_half(w), m, axis, np.float16(0))
    kept = _grouped(keep, m, axis, np.bool_(False))
    most = int(kept.sum(axis=1).max(initial=0))
    if most > n:
        raise ValueError(f"a group keeps {most} elements; {n}:{m} allows {n}")
    # A stable sort that puts the kept places first leaves them in ascending order.
    order = np.argsort(~kept, axis=1, kind="stable")[:, :n]
    filler = ~np.take_along_axis(kept, order, axis=1)
    values = np.where(filler, np.float16(0), np.take_along_axis(half, order, axis=1))
    index = np.where(filler, 0, order).astype(np.uint8)
    return Packed(values, index, filler, w.shape[axis], n, m)


def unpack(packed: Packed) -> NDArray[np.float16]:
    """Return the matrix float16[k, columns] of a packed form; see `Packed.unpack`."""
    return packed.unpack()


def magnitude(w: NDArray[np.floating]) -> NDArray[np.uint16]:
    """Return what pruning compares: the binary16 bit pattern without its sign, uint16 of w's shape."""
    return _as_half(w).view(np.uint16) & np.uint16(0x7FFF)


def _as_half(w: NDArray[np.floating]) -> NDArray[np.float16]:
    # binary16 keeps its bits, the payload of a NaN included.
    return w if w.dtype == np.float16 else to_half(w)


def _largest(rows: NDArray[np.int64], n: int) -> NDArray[np.bool_]:
    """Mark the n largest of axis 1 of [groups, m, columns]; lower places win ties, absent elements (-1) come last."""
    m = rows.shape[1]
    # One whole number per element that is unique in its group: magnitude first, then the place from the end.
    place = np.arange(m - 1, -1, -1, dtype=rows.dtype)[:, None]
    rank = np.where(rows < 0, place - m, rows * 16 + place)
    limit = np.partition(rank, m - n, axis=1)[:, m - n : m - n + 1]
    return rank >= limit


def _grouped(x: NDArray, m: int, axis: int, absent: np.generic | None = None) -> NDArray:
    """Return x as [groups, m, columns] with `absent` past the end of the axis (default: -1, widened to hold it)."""
    if absent is None:
        signed = np.dtype(np.int32 if x.dtype == np.uint16 else np.int64)
        x, absent = x.astype(signed), signed.type(-1)
    front = np.moveaxis(x, axis, 0).reshape(x.shape[axis], -1)
    tail = -front.shape[0] % m
    if tail:
        front = np.concatenate([front, np.full((tail, front.shape[1]), absent, front.dtype)])
    return front.reshape(-1, m, front.shape[1])


def _ungrouped(rows: NDArray, shape: tuple[int, ...], axis: int) -> NDArray:
    """Undo `_grouped` for an array of the given shape."""
    moved = [shape[axis], *(size for place, size in enumerate(shape) if place != axis % len(shape))]
    front = rows.reshape(-1, rows.shape[2])[: shape[axis]].reshape(moved)
    return np.ascontiguousarray(np.moveaxis(front, 0, axis))
