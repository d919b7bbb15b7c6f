"""The sequencer: instructions from memory to the queues of the engines, and from there to the engines in time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from nmsat.dataflow.contract.isa import INSTRUCTION_BITS, OFFSET_BITS, QUEUE_OF, SEMAPHORES, ErrorCode, Opcode, Queue
from nmsat.dataflow.contract.limits import QUEUE_DEPTH, READERS, STARTED_DEPTH, WRITERS
from nmsat.hw.control.fetch import Fetch
from nmsat.hw.control.semaphores import Semaphores
from nmsat.hw.memory import axi
from nmsat.hw.parts.clients import INDEX_BITS, ReadClient, WorkPort
from nmsat.hw.parts.fields import fields_of
from nmsat.hw.parts.small_queue import SmallQueue

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nmsat.dataflow.contract.config import SatConfig


def failure_layout() -> data.StructLayout:
    """An error for one cycle: its code and the instruction it belongs to."""
    return data.StructLayout({"valid": 1, "code": 4, "index": INDEX_BITS})


def waiting_layout() -> data.StructLayout:
    """An instruction in a queue, with its place in the program."""
    return data.StructLayout({"word": INSTRUCTION_BITS, "index": INDEX_BITS})


def started_layout() -> data.StructLayout:
    """What is kept of an instruction in an engine."""
    return data.StructLayout({"signal": SEMAPHORES, "index": INDEX_BITS})


class Lane(wiring.Component):
    """Queue of one engine and the instructions inside the engine.

    Members:

    push : In(1), an instruction enters.
    word : In(512), this instruction.
    index : In(32), its place in the program.
    full : Out(1), none may enter.
    above : In(16), semaphores above 0.
    may : In(1), instructions may start.
    work : Out(`WorkPort`), the engine.
    moved : In(1), a queue starts one in this cycle: what was found out of semaphores may no longer hold.
    can : Out(1), the oldest instruction could start in the last cycle, and still can.
    turn : In(1), it is this queue's turn: no queue before it can.
    starts : Out(1), the oldest instruction starts in this cycle.
    head_index : Out(32), its place in the program.
    lowers : Out(16), semaphores that it lowers in this cycle.
    raises : Out(16), semaphores that an instruction raises which is done in this cycle.
    some : Out(1), an instruction waits.
    blocked : Out(1), it waits for a semaphore.
    busy : Out(1), an instruction is in the engine.
    oldest : Out(32), its place in the program.

    Timing: an instruction pushed in cycle t is looked at in t + 1 and may start in t + 2. `can` is a register.
    """

    push: Signal
    word: Signal
    index: Signal
    full: Signal
    above: Signal
    may: Signal
    work: Any
    moved: Signal
    can: Signal
    turn: Signal
    starts: Signal
    head_index: Signal
    lowers: Signal
    raises: Signal
    some: Signal
    blocked: Signal
    busy: Signal
    oldest: Signal

    def __init__(self) -> None:
        super().__init__(
            {
                "push": In(1),
                "word": In(INSTRUCTION_BITS),
                "index": In(INDEX_BITS),
                "full": Out(1),
                "above": In(SEMAPHORES),
                "may": In(1),
                "work": Out(WorkPort()),
                "moved": In(1),
                "can": Out(1),
                "turn": In(1),
                "starts": Out(1),
                "head_index": Out(INDEX_BITS),
                "lowers": Out(SEMAPHORES),
                "raises": Out(SEMAPHORES),
                "some": Out(1),
                "blocked": Out(1),
                "busy": Out(1),
                "oldest": Out(INDEX_BITS),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.queue = queue = SmallQueue(waiting_layout(), QUEUE_DEPTH)
        m.submodules.started = started = SmallQueue(started_layout(), STARTED_DEPTH)
        work = self.work
        head = fields_of(Opcode.END, queue.o.word)  # wait and signal stand at the same place in all instructions
        missing = Signal(SEMAPHORES)
        m.d.sync += self.can.eq(
            self.may & queue.some & ~missing.any() & (started.level != STARTED_DEPTH) & work.start.ready & ~self.moved
        )
        m.d.comb += [
            queue.push.eq(self.push),
            queue.i.word.eq(self.word),
            queue.i.index.eq(self.index),
            queue.pop.eq(self.starts),
            self.full.eq(queue.level == QUEUE_DEPTH),
            self.head_index.eq(queue.o.index),
            missing.eq(head["wait"] & ~self.above),
            self.some.eq(queue.some),
            self.blocked.eq(queue.some & missing.any()),
            work.start.valid.eq(self.can & self.turn & self.may),
            work.start.payload.eq(queue.o.word),
            self.starts.eq(work.start.valid & work.start.ready),
            self.lowers.eq(Mux(self.starts, head["wait"], 0)),
            started.push.eq(self.starts),
            started.i.signal.eq(head["signal"]),
            started.i.index.eq(queue.o.index),
            started.pop.eq(work.done),
            self.raises.eq(Mux(work.done, started.o.signal, 0)),
            self.busy.eq(started.some),
            self.oldest.eq(started.o.index),
        ]
        return m


class Sequencer(wiring.Component):
    """Fetch, checks, queues, semaphores, and the errors of a run.

    Members:

    run : In(1), a run is on; reset in front of each run.
    region : In(2), region of the program.
    at : In(34), its first beat in the region.
    count : In(32), its instructions.
    read : Out(`ReadClient`), memory, for the fetch.
    work : Out(`WorkPort`) each, engines in the order of `dataflow.contract.isa.Queue`.
    read_error : In(`axi.error_layout(len(READERS))`), error of the read port.
    write_error : In(`axi.error_layout(len(WRITERS))`), error of the write port.
    finished : Out(1), END has been reached and all engines are done.
    failure : Out(`failure_layout`), the run fails in this cycle.
    instructions : Out(1), an instruction enters a queue, for the counters.
    busy : Out(len(Queue)), an instruction is in this engine, for the counters.
    blocked : Out(len(Queue)), this queue waits for a semaphore, for the counters.

    Timing: an instruction needs 3 cycles of check. In one cycle queues look whether their oldest instruction could
    start, in the next the first of those that could starts its own; in that cycle the others look in vain.
    """

    run: Signal
    region: Signal
    at: Signal
    count: Signal
    read: Any
    work: Sequence[Any]
    read_error: Any
    write_error: Any
    finished: Signal
    failure: Any
    instructions: Signal
    busy: Signal
    blocked: Signal

    def __init__(self, config: SatConfig) -> None:
        self._config = config
        count = len(Queue)
        super().__init__(
            {
                "run": In(1),
                "region": In(2),
                "at": In(OFFSET_BITS),
                "count": In(INDEX_BITS),
                "read": Out(ReadClient()),
                "work": Out(WorkPort()).array(count),
                "read_error": In(axi.error_layout(len(READERS))),
                "write_error": In(axi.error_layout(len(WRITERS))),
                "finished": Out(1),
                "failure": Out(failure_layout()),
                "instructions": Out(1),
                "busy": Out(count),
                "blocked": Out(count),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.fetch = fetch = Fetch(self._config)
        m.submodules.semaphores = semaphores = Semaphores()
        lanes = [Lane() for _ in Queue]
        for queue, lane in zip(Queue, lanes, strict=True):
            m.submodules[f"lane_{queue.name.lower()}"] = lane
        m.d.comb += [
            fetch.run.eq(self.run),
            fetch.region.eq(self.region),
            fetch.at.eq(self.at),
            fetch.count.eq(self.count),
        ]
        wiring.connect(m, fetch.read, wiring.flipped(self.read))
        stuck, ends = self._dispatch(m, fetch, lanes)
        self._start(m, semaphores, lanes)
        self._finish(m, lanes, ends)
        self._fail(m, fetch, semaphores, lanes, stuck)
        self._count(m, lanes)
        return m

    def _dispatch(self, m: Module, fetch: Fetch, lanes: Sequence[Lane]) -> tuple[Signal, Signal]:
        """Hand an instruction to its queue; return whether it cannot go on by itself, whether it is END."""
        legal, ends, full, last = Signal(), Signal(), Signal(), Signal()
        # What kind of instruction it is is known a cycle after it stands, and that is before the verdict of the check.
        m.d.sync += last.eq(fetch.word[:4] == Opcode.END)
        m.d.comb += [
            legal.eq(self.run & fetch.valid & (fetch.code == ErrorCode.NONE)),
            ends.eq(legal & last),
        ]
        for queue, lane in zip(Queue, lanes, strict=True):
            opcodes = [opcode for opcode, of in QUEUE_OF.items() if of is queue]
            mine = Signal(name=f"for_{queue.name.lower()}")
            m.d.sync += mine.eq(Cat(fetch.word[:4] == opcode for opcode in opcodes).any())
            m.d.comb += [
                lane.push.eq(legal & mine & ~lane.full),
                lane.word.eq(fetch.word),
                lane.index.eq(fetch.index),
            ]
            with m.If(mine):
                m.d.comb += full.eq(lane.full)
        m.d.comb += [
            fetch.take.eq(legal & ~ends & ~full),
            self.instructions.eq(fetch.take),
        ]
        stuck = Signal()
        m.d.comb += stuck.eq(legal & (ends | full))
        return stuck, ends

    def _start(self, m: Module, semaphores: Semaphores, lanes: Sequence[Lane]) -> None:
        """Start one instruction; lower and raise semaphores."""
        before: Value = Signal()  # stays 0: the first queue waits for none
        moved = Signal()
        m.d.comb += moved.eq(Cat(lane.starts for lane in lanes).any())
        for q, (lane, work) in enumerate(zip(lanes, self.work, strict=True)):
            port = lane.work
            m.d.comb += [
                lane.may.eq(self.run),
                lane.above.eq(semaphores.above),
                lane.turn.eq(~before),
                lane.moved.eq(moved),
                work.start.valid.eq(port.start.valid),
                work.start.payload.eq(port.start.payload),
                port.start.ready.eq(work.start.ready),
                port.done.eq(work.done),
                semaphores.raises[q].eq(lane.raises),
            ]
            before = before | lane.can
        lowers: Value = lanes[0].lowers
        for lane in lanes[1:]:
            lowers = lowers | lane.lowers
        m.d.comb += semaphores.lower.eq(lowers)

    def _finish(self, m: Module, lanes: Sequence[Lane], ends: Signal) -> None:
        active = Cat(Cat(lane.some, lane.busy) for lane in lanes)
        m.d.comb += self.finished.eq(ends & ~active.any())

    def _fail(self, m: Module, fetch: Fetch, semaphores: Semaphores, lanes: Sequence[Lane], stuck: Signal) -> None:
        """Choose the first error of this cycle: memory, then the instruction, semaphores, deadlock."""
        own = Signal(failure_layout())
        deadlock, bad = Signal(), Signal()
        m.d.comb += [
            deadlock.eq(
                stuck
                & Cat(lane.some for lane in lanes).any()
                & Cat(~lane.busy & (lane.blocked | ~lane.some) for lane in lanes).all()
            ),
            bad.eq(self.run & fetch.valid & (fetch.code != ErrorCode.NONE)),
        ]
        m.d.sync += own.valid.eq(0)
        with m.If(self.run & (self.count == 0)):
            m.d.sync += [own.valid.eq(1), own.code.eq(ErrorCode.NO_END), own.index.eq(0)]
        with m.Elif(bad):
            m.d.sync += [own.valid.eq(1), own.code.eq(fetch.code), own.index.eq(fetch.index)]
        with m.Elif(deadlock):
            m.d.sync += [own.valid.eq(1), own.code.eq(ErrorCode.DEADLOCK)]
            for lane in reversed(lanes):
                with m.If(lane.some):
                    m.d.sync += own.index.eq(lane.head_index)
        m.d.comb += self.failure.eq(own)
        self._beyond(m, semaphores, lanes, (self.run & (self.count == 0)) | bad)
        self._memory_error(m, self.write_error, WRITERS, fetch, lanes)
        self._memory_error(m, self.read_error, READERS, fetch, lanes)

    def _beyond(self, m: Module, semaphores: Semaphores, lanes: Sequence[Lane], first: Value) -> None:
        """Tell of a semaphore raised beyond its end in the last cycle, unless `first`, an earlier error, held then."""
        counts = Signal()
        m.d.sync += counts.eq(~first)
        for q, lane in reversed(list(enumerate(lanes))):
            oldest = Signal(INDEX_BITS, name=f"oldest_{q}")
            m.d.sync += oldest.eq(lane.oldest)
            with m.If(semaphores.beyond[q] & counts):
                m.d.comb += [self.failure.valid.eq(1), self.failure.code.eq(ErrorCode.SEMAPHORE)]
                m.d.comb += self.failure.index.eq(oldest)

    def _memory_error(
        self, m: Module, error: Any, clients: Sequence[Queue | None], fetch: Fetch, lanes: Sequence[Lane]
    ) -> None:
        """Let an error of a port go before those set so far."""
        with m.If(error.valid):
            m.d.comb += [self.failure.valid.eq(1), self.failure.code.eq(error.code)]
            with m.Switch(error.client):
                for number, queue in enumerate(clients):
                    with m.Case(number):
                        if queue is None:
                            m.d.comb += self.failure.index.eq(fetch.received)
                        else:
                            m.d.comb += self.failure.index.eq(lanes[queue].oldest)

    def _count(self, m: Module, lanes: Sequence[Lane]) -> None:
        m.d.comb += [
            self.busy.eq(Cat(lane.busy for lane in lanes)),
            self.blocked.eq(Cat(lane.blocked for lane in lanes)),
        ]
