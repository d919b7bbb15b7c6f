"""The arithmetic contract of SAT in NumPy: binary16 rounding and the ordered dot product (docs/arithmetic.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nmsat.algorithms.core.packed import Packed

NAN16: Final = np.uint16(0x7E00).view(np.float16)
"""The only binary16 NaN that leaves a unit."""

NAN32: Final = np.uint32(0x7FC00000).view(np.float32)
"""The only binary32 NaN that leaves a unit."""

_INNER: Final = 4096  # elements of the inner loop of one rank-1 update
_BLOCK: Final = 16384  # sums of one block: with the products of one step they fill 128 KiB, for the second cache


def canonical(x: NDArray[np.floating]) -> NDArray[np.floating]:
    """Replace every NaN by the canonical one of float16 or float32 (float64 is left alone), in place; return x."""
    nan = np.isnan(x)
    if nan.any() and x.dtype != np.float64:
        x[nan] = NAN16 if x.dtype == np.float16 else NAN32
    return x


def to_half(x: NDArray[np.floating]) -> NDArray[np.float16]:
    """Round binary32 to binary16 once: nearest even, overflow to infinity, subnormals kept, canonical NaN.

    x: float32 of any shape; a float16 array is copied. A float64 array is refused (TypeError): rounding it through
    binary32 would round twice.
    """
    if x.dtype not in (np.float16, np.float32):
        raise TypeError(f"x has dtype {x.dtype}; to_half takes float32 or float16")
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        half = np.array(x, dtype=np.float16)
    canonical(half)
    return half


def compared(x: NDArray[np.floating]) -> NDArray[np.float16]:
    """Return x as pruning compares it: in binary16, whatever float format a run computes in (binary64 rounds twice)."""
    return to_half(x.astype(np.float32)) if x.dtype == np.float64 else to_half(x)


def ordered_dot(
    a: NDArray[np.float16], w: NDArray[np.float16], seed: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """Return `a @ w` as SAT computes it: one binary32 chain per output, over ascending k.

    a: float16[m, k]; w: float16[k, n]; seed: float32[m, n], the sums of a chain that is continued (default +0).
    Every element of w counts as kept. Each step is acc = round32(acc + a*w), the product being exact in binary32.
    Result: float32[m, n] with canonical NaNs. Source: docs/arithmetic.md, "Chain".
    """
    _check_operands(a, w.shape, w.dtype)
    start = _start(seed, a.shape[0], w.shape[1])
    at = np.ascontiguousarray(a.T, dtype=np.float32)
    wf = np.ascontiguousarray(w, dtype=np.float32)
    # The longer side runs in the inner loop: NumPy's cost per row of a broadcast product is what counts here.
    if a.shape[0] <= w.shape[1]:
        return canonical(_chain(at, wf, start))
    return canonical(np.ascontiguousarray(_chain(wf, at, np.ascontiguousarray(start.T)).T))


def ordered_dot_packed(
    a: NDArray[np.float16], packed: Packed, seed: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """Return `a @ W` for an N:M packed W: one binary32 chain per output, over ascending k of the kept elements only.

    a: float16[m, k]; packed: W of shape [k, n]; seed as for `ordered_dot`. Pruned elements and fillers contribute
    nothing, not even against an infinity. A kept element that is zero is multiplied like any other, so it makes a NaN
    of an infinity.
    """
    _check_operands(a, (packed.k, packed.columns), packed.values.dtype)
    start = _start(seed, a.shape[0], packed.columns)
    at = np.ascontiguousarray(a.T, dtype=np.float32)
    return canonical(np.ascontiguousarray(_chain_packed(at, packed, np.ascontiguousarray(start.T)).T))


def ordered_dot_batched(a: NDArray[np.float16], w: NDArray[np.float16]) -> NDArray[np.float32]:
    """Return a[g, m, k] @ w[g, k, n] as g independent dense products of `ordered_dot`: float32[g, m, n]."""
    if a.ndim != 3 or w.ndim != 3 or a.shape[0] != w.shape[0]:
        raise ValueError(f"operands have shapes {a.shape} and {w.shape}; they must be [g, m, k] and [g, k, n]")
    _check_operands(a[0], w.shape[1:], w.dtype)
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
    return canonical(acc)


def _check_operands(a: NDArray[np.float16], shape: tuple[int, ...], dtype: np.dtype) -> None:
    if a.dtype != np.float16 or dtype != np.float16:
        raise TypeError(f"operands have dtypes {a.dtype} and {dtype}; the contract multiplies float16 by float16")
    if a.ndim != 2 or len(shape) != 2 or a.shape[1] != shape[0]:
        raise ValueError(f"operands have shapes {a.shape} and {shape}; they must be [m, k] and [k, n]")


def _start(seed: NDArray[np.float32] | None, m: int, n: int) -> NDArray[np.float32]:
    if seed is None:
        return np.zeros((m, n), np.float32)
    if seed.dtype != np.float32 or seed.shape != (m, n):
        raise ValueError(f"seed is {seed.dtype}{list(seed.shape)}; it must be float32[{m}, {n}]")
    return seed.copy()


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
