"""The arithmetic contract of SAT: binary16 rounding and the ordered dot product (docs/arithmetic.md).

Products run in C where a compiler is at hand (`algorithms.core.kernel`), else in NumPy (`algorithms.core.chains`): the
bits are the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

import numpy as np

from nmsat.algorithms.core import chains, kernel

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nmsat.algorithms.core.packed import Packed
    from nmsat.algorithms.core.tensors import Tensors

NAN16: Final = np.uint16(0x7E00).view(np.float16)
"""The only binary16 NaN that leaves a unit."""

NAN32: Final = np.uint32(0x7FC00000).view(np.float32)
"""The only binary32 NaN that leaves a unit."""

FEW: Final = 1024
"""Elements of a tensor below which a call into C gains nothing."""


class LazyWindows(kernel.ImageWindows, Protocol):
    """Windows of an image of which no matrix was made yet (`algorithms.core.windows.Windows`)."""

    @property
    def shape(self) -> tuple[int, int]: ...

    @property
    def dtype(self) -> np.dtype: ...

    def read_by_kernel(self, *, packed: bool) -> bool:
        """Tell whether the C kernel multiplies them without the matrix, by a dense or a packed one."""
        ...

    def array(self) -> NDArray:
        """Return the matrix."""
        ...


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
    if x.dtype == np.float32 and (c := between(x)) is not None:
        return c.to_half(x)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        half = np.array(x, dtype=np.float16)
    canonical(half)
    return half


def between(*tensors: NDArray, few: int = FEW) -> Tensors | None:
    """Return the C functions for work between products on tensors; None where NumPy must do it, or does it as soon.

    few: elements from which a call into C gains something.
    """
    first = tensors[0]
    whole = first.flags.c_contiguous or (first.flags.f_contiguous and len(tensors) == 1)
    same = all(x.shape == first.shape and x.flags.c_contiguous for x in tensors[1:])
    return kernel.between() if first.size >= few and whole and same else None


def kept(keep: NDArray[np.bool_], x: NDArray) -> NDArray:
    """Return x where kept, +0 elsewhere, of one shape; binary16 by its bits, which NumPy would choose one by one."""
    if x.dtype != np.float16:
        return np.where(keep, x, x.dtype.type(0))
    return np.multiply(x.view(np.int16), keep, dtype=np.int16).view(np.float16)


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
    c = kernel.load()
    return canonical(chains.dense(a, w, start)) if c is None else c.dense(a, w, start, seeded=seed is not None)


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
    c = kernel.load()
    if c is None:
        return canonical(chains.packed(a, packed, start))
    return c.packed(a, packed, start, seeded=seed is not None)


def ordered_dot_batched(a: NDArray[np.float16], w: NDArray[np.float16]) -> NDArray[np.float32]:
    """Return a[g, m, k] @ w[g, k, n] as g independent dense products of `ordered_dot`: float32[g, m, n]."""
    if a.ndim != 3 or w.ndim != 3 or a.shape[0] != w.shape[0]:
        raise ValueError(f"operands have shapes {a.shape} and {w.shape}; they must be [g, m, k] and [g, k, n]")
    _check_operands(a[0], w.shape[1:], w.dtype)
    c = kernel.load()
    return canonical(chains.batched(a, w)) if c is None else c.batched(a, w)


def ordered_dot_half(
    a: NDArray[np.float16] | LazyWindows, w: NDArray[np.float16] | Packed
) -> NDArray[np.float16]:
    """Return `to_half` of the product of `ordered_dot` or `ordered_dot_packed`: float16[m, n].

    a: also windows of an image, of which the C kernel needs no matrix.
    """
    dense = isinstance(w, np.ndarray)
    c = kernel.load()
    if not isinstance(a, np.ndarray) and (c is None or not a.read_by_kernel(packed=not dense)):
        a = a.array()
    if c is None:
        assert isinstance(a, np.ndarray)
        return to_half(ordered_dot(a, w) if dense else ordered_dot_packed(a, w))
    right, dtype = (w.shape, w.dtype) if dense else ((w.k, w.columns), w.values.dtype)
    _check_operands(a, right, dtype)
    y = np.empty((a.shape[0], right[1]), np.float16)
    sums = kernel.sums(*y.shape)
    if dense:
        c.dense(a, w, sums, seeded=False, halves=y)
    else:
        c.packed(a, w, sums, seeded=False, halves=y)
    return y


def _check_operands(a: NDArray[np.float16] | LazyWindows, shape: tuple[int, ...], dtype: np.dtype) -> None:
    if a.dtype != np.float16 or dtype != np.float16:
        raise TypeError(f"operands have dtypes {a.dtype} and {dtype}; the contract multiplies float16 by float16")
    if len(a.shape) != 2 or len(shape) != 2 or a.shape[1] != shape[0]:
        raise ValueError(f"operands have shapes {a.shape} and {shape}; they must be [m, k] and [k, n]")


def _start(seed: NDArray[np.float32] | None, m: int, n: int) -> NDArray[np.float32]:
    if seed is None:
        return np.zeros((m, n), np.float32)
    if seed.dtype != np.float32 or seed.shape != (m, n):
        raise ValueError(f"seed is {seed.dtype}{list(seed.shape)}; it must be float32[{m}, {n}]")
    return seed.copy()
