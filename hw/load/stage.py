"""STAGE: beats into the staging buffer, from which LOAD_ACT reads them as often as it needs (docs/machine.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from amaranth.hdl import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from nmsat.dataflow.contract.isa import BEAT_BYTES, INSTRUCTION_BITS, Opcode
from nmsat.hw.load.ask import beat_layout
from nmsat.hw.parts.fields import fields_of
from nmsat.hw.parts.steps import named

if TYPE_CHECKING:
    from nmsat.dataflow.contract.config import SatConfig


class LoadStage(wiring.Component):
    """The staging buffer and its writer.

    Members: word, begin, beat, ended: as in `hw.load.rows.LoadSets`; read_en, read_addr, read_data: read port, data one
    cycle later until the next read.
    Timing: `begin` at cycle t, a beat is taken and written in every cycle from t + 1 on.
    """

    word: Signal
    begin: Signal
    beat: stream.Interface
    ended: Signal
    read_en: Signal
    read_addr: Signal
    read_data: Signal

    def __init__(self, config: SatConfig) -> None:
        self._depth = config.stage_depth
        super().__init__(
            {
                "word": In(INSTRUCTION_BITS),
                "begin": In(1),
                "beat": In(stream.Signature(beat_layout())),
                "ended": Out(1),
                "read_en": In(1),
                "read_addr": In(range(config.stage_depth)),
                "read_data": Out(8 * BEAT_BYTES),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        memory = m.submodules.buffer = Memory(
            shape=8 * BEAT_BYTES, depth=self._depth, init=[], attrs={"ram_style": "ultra"}
        )
        write, read = memory.write_port(), memory.read_port()
        taking, at = Signal(), Signal(range(self._depth))
        take = named(m, "take", taking & self.beat.valid)
        m.d.comb += [
            self.beat.ready.eq(taking),
            self.ended.eq(take & self.beat.payload.last),
            write.en.eq(take),
            write.addr.eq(at),
            write.data.eq(self.beat.payload.data),
            read.en.eq(self.read_en),
            read.addr.eq(self.read_addr),
            self.read_data.eq(read.data),
        ]
        with m.If(take):
            m.d.sync += [at.eq(at + 1), taking.eq(~self.beat.payload.last)]
        with m.If(self.begin):
            m.d.sync += [taking.eq(1), at.eq(fields_of(Opcode.STAGE, self.word)["base"])]
        return m
