"""Model of the transposer of pre-generation (hw/update/transpose.py)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nmsat.sim.update.sore import GroupElements

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class TransposedRow:
    """One beat in: value uint16[lanes] (binary16), present bool[lanes]; last row of its columns, end of the pass."""

    value: NDArray[np.uint16]
    present: NDArray[np.bool_]
    last: bool = False
    end: bool = False


class Transposer:
    """The transposer between two clock edges; see `sim.parts.stream.StreamEngine`."""

    def __init__(self, lanes: int) -> None:
        self.output: GroupElements | None = None
        self._lanes = lanes
        self._block: list[TransposedRow] = []
        self._whole: list[TransposedRow] | None = None
        self._absent = 0  # absent rows still to take in
        self._flush = False

    @property
    def idle(self) -> bool:
        """Whether no row is inside."""
        return not (self._block or self._whole or self._absent or self.output)

    def ready(self, taken: bool) -> bool:
        """Return the ready signal of the input; taken: that of the output."""
        return self._absent == 0 and (self.output is None or taken)

    def clock(self, beat: TransposedRow | None, taken: bool) -> None:
        """Pass one clock edge; beat: what the input transfers in this cycle, if anything."""
        free = self.output is None or taken
        if not free or (beat is None and self._absent == 0):
            if taken:
                self.output = None
            return
        self._take(beat)

    def _take(self, beat: TransposedRow | None) -> None:
        """Step: take in a row (None: an absent one) and move one column to the output."""
        lanes = self._lanes
        absent = TransposedRow(np.zeros(lanes, np.uint16), np.zeros(lanes, np.bool_))
        self._block.append(absent if beat is None else beat)
        column = len(self._block) % lanes
        if column == 0:
            self._whole, self._block = self._block, []
        self.output = None
        if self._whole is not None:
            value = np.array([row.value[column] for row in self._whole])[:, None]
            present = np.array([row.present[column] for row in self._whole])[:, None]
            self.output = GroupElements(value, present)
        if beat is None:
            self._absent -= 1
        elif beat.last or beat.end:
            self._flush = beat.end
            self._absent = -len(self._block) % lanes + (lanes - 1 if beat.end else 0)
        if self._flush and beat is None and self._absent == 0:
            self._block, self._whole, self._flush = [], None, False
