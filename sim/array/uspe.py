"""All elements of the array at once, cycle by cycle: the registers of `hw.array.uspe` for R x C elements.

Operands are kept as numbers, not as widened codes; that is the same information. Values follow docs/arithmetic.md.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from nmsat.algorithms.core.numeric import NAN32
from nmsat.dataflow.contract.config import INTERLEAVE
from nmsat.sim.array.links import positions
from nmsat.sim.array.row_port import RowControl

if TYPE_CHECKING:
    from nmsat.dataflow.contract.config import SatConfig

_FIELD: Final = {name: i for i, name in enumerate(RowControl._fields)}


@dataclass
class _Operands:
    """What stands in the operand (or product) registers: numbers and the control that travels with them."""

    a: np.ndarray
    w: np.ndarray
    filler: np.ndarray
    control: np.ndarray


@dataclass(frozen=True)
class ElementOutputs:
    """The output registers of all elements: act float32[R, C, lanes]; control int16[fields, R, C] in the order of
    `RowControl`; weight float32[R, C] with index int16 and filler bool; total uint32[R, C] with valid bool."""

    act: np.ndarray
    control: np.ndarray
    weight: np.ndarray
    index: np.ndarray
    filler: np.ndarray
    total: np.ndarray
    valid: np.ndarray


class UspeArray:
    """Registers and memories of R x C elements, and the links between them.

    sum_bottom, sum_bottom_valid: what stands below the last row in the present cycle.
    """

    def __init__(self, config: SatConfig) -> None:
        rows, columns = config.rows, config.columns
        self._config = config
        self._rows_at = positions(rows, config.row_slices)
        self._columns_at = positions(columns, config.column_slices)
        width, height = int(self._columns_at[-1]) + 2, int(self._rows_at[-1]) + 2
        self._control = np.zeros((len(RowControl._fields), rows, width), np.int16)
        self._act = np.zeros((rows, width, config.act_lanes), np.float32)
        self._wgt = np.zeros((height, columns), np.float32)
        self._index = np.zeros((height, columns), np.int16)
        self._filler = np.ones((height, columns), bool)
        self._sum = np.zeros((height, columns), np.uint32)
        self._sum_valid = np.zeros((height, columns), bool)
        grid = (rows, columns)
        self._act_memory = np.zeros((*grid, 2, config.act_bank), np.float32)
        self._wgt_memory = np.zeros((*grid, 2, config.weight_bank), np.float32)
        self._index_memory = np.zeros((*grid, 2, config.weight_bank), np.int16)
        self._filler_memory = np.zeros((*grid, 2, config.weight_bank), bool)
        self._accumulators = np.zeros((*grid, INTERLEAVE), np.uint32)
        self._drain = np.zeros((*grid, INTERLEAVE), np.uint32)
        empty = _Operands(
            np.zeros(grid, np.float32),
            np.zeros(grid, np.float32),
            np.ones(grid, bool),
            np.zeros((len(RowControl._fields), *grid), np.int16),
        )
        self._stages: deque[_Operands] = deque([empty, empty])
        self._adder: deque[tuple[np.ndarray, np.ndarray]] = deque(
            [(np.zeros(grid, np.uint32), empty.control)] * config.adder_stages
        )
        self._r, self._c = np.indices(grid)

    @property
    def sum_bottom(self) -> np.ndarray:
        """uint32[C], what the last row hands down."""
        return self._sum[-1]

    @property
    def sum_bottom_valid(self) -> np.ndarray:
        """bool[C], whether it is a result."""
        return self._sum_valid[-1]

    def outputs(self) -> ElementOutputs:
        """Return what every element hands on in this cycle."""
        rows, columns = self._rows_at + 1, self._columns_at + 1
        return ElementOutputs(
            act=self._act[:, columns],
            control=self._control[:, :, columns],
            weight=self._wgt[rows],
            index=self._index[rows],
            filler=self._filler[rows],
            total=self._sum[rows],
            valid=self._sum_valid[rows],
        )

    def present_row(self, r: int, control: RowControl, act: np.ndarray) -> None:
        """Put the output of row port `r` on its link for this cycle."""
        self._control[:, r, 0] = control
        self._act[r, 0] = act

    def present_columns(self, value: np.ndarray, index: np.ndarray, filler: np.ndarray, seed: np.ndarray) -> None:
        """Put the outputs of the column ports on their links for this cycle."""
        self._wgt[0], self._index[0], self._filler[0] = value, index, filler
        self._sum[0], self._sum_valid[0] = seed, False

    def busy(self) -> int:
        """Number of elements whose product register holds a valid multiply-add in this cycle."""
        return int(self._stages[0].control[_FIELD["v"]].sum())

    def tick(self) -> None:
        """End the cycle."""
        control = self._control[:, :, self._columns_at]
        above = self._sum[self._rows_at]
        operands = self._read_operands(control)
        result = self._add(self._stages.popleft(), above)
        self._stages.append(operands)
        drained = self._drain[self._r, self._c, control[_FIELD["dra"]]]
        self._adder.append(result)
        self._write_results(*self._adder.popleft())
        self._write_operands(control)
        self._shift(control, above, drained)

    def _read_operands(self, control: np.ndarray) -> _Operands:
        bank, entry = control[_FIELD["wrb"]], control[_FIELD["wra"]]
        at = (self._r, self._c, bank, entry)
        address = self._index_memory[at] | control[_FIELD["ibits"]]
        a = self._act_memory[self._r, self._c, control[_FIELD["arb"]], address & (self._config.act_bank - 1)]
        return _Operands(a, self._wgt_memory[at], self._filler_memory[at], control)

    def _add(self, op: _Operands, above: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """One step of every chain; a filler or an idle element adds nothing."""
        control = op.control
        phase = control[_FIELD["t4"]] % INTERLEAVE
        before = self._accumulators[self._r, self._c, phase]
        seed = np.where(control[_FIELD["ws"]] != 0, above, np.uint32(0))
        before = np.where(control[_FIELD["first"]] != 0, seed, before)
        with np.errstate(invalid="ignore", over="ignore"):
            after = before.view(np.float32) + op.a * op.w
        bits = np.where(np.isnan(after), NAN32.view(np.uint32), after.view(np.uint32))
        return np.where(op.filler, before, bits), control

    def _write_results(self, value: np.ndarray, control: np.ndarray) -> None:
        phase = control[_FIELD["t4"]] % INTERLEAVE
        valid = control[_FIELD["v"]] != 0
        r, c = np.nonzero(valid)
        self._accumulators[r, c, phase[r, c]] = value[r, c]
        r, c = np.nonzero(valid & (control[_FIELD["last"]] != 0))
        self._drain[r, c, phase[r, c]] = value[r, c]

    def _write_operands(self, control: np.ndarray) -> None:
        rows_at, lanes = self._rows_at, self._config.act_lanes
        r, c = np.nonzero(control[_FIELD["wwe"]])
        at = (r, c, 1 - control[_FIELD["wrb"]][r, c], control[_FIELD["wra"]][r, c])
        self._wgt_memory[at] = self._wgt[rows_at[r], c]
        self._index_memory[at] = self._index[rows_at[r], c]
        self._filler_memory[at] = self._filler[rows_at[r], c]
        r, c = np.nonzero(control[_FIELD["awe"]])
        beat = control[_FIELD["t4"]][r, c] * lanes
        for lane in range(lanes):
            at = (r, c, 1 - control[_FIELD["arb"]][r, c], beat + lane)
            self._act_memory[at] = self._act[r, self._columns_at[c], lane]

    def _shift(self, control: np.ndarray, above: np.ndarray, drained: np.ndarray) -> None:
        for link in (self._control, self._act.transpose(2, 0, 1)):
            link[:, :, 1:] = link[:, :, :-1].copy()
        for link in (self._wgt, self._index, self._filler):
            link[1:] = link[:-1].copy()
        valid = self._sum_valid[self._rows_at]
        sends = control[_FIELD["dre"]] != 0
        self._sum[1:] = self._sum[:-1].copy()
        self._sum_valid[1:] = self._sum_valid[:-1].copy()
        self._sum[self._rows_at + 1] = np.where(sends, drained, above)
        # In WS the sum from above seeds this element; handed on it would pass for a result.
        self._sum_valid[self._rows_at + 1] = sends | (valid & (control[_FIELD["ws"]] == 0))
