"""Model of the pruning engine (hw/update/sore.py): which pairs leave a group, and in which cycle."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from nmsat.dataflow.contract.config import MAX_GROUP

if TYPE_CHECKING:
    from numpy.typing import NDArray

LATENCY: Final = 4
"""Cycles from the last beat of a group to its first pair."""


@dataclass(frozen=True, eq=False)
class GroupElements:
    """One beat in: value uint16[lanes, width] (binary16), present bool[lanes, width], last: the group ends here."""

    value: NDArray[np.uint16]
    present: NDArray[np.bool_]
    last: bool = False


@dataclass(frozen=True, eq=False)
class KeptPairs:
    """One beat out: value uint16, index uint8, filler bool [lanes, width]; keep bool[lanes, 16]; last: of a group."""

    value: NDArray[np.uint16]
    index: NDArray[np.uint8]
    filler: NDArray[np.bool_]
    keep: NDArray[np.bool_]
    last: bool


@dataclass(frozen=True, eq=False)
class Pruned:
    """Pruned groups: value uint16, index uint8, filler bool, all [groups, n, lanes]; keep bool[groups, m, lanes]."""

    value: NDArray[np.uint16]
    index: NDArray[np.uint8]
    filler: NDArray[np.bool_]
    keep: NDArray[np.bool_]


def prune_groups(value: NDArray[np.uint16], present: NDArray[np.bool_], n: int) -> Pruned:
    """Keep the n largest magnitudes of each group, of a tie the lower index, of absent elements none.

    value: uint16[groups, m, lanes], binary16 patterns; present: bool of that shape. The kept pairs stand in ascending
    index, fillers (value 0, index 0) behind them. Source: docs/arithmetic.md, "Pruning".
    """
    m = value.shape[1]
    key = np.where(present, (value & 0x7FFF).astype(np.int32), -1)
    rank = np.zeros(value.shape, np.int32)
    for j in range(m):
        rank[:, :j] += key[:, j : j + 1] > key[:, :j]
        rank[:, j + 1 :] += key[:, j : j + 1] >= key[:, j + 1 :]
    keep = present & (rank < n)
    order = np.argsort(~keep, axis=1, kind="stable")
    if n > m:
        order = np.concatenate([order, np.repeat(order[:, -1:], n - m, axis=1)], axis=1)
    order = order[:, :n]
    filler = np.arange(n)[:, None] >= keep.sum(axis=1, keepdims=True)
    picked = np.where(filler, 0, np.take_along_axis(value, order, axis=1)).astype(np.uint16)
    return Pruned(picked, np.where(filler, 0, order).astype(np.uint8), filler, keep)


def prune_cycles(groups: int, n: int, m: int, width: int = 1) -> int:
    """Return the cycles from the first beat in to the last pair out, for full groups that follow without gaps."""
    return groups * (m // width) + LATENCY - 1 + -(-n // width)


class Sore:
    """The engine between two clock edges; see `sim.parts.stream.StreamEngine`.

    lanes, width: as in `hw.update.sore.Sore`; n, m: the pattern.
    """

    def __init__(self, lanes: int, n: int, m: int, width: int = 1) -> None:
        self.lanes = lanes
        self.width = width
        self.n = n
        self.m = m
        self.output: KeptPairs | None = None
        self._at = 0
        self._stages: list[tuple[GroupElements, bool] | None] = [None, None]
        self._group: list[GroupElements] = []
        self._leaving: deque[KeptPairs] = deque()

    @property
    def idle(self) -> bool:
        """Whether no beat and no part of a group is inside."""
        return not (self._at or any(self._stages) or self._leaving or self.output)

    def ready(self, taken: bool) -> bool:
        """Return the ready signal of the input; taken: that of the output."""
        return self._free(taken) or not self._ended()

    def clock(self, beat: GroupElements | None, taken: bool) -> None:
        """Pass one clock edge; beat: what the input transfers in this cycle, if anything."""
        advance = self.ready(taken)
        finished: deque[KeptPairs] | None = None
        step = self._steps(taken)
        if advance:
            finished = self._rank()
            self._stages = [self._number(beat), self._stages[0]]
        if step:
            self.output = self._leaving.popleft()
        elif taken:
            self.output = None
        if finished is not None:
            self._leaving = finished

    def _steps(self, taken: bool) -> bool:
        return bool(self._leaving) and (self.output is None or taken)

    def _free(self, taken: bool) -> bool:
        return not self._leaving or (self._steps(taken) and len(self._leaving) == 1)

    def _ended(self) -> bool:
        """Tell whether a group with a present element ends in the rank stage."""
        stage = self._stages[1]
        if stage is None or not stage[1]:
            return False
        return any(bool(beat.present.any()) for beat in [*self._group, stage[0]])

    def _number(self, beat: GroupElements | None) -> tuple[GroupElements, bool] | None:
        if beat is None:
            return None
        ends = beat.last or self._at == self.m // self.width - 1
        self._at = 0 if ends else self._at + 1
        return beat, ends

    def _rank(self) -> deque[KeptPairs] | None:
        """Take the beat of the rank stage; return what leaves if it ends its group."""
        if (stage := self._stages[1]) is None:
            return None
        handed_over = self._ended()
        self._group.append(stage[0])
        if not stage[1]:
            return None
        group, self._group = self._group, []
        return self._pairs(group) if handed_over else None

    def _pairs(self, group: list[GroupElements]) -> deque[KeptPairs]:
        value = np.concatenate([beat.value.T for beat in group])[None]
        present = np.concatenate([beat.present.T for beat in group])[None]
        pruned = prune_groups(value, present, self.n)
        keep = np.zeros((self.lanes, MAX_GROUP), np.bool_)
        keep[:, : value.shape[1]] = pruned.keep[0].T
        beats = -(-self.n // self.width)
        # an odd N leaves the last slot of a wide beat to a filler
        spare = ((0, beats * self.width - self.n), (0, 0))
        slots = [
            np.pad(pruned.value[0], spare),
            np.pad(pruned.index[0], spare),
            np.pad(pruned.filler[0], spare, constant_values=True),
        ]
        parts = [[slot[b * self.width : (b + 1) * self.width].T for slot in slots] for b in range(beats)]
        return deque(
            KeptPairs(value, index, filler, keep, last=b == beats - 1) for b, (value, index, filler) in enumerate(parts)
        )
