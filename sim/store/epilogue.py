"""Model of the epilogue (hw/store/epilogue.py): exact values and exact cycles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nmsat.algorithms.core.numeric import canonical, to_half
from nmsat.dataflow.contract.limits import ADD_STAGES, ROUND_STAGES
from nmsat.dataflow.contract.timing import epilogue_path
from nmsat.sim.parts.result_queue import QueuedEngine

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class EpilogueOptions:
    """The steps that are on; see `hw.store.epilogue`."""

    use_bias: bool = False
    use_tile: bool = False
    to_half: bool = False
    use_relu: bool = False
    use_mask: bool = False


@dataclass(frozen=True, eq=False)
class Sums:
    """One beat in, all arrays [lanes]: x, bias, tile float32; mask, present bool."""

    x: NDArray[np.float32]
    bias: NDArray[np.float32]
    tile: NDArray[np.float32]
    mask: NDArray[np.bool_]
    present: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Results:
    """One beat out, all arrays [lanes]: y float32 or float16; mask, present bool."""

    y: NDArray[np.floating]
    mask: NDArray[np.bool_]
    present: NDArray[np.bool_]


def epilogue_latency(add_stages: int = ADD_STAGES, round_stages: int = ROUND_STAGES) -> int:
    """Return the cycles from the beat that enters to its result on the output."""
    return epilogue_path(add_stages, round_stages) + 1


def finish(sums: Sums, options: EpilogueOptions) -> tuple[NDArray[np.floating], NDArray[np.bool_]]:
    """Return y (float16 if `to_half`, else float32) and the mask of ReLU, element by element.

    Order: bias, tile, rounding to binary16, ReLU, mask. Source: docs/arithmetic.md, "Results".
    """
    with np.errstate(all="ignore"):
        y = sums.x + sums.bias if options.use_bias else sums.x.copy()
        if options.use_tile:
            y = y + sums.tile
    y = to_half(y) if options.to_half else canonical(y)
    above = np.isnan(y) | (y > 0)
    passes = np.full(y.shape, True)
    if options.use_relu:
        passes &= above
    if options.use_mask:
        passes &= sums.mask
    return np.where(passes, y, y.dtype.type(0)), above


class EpilogueEngine(QueuedEngine[Results]):
    """The engine, cycle by cycle.

    options: run-time settings; cycles: latency. special: the sticky flag.
    """

    def __init__(self, options: EpilogueOptions, cycles: int | None = None) -> None:
        super().__init__(epilogue_latency() if cycles is None else cycles)
        self.special = False
        self._options = options

    def clock(self, beat: Sums | None, taken: bool, clear: bool = False) -> None:
        """Pass one clock edge; clear: lower the flag, unless it rises in this cycle."""
        result = None
        if beat is not None:
            y, mask = finish(beat, self._options)
            result = Results(y, mask, beat.present)
        arrived = self._queue.clock(result, taken)
        rises = arrived is not None and bool((~np.isfinite(arrived.y) & arrived.present).any())
        self.special = rises or (self.special and not clear)
