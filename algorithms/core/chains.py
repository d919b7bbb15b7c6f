"""The ordered products of the arithmetic contract in NumPy: the definition, which the C kernel is checked against.

Operands are checked by the callers (`algorithms.core.numeric`); sums come out with the NaNs that the processor made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nmsat.algorithms.core.packed import Packed

_INNER: Final = 4096  # elements of the inner loop of one rank-1 update
_BLOCK: Final = 16384  # sums of one block: with the products of one step they fill 128 KiB, for the second cache


def dense(a: NDArray[np.float16], w: NDArray[np.float16], start: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return start[m, n] continued with a[m, k] @ w[k, n]; `start` may be written."""
    at = np.ascontiguousarray(a.T, dtype=np.float32)
    wf = np.ascontiguousarray(w, dtype=np.float32)
    # The longer side runs in the inner loop: NumPy's cost per row of a broadcast product is what counts here.
    if a.shape[0] <= w.shape[1]:
        return _chain(at, wf, start)
    return np.ascontiguousarray(_chain(wf, at, np.ascontiguousarray(start.T)).T)


def packed(a: NDArray[np.float16], w: Packed, start: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return start[m, n] continued with a[m, k] @ W[k, n] over the kept elements of W alone."""
    at = np.ascontiguousarray(a.T, dtype=np.float32)
    return np.ascontiguousarray(_chain_packed(at, w, np.ascontiguousarray(start.T)).T)


def batched(a: NDArray[np.float16], w: NDArray[np.float16]) -> NDArray[np.float32]:
    """Return a[g, m, k] @ w[g, k, n] as g independent dense products."""
    left, right = (
        a.transpose(2, 0, 1)[..., None].astype(np.float32),
        w.transpose(1, 0, 2)[:, :, None].astype(np.float32),
    )
    acc = np.zeros((a.shape[0], a.shape[1], w.shape[2]), np.float32)
    groups = max(1, _BLOCK // max(1, a.shape[1] * w.shape[2]))
    with np.errstate(all="ignore"):
        for g in range(0, a.shape[0], groups):
            block = acc[g : g + groups]
            product = np.empty_like(block)
            for k in range(a.shape[2]):
                np.multiply(left[k, g : g + groups], right[k, g : g + groups], out=product)
                np.add(block, product, out=block)
    return acc


def _chain(p: NDArray[np.float32], q: NDArray[np.float32], acc: NDArray[np.float32]) -> NDArray[np.float32]:
    """Add p[k, :, None] * q[k, None, :] to acc[r, c] for ascending k, block by block so that the sums stay in cache."""
    columns = min(_INNER, max(1, q.shape[1]))
    rows = max(1, _BLOCK // columns)
    with np.errstate(all="ignore"):
        for r in range(0, acc.shape[0], rows):
            left = np.ascontiguousarray(p[:, r : r + rows])[:, :, None]
            for c in range(0, acc.shape[1], columns):
                right = np.ascontiguousarray(q[:, c : c + columns])[:, None, :]
                block = np.ascontiguousarray(acc[r : r + rows, c : c + columns])
                product = np.empty_like(block)
                for k in range(p.shape[0]):
                    np.multiply(left[k], right[k], out=product)
                    np.add(block, product, out=block)
                acc[r : r + rows, c : c + columns] = block
    return acc


def _chain_packed(at: NDArray[np.float32], packed: Packed, acc: NDArray[np.float32]) -> NDArray[np.float32]:
    """Add the kept products to acc[column, row]; at is a transposed, so that a kept index selects a whole row of it."""
    columns = packed.columns
    width = max(64, _BLOCK // max(1, columns))
    weights = packed.values.astype(np.float32)[..., None]
    source = packed.index + np.arange(0, packed.groups * packed.m, packed.m, dtype=np.intp)[:, None, None]
    whole = np.logical_not(packed.filler.any(axis=2))
    with np.errstate(all="ignore"):
        for r in range(0, acc.shape[1], width):
            left = np.ascontiguousarray(at[:, r : r + width])
            block = np.ascontiguousarray(acc[:, r : r + width])
            product = np.empty_like(block)
            for group, slot in np.ndindex(whole.shape):
                if whole[group, slot]:
                    # Indices are in range by construction; mode "clip" saves take a buffered copy.
                    np.take(left, source[group, slot], axis=0, out=product, mode="clip")
                    np.multiply(product, weights[group, slot], out=product)
                    np.add(block, product, out=block)
                elif (kept := np.flatnonzero(~packed.filler[group, slot])).size:
                    block[kept] += left[source[group, slot, kept]] * weights[group, slot, kept]
            acc[:, r : r + width] = block
    return acc
