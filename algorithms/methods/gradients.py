"""Methods that prune the output gradient: SDGP (backward product) and MVUE (update product)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from nmsat.algorithms.core.nm import mask
from nmsat.algorithms.core.numeric import compared
from nmsat.algorithms.core.tape import Stage
from nmsat.algorithms.methods.base import Masks, Method

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from nmsat.algorithms.core.tape import Pattern
    from nmsat.algorithms.methods.base import Weight


class Sdgp(Method):
    """Sparse data gradient pruning: dX = prune(dY along C_out) W^T; Y and dW stay dense (McDanel et al., ICPR 2022).

    rescale: multiply what stays of each sample and channel so that its sum of magnitudes over the image is kept (the
    published default, "maxnorm"). Sums on the host in binary64, one rounding.
    """

    def __init__(self, pattern: Pattern, *, rescale: bool = True) -> None:
        super().__init__("sdgp", pattern)
        self._nm = pattern
        self.rescale = rescale

    def backward_gradient(self, dy: NDArray) -> NDArray:
        kept = np.where(mask(compared(dy), self._nm.n, self._nm.m, axis=-1), dy, dy.dtype.type(0))
        if not self.rescale or dy.ndim == 2:
            return kept
        pixels = tuple(range(1, dy.ndim - 1))
        with np.errstate(all="ignore"):
            before = np.abs(dy).sum(axis=pixels, keepdims=True, dtype=np.float64)
            after = np.abs(kept).sum(axis=pixels, keepdims=True, dtype=np.float64)
            # Published with 1e-4 added below; here a channel that keeps nothing has nothing to scale.
            ratio = np.where(after > 0, before / after, 1.0)
            return (kept * ratio).astype(dy.dtype)

    def group(self, stage: Stage) -> int:
        return self._nm.m if stage is Stage.BP else 1


def inclusion(x: NDArray[np.float64], n: int) -> NDArray[np.float64]:
    """Return the probabilities with which minimum-variance unbiased sampling keeps n of the elements along axis 1.

    x: magnitudes [groups, m, columns], finite. pi = min(1, c x) with c such that sum(pi) = min(n, non-zero elements):
    the minimum of sum x^2 (1/pi - 1) under that sum (Chmiel et al., ICLR 2023, for general N:M).
    """
    order = np.sort(x, axis=1)[:, ::-1]
    # rest[j]: sum without the j largest. If those have pi = 1, the others share n - j.
    rest = order[:, ::-1].cumsum(axis=1)[:, ::-1]
    pi = np.where(x > 0, 1.0, 0.0)
    done = np.count_nonzero(x, axis=1) <= n
    for j in range(n):
        with np.errstate(all="ignore"):
            c = (n - j) / rest[:, j]
            fits = ~done & (c * order[:, j] <= 1)
        pi = np.where(fits[:, None], np.minimum(1.0, x * np.where(fits, c, 0.0)[:, None]), pi)
        done |= fits
    return pi


def sample(pi: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.bool_]:
    """Draw a set per group with the given inclusion probabilities and (up to rounding) fixed size.

    Systematic sampling: one uniform number u per group; element i is in where u + whole numbers meet its interval of
    the running sum. pi: [groups, m, columns]; result: bool of that shape, at most ceil(sum) elements per group.
    """
    u = rng.random((pi.shape[0], 1, pi.shape[2]))
    # Rounding the running sum keeps sums of exact ones whole, so that n elements never become n + 1.
    upper = np.floor(np.round(pi.cumsum(axis=1), 12) + u)
    return np.diff(upper, axis=1, prepend=0.0) > 0


def mvue_shift(dy: NDArray, n: int, m: int) -> int:
    """Return s from which no dy / pi * 2^-s of `mvue` can be infinite in the format of dy: 0 unless dy is large.

    dy / pi is at most m / n times the largest magnitude. At 2:8 eight equal gradients of 30,000 become 120,000, which
    binary16 does not hold: s is 1 then.
    """
    limit = float(np.finfo(dy.dtype).max)
    with np.errstate(all="ignore"):
        size = np.abs(dy)
        largest = float(np.where(np.isfinite(size), size, dy.dtype.type(0)).max(initial=0)) * m / n
    return max(0, math.ceil(math.log2(largest / limit))) if largest > limit else 0


def mvue(dy: NDArray, n: int, m: int, rng: np.random.Generator, shift: int = 0) -> NDArray:
    """Return dy[rows, columns] with at most n of m rows kept per group and column, equal to dy in expectation.

    Kept values are dy / pi * 2^-shift, computed in binary64 and rounded once to dy's format (so the expectation holds
    up to that rounding). A group with an infinity or a NaN keeps its largest magnitudes as they are: the update is
    suppressed.
    """
    rows, columns = dy.shape
    padded = np.concatenate([dy, np.zeros((-rows % m, columns), dy.dtype)]).reshape(-1, m, columns)
    finite = np.isfinite(padded).all(axis=1, keepdims=True)
    x = np.where(finite, padded, 0).astype(np.float64)
    pi = inclusion(np.abs(x), n)
    keep = sample(pi, rng)
    with np.errstate(all="ignore"):
        values = np.where(keep, x / np.where(pi > 0, pi, 1.0) * 2.0**-shift, 0.0).astype(dy.dtype)
    if not finite.all():
        largest = mask(compared(padded), n, m, axis=1)
        values = np.where(finite, values, np.where(largest, padded, dy.dtype.type(0)))
    return values.reshape(-1, columns)[:rows]


class Mvue(Method):
    """Minimum-variance unbiased N:M sampling of dY along the batch in dW = X^T dY, alone or with a weight method.

    weights: the method of the other two products, with the same pattern; None leaves them dense. With BDWP all three
    products are sparse and the bound is M/N. Source: Chmiel et al., ICLR 2023.
    """

    def __init__(self, name: str, pattern: Pattern, weights: Method | None = None) -> None:
        super().__init__(name, pattern, decay=0.0 if weights is None else weights.decay)
        self._nm = pattern
        self.weights = Method("dense") if weights is None else weights

    def masks(self, weight: Weight) -> Masks | None:
        return self.weights.masks(weight)

    def update_gradient(self, dy: NDArray, rng: np.random.Generator) -> NDArray:
        return mvue(dy, self._nm.n, self._nm.m, rng, self.update_shift(dy))

    def update_shift(self, dy: NDArray) -> int:
        return mvue_shift(dy, self._nm.n, self._nm.m)

    def group(self, stage: Stage) -> int:
        return self._nm.m if stage is Stage.WU else self.weights.group(stage)

    def state(self) -> dict[str, NDArray]:
        return self.weights.state()

    def check_state(self, state: Mapping[str, NDArray], weights: Sequence[Weight], updates: int | None) -> None:
        self.weights.check_state(state, weights, updates)

    def load(self, state: Mapping[str, NDArray]) -> None:
        self.weights.load(state)
