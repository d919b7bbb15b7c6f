"""How much the masks move: SAD, the share of mask elements that change in one update (Zhou et al., ICLR 2021)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from nmsat.algorithms.layers.parameter import Parameter, Weight

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


class MaskWatch:
    """Compares the masks of all weights with those of the last call."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[NDArray[np.bool_] | None, NDArray[np.bool_] | None]] = {}

    def update(self, parameters: Sequence[Parameter]) -> tuple[float, float]:
        """Return the share of elements that changed in the forward and in the backward masks, 0..1; 0 without masks."""
        changed, total = [0, 0], [0, 0]
        for parameter in parameters:
            if not isinstance(parameter, Weight) or parameter.masks is None:
                continue
            now = (parameter.masks.ff, parameter.masks.bp)
            for side, (old, new) in enumerate(zip(self._last.get(parameter.name, (None, None)), now, strict=True)):
                if old is not None and new is not None:
                    changed[side] += int(np.count_nonzero(old != new))
                    total[side] += new.size
            self._last[parameter.name] = now
        return changed[0] / max(1, total[0]), changed[1] / max(1, total[1])
