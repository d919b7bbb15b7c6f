"""STAGE: beats into the staging buffer, from which LOAD_ACT reads them as often as it needs (docs/machine/load.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from amaranth.hdl import Const, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from nmsat.dataflow.contract.isa import BEAT_BYTES, INSTRUCTION_BITS, Opcode
from nmsat.hw.load.gather import LoadGather
from nmsat.hw.parts.buffer import buffer_memory
from nmsat.hw.parts.clients import burst_layout
from nmsat.hw.parts.fields import fields_of
from nmsat.hw.parts.steps import named
from nmsat.hw.parts.walk import Walk, walk_fields

if TYPE_CHECKING:
    from nmsat.dataflow.contract.config import SatConfig

FIELDS = ("region", "at", "outer", "inner", "outer_step", "base")
"""Fields of STAGE that are kept while it is carried out."""


class LoadStage(wiring.Component):
    """The staging buffer, and one STAGE at a time beside the loads.

    Members:

    word : In(512), a STAGE.
    take : In(1), it is taken; only while `free`.
    begin : In(1), the loads in front of it have all their beats: it may ask.
    release : In(1), it is done.
    free : Out(1), a STAGE can be taken.
    written : Out(1), all beats of the one that was taken have come.
    request : Out(stream of `burst_layout`), its bursts.
    valid : In(1), a beat of an earlier burst is there.
    data : In(512), this beat.
    read_en : In(1), a place is read.
    read_addr : In(range(stage_depth)), which.
    read_data : Out(512), its beat.
    read_next : Out(512), the beat of the place behind it if `read_addr` is even.

    Timing: `begin` at cycle t, a beat is looked at in every cycle from t + 1 on. A beat that comes is written at once.
    What is read in cycle t stands from t + 1 on until the next read. Even and odd places are memories of their own.
    `free`, `written`, `request.valid` and `request.payload` depend on registers only.
    """

    word: Signal
    take: Signal
    begin: Signal
    release: Signal
    free: Signal
    written: Signal
    request: Any
    valid: Signal
    data: Signal
    read_en: Signal
    read_addr: Signal
    read_data: Signal
    read_next: Signal

    def __init__(self, config: SatConfig) -> None:
        self._config = config
        self._depth = config.stage_depth
        super().__init__(
            {
                "word": In(INSTRUCTION_BITS),
                "take": In(1),
                "begin": In(1),
                "release": In(1),
                "free": Out(1),
                "written": Out(1),
                "request": Out(stream.Signature(burst_layout())),
                "valid": In(1),
                "data": In(8 * BEAT_BYTES),
                "read_en": In(1),
                "read_addr": In(range(config.stage_depth)),
                "read_data": Out(8 * BEAT_BYTES),
                "read_next": Out(8 * BEAT_BYTES),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        at = Signal(range(self._depth))  # place of the next beat that comes
        self._ask(m, at)
        found = []
        for bank, name in enumerate(("even", "odd")):
            memory = m.submodules[name] = buffer_memory("staging", self._config, platform)
            write, read = memory.write_port(), memory.read_port()
            m.d.comb += [
                write.en.eq(self.valid & (at[0] == bank)),
                write.addr.eq(at[1:]),
                write.data.eq(self.data),
                read.en.eq(self.read_en),
                read.addr.eq(self.read_addr[1:]),
            ]
            found.append(read.data)
        odd = Signal()
        with m.If(self.read_en):
            m.d.sync += odd.eq(self.read_addr[0])
        m.d.comb += [
            self.read_data.eq(Mux(odd, found[1], found[0])),
            self.read_next.eq(found[1]),
        ]
        return m

    def _ask(self, m: Module, at: Signal) -> None:
        """Look at the beats of the STAGE that was taken, and count those that have not come."""
        fields = fields_of(Opcode.STAGE, self.word)
        kept = {name: Signal(fields[name].shape(), name=f"kept_{name}", reset_less=True) for name in FIELDS}
        busy, begun, active = Signal(), Signal(), Signal()
        left = Signal(range(self._depth + 1))
        walk = m.submodules.walk = Walk()
        gather = m.submodules.gather = LoadGather()
        wiring.connect(m, gather.request, wiring.flipped(self.request))
        runs = {
            **dict.fromkeys(("at", "line_at", "image_at"), kept["at"]),
            "x_step": Const(1),
            "y_step": kept["outer_step"],
            "width": kept["inner"],
            "height": kept["outer"],
        }
        looks = named(m, "looks", active & gather.fits)
        m.d.comb += [
            *walk_fields(walk, runs),
            walk.start.eq(self.begin),
            walk.advance.eq(looks),
            gather.valid.eq(active),
            gather.room.eq(1),
            gather.beat.region.eq(kept["region"]),
            gather.beat.offset.eq(walk.offset),
            gather.beat.last.eq(walk.image_end),
            self.free.eq(~busy),
            self.written.eq(begun & ~active & ~left.any()),
        ]
        m.d.sync += left.eq(left + looks - self.valid)
        with m.If(self.valid):
            m.d.sync += at.eq(at + 1)
        with m.If(self.take):
            m.d.sync += [busy.eq(1), *(signal.eq(fields[name]) for name, signal in kept.items())]
        with m.If(self.begin):
            m.d.sync += [begun.eq(1), active.eq(1), at.eq(kept["base"])]
        with m.Elif(looks & walk.image_end):
            m.d.sync += active.eq(0)
        with m.If(self.release):
            m.d.sync += [busy.eq(0), begun.eq(0)]
