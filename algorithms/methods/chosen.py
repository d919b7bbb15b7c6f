"""Methods that others add: they say by one function what stays of a weight."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from nmsat.algorithms.core.tape import Stage
from nmsat.algorithms.core.user_code import guarded
from nmsat.algorithms.methods.base import Masks, Method

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from nmsat.algorithms.core.tape import Pattern
    from nmsat.algorithms.methods.base import Weight

Choose: TypeAlias = "Callable[[NDArray[np.float16], int, int, int], NDArray[Any]]"
"""choose(w, n, m, axis): scores of w[k, n] in binary16, of its shape; the n highest of each m along `axis` stay.

axis is 0 for the forward copy (groups along k), 1 for the backward copy (along n). Of equal scores the first stays. The
function must depend on nothing but its arguments, and cannot change w, which is read-only: NumPy and PyTorch call it
whenever the weight has changed.
"""


class Chosen(Method):
    """Keep the N best of each group of M by the scores of a registered function, anew after every update.

    forward, backward, decay: as in `WeightMagnitude`.
    """

    def __init__(
        self, name: str, pattern: Pattern, choose: Choose, *, forward: bool, backward: bool, decay: float
    ) -> None:
        super().__init__(name, pattern, decay=decay)
        self._nm = pattern
        self._choose = choose
        self.forward = forward
        self.backward = backward

    def masks(self, weight: Weight) -> Masks:
        return Masks(
            self.mask(weight.half, 0) if self.forward else None, self.mask(weight.half, 1) if self.backward else None
        )

    def mask(self, w: NDArray[np.float16], axis: int) -> NDArray[np.bool_]:
        """Return what stays of w[k, n] with groups along an axis.

        ValueError, one line, for scores that are none and for a function that raises, exits or writes into w.
        """
        fixed = w.view()
        fixed.flags.writeable = False
        with guarded(f"the function of method {self.name!r}"):
            scores = np.asarray(self._choose(fixed, self._nm.n, self._nm.m, axis))
        if scores.shape != w.shape or scores.dtype.kind not in "fiu" or np.isnan(scores.astype(np.float64)).any():
            raise ValueError(
                f"method {self.name!r} gave scores of shape {scores.shape} and type {scores.dtype} for a weight of "
                f"shape {w.shape}; they must be numbers of its shape, none NaN"
            )
        return best_of_groups(scores, self._nm.n, self._nm.m, axis)

    def group(self, stage: Stage) -> int:
        used = {Stage.FF: self.forward, Stage.BP: self.backward}
        return self._nm.m if used.get(stage, False) else 1


def best_of_groups(scores: NDArray[Any], n: int, m: int, axis: int) -> NDArray[np.bool_]:
    """Return which n of each m scores along an axis are highest, of equal ones the first; a last group may be short."""
    s = np.moveaxis(scores, axis, 0)
    length = s.shape[0]
    out = np.empty(s.shape, bool)
    for start in range(0, length, m):
        part = s[start : start + m]
        place = np.argsort(np.argsort(-part.astype(np.float64), axis=0, kind="stable"), axis=0, kind="stable")
        out[start : start + m] = place < n
    return np.ascontiguousarray(np.moveaxis(out, 0, axis))
