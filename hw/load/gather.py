"""Beats that follow each other joined into bursts (docs/machine/load.md)."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from nmsat.dataflow.contract.isa import OFFSET_BITS
from nmsat.dataflow.contract.limits import LOAD_BURST, PAGE_BEATS_BITS
from nmsat.hw.parts.clients import burst_layout
from nmsat.hw.parts.steps import named


def beat_place_layout() -> data.StructLayout:
    """A beat that is looked at. local: it is not read; region, offset: where it is; last: of its instruction."""
    return data.StructLayout({"local": 1, "region": 2, "offset": OFFSET_BITS, "last": 1})


class LoadGather(wiring.Component):
    """Let a burst grow by one beat per cycle.

    Members:

    valid : In(1), there is a beat.
    beat : In(`beat_place_layout`), this beat.
    room : In(1), it has a place to come to.
    fits : Out(1), it can be taken if there is room; depends on `request.ready`.
    idle : Out(1), no burst grows and none stands.
    request : Out(stream of `burst_layout`), bursts.

    Timing: a beat is taken in a cycle of `valid & room & fits`. A burst ends with beat number `LOAD_BURST`, at 4 KiB,
    with a beat that does not follow or is not read, and with the last beat of an instruction; it is asked for one cycle
    after that. `request.valid` and `request.payload` are registers.
    """

    valid: Signal
    beat: Any
    room: Signal
    fits: Signal
    idle: Signal
    request: Any

    def __init__(self) -> None:
        super().__init__(
            {
                "valid": In(1),
                "beat": In(beat_place_layout()),
                "room": In(1),
                "fits": Out(1),
                "idle": Out(1),
                "request": Out(stream.Signature(burst_layout())),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        beat, request = self.beat, self.request
        opened = Signal(data.StructLayout({"region": 2, "offset": OFFSET_BITS, "last": 1, "valid": 1}))
        following, beats = Signal(OFFSET_BITS), Signal(range(LOAD_BURST + 1))
        full = named(m, "full", opened.last | (beats == LOAD_BURST) | ~following[:PAGE_BEATS_BITS].any())
        joins = named(m, "joins", opened.valid & ~full & ~beat.local & (beat.offset == following))
        closes = named(m, "closes", opened.valid & (full | (self.valid & ~joins)) & (~request.valid | request.ready))
        takes = named(m, "takes", self.valid & self.room & self.fits)
        m.d.comb += [
            self.fits.eq(joins | closes | ~opened.valid),
            self.idle.eq(~opened.valid & ~request.valid),
        ]
        with m.If(closes):
            m.d.sync += [
                request.valid.eq(1),
                request.payload.region.eq(opened.region),
                request.payload.offset.eq(opened.offset),
                request.payload.beats_less_1.eq(beats - 1),
                opened.valid.eq(0),
            ]
        with m.Elif(request.ready):
            m.d.sync += request.valid.eq(0)
        with m.If(takes & ~beat.local):
            m.d.sync += [opened.valid.eq(1), opened.last.eq(beat.last), following.eq(beat.offset + 1)]
            with m.If(joins):
                m.d.sync += beats.eq(beats + 1)
            with m.Else():
                m.d.sync += [beats.eq(1), opened.region.eq(beat.region), opened.offset.eq(beat.offset)]
        return m
