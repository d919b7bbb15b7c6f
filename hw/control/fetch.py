"""Fetch and check of instructions: what reaches the queues is legal, or ends the run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from nmsat.dataflow.contract.isa import INSTRUCTION_BITS, OFFSET_BITS, ErrorCode, Opcode
from nmsat.dataflow.contract.legal import products, rules
from nmsat.dataflow.contract.limits import CHECK_CYCLES, FETCH_BEATS, FETCH_BURST
from nmsat.hw.parts.clients import INDEX_BITS, ReadClient
from nmsat.hw.parts.fields import fields_of
from nmsat.hw.parts.rule_inputs import late_rules
from nmsat.hw.parts.small_queue import SmallQueue

if TYPE_CHECKING:
    from nmsat.dataflow.contract.config import SatConfig


class Check(wiring.Component):
    """Apply `dataflow.contract.legal` to a word that stands still.

    Members:

    word : In(512), an instruction.
    code : Out(4), `ErrorCode` of the word for itself.

    Timing: products, and rules without one, are registered, then the answer: it is right from the third cycle on.
    """

    word: Signal
    code: Signal

    def __init__(self, config: SatConfig) -> None:
        self._config = config
        super().__init__({"word": In(INSTRUCTION_BITS), "code": Out(4)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        code = Signal(4)
        m.d.comb += code.eq(ErrorCode.OPCODE)
        late = late_rules(self._config)
        for opcode in Opcode:
            fields = fields_of(opcode, self.word)
            found: dict[str, Value] = {}
            for name, product in products(opcode, fields).items():
                found[name] = Signal(len(Value.cast(product)), name=f"{opcode.name.lower()}_{name}")
                m.d.sync += found[name].eq(product)
            mine, early, legal = (Signal(name=f"{opcode.name.lower()}_{name}") for name in ("mine", "early", "legal"))
            holds = {
                name: Value.cast(rule) != 0 for name, rule in rules(opcode, fields, found, self._config).items()
            }
            m.d.sync += [
                mine.eq(self.word[:4] == opcode),
                early.eq(Cat(rule for name, rule in holds.items() if name not in late[opcode]).all()),
            ]
            m.d.comb += legal.eq(early & Cat(rule for name, rule in holds.items() if name in late[opcode]).all())
            with m.If(mine):
                m.d.comb += code.eq(Mux(legal, ErrorCode.NONE, ErrorCode.FIELD))
        m.d.sync += self.code.eq(code)
        return m


class Fetch(wiring.Component):
    """Read the program in order and hand out its instructions with the verdict of the check.

    Members:

    run : In(1), a run is on: ask for instructions.
    region : In(2), region of the program, stable during a run.
    at : In(34), its first beat in the region, stable during a run.
    count : In(32), its instructions, stable during a run.
    read : Out(`ReadClient`), memory.
    valid : Out(1), an instruction is handed out.
    take : In(1), it is taken.
    word : Out(512), the instruction.
    index : Out(32), its place in the program.
    code : Out(4), verdict: `ErrorCode`.
    asked : Out(32), instructions asked for.
    received : Out(32), those that have arrived.

    Timing: one instruction per 3 cycles; a request every second cycle at most.
    """

    run: Signal
    region: Signal
    at: Signal
    count: Signal
    read: Any
    valid: Signal
    take: Signal
    word: Signal
    index: Signal
    code: Signal
    asked: Signal
    received: Signal

    def __init__(self, config: SatConfig) -> None:
        self._config = config
        super().__init__(
            {
                "run": In(1),
                "region": In(2),
                "at": In(OFFSET_BITS),
                "count": In(INDEX_BITS),
                "read": Out(ReadClient()),
                "valid": Out(1),
                "take": In(1),
                "word": Out(INSTRUCTION_BITS),
                "index": Out(INDEX_BITS),
                "code": Out(4),
                "asked": Out(INDEX_BITS),
                "received": Out(INDEX_BITS),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.queue = queue = SmallQueue(INSTRUCTION_BITS, FETCH_BEATS)
        m.submodules.check = check = Check(self._config)
        loads = Signal()
        self._ask(m, loads)
        phase = Signal(range(CHECK_CYCLES + 1))
        loaded = Signal(INDEX_BITS)
        code = Signal(4)
        wants_end = Signal()  # the last instruction of the program, and it is no END; a cycle late, before the verdict
        m.d.comb += [
            queue.push.eq(self.read.valid),
            queue.i.eq(self.read.data),
            queue.pop.eq(loads),
            self.valid.eq(phase == CHECK_CYCLES),
            loads.eq(queue.some & ((phase == 0) | (self.valid & self.take))),
            check.word.eq(self.word),
            code.eq(check.code),
            self.code.eq(code),
        ]
        m.d.sync += wants_end.eq(0)
        with m.If((self.word[:4] != Opcode.END) & (loaded == self.count)):
            m.d.sync += wants_end.eq(1)
        with m.If((code == ErrorCode.NONE) & wants_end):
            m.d.comb += self.code.eq(ErrorCode.NO_END)
        m.d.sync += self.received.eq(self.received + self.read.valid)
        with m.If(loads):
            m.d.sync += [self.word.eq(queue.o), self.index.eq(loaded), loaded.eq(loaded + 1), phase.eq(1)]
        with m.Elif(self.valid):
            m.d.sync += phase.eq(Mux(self.take, 0, CHECK_CYCLES))
        with m.Elif(phase != 0):
            m.d.sync += phase.eq(phase + 1)
        return m

    def _ask(self, m: Module, loads: Signal) -> None:
        """Ask for bursts as long as there is room for them."""
        request = self.read.request
        beats, left, low = Signal(4), Signal(INDEX_BITS), Signal(3)
        held = Signal(range(FETCH_BEATS + 1))
        asks = Signal()
        m.d.comb += [
            left.eq(self.count - self.asked),
            low.eq(self.at + self.asked),
            beats.eq(FETCH_BURST - low),
            asks.eq(self.run & ~request.valid & (left != 0) & (held + beats <= FETCH_BEATS)),
            request.payload.region.eq(self.region),
        ]
        with m.If(left < FETCH_BURST - low):
            m.d.comb += beats.eq(left)
        m.d.sync += held.eq(held + Mux(asks, beats, Const(0, 4)) - loads)
        with m.If(asks):
            m.d.sync += [
                request.valid.eq(1),
                request.payload.offset.eq(self.at + self.asked),
                request.payload.beats_less_1.eq(beats - 1),
                self.asked.eq(self.asked + beats),
            ]
        with m.Elif(request.ready):
            m.d.sync += request.valid.eq(0)
