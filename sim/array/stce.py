"""The array engine, cycle by cycle: the registers of `hw.array.stce` wired from the parts beside this file."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from nmsat.dataflow.contract.registers import Wait
from nmsat.sim.array.column_port import ColumnPorts
from nmsat.sim.array.head import Head, Tail
from nmsat.sim.array.row_port import RowPort
from nmsat.sim.array.uspe import UspeArray

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nmsat.dataflow.contract.config import SatConfig
    from nmsat.dataflow.contract.isa import Compute
    from nmsat.sim.array.head import Token


@dataclass
class Trace:
    """What a run of the array did.

    out_cycle: int[results] and out_value: uint32[results], per column, in order of arrival; starts: cycle and kind of
    each window; waits: cycles per reason.
    """

    out_cycle: list[list[int]]
    out_value: list[list[int]]
    starts: list[tuple[int, bool]] = field(default_factory=list)
    waits: dict[Wait, int] = field(default_factory=lambda: dict.fromkeys(Wait, 0))

    @property
    def cycles(self) -> int:
        """From the first window's start to the last result, both included."""
        last = max(column[-1] for column in self.out_cycle if column)
        return last - self.starts[0][0] + 1


class Stce:
    """The stepped gear: state of the whole array engine.

    Load operands into `rows[r].buffer` and `columns.values/indices/fillers`, then `run` commands.
    """

    def __init__(self, config: SatConfig) -> None:
        self.config = config
        self.cycle = 0
        self.head = Head(config)
        self.tail = Tail()
        self.rows = [RowPort(config) for _ in range(config.rows)]
        self.columns = ColumnPorts(config)
        self.elements = UspeArray(config)
        slices = set(config.row_slices)
        self._sliced = [r in slices for r in range(config.rows)]
        self._token_slice: list[Token | None] = [None] * config.rows
        self._drain_slice = [False] * config.rows

    def tick(self, command: Compute | None) -> tuple[bool, Wait]:
        """Advance one clock with `command` offered; return whether it was taken and why no window started."""
        head, tail, rows, columns, elements = self.head, self.tail, self.rows, self.columns, self.elements
        for r, row in enumerate(rows):
            elements.present_row(r, row.ctl, row.act)
        elements.present_columns(columns.wgt_value, columns.wgt_index, columns.wgt_filler, columns.seed)
        columns.present(head.weight, head.seed, tail.control)
        tokens, drains = self._from_above()
        bottom, bottom_valid = elements.sum_bottom.copy(), elements.sum_bottom_valid.copy()
        begin, ready = head.begin, tail.ready
        elements.tick()
        for r, row in enumerate(rows):
            self._token_slice[r], self._drain_slice[r] = row.token, row.drain
        for row, token, drain in zip(rows, tokens, drains, strict=True):
            row.tick(token, drain)
        columns.tick(bottom, bottom_valid)
        result = head.tick(command, ready)
        tail.tick(begin, bool(bottom_valid[0]))
        self.cycle += 1
        return result

    def _from_above(self) -> tuple[list[Token | None], list[bool]]:
        """Window and drain turn in front of each row port in this cycle; a slice shows those of the cycle before."""
        rows = self.rows
        tokens: list[Token | None] = [self.head.token]
        drains = [rows[0].event]
        for r in range(1, len(rows)):
            sliced = self._sliced[r]
            tokens.append(self._token_slice[r - 1] if sliced else rows[r - 1].token)
            drains.append(self._drain_slice[r - 1] if sliced else rows[r - 1].drain)
        return tokens, drains

    def results(self) -> tuple[np.ndarray, np.ndarray]:
        """Return (value uint32[C], valid bool[C]) of the results that leave in the present cycle."""
        self.columns.present(self.head.weight, self.head.seed, self.tail.control)
        return self.columns.out()

    def run(
        self,
        commands: Sequence[Compute],
        expected: int,
        *,
        gaps: Sequence[int] | None = None,
        limit: int = 10_000_000,
    ) -> Trace:
        """Offer `commands` and run until each column gave `expected` results.

        gaps: idle cycles before each command is offered, counted from the cycle after the one before was taken; by
        default commands are offered as fast as the head takes them. RuntimeError after `limit` cycles.
        """
        trace = Trace([[] for _ in range(self.config.columns)], [[] for _ in range(self.config.columns)])
        waiting = list(gaps) if gaps is not None else [0] * len(commands)
        at = 0
        for _ in range(limit):
            self._observe(trace)
            if min(len(column) for column in trace.out_cycle) >= expected:
                return trace
            offered = at < len(commands) and waiting[at] == 0
            taken, wait = self.tick(commands[at] if offered else None)
            trace.waits[wait] += wait is not Wait.NONE
            if taken:
                at += 1
            elif at < len(commands) and waiting[at]:
                waiting[at] -= 1
        raise RuntimeError(f"a column gave fewer than {expected} results in {limit} cycles")

    def _observe(self, trace: Trace) -> None:
        """Note the window that starts and the results that leave in this cycle."""
        token = self.head.token
        if token is not None:
            trace.starts.append((self.cycle, token.compute))
        value, valid = self.results()
        for c in np.nonzero(valid)[0]:
            trace.out_cycle[c].append(self.cycle)
            trace.out_value[c].append(int(value[c]))
