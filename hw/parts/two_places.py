"""Two places between a stream and another: nothing that goes backwards passes through in the same cycle."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

if TYPE_CHECKING:
    from amaranth.hdl import ShapeLike


class TwoPlaces(wiring.Component):
    """A stream in registers, both ways.

    Parameters: shape: of what it carries.
    Members:

    i : In(stream of shape), what enters.
    o : Out(stream of shape), what leaves, in the same order.

    Timing: what enters in cycle t stands at `o` from t + 1 on, or behind what stands there; one per cycle. `i.ready`,
    `o.valid` and `o.payload` are registers.
    """

    i: Any
    o: Any

    def __init__(self, shape: ShapeLike) -> None:
        super().__init__({"i": In(stream.Signature(shape)), "o": Out(stream.Signature(shape))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        enters, leaves = Value.cast(self.i.payload), Signal(len(Value.cast(self.o.payload)), reset_less=True)
        behind, full = Signal.like(leaves, name="behind"), Signal()
        m.d.comb += [self.i.ready.eq(~full), Value.cast(self.o.payload).eq(leaves)]
        with m.If(~full):
            m.d.sync += behind.eq(enters)
        with m.If(~self.o.valid | self.o.ready):
            m.d.sync += [leaves.eq(Mux(full, behind, enters)), self.o.valid.eq(full | self.i.valid), full.eq(0)]
        with m.Elif(self.i.valid):
            m.d.sync += full.eq(1)
        return m
