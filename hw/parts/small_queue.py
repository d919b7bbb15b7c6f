"""A short queue in distributed memory, for what is under way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from amaranth.hdl import Module, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

if TYPE_CHECKING:
    from amaranth.hdl import ShapeLike


class SmallQueue(wiring.Component):
    """Entries in order; the oldest one stands at the output.

    Parameters: shape: of an entry; depth: a power of two. The user never pushes into a full queue (`level` tells) and
    never pops an empty one.
    Members:

    push : In(1), an entry enters.
    i : In(shape), this entry.
    pop : In(1), the oldest one leaves.
    o : Out(shape), the oldest one.
    some : Out(1), there is one.
    level : Out(range(depth + 1)), how many there are.

    Timing: an entry pushed in cycle t stands at `o` from t + 1 on.
    """

    push: Signal
    i: Any
    pop: Signal
    o: Any
    some: Signal
    level: Signal

    def __init__(self, shape: ShapeLike, depth: int) -> None:
        self._depth = depth
        super().__init__(
            {
                "push": In(1),
                "i": In(shape),
                "pop": In(1),
                "o": Out(shape),
                "some": Out(1),
                "level": Out(range(depth + 1)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        width = len(Value.cast(self.i))
        memory = Memory(shape=width, depth=self._depth, init=[], attrs={"ram_style": "distributed"})
        m.submodules.memory = memory
        write, read = memory.write_port(), memory.read_port(domain="comb")
        m.d.comb += [
            write.en.eq(self.push),
            write.data.eq(self.i),
            Value.cast(self.o).eq(read.data),
            self.some.eq(self.level.any()),
        ]
        m.d.sync += [
            write.addr.eq(write.addr + self.push),
            read.addr.eq(read.addr + self.pop),
            self.level.eq(self.level + self.push - self.pop),
        ]
        return m
