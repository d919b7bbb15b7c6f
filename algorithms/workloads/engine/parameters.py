"""What a program learns or is given: matrices that SAT multiplies, and small tensors that stay with the host."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from nmsat.algorithms.core import nm
from nmsat.algorithms.core.sparsity import Blocks, Unstructured

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nmsat.algorithms.core.tape import Pattern


@dataclass(frozen=True, eq=False)
class Operand:
    """The W side of a product: values[(copies,) k, n] with zeros where nothing is kept, and how it is sparse."""

    values: NDArray | None
    pattern: Pattern | None = None
    sparsity: Unstructured | Blocks | None = None


@dataclass(eq=False)
class Parameter:
    """A tensor that outlives a step.

    shape: (k, n) or (copies, k, n) of a matrix, any other of a host tensor; value: None in a run of shapes; keep:
    unstructured mask; nonzeros: elements the mask keeps, all of them when there is none; ff, bp: N:M along k of the
    forward and along n of the backward product; frozen: gets no gradient; masked_gradient: only kept elements learn, so
    only their gradients are wanted; blocks: the mask as whole blocks of W[k, n], if it is made of such; learnt: which
    elements learn where the products keep all of them (role 'y'), others get a gradient of 0.
    """

    name: str
    shape: tuple[int, ...]
    value: NDArray | None = None
    keep: NDArray[np.bool_] | None = None
    nonzeros: int = 0
    ff: Pattern | None = None
    bp: Pattern | None = None
    frozen: bool = False
    masked_gradient: bool = False
    blocks: Blocks | None = None
    learnt: Unstructured | None = None
    grad: NDArray | None = None
    state: dict[str, NDArray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.nonzeros:
            self.nonzeros = self.size

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def density(self) -> float:
        """Share of elements that the unstructured mask keeps."""
        return self.nonzeros / self.size

    @property
    def kept(self) -> int:
        """Elements that the forward product keeps, by mask or pattern."""
        return self.nonzeros if self.ff is None else kept_count(self.shape, self.ff)

    @property
    def wanted(self) -> Unstructured | None:
        """Which elements of the weight gradient are wanted; None for all of them."""
        if self.learnt is not None:
            return self.learnt
        return Unstructured("y", self.kept, self.keep) if self.masked_gradient and self.kept < self.size else None

    def mask(self, keep: NDArray[np.bool_]) -> None:
        """Set the unstructured mask; bool[k, n] stands for every copy."""
        self.keep, self.blocks = keep, None
        self.nonzeros = int(np.count_nonzero(keep)) * (self.size // keep.size)

    def mask_blocks(self, keep: NDArray[np.bool_], height: int, width: int) -> None:
        """Set a mask of blocks of height x width, also in a run of shapes: keep[block rows, block columns].

        Raises ValueError if W is no matrix or has another number of blocks.
        """
        wanted = tuple(-(-side // step) for side, step in zip(self.shape, (height, width), strict=False))
        if len(self.shape) != 2 or keep.shape != wanted:
            text = f"blocks {height} x {width} of {self.name!r} {self.shape}"
            raise ValueError(f"{text} have a mask {keep.shape}; it must be {wanted}")
        self.blocks = Blocks("w", height, width, keep)
        self.nonzeros = self.blocks.macs((1, *self.shape), 1)
        self.keep = None if self.value is None else self.blocks.places(*self.shape)

    @property
    def array(self) -> NDArray:
        """The values; RuntimeError in a run of shapes."""
        if self.value is None:
            raise RuntimeError(f"parameter {self.name!r} has no values in a run of shapes alone")
        return self.value

    def forward(self) -> Operand:
        """Return W[(copies,) k, n] as the forward product reads it."""
        if self.ff is None:
            return Operand(self._masked(), None, self._unstructured(self.keep))
        masked = self._masked()
        if masked is None:
            return Operand(None, self.ff)
        return Operand(np.where(nm_mask(masked, self.ff, -2), masked, 0), self.ff)

    def backward(self) -> Operand:
        """Return W^T[(copies,) n, k] as the input gradient reads it.

        With `bp` the backward copy is pruned along n on its own (as BDWP does). A forward N:M without it leaves a mask
        that is not N:M along n, which is recorded as unstructured.
        """
        if self.bp is not None:
            masked = self._masked()
            if masked is None:
                return Operand(None, self.bp)
            return Operand(_turned(np.where(nm_mask(masked, self.bp, -1), masked, 0)), self.bp)
        keep, nonzeros = self.keep, self.nonzeros
        values = self._masked()
        if self.ff is not None:
            nonzeros = kept_count(self.shape, self.ff)
            if values is not None:
                keep = nm_mask(values, self.ff, -2)
                values = np.where(keep, values, 0)
        sparsity = None
        if self.blocks is not None and self.ff is None:
            sparsity = self.blocks.turned("w")
        elif nonzeros < self.size:
            sparsity = Unstructured("w", nonzeros, None if keep is None else _turned(keep))
        return Operand(None if values is None else _turned(values), None, sparsity)

    def _masked(self) -> NDArray | None:
        if self.value is None or self.keep is None:
            return self.value
        return np.where(self.keep, self.value, 0)

    def _unstructured(self, keep: NDArray[np.bool_] | None) -> Unstructured | Blocks | None:
        if self.blocks is not None:
            return self.blocks
        return Unstructured("w", self.nonzeros, keep) if self.nonzeros < self.size else None


def nm_mask(w: NDArray, pattern: Pattern, axis: int) -> NDArray[np.bool_]:
    """Return the N:M mask of w along an axis; magnitudes compare in binary16 whatever the format of w."""
    with np.errstate(over="ignore"):
        single = w.astype(np.float32) if w.dtype == np.float64 else w
    return nm.mask(single, pattern.n, pattern.m, axis % w.ndim)


def kept_count(shape: tuple[int, ...], pattern: Pattern) -> int:
    """Return how many elements an N:M mask along k (the last axis but one) keeps."""
    groups, tail = divmod(shape[-2], pattern.m)
    return (groups * pattern.n + min(pattern.n, tail)) * math.prod(shape) // shape[-2]


def _turned(x: NDArray) -> NDArray:
    return np.ascontiguousarray(np.swapaxes(x, -1, -2))
