"""A queue behind a data path that never stops: a beat enters only if its result will find a place.

A vector data path has thousands of registers; a stall signal to all of them would be the slowest net of the engine.
Here nothing stalls: the queue counts the beats under way and those waiting, and refuses new ones in time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from amaranth.hdl import Cat, Module, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from nmsat.dataflow.contract.timing import queue_depth
from nmsat.hw.parts.steps import named

if TYPE_CHECKING:
    from amaranth.hdl import ShapeLike


def queue_behind(m: Module, engine: Any, latency: int) -> ResultQueue:
    """Put a queue behind the data path of an engine (streams `i` and `o`, port `idle`) and return it.

    The engine gives it `data`: the result of the beat that entered `latency` cycles ago.
    """
    m.submodules.queue = queue = ResultQueue(engine.o.payload.shape(), latency)
    m.d.comb += [
        queue.valid.eq(engine.i.valid),
        engine.i.ready.eq(queue.ready),
        engine.o.valid.eq(queue.o.valid),
        engine.o.payload.eq(queue.o.payload),
        queue.o.ready.eq(engine.o.ready),
        engine.idle.eq(queue.idle),
    ]
    return queue


class ResultQueue(wiring.Component):
    """Accept beats for a data path and hand out its results in order.

    Parameters: shape: of a result; latency: cycles from the beat to its result, 1 or more.
    Members:

    valid : In(1), a beat is offered.
    ready : Out(1), it is taken, as its result will find a place; from registers.
    enter : Out(1), it enters the data path in this cycle.
    data : In(shape), result of the beat that entered `latency` cycles ago.
    arrives : Out(1), there is such a beat.
    o : Out(stream of shape), results.
    idle : Out(1), no beat is inside.

    Timing: a result stands on `o` latency + 1 cycles after its beat entered; one beat per cycle.
    """

    valid: Signal
    ready: Signal
    enter: Signal
    data: Any
    arrives: Signal
    o: Any
    idle: Signal

    def __init__(self, shape: ShapeLike, latency: int) -> None:
        self._shape = shape
        self._latency = latency
        self.depth = queue_depth(latency)
        super().__init__(
            {
                "valid": In(1),
                "ready": Out(1),
                "enter": Out(1),
                "data": In(shape),
                "arrives": Out(1),
                "o": Out(stream.Signature(shape)),
                "idle": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        width = len(Value.cast(self.data))
        memory = Memory(shape=width, depth=self.depth, init=[], attrs={"ram_style": "distributed"})
        m.submodules.memory = memory
        write, read = memory.write_port(), memory.read_port(domain="comb")
        under_way = Signal(self._latency)
        inside, waiting = Signal(range(self.depth + 1)), Signal(range(self.depth + 1))
        leaves = named(m, "leaves", self.o.valid & self.o.ready)
        m.d.comb += [
            self.ready.eq(inside != self.depth),
            self.enter.eq(self.valid & self.ready),
            self.arrives.eq(under_way[-1]),
            write.en.eq(self.arrives),
            write.data.eq(self.data),
            Value.cast(self.o.payload).eq(read.data),
            self.o.valid.eq(waiting.any()),
            self.idle.eq(~inside.any()),
        ]
        m.d.sync += [
            under_way.eq(Cat(self.enter, under_way[:-1])),
            inside.eq(inside + self.enter - leaves),
            waiting.eq(waiting + self.arrives - leaves),
            write.addr.eq(write.addr + self.arrives),
            read.addr.eq(read.addr + leaves),
        ]
        return m
