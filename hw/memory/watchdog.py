"""The watchdog of a memory port: tells when memory has moved nothing of what it owes for too long."""

from __future__ import annotations

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from nmsat.dataflow.contract.limits import WATCHDOG_BITS


class Watchdog(wiring.Component):
    """Count cycles in which something is under way and nothing moves.

    Members:

    limit : In(32), cycles after which it tells, stable during a run; 0: never.
    owes : In(1), a burst is under way.
    moves : In(1), an address, a beat or an answer moves.
    late : Out(1), this is the `limit`-th cycle in succession in which memory owes and moves nothing; once, until
        something moves.

    Timing: combinational from `owes` and `moves` to `late`.
    """

    limit: Signal
    owes: Signal
    moves: Signal
    late: Signal

    def __init__(self) -> None:
        super().__init__({"limit": In(WATCHDOG_BITS), "owes": In(1), "moves": In(1), "late": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        left = Signal(WATCHDOG_BITS)
        stands = Signal()
        m.d.comb += [stands.eq(self.owes & ~self.moves), self.late.eq(stands & (left == 1))]
        with m.If(~stands):
            m.d.sync += left.eq(self.limit)
        with m.Elif(left != 0):
            m.d.sync += left.eq(left - 1)
        return m
