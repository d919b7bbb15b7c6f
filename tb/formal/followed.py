"""A queue of the hardware under proof, with one entry followed from its entry to its exit.

Which entry is followed the solver chooses, so what holds of it holds of all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from amaranth.hdl import Signal, Value

from nmsat.tb.formal.harness import Harness, implies, opened

if TYPE_CHECKING:
    from nmsat.hw.parts.small_queue import SmallQueue


class Followed:
    """One entry of a `SmallQueue`, and what makes an induction over its contents go through.

    on: an entry is followed and still inside; first: it stands at the output; value: what was pushed; push: its push
    is in this cycle.
    """

    def __init__(self, proof: Harness, queue: SmallQueue, depth: int, name: str = "entry") -> None:
        m = proof.m
        inner = opened(queue)
        memory = inner.submodules.memory
        width = len(Value.cast(queue.i))
        self._ahead = Signal(range(depth + 1), name=f"{name}_ahead")
        self.on = Signal(name=f"{name}_on")
        self.value = Signal(width, name=f"{name}_value")
        self.push = Signal(name=f"{name}_push")
        self.first = Signal(name=f"{name}_first")
        pick = proof.free(f"{name}_pick")
        m.d.comb += [
            self.push.eq(queue.push & pick & ~self.on),
            self.first.eq(self.on & (self._ahead == 0)),
        ]
        with m.If(self.push):
            m.d.sync += [
                self.on.eq(1),
                self.value.eq(Value.cast(queue.i)),
                self._ahead.eq(queue.level - queue.pop),
            ]
        with m.Elif(self.on & queue.pop):
            m.d.sync += self._ahead.eq(self._ahead - 1)
            with m.If(self.first):
                m.d.sync += self.on.eq(0)
        self._invariant(proof, queue, memory, depth)

    def _invariant(self, proof: Harness, queue: SmallQueue, memory: Any, depth: int) -> None:
        write, read = memory.write_ports[0], memory.read_ports[0]
        peek = memory.read_port(domain="comb")
        bits = len(write.addr)
        proof.m.d.comb += peek.addr.eq(read.addr + self._ahead)
        proof.check(queue.level <= depth, "a queue never holds more than it has places")
        proof.check((write.addr - read.addr)[:bits] == queue.level[:bits], "level is what was pushed less what left")
        proof.check(implies(self.on, self._ahead < queue.level), "an entry stays until it leaves")
        proof.check(implies(self.on, Value.cast(peek.data) == self.value), "an entry keeps its value and its place")
