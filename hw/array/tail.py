"""The tail of the array: decides for each result at the bottom whether it leaves or seeds the next command."""

from __future__ import annotations

from typing import TYPE_CHECKING

from amaranth.hdl import Module, Signal
from amaranth.lib import data, fifo, wiring
from amaranth.lib.wiring import In, Out

from nmsat.dataflow.contract.limits import COMMANDS_IN_FLIGHT
from nmsat.hw.parts.links import keep_layout

if TYPE_CHECKING:
    from nmsat.dataflow.contract.config import SatConfig


class Tail(wiring.Component):
    """Count the results of column 0, command by command.

    Members:

    begins : In(1), a command starts.
    count : In(20), its results per column.
    keep : In(1), they stay, as seeds of the next command.
    ready : Out(1), another command may start.
    arrives : In(1), a result stands at the bottom of column 0.
    control : Out(`keep_layout(config)`), its fate, and its number in the command as its place.
    ended : Out(1), beside `control`: it was the last of its command.

    Timing: `control` and `ended` follow `arrives` by one cycle. `ready` falls one command early, since a command that
    starts is counted one cycle later.
    """

    begins: Signal
    count: Signal
    keep: Signal
    ready: Signal
    arrives: Signal
    control: data.View[data.StructLayout]
    ended: Signal

    def __init__(self, config: SatConfig) -> None:
        self._keep = keep_layout(config)
        super().__init__(
            {
                "begins": In(1),
                "count": In(20),
                "keep": In(1),
                "ready": Out(1),
                "arrives": In(1),
                "control": Out(self._keep),
                "ended": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        queue = m.submodules.queue = fifo.SyncFIFO(width=21, depth=COMMANDS_IN_FLIGHT)
        entry = data.View(data.StructLayout({"count": 20, "keep": 1}), queue.r_data)
        done = Signal(20)
        last = Signal()
        m.d.comb += [
            queue.w_en.eq(self.begins),
            queue.w_data.eq(self.count | (self.keep << 20)),
            # a command that starts is written one cycle later: leave room for it
            self.ready.eq(queue.w_level < COMMANDS_IN_FLIGHT - 1),
            last.eq(done == entry.count - 1),
            queue.r_en.eq(self.arrives & last),
        ]
        m.d.sync += [
            self.control.keep.eq(self.arrives & entry.keep),
            self.control.addr.eq(done),
            self.ended.eq(queue.r_en),
        ]
        with m.If(self.arrives):
            m.d.sync += done.eq(done + 1)
            with m.If(last):
                m.d.sync += done.eq(0)
        return m
