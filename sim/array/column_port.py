"""The top and bottom of all columns, cycle by cycle: the registers of `hw.array.column_port`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from nmsat.sim.array.links import Shift

if TYPE_CHECKING:
    from nmsat.dataflow.contract.config import SatConfig


class ColumnPorts:
    """Registers of the C column ports. Attributes without underscore are outputs in the present cycle.

    pair buffers: float16[C, depth], uint8 index, bool filler; sums: uint32[C, sum_depth].
    """

    def __init__(self, config: SatConfig) -> None:
        columns = config.columns
        self._all = np.arange(columns)
        shape = (columns, config.weight_depth)
        self.values = np.zeros(shape, np.float16)
        self.indices = np.zeros(shape, np.uint8)
        self.fillers = np.zeros(shape, bool)
        self.sums = np.zeros((columns, config.sum_depth), np.uint32)
        self._weight_control = Shift(2, columns, config.column_slices)
        self._seed_control = Shift(2, columns, config.column_slices)
        self._keep_control = Shift(2, columns, config.column_slices)
        self._asked = np.zeros(columns, bool)
        self._pair = (np.zeros(columns, np.float16), np.zeros(columns, np.uint8), np.zeros(columns, bool))
        self.wgt_value = np.zeros(columns, np.float32)
        self.wgt_index = np.zeros(columns, np.uint8)
        self.wgt_filler = np.ones(columns, bool)
        self.seed = np.zeros(columns, np.uint32)
        self._result = np.zeros(columns, np.uint32)
        self._result_valid = np.zeros(columns, bool)

    def out(self) -> tuple[np.ndarray, np.ndarray]:
        """Return (value uint32[C], valid bool[C]) of the results that leave in this cycle; call after `present`."""
        kept = self._keep_control.seen[0].astype(bool)
        return self._result, self._result_valid & ~kept

    @property
    def requests(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What weight, seed and keep control ask of each column in this cycle: int[2, C] each, flag and address."""
        return self._weight_control.seen, self._seed_control.seen, self._keep_control.seen

    def present(self, weight: tuple[bool, int], seed: tuple[bool, int], keep: tuple[bool, int]) -> None:
        """Put the control of head and tail of this cycle in front of column 0."""
        self._weight_control.present(weight)
        self._seed_control.present(seed)
        self._keep_control.present(keep)

    def tick(self, bottom: np.ndarray, bottom_valid: np.ndarray) -> None:
        """End the cycle in which `bottom` stood below the last row."""
        value, index, filler = self._pair
        self.wgt_value = value.astype(np.float32)
        self.wgt_index = index
        self.wgt_filler = filler | ~self._asked
        read, address = self._weight_control.seen
        self._pair = tuple(a[self._all, address] for a in (self.values, self.indices, self.fillers))
        self._asked = read.astype(bool)
        read, address = self._seed_control.seen
        self.seed = np.where(read.astype(bool), self.sums[self._all, address], np.uint32(0))
        kept, address = self._keep_control.seen
        write = self._result_valid & kept.astype(bool)
        self.sums[self._all[write], address[write]] = self._result[write]
        self._result, self._result_valid = bottom.copy(), bottom_valid.copy()
        for control in (self._weight_control, self._seed_control, self._keep_control):
            control.tick()
