"""STAGE: beats into the staging buffer, from which LOAD_ACT reads them as often as it needs (docs/machine/load.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from nmsat.dataflow.contract.isa import BEAT_BYTES, Opcode
from nmsat.hw.load.ask import beat_layout
from nmsat.hw.load.writer import LoadWriter
from nmsat.hw.parts.fields import fields_of
from nmsat.hw.parts.steps import named

if TYPE_CHECKING:
    from nmsat.dataflow.contract.config import SatConfig


class LoadStage(LoadWriter):
    """The staging buffer and its writer.

    Members, beside those of `LoadWriter` (beats: `beat_layout`):

    read_en : In(1), a place is read.
    read_addr : In(range(stage_depth)), which.
    read_data : Out(512), its beat.
    read_next : Out(512), the beat of the place behind it if `read_addr` is even.

    Timing: `begin` at cycle t, a beat is taken and written in every cycle from t + 1 on. What is read in cycle t stands
    from t + 1 on until the next read. Even and odd places are memories of their own.
    """

    read_en: Signal
    read_addr: Signal
    read_data: Signal
    read_next: Signal

    def __init__(self, config: SatConfig) -> None:
        self._depth = config.stage_depth
        super().__init__(
            beat_layout(),
            {
                "read_en": In(1),
                "read_addr": In(range(config.stage_depth)),
                "read_data": Out(8 * BEAT_BYTES),
                "read_next": Out(8 * BEAT_BYTES),
            },
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        taking, at = Signal(), Signal(range(self._depth))
        take = named(m, "take", taking & self.beat.valid)
        found = []
        for bank, name in enumerate(("even", "odd")):
            memory = m.submodules[name] = Memory(
                shape=8 * BEAT_BYTES, depth=self._depth // 2, init=[], attrs={"ram_style": "ultra"}
            )
            write, read = memory.write_port(), memory.read_port()
            m.d.comb += [
                write.en.eq(take & (at[0] == bank)),
                write.addr.eq(at[1:]),
                write.data.eq(self.beat.payload.data),
                read.en.eq(self.read_en),
                read.addr.eq(self.read_addr[1:]),
            ]
            found.append(read.data)
        odd = Signal()
        with m.If(self.read_en):
            m.d.sync += odd.eq(self.read_addr[0])
        m.d.comb += [
            self.beat.ready.eq(taking),
            self.ended.eq(take & self.beat.payload.last),
            self.read_data.eq(Mux(odd, found[1], found[0])),
            self.read_next.eq(found[1]),
        ]
        with m.If(take):
            m.d.sync += [at.eq(at + 1), taking.eq(~self.beat.payload.last)]
        with m.If(self.begin):
            m.d.sync += [taking.eq(1), at.eq(fields_of(Opcode.STAGE, self.word)["base"])]
        return m
