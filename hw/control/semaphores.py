"""Semaphores: counters by which instructions of different queues wait for each other."""

from __future__ import annotations

from typing import Any, Final

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from nmsat.dataflow.contract.isa import SEMAPHORE_MAX, SEMAPHORES, Queue

NEAR: Final = len(Queue) - 1
"""So far below its highest value a semaphore can pass it in one cycle."""


class Semaphores(wiring.Component):
    """16 counters from 0 to 255.

    Members:

    lower : In(16), semaphores lowered by 1, all of them above 0.
    raises : In(16 * len(Queue)), for each queue the semaphores raised by 1, the first queue at bit 0.
    above : Out(16), semaphores above 0.
    beyond : Out(len(Queue)), queues that have raised a semaphore beyond 255 in the last cycle.

    Timing: `above` and `beyond` follow one cycle after `lower` and `raises`.
    """

    lower: Signal
    raises: Any
    above: Signal
    beyond: Signal

    def __init__(self) -> None:
        super().__init__(
            {
                "lower": In(SEMAPHORES),
                "raises": In(data.ArrayLayout(SEMAPHORES, len(Queue))),
                "above": Out(SEMAPHORES),
                "beyond": Out(len(Queue)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        full = Signal(SEMAPHORES)
        for s in range(SEMAPHORES):
            value = Signal(range(SEMAPHORE_MAX + 1), name=f"value_{s}")
            raised = sum((self.raises[q][s] for q in range(1, len(Queue))), self.raises[0][s])
            total = Signal(range(SEMAPHORE_MAX + len(Queue) + 1), name=f"total_{s}")
            # What comes late is `lower`, from the choice of who starts: all else is known before it.
            low = value[: NEAR.bit_length()]
            near = value[len(low) :] == SEMAPHORE_MAX >> len(low)
            m.d.comb += [
                total.eq(value + raised - self.lower[s]),
                full[s].eq(near & (low + raised - self.lower[s] >= 1 << len(low))),
            ]
            m.d.sync += [
                value.eq(Mux(full[s], SEMAPHORE_MAX, total)),
                self.above[s].eq((raised != 0) | (value > 1) | (value[0] & ~self.lower[s])),
            ]
        raised_late, over = Signal(data.ArrayLayout(SEMAPHORES, len(Queue))), Signal(SEMAPHORES)
        m.d.sync += [raised_late.eq(self.raises), over.eq(full)]
        m.d.comb += self.beyond.eq(Cat((raised_late[q] & over).any() for q in range(len(Queue))))
        return m
