"""Methods whose one mask serves both directions: Bi-Mask and transposable masks."""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import numpy as np

from nmsat.algorithms.core.checkpoint import check_names
from nmsat.algorithms.core.nm import magnitude, mask
from nmsat.algorithms.core.tape import Stage
from nmsat.algorithms.methods.base import Masks, Method

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from nmsat.algorithms.core.tape import Pattern
    from nmsat.algorithms.methods.base import Weight


class _Scheduled(Method, ABC):
    """Counts the updates of every weight and keeps one array per weight that is renewed every `interval` updates."""

    def __init__(self, name: str, pattern: Pattern, interval: int, decay: float) -> None:
        super().__init__(name, pattern, decay=decay)
        if interval < 1:
            raise ValueError(f"interval is {interval!r}; it must be at least 1")
        self._nm = pattern
        self.interval = interval
        self._calls: dict[str, int] = {}
        self._kept: dict[str, NDArray] = {}

    @abstractmethod
    def renew(self, weight: Weight, calls: int) -> NDArray:
        """Make the array of a weight."""

    def current(self, weight: Weight) -> NDArray:
        """Return the array of a weight, renewed if its turn has come."""
        calls = self._calls.get(weight.name, 0)
        if calls % self.interval == 0:
            self._kept[weight.name] = self.renew(weight, calls)
        self._calls[weight.name] = calls + 1
        return self._kept[weight.name]

    def group(self, stage: Stage) -> int:
        return self._nm.m if stage in (Stage.FF, Stage.BP) else 1

    def state(self) -> dict[str, NDArray]:
        # One call back: continuing begins by making the copies of the last update again.
        calls = {f"calls/{name}": np.array(count - 1) for name, count in self._calls.items()}
        return {**calls, **{f"kept/{name}": value for name, value in self._kept.items()}}

    @abstractmethod
    def fits(self, kept: NDArray, weight: Weight) -> bool:
        """Tell whether an array can be that of a weight."""

    def check_state(self, state: Mapping[str, NDArray], weights: Sequence[Weight], updates: int | None) -> None:
        names = [] if updates is None else [weight.name for weight in weights]
        check_names(state, [f"{kind}/{name}" for kind in ("calls", "kept") for name in names])
        for weight in weights if names else ():
            calls, kept = state[f"calls/{weight.name}"], state[f"kept/{weight.name}"]
            if calls.shape != () or calls.dtype.kind not in "iu" or not 0 <= int(calls) <= (updates or 0):
                raise ValueError(f"has tensor 'calls/{weight.name}', which is no number of updates from 0 to {updates}")
            if not self.fits(kept, weight):
                raise ValueError(f"has tensor 'kept/{weight.name}', which {self.name!r} cannot have for this weight")

    def load(self, state: Mapping[str, NDArray]) -> None:
        for key, value in state.items():
            kind, _, name = key.partition("/")
            if kind == "calls":
                self._calls[name] = int(value)
            else:
                self._kept[name] = value


class BiMask(_Scheduled):
    """Bi-Mask: the backward mask is a subset of the forward mask, grouped in a permuted order of the output channels.

    W_ff = prune(W along k). W_bp: of W_ff with its columns permuted by p, the N largest of each group of M columns. p
    is the best of `draws` random permutations (most weights survive), drawn anew every `interval` updates. The backward
    chain runs in the order of p. Gradient with the SR-STE term. Source: Zhang et al., ICML 2023, and its code. There a
    forward group runs along (C_in, kernel rows, kernel columns); here along (kernel rows, kernel columns, C_in).
    """

    def __init__(self, pattern: Pattern, *, decay: float, interval: int = 100, draws: int = 100, seed: int = 0) -> None:
        super().__init__("bi-mask", pattern, interval, decay)
        self.draws = draws
        self.seed = seed

    def masks(self, weight: Weight) -> Masks:
        ff = mask(weight.half, self._nm.n, self._nm.m, axis=0)
        order = self.current(weight)
        bp = np.zeros_like(ff)
        bp[:, order] = self._backward(weight, ff, order)
        return Masks(ff, bp, order)

    def renew(self, weight: Weight, calls: int) -> NDArray[np.intp]:
        # A generator of its own per weight and renewal: a resumed run draws the same permutations.
        rng = np.random.default_rng([self.seed, zlib.crc32(weight.name.encode()), calls])
        ff = mask(weight.half, self._nm.n, self._nm.m, axis=0)
        orders = [rng.permutation(ff.shape[1]) for _ in range(self.draws)]
        survivors = [np.count_nonzero(self._backward(weight, ff, order)) for order in orders]
        return orders[int(np.argmax(survivors))]

    def fits(self, kept: NDArray, weight: Weight) -> bool:
        """Tell whether an array is a permutation of the columns."""
        return kept.dtype == np.intp and np.array_equal(np.sort(kept, axis=None), np.arange(weight.master.shape[1]))

    def _backward(self, weight: Weight, ff: NDArray[np.bool_], order: NDArray[np.intp]) -> NDArray[np.bool_]:
        kept = np.where(ff, weight.half, np.float16(0))[:, order]
        return mask(kept, self._nm.n, self._nm.m, axis=1) & ff[:, order]


class Transposable(_Scheduled):
    """One mask with at most N of M kept in every row and in every column of each M x M block, for both directions.

    The mask is the greedy 2-approximation, renewed every `interval` updates; the gradient passes straight through.
    Source: Hubara et al., NeurIPS 2021, section 3. Greedy choices can strand a row or column with fewer than N.
    """

    def __init__(self, pattern: Pattern, *, interval: int = 40, decay: float = 0.0) -> None:
        super().__init__("transposable", pattern, interval, decay)

    def masks(self, weight: Weight) -> Masks:
        keep = self.current(weight)
        return Masks(keep, keep)

    def fits(self, kept: NDArray, weight: Weight) -> bool:
        """Tell whether an array is a mask."""
        return kept.dtype == np.bool_ and kept.shape == weight.master.shape

    def renew(self, weight: Weight, calls: int) -> NDArray[np.bool_]:
        del calls
        return transposable_mask(weight.half, self._nm.n, self._nm.m)


def transposable_mask(w: NDArray[np.float16], n: int, m: int) -> NDArray[np.bool_]:
    """Return the greedy transposable mask of w[k, columns]: blocks of m x m, at most n kept per row and per column.

    Elements are taken in descending magnitude (ties: row by row) while their row and column hold fewer than n.
    """
    rows, columns = w.shape
    size = np.full((rows + -rows % m, columns + -columns % m), -1, np.int32)
    size[:rows, :columns] = magnitude(w)
    blocks = size.reshape(-1, m, size.shape[1] // m, m).transpose(0, 2, 1, 3).reshape(-1, m * m)
    order = np.argsort(-blocks, axis=1, kind="stable")
    keep = np.zeros(blocks.shape, bool)
    in_row, in_column = (np.zeros((len(blocks), m), np.int8) for _ in range(2))
    all_blocks = np.arange(len(blocks))
    for place in order.T:
        row, column = np.divmod(place, m)
        take = (in_row[all_blocks, row] < n) & (in_column[all_blocks, column] < n) & (blocks[all_blocks, place] >= 0)
        keep[all_blocks, place] = take
        in_row[all_blocks, row] += take
        in_column[all_blocks, column] += take
    tiled = keep.reshape(size.shape[0] // m, size.shape[1] // m, m, m).transpose(0, 2, 1, 3)
    return np.ascontiguousarray(tiled.reshape(size.shape)[:rows, :columns])
