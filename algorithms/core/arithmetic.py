"""Two ways to compute the same program: SAT's contract, bit for bit, and plain floating point, fast."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from nmsat.algorithms.core.nm import pack
from nmsat.algorithms.core.numeric import (
    between,
    canonical,
    ordered_dot,
    ordered_dot_batched,
    ordered_dot_half,
    ordered_dot_packed,
    to_half,
)
from nmsat.algorithms.core.windows import Windows

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nmsat.algorithms.core.packed import Packed
    from nmsat.algorithms.core.tape import Pattern


@dataclass(frozen=True, eq=False)
class Operand:
    """The W side of a product: values[k, n] with +0 in pruned places; pattern and packed form unless dense."""

    values: NDArray
    pattern: Pattern | None = None
    packed: Packed | None = None


class Arithmetic(ABC):
    """Number formats and the matrix product of a run.

    name: 'contract' or the float format; dtype: tensors between layers; wide: sums, master weights and momentum; host:
    what the host computes in.
    """

    name: str
    dtype: np.dtype
    wide: np.dtype
    host: np.dtype

    @abstractmethod
    def narrow(self, x: NDArray) -> NDArray:
        """Round wide values to the format of tensors, once."""

    @abstractmethod
    def operand(self, w: NDArray, pattern: Pattern | None = None) -> Operand:
        """Make the W side of a product of w[k, n], which is pruned already if there is a pattern."""

    @abstractmethod
    def dot(self, a: NDArray | Windows, w: Operand) -> NDArray:
        """Return a[m, k] @ w[k, n] in the wide format."""

    def dot_narrow(self, a: NDArray | Windows, w: Operand) -> NDArray:
        """Return a[m, k] @ w[k, n] rounded to the format of tensors, once."""
        return self.narrow(self.dot(a, w))

    @abstractmethod
    def dot_batched(self, a: NDArray, w: NDArray) -> NDArray:
        """Return a[g, m, k] @ w[g, k, n], dense, in the wide format."""

    def add(self, x: NDArray, y: NDArray) -> NDArray:
        """Return x + y of two tensors: one addition in the wide format, one rounding to the tensor format."""
        with np.errstate(all="ignore"):
            return self.narrow(x.astype(self.wide) + y.astype(self.wide))

    def from_host(self, x: NDArray) -> NDArray:
        """Round what the host computed to the tensor format, once."""
        with np.errstate(all="ignore"):
            return canonical(x.astype(self.dtype, copy=False))


class ContractArithmetic(Arithmetic):
    """binary16 operands, ordered binary32 chains over the kept elements (docs/arithmetic.md)."""

    name = "contract"
    dtype = np.dtype(np.float16)
    wide = np.dtype(np.float32)
    host = np.dtype(np.float64)

    def narrow(self, x: NDArray) -> NDArray:
        return to_half(x)

    def operand(self, w: NDArray, pattern: Pattern | None = None) -> Operand:
        return Operand(w, pattern, None if pattern is None else pack(w, pattern.n, pattern.m))

    def dot(self, a: NDArray | Windows, w: Operand) -> NDArray:
        a = a.array() if isinstance(a, Windows) else a
        return ordered_dot(a, w.values) if w.packed is None else ordered_dot_packed(a, w.packed)

    def dot_narrow(self, a: NDArray | Windows, w: Operand) -> NDArray:
        return ordered_dot_half(a, w.values if w.packed is None else w.packed)

    def dot_batched(self, a: NDArray, w: NDArray) -> NDArray:
        return ordered_dot_batched(a, w)

    def add(self, x: NDArray, y: NDArray) -> NDArray:
        c = between(x, y)
        return super().add(x, y) if c is None else c.add(x, y)

    def from_host(self, x: NDArray) -> NDArray:
        c = between(x) if x.dtype == np.float64 else None
        return super().from_host(x) if c is None else c.to_half(x)


class FloatArithmetic(Arithmetic):
    """One float format throughout and the BLAS product, whose order of additions is not specified.

    Pruning still compares binary16 magnitudes, so that both arithmetics choose alike.
    """

    def __init__(self, dtype: type[np.floating] = np.float32) -> None:
        self.dtype = self.wide = self.host = np.dtype(dtype)
        self.name = self.dtype.name

    def narrow(self, x: NDArray) -> NDArray:
        return x.astype(self.dtype, copy=False)

    def operand(self, w: NDArray, pattern: Pattern | None = None) -> Operand:
        return Operand(w, pattern)

    def dot(self, a: NDArray | Windows, w: Operand) -> NDArray:
        a = a.array() if isinstance(a, Windows) else a
        with np.errstate(all="ignore"):
            return a @ w.values

    def dot_batched(self, a: NDArray, w: NDArray) -> NDArray:
        with np.errstate(all="ignore"):
            return a @ w


CONTRACT: Final = ContractArithmetic()
FAST: Final = FloatArithmetic()


def arithmetic(name: str) -> Arithmetic:
    """Return the arithmetic called 'contract' or 'fast'."""
    known = {"contract": CONTRACT, "fast": FAST}
    if name not in known:
        raise ValueError(f"arithmetic is {name!r}; it must be one of {', '.join(known)}")
    return known[name]
