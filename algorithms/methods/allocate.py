"""Which layer gets which pattern: the least harm within a budget of cycles.

A choice for each layer from options that each have a cost and a harm, the sum of costs bounded: a knapsack of multiple
choice, as DominoSearch (Sun et al., NeurIPS 2021) has it with multiply-adds in place of cycles. All that is not
dominated is kept layer by layer, so the answer is exact while `EXACT` of those suffice; beyond, neighbours in cost are
merged, and the answer still keeps to its budget.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from nmsat.algorithms.core.nm import mask

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from nmsat.algorithms.core.tape import Pattern

EXACT: Final = 20_000
"""Combinations that are kept after each layer."""

HALF_MAX: Final = 65504.0
"""Largest magnitude of binary16, in which weights are pruned."""


@dataclass(frozen=True)
class Option:
    """What a layer may get: patterns of FF and BP (None: dense), cycles of the layer with them, harm they do."""

    ff: Pattern | None
    bp: Pattern | None
    cycles: int
    harm: float


@dataclass(frozen=True, eq=False)
class Frontier:
    """Combinations of options that no other beats in both cycles and harm, by rising cycles and falling harm.

    cycles, harm: of each; picks: [combinations, layers], the option of each layer; exact: whether none were merged.
    """

    cycles: NDArray[np.int64]
    harm: NDArray[np.float64]
    picks: NDArray[np.int16]
    exact: bool

    def within(self, budget: int) -> tuple[int, ...]:
        """Return the options of the least harm whose cycles are at most the budget; ValueError if there are none."""
        place = int(np.searchsorted(self.cycles, budget, side="right")) - 1
        if place < 0:
            raise ValueError(f"budget is {budget!r} cycles; the least that the options allow is {self.cycles[0]}")
        return tuple(int(pick) for pick in self.picks[place])


def frontier(layers: Sequence[Sequence[Option]], fixed: int = 0) -> Frontier:
    """Return the combinations worth having; fixed: cycles that no choice changes.

    The frontier does not depend on a budget: a larger one never does more harm.
    """
    cycles, harm = np.array([fixed], np.int64), np.zeros(1)
    picks, exact = np.zeros((1, 0), np.int16), True
    for options in layers:
        if not options:
            raise ValueError("a layer has no option")
        costs = np.array([option.cycles for option in options], np.int64)
        harms = np.array([option.harm for option in options])
        all_cycles, all_harm = (cycles[:, None] + costs).ravel(), (harm[:, None] + harms).ravel()
        best = _undominated(all_cycles, all_harm)
        if len(best) > EXACT:
            best, exact = _thinned(best, all_cycles), False
        before, option = np.divmod(best, len(options))
        cycles, harm = all_cycles[best], all_harm[best]
        picks = np.concatenate([picks[before], option[:, None].astype(np.int16)], axis=1)
    return Frontier(cycles, harm, picks, exact)


def _undominated(cycles: NDArray[np.int64], harm: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return the places of what nothing cheaper, or as cheap, equals in harm; by rising cycles."""
    order = np.lexsort((harm, cycles))
    least = np.minimum.accumulate(harm[order])
    better = np.concatenate([[True], harm[order][1:] < least[:-1]])
    return order[better]


def _thinned(best: NDArray[np.intp], cycles: NDArray[np.int64]) -> NDArray[np.intp]:
    """Return about EXACT of them: of neighbours in cost the one of least harm, which is the last, and the first."""
    found = cycles[best]
    bucket = (found - found[0]) * EXACT // max(1, int(found[-1] - found[0]))
    last = np.concatenate([bucket[1:] != bucket[:-1], [True]])
    last[0] = True
    return best[last]


def check_weights(w: NDArray, what: str = "") -> None:
    """Raise ValueError, which begins with `what`, for weights that binary16 does not hold."""
    largest = float(np.abs(w).max(initial=0))
    if not largest <= HALF_MAX:
        raise ValueError(
            f"{what}largest weight is {largest!r}; binary16 ends at {HALF_MAX:.0f}: scale the weights down"
        )


def lost(w: NDArray, pattern: Pattern | None, axis: int) -> float:
    """Return the share of squared magnitude that N:M along an axis of W[k, n] loses, 0 to 1: the harm of one copy.

    Raises ValueError for weights that binary16 does not hold.
    """
    if pattern is None:
        return 0.0
    check_weights(w)
    square = w.astype(np.float64) ** 2
    whole = float(square.sum())
    keep = mask(w.astype(np.float16), pattern.n, pattern.m, axis=axis)
    return float(square[~keep].sum()) / whole if whole else 0.0
