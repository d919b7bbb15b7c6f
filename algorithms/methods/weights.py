"""Methods that prune weights by magnitude: STE, SR-STE, SDWP and BDWP."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nmsat.algorithms.core.nm import mask, mask_master
from nmsat.algorithms.core.tape import Stage
from nmsat.algorithms.methods.base import Masks, Method

if TYPE_CHECKING:
    from nmsat.algorithms.core.tape import Pattern
    from nmsat.algorithms.layers.parameter import Weight


class WeightMagnitude(Method):
    """Keep the N largest weights of each group of M, from the dense master, anew after every update.

    forward: W_ff = prune(W along k) in Y = X W_ff. backward: W_bp = prune(W along n) in dX = dY W_bp^T. dW stays dense
    and reaches all of W (straight through). decay: adds lambda (1 - mask_ff) W to the gradient. from_master: compare
    the binary32 masters instead of their binary16 copies (outside SAT's contract, for measurements).

    STE, SR-STE: forward only (Zhou et al., ICLR 2021). SDWP: backward only. BDWP: both (Fang et al., TCAD 2024).
    """

    def __init__(
        self,
        name: str,
        pattern: Pattern,
        *,
        forward: bool = False,
        backward: bool = False,
        decay: float = 0.0,
        from_master: bool = False,
    ) -> None:
        super().__init__(name, pattern, decay=decay)
        self._nm = pattern
        self.forward = forward
        self.backward = backward
        self.from_master = from_master

    def masks(self, weight: Weight) -> Masks:
        n, m = self._nm.n, self._nm.m
        choose, source = (mask_master, weight.master) if self.from_master else (mask, weight.half)
        return Masks(
            ff=choose(source, n, m, axis=0) if self.forward else None,
            bp=choose(source, n, m, axis=1) if self.backward else None,
        )

    def group(self, stage: Stage) -> int:
        used = {Stage.FF: self.forward, Stage.BP: self.backward}
        return self._nm.m if used.get(stage, False) else 1
