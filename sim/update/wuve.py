"""Model of the weight-update engine (hw/update/wuve.py): exact values and exact cycles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nmsat.algorithms.core.numeric import canonical, to_half
from nmsat.algorithms.training.optim import SgdConstants, sgd_update
from nmsat.dataflow.contract.limits import ADD_STAGES, MULTIPLY_STAGES, ROUND_STAGES
from nmsat.dataflow.contract.timing import wuve_path
from nmsat.sim.parts.result_queue import QueuedEngine

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class UpdateBeat:
    """One beat in, all arrays [lanes]: w, v float32; g float16; kept (mask_ff), present bool. last, end: passed on."""

    w: NDArray[np.float32]
    v: NDArray[np.float32]
    g: NDArray[np.float16]
    kept: NDArray[np.bool_]
    present: NDArray[np.bool_]
    last: bool = False
    end: bool = False


@dataclass(frozen=True, eq=False)
class UpdatedBeat:
    """One beat out, all arrays [lanes]: w, v float32; half float16, w rounded; present bool; last, end."""

    w: NDArray[np.float32]
    v: NDArray[np.float32]
    half: NDArray[np.float16]
    present: NDArray[np.bool_]
    last: bool = False
    end: bool = False


def wuve_latency(
    multiply_stages: int = MULTIPLY_STAGES, add_stages: int = ADD_STAGES, round_stages: int = ROUND_STAGES
) -> int:
    """Return the cycles from the beat that enters to its result on the output."""
    return wuve_path(multiply_stages, add_stages, round_stages) + 1


def update_cycles(beats: int, cycles: int | None = None) -> int:
    """Return the cycles from the first beat in to the last result out, without gaps; cycles: latency of the engine."""
    return beats + (wuve_latency() if cycles is None else cycles)


def update(
    w: NDArray[np.float32],
    v: NDArray[np.float32],
    g: NDArray[np.float16],
    kept: NDArray[np.bool_],
    constants: SgdConstants,
    hold: bool = False,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the new weights and momenta, element by element; all arrays have one shape.

    With `hold`, and where the gradient is infinite or NaN, both stay (a NaN weight becomes canonical). Source:
    docs/arithmetic.md, "Weight update"; docs/machine/update.md for the suppression.
    """
    new_w, new_v = sgd_update(w, v, g, constants, kept)
    stay = hold | ~np.isfinite(g)
    return np.where(stay, canonical(w.copy()), new_w), np.where(stay, v, new_v)


class Wuve(QueuedEngine[UpdatedBeat]):
    """The engine, cycle by cycle.

    constants, hold: run-time settings; cycles: latency. overflow: the sticky flag.
    """

    def __init__(self, constants: SgdConstants, hold: bool = False, cycles: int | None = None) -> None:
        super().__init__(wuve_latency() if cycles is None else cycles)
        self.overflow = False
        self._constants = constants
        self._hold = hold
        self._rising = False

    def clock(self, beat: UpdateBeat | None, taken: bool, clear: bool = False) -> None:
        """Pass one clock edge; clear: lower the overflow flag, unless it rises in this cycle."""
        self.overflow = self._rising or (self.overflow and not clear)
        self._rising = beat is not None and bool((~np.isfinite(beat.g) & beat.present).any())
        self._queue.clock(None if beat is None else self._updated(beat), taken)

    def _updated(self, beat: UpdateBeat) -> UpdatedBeat:
        w, v = update(beat.w, beat.v, beat.g, beat.kept, self._constants, self._hold)
        return UpdatedBeat(w, v, to_half(w), beat.present, beat.last, beat.end)
