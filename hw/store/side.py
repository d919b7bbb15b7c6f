"""Beats of the second operand that wait; a row that all rows of a tile share is kept and read again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from nmsat.dataflow.contract.isa import BEAT_BYTES
from nmsat.dataflow.contract.limits import SIDE_BEATS
from nmsat.hw.parts.steps import named

if TYPE_CHECKING:
    from collections.abc import Mapping


class SideQueue(wiring.Component):
    """Beats in order, the oldest one at the output; with `keep` they stay, and behind a row the first is next again.

    Members:

    push : In(1), a beat enters; never a full queue.
    i : In(512), this beat.
    pop : In(1), the present beat has been used; never in an empty queue.
    keep : In(1), it is used again: it stays.
    ends_row : In(1), beside `pop` and `keep`: it is the last of its row.
    begin : In(1), a tile begins; the queue is empty.
    o : Out(512), the present beat.
    level : Out(range(SIDE_BEATS + 1)), beats that are there.
    some : Out(1), there are any.

    Timing: a beat pushed in cycle t stands at `o` from t + 1 on; `level` and `some` are registers.
    """

    push: Signal
    i: Signal
    pop: Signal
    keep: Signal
    ends_row: Signal
    begin: Signal
    o: Signal
    level: Signal
    some: Signal

    def __init__(self) -> None:
        super().__init__(
            {
                "push": In(1),
                "i": In(8 * BEAT_BYTES),
                "pop": In(1),
                "keep": In(1),
                "ends_row": In(1),
                "begin": In(1),
                "o": Out(8 * BEAT_BYTES),
                "level": Out(range(SIDE_BEATS + 1)),
                "some": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        memory = Memory(shape=8 * BEAT_BYTES, depth=SIDE_BEATS, init=[], attrs={"ram_style": "distributed"})
        m.submodules.memory = memory
        write, read = memory.write_port(), memory.read_port(domain="comb")
        first = Signal(range(SIDE_BEATS))  # place of the first beat of the tile
        at = Signal(range(SIDE_BEATS))
        leaves = named(m, "leaves", self.pop & ~self.keep)
        m.d.comb += [write.en.eq(self.push), write.data.eq(self.i), read.addr.eq(at), self.o.eq(read.data)]
        m.d.sync += [
            write.addr.eq(write.addr + self.push),
            self.level.eq(self.level + self.push - leaves),
            self.some.eq(self.push | Mux(leaves, self.level > 1, self.level.any())),
        ]
        with m.If(self.begin):
            m.d.sync += first.eq(at)
        with m.If(self.pop & self.keep & self.ends_row):
            m.d.sync += at.eq(first)
        with m.Elif(self.pop):
            m.d.sync += at.eq(at + 1)
        return m


def same_row(m: Module, fields: Mapping[str, Any]) -> Value:
    """Return whether all rows of a STORE have the same second operand: its walk does not move."""
    return named(m, "same_row", ~fields["side_x_step"].any() & ~fields["width"].any())
