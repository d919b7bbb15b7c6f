"""Where the results of a tile stand in the capture buffers, in the order in which they are stored."""

from __future__ import annotations

from typing import TYPE_CHECKING

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from nmsat.hw.parts.steps import named

if TYPE_CHECKING:
    from nmsat.dataflow.contract.config import SatConfig


class ResultReader(wiring.Component):
    """Places of the results in the capture buffers: tile rows outside, chunks of columns inside.

    Members; fields of the instruction are held still:

    ws : In(1), field: results of weight stationary commands.
    log2_a : In(2), field: log2 of the rows of an interleave rectangle.
    capture : In(range(sum_depth)), field: place of the first result.
    rows : In(16), field: tile rows.
    start : In(1), begin.
    step : In(1), go to the next chunk.
    ends_row : In(1), beside `step`: it is in the next row.
    address : Out(range(sum_depth)), place of the present chunk, the same in all columns.
    reading : Out(1), there is one.
    last : Out(1), it is in the last row.

    Timing: `address`, `reading` and `last` are registers; those of the first chunk stand one cycle after `start`.
    """

    ws: Signal
    log2_a: Signal
    capture: Signal
    rows: Signal
    start: Signal
    step: Signal
    ends_row: Signal
    address: Signal
    reading: Signal
    last: Signal

    def __init__(self, config: SatConfig) -> None:
        self._config = config
        super().__init__(
            {
                "ws": In(1),
                "log2_a": In(2),
                "capture": In(range(config.sum_depth)),
                "rows": In(16),
                "start": In(1),
                "step": In(1),
                "ends_row": In(1),
                "address": Out(range(config.sum_depth)),
                "reading": Out(1),
                "last": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        rows = self._config.rows
        left = Signal(16)
        inner = Signal(range(max(rows, 8)))  # OS: array row, WS: row in the block
        first, row = Signal.like(self.address), Signal.like(self.address)  # places of inner = 0, of the present row
        a = named(m, "a", (1 << self.log2_a)[:4])
        wraps = named(m, "wraps", Mux(self.ws, inner == a - 1, inner == rows - 1))
        wrapped = named(m, "wrapped", first + Mux(self.ws, 8, 1))
        next_row = named(m, "next_row", Mux(wraps, wrapped, row + Mux(self.ws, 1, 8))[: len(row)])
        with m.If(self.start):
            m.d.sync += [left.eq(self.rows), self.reading.eq(self.rows != 0), self.last.eq(self.rows == 1), inner.eq(0)]
            m.d.sync += [place_.eq(self.capture) for place_ in (first, row, self.address)]
        with m.Elif(self.step & self.ends_row):
            m.d.sync += [left.eq(left - 1), self.reading.eq(left != 1), self.last.eq(left == 2)]
            m.d.sync += [inner.eq(inner + 1), row.eq(next_row), self.address.eq(next_row)]
            with m.If(wraps):
                m.d.sync += [inner.eq(0), first.eq(wrapped)]
        with m.Elif(self.step):
            m.d.sync += self.address.eq(self.address + a)
        return m
