"""Model of pre-generation (hw/update/pregen.py): one pass that updates the weights and makes both pruned copies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nmsat.algorithms.core.packed import Packed
from nmsat.sim.update.sore import LATENCY, GroupElements, KeptPairs, Sore
from nmsat.sim.update.transpose import TransposedRow, Transposer
from nmsat.sim.update.wuve import UpdateBeat, UpdatedBeat, Wuve, wuve_latency

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from nmsat.algorithms.core.tape import Pattern
    from nmsat.algorithms.training.optim import SgdConstants

BRANCHES = ("state", "ff", "bp")
"""The output streams: new weights and momenta, W_ff, W_bp."""


@dataclass(frozen=True, kw_only=True)
class PregenSettings:
    """Run-time settings: constants of the step, whether it is suppressed, the patterns (None: copy not made)."""

    constants: SgdConstants
    ff: Pattern | None
    bp: Pattern | None
    hold: bool = False


class Pregen:
    """The engine between two clock edges.

    lanes: a power of two from 2 on, at least M of W_bp; cycles: latency of WUVE.
    """

    def __init__(self, lanes: int, settings: PregenSettings, cycles: int | None = None) -> None:
        check_lanes(lanes, settings.bp)
        self.update = Wuve(settings.constants, settings.hold, cycles)
        self._ff = None if settings.ff is None else Sore(lanes, settings.ff.n, settings.ff.m)
        self._bp = None if settings.bp is None else Sore(lanes, settings.bp.n, settings.bp.m)
        self._transposer = Transposer(lanes)
        self._done = dict.fromkeys(BRANCHES, False)

    @property
    def idle(self) -> bool:
        """Whether no beat is inside."""
        sores = (self._ff, self._bp)
        return self.update.idle and self._transposer.idle and all(sore is None or sore.idle for sore in sores)

    def outputs(self) -> tuple[UpdatedBeat | None, KeptPairs | None, KeptPairs | None]:
        """Return what stands on the streams state, ff and bp, None where not valid."""
        state = None if self._done["state"] else self.update.output
        return state, self._ff.output if self._ff else None, self._bp.output if self._bp else None

    def ready(self) -> bool:
        """Return the ready signal of the input; it does not depend on the outputs."""
        return self.update.ready(taken=False)

    def clock(self, beat: UpdateBeat | None, taken: Mapping[str, bool], clear: bool = False) -> None:
        """Pass one clock edge; beat: what the input transfers; taken: ready signals of the output streams."""
        column = self._transposer.output
        column_taken = self._bp is not None and self._bp.ready(taken["bp"])
        ready = {
            "state": taken["state"],
            "ff": self._ff is None or self._ff.ready(taken["ff"]),
            "bp": self._bp is None or self._transposer.ready(column_taken),
        }
        done = {name: self._done[name] or ready[name] for name in BRANCHES}
        updated = self.update.output
        goes = {name: updated is not None and ready[name] and not self._done[name] for name in BRANCHES}
        if self._ff is not None:
            self._ff.clock(_elements(updated) if updated is not None and goes["ff"] else None, taken["ff"])
        if self._bp is not None:
            self._transposer.clock(_row(updated) if updated is not None and goes["bp"] else None, column_taken)
            self._bp.clock(column if column_taken else None, taken["bp"])
        if updated is not None:
            self._done = dict.fromkeys(BRANCHES, False) if all(done.values()) else done
        self.update.clock(beat, all(done.values()), clear)


def check_lanes(lanes: int, bp: Pattern | None) -> None:
    """Raise ValueError unless pre-generation with so many lanes can prune W_bp in this pattern."""
    if lanes < 2 or lanes & (lanes - 1):
        raise ValueError(f"lanes is {lanes!r}; pre-generation needs a power of two from 2 on")
    if bp is not None and bp.m > lanes:
        raise ValueError(f"bp is '{bp}'; its M must not exceed the {lanes} lanes, because a group spans the lanes")


def matrix_beats(
    w: NDArray[np.float32], v: NDArray[np.float32], g: NDArray[np.float16], kept: NDArray[np.bool_], lanes: int
) -> list[UpdateBeat]:
    """Return the beats of one pass over a weight matrix: row by row, one block of `lanes` columns after the other.

    w, v, g, kept (mask_ff): [k, n]. Lanes past the last column are absent.
    """
    k, n = w.shape
    beats = []
    for first in range(0, n, lanes):
        spare = ((0, 0), (0, max(0, first + lanes - n)))
        parts = [np.pad(part[:, first : first + lanes], spare) for part in (w, v, g, kept)]
        present = np.arange(first, first + lanes) < n
        for row in range(k):
            last = row == k - 1
            fields = [part[row] for part in parts]
            beats.append(
                UpdateBeat(fields[0], fields[1], fields[2], fields[3], present, last, last and first + lanes >= n)
            )
    return beats


def forward_copy(pairs: Sequence[KeptPairs], k: int, n: int, pattern: Pattern) -> Packed:
    """Return W_ff, packed along k of the matrix [k, n], from the beats of stream ff."""
    lanes = len(pairs[0].value)
    blocks, groups = -(-n // lanes), -(-k // pattern.m)
    shape = (blocks, groups, pattern.n, lanes)
    # [block, group, slot, lane] -> [group, slot, column]
    return _packed(pairs, shape, (1, 2, 0, 3), n, k, pattern)


def backward_copy(pairs: Sequence[KeptPairs], k: int, n: int, pattern: Pattern) -> Packed:
    """Return W_bp, packed along n of the matrix [k, n], from the beats of stream bp."""
    lanes = len(pairs[0].value)
    rows = -(-k // lanes)
    parts = []
    at = 0
    for first in range(0, n, lanes):
        width = min(lanes, n - first)
        groups = -(-width // pattern.m)
        size = rows * groups * pattern.n
        # [block of rows, group, slot, lane] -> [group, slot, row]
        shape = (rows, groups, pattern.n, lanes)
        parts.append(_packed(pairs[at : at + size], shape, (1, 2, 0, 3), k, width, pattern))
        at += size
    return Packed(
        np.concatenate([part.values for part in parts]),
        np.concatenate([part.index for part in parts]),
        np.concatenate([part.filler for part in parts]),
        n,
        pattern.n,
        pattern.m,
    )


def pregen_cycles(k: int, n: int, lanes: int, ff: Pattern | None, bp: Pattern | None) -> int:
    """Return the cycles of a pass from the first beat in to the last beat out, without gaps.

    k must be a multiple of `lanes` and of M of both patterns, which a pass that wastes nothing needs; n is any.
    Raises ValueError otherwise: use the stepped model there.
    """
    check_lanes(lanes, bp)
    if k % lanes or (ff is not None and k % ff.m):
        raise ValueError(f"k is {k!r}; the closed form needs a multiple of the {lanes} lanes and of M of '{ff}'")
    beats = k * -(-n // lanes)
    ends = [beats + wuve_latency()]
    if ff is not None:
        ends.append(ends[0] + LATENCY + ff.n - 1)
    if bp is not None:
        # the last column of the last group that is not empty stands behind the transposer lanes steps later
        left = n % lanes or lanes
        ends.append(ends[0] + min(lanes, -(-left // bp.m) * bp.m) + LATENCY + bp.n - 1)
    return max(ends)


def _packed(
    pairs: Sequence[KeptPairs],
    shape: tuple[int, int, int, int],
    axes: tuple[int, ...],
    columns: int,
    k: int,
    pattern: Pattern,
) -> Packed:
    if len(pairs) != shape[0] * shape[1] * shape[2]:
        raise ValueError(f"pairs has {len(pairs)} beats; the matrix needs {shape[0] * shape[1] * shape[2]}")
    parts = []
    for field in ("value", "index", "filler"):
        stacked = np.array([getattr(beat, field)[:, 0] for beat in pairs]).reshape(shape)
        moved = stacked.transpose(axes)
        parts.append(moved.reshape(moved.shape[0], moved.shape[1], -1)[:, :, :columns])
    return Packed(parts[0].view(np.float16), parts[1], parts[2], k, pattern.n, pattern.m)


def _elements(beat: UpdatedBeat) -> GroupElements:
    return GroupElements(beat.half.view(np.uint16)[:, None], beat.present[:, None], beat.last or beat.end)


def _row(beat: UpdatedBeat) -> TransposedRow:
    return TransposedRow(beat.half.view(np.uint16), beat.present, beat.last, beat.end)
