"""Methods that prune weights by magnitude: STE, SR-STE, SDWP and BDWP."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from nmsat.algorithms.core.nm import mask, mask_master
from nmsat.algorithms.core.tape import Stage
from nmsat.algorithms.methods.base import Masks, Method
from nmsat.algorithms.methods.patterns import REST

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from nmsat.algorithms.core.tape import Pattern
    from nmsat.algorithms.methods.base import Weight

WEIGHT_SUFFIX: Final = ".weight"
"""What the name of a layer's weight has behind that of the layer."""


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
        own: Mapping[str, tuple[Pattern | None, Pattern | None]] | None = None,
    ) -> None:
        super().__init__(name, pattern, decay=decay)
        self._nm = pattern
        self.forward = forward
        self.backward = backward
        self.from_master = from_master
        self.own = dict(own or {})

    def pattern_of(self, name: str, stage: Stage) -> Pattern | None:
        """Return the pattern of a weight in a stage; None if that copy stays dense."""
        if stage not in (Stage.FF, Stage.BP) or not (self.forward if stage is Stage.FF else self.backward):
            return None
        layer = name.removesuffix(WEIGHT_SUFFIX)
        if layer not in self.own and REST not in self.own:
            return self._nm
        return self.own.get(layer, self.own.get(REST, (None, None)))[0 if stage is Stage.FF else 1]

    def check_weights(self, weights: Sequence[Weight]) -> None:
        known = [weight.name.removesuffix(WEIGHT_SUFFIX) for weight in weights]
        unknown = [name for name in self.own if name != REST and name not in known]
        if unknown:
            raise ValueError(f"patterns names layer {unknown[0]!r}; layers that may be pruned: {', '.join(known)}")

    def masks(self, weight: Weight) -> Masks:
        choose, source = (mask_master, weight.master) if self.from_master else (mask, weight.half)
        ff, bp = (self.pattern_of(weight.name, stage) for stage in (Stage.FF, Stage.BP))
        return Masks(
            ff=None if ff is None else choose(source, ff.n, ff.m, axis=0),
            bp=None if bp is None else choose(source, bp.n, bp.m, axis=1),
        )

    def group(self, stage: Stage) -> int:
        used = {Stage.FF: self.forward, Stage.BP: self.backward}
        return self._nm.m if used.get(stage, False) else 1
