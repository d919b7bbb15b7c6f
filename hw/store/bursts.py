"""Bursts for the rows of a tile: the beats of one row lie side by side, rows follow a walk over pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from nmsat.dataflow.contract.isa import OFFSET_BITS
from nmsat.dataflow.contract.limits import MAX_BURST, PAGE_BEATS, PAGE_BEATS_BITS
from nmsat.hw.parts.clients import burst_layout
from nmsat.hw.parts.steps import named
from nmsat.hw.parts.walk import Walk, walk_layout

if TYPE_CHECKING:
    from collections.abc import Mapping

    from amaranth.hdl import Value

OFFSETS: Final = ("at", "line_at", "image_at", "x_step", "y_step", "image_step")
"""Fields of a walk that have a prefix in an instruction with two walks."""


class RowBursts(wiring.Component):
    """Ask for the beats of row after row, as many at a time as there is room for.

    Parameters: room: most beats there can be room for.
    Members; what is held still is held from `start` to the last burst:

    fields : In(`walk_layout`), the walk from row to row, held still.
    region : In(2), region of memory, held still.
    rows : In(16), rows, held still.
    first : In(1), beat of a row at which to begin, held still.
    beats : In(5), beats of each row, held still.
    start : In(1), begin.
    room : In(range(room + 1)), beats that may be asked for now.
    request : Out(stream of `burst_layout`), bursts, from registers and `room` only.
    beats_asked : Out(5), beats of the burst that stands on `request`.
    finished : Out(1), all have been asked for.

    Timing: the first request stands one cycle after `start`, the next one a cycle after its transfer.
    """

    fields: Any
    region: Signal
    rows: Signal
    first: Signal
    beats: Signal
    start: Signal
    room: Signal
    request: Any
    beats_asked: Signal
    finished: Signal

    def __init__(self, room: int) -> None:
        super().__init__(
            {
                "fields": In(walk_layout()),
                "region": In(2),
                "rows": In(16),
                "first": In(1),
                "beats": In(5),
                "start": In(1),
                "room": In(range(room + 1)),
                "request": Out(stream.Signature(burst_layout())),
                "beats_asked": Out(5),
                "finished": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        walk = m.submodules.walk = Walk()
        rows_left, some_left = Signal(16), Signal()
        sent = Signal(5)  # beats of the row that have been asked for
        # The next burst: what is left of the row, of the page, or the longest, whichever is least.
        offset = named(m, "offset", (walk.offset + (self.first + sent))[:OFFSET_BITS])
        rest = named(m, "rest", (self.beats - sent)[:5])
        in_page = named(m, "in_page", PAGE_BEATS - offset[:PAGE_BEATS_BITS])
        capped = named(m, "capped", Mux(rest > MAX_BURST, MAX_BURST, rest))
        asked = named(m, "asked", Mux(in_page < capped, in_page, capped)[:5])
        # Both are told without waiting for the least of the three.
        ends_row = named(m, "ends_row", (rest <= MAX_BURST) & (rest <= in_page))
        fits = named(m, "fits", (rest <= self.room) | (in_page <= self.room) | (self.room >= MAX_BURST))
        fires = named(m, "fires", self.request.valid & self.request.ready)
        m.d.comb += [
            walk.fields.eq(self.fields),
            walk.start.eq(self.start),
            walk.advance.eq(fires & ends_row),
            self.finished.eq(~some_left),
            self.beats_asked.eq(asked),
            self.request.valid.eq(~self.finished & fits),
            self.request.payload.region.eq(self.region),
            self.request.payload.offset.eq(offset),
            self.request.payload.beats_less_1.eq(asked - 1),
        ]
        with m.If(self.start):
            m.d.sync += [rows_left.eq(self.rows), some_left.eq(self.rows != 0), sent.eq(0)]
        with m.Elif(fires):
            m.d.sync += sent.eq(Mux(ends_row, 0, sent + asked))
            with m.If(ends_row):
                m.d.sync += [rows_left.eq(rows_left - 1), some_left.eq(rows_left != 1)]
        return m


def row_walk(bursts: RowBursts, values: Mapping[str, Value], prefix: str) -> list[Any]:
    """Return the assignments that give bursts their walk.

    values: the fields of an instruction (`hw.parts.fields.fields_of`); prefix: of the names of offsets and steps
    ("side_").
    """
    offsets = [bursts.fields[name].eq(values[prefix + name]) for name in OFFSETS]
    return offsets + [bursts.fields[name].eq(values[name]) for name in ("width", "height", "x0", "y0")]
