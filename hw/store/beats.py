"""Rows of results as beats of 64 bytes: where the next few columns lie, packing and unpacking them.

A row of a tile is a run of elements of 2 or 4 bytes, from a given place of its first beat on. It is handled in chunks
of as many elements as there are array columns. Places within a beat are counted in units of 2 bytes.
"""

from __future__ import annotations

from math import gcd
from typing import TYPE_CHECKING, Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from nmsat.dataflow.contract.isa import BEAT_BYTES, HALVES
from nmsat.hw.parts.steps import named
from nmsat.hw.store.epilogue import results_layout

if TYPE_CHECKING:
    from amaranth.hdl import ValueLike


def chunk_beats(columns: int) -> int:
    """Return the most beats over which a chunk can spread; chunks start at multiples of `columns` elements."""
    step = gcd(columns, HALVES)
    return max(-(-(HALVES - min(HALVES, step << wide) + (columns << wide)) // HALVES) for wide in (0, 1))


def chunk_layout() -> data.StructLayout:
    """A beat to be written: data, and one strobe per byte."""
    return data.StructLayout({"data": 8 * BEAT_BYTES, "strobe": BEAT_BYTES})


class RowPlace(wiring.Component):
    """Follow the chunks of the rows of a tile through their beats, one piece (of one beat) per step.

    Parameters: columns: elements of a chunk (the last one of a row may have fewer).
    Members:

    row_columns : In(9), elements of a row.
    lane : In(5), place of the first one in its beat, in elements.
    wide : In(1), elements have 4 bytes instead of 2.
    start : In(1), begin a row.
    step : In(1), go to the next piece.
    at : Out(5), unit of the chunk's first element in its first beat.
    piece : Out(2), number of the present beat among those of the chunk.
    present : Out(columns), elements of the chunk that exist.
    ends_chunk : Out(1), the piece is the last of its chunk.
    ends_beat : Out(1), it is the last of its beat.
    ends_row : Out(1), it is the last of its row.

    Timing: outputs depend on registers only; after the last piece of a row the next row begins.
    """

    row_columns: Signal
    lane: Signal
    wide: Signal
    start: Signal
    step: Signal
    at: Signal
    piece: Signal
    present: Signal
    ends_chunk: Signal
    ends_beat: Signal
    ends_row: Signal

    def __init__(self, columns: int) -> None:
        self._columns = columns
        super().__init__(
            {
                "row_columns": In(9),
                "lane": In(5),
                "wide": In(1),
                "start": In(1),
                "step": In(1),
                "at": Out(5),
                "piece": Out(2),
                "present": Out(columns),
                "ends_chunk": Out(1),
                "ends_beat": Out(1),
                "ends_row": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        columns = self._columns
        left, last = Signal(9), Signal()  # elements that are left, with those of this chunk; it has them all
        end = Signal(range(32 + 2 * columns + 1))  # unit behind the chunk, counted from its first beat
        first = named(m, "first_at", (self.lane << self.wide)[: len(self.at)])
        following = named(m, "following_at", (self.at + (columns << self.wide))[: len(self.at)])
        first_end = named(m, "first_end", first + self._units(self.row_columns))
        following_end = named(m, "following_end", following + self._units((left - columns)[: len(left)]))
        edge = named(m, "edge", (self.piece + 1) << 5)
        m.d.comb += [
            self.ends_chunk.eq(end <= edge),
            self.ends_row.eq(self.ends_chunk & last),
            self.ends_beat.eq((end >= edge) | self.ends_row),
        ]
        # What decides late is `step`: where the next chunk lies and ends, and whether its row is a new one, is known
        # before it.
        anew = named(m, "anew", self.start | self.ends_row)
        with m.If(self.step):
            m.d.sync += self.piece.eq(self.piece + 1)
        with m.If(self.start | (self.step & self.ends_chunk)):
            next_left = named(m, "next_left", Mux(anew, self.row_columns, (left - columns)[: len(left)]))
            m.d.sync += [self.piece.eq(0), left.eq(next_left)]
            m.d.sync += last.eq(Mux(anew, self.row_columns <= columns, left <= 2 * columns))
            m.d.sync += [self.at.eq(Mux(anew, first, following)), end.eq(Mux(anew, first_end, following_end))]
            m.d.sync += self.present.eq(Cat(next_left > c for c in range(columns)))
        return m

    def _units(self, left: Value) -> Value:
        """Return the units of a chunk when so many elements are left."""
        return Mux(left <= self._columns, left, self._columns) << self.wide


class RowPacker(wiring.Component):
    """Put the results of the epilogue into beats.

    Parameters: columns: lanes of the epilogue.
    Members; what is held still is held while results are inside:

    row_columns : In(9), elements of a row, held still.
    lane : In(5), place of the first one in its beat, in elements, held still.
    wide : In(1), elements have 4 bytes instead of 2, held still.
    start : In(1), begin a tile.
    i : In(stream of `results_layout(columns)`), results, chunk by chunk.
    o : Out(stream of `chunk_layout`), beats, each with strobes for the results in it.
    row_end : Out(1), the last results of a row are taken.

    Timing: a beat stands on `o` in the cycle in which the last of its results stands on `i`; a chunk takes a cycle per
    beat over which it spreads. `i.ready` depends on `o.ready`.
    """

    row_columns: Signal
    lane: Signal
    wide: Signal
    start: Signal
    i: Any
    o: Any
    row_end: Signal

    def __init__(self, columns: int) -> None:
        self._columns = columns
        super().__init__(
            {
                "row_columns": In(9),
                "lane": In(5),
                "wide": In(1),
                "start": In(1),
                "i": In(stream.Signature(results_layout(columns))),
                "o": Out(stream.Signature(chunk_layout())),
                "row_end": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        where = m.submodules.where = RowPlace(self._columns)
        m.d.comb += [
            where.row_columns.eq(self.row_columns),
            where.lane.eq(self.lane),
            where.wide.eq(self.wide),
            where.start.eq(self.start),
            where.step.eq(self.i.valid & self.o.ready),
            self.i.ready.eq(where.step & where.ends_chunk),
            self.o.valid.eq(self.i.valid & where.ends_beat),
            self.row_end.eq(where.step & where.ends_row),
        ]
        values, exist = self._units(m, where)
        held, held_exist = Signal(16 * HALVES), Signal(HALVES)
        beat = named(m, "beat", held | self._piece(m, "value", where, values, 16))
        filled = named(m, "filled", held_exist | self._piece(m, "exist", where, exist, 1))
        m.d.comb += [
            self.o.payload.data.eq(beat),
            self.o.payload.strobe.eq(Cat(unit.replicate(2) for unit in filled)),
        ]
        with m.If(self.start | (where.step & where.ends_beat)):
            m.d.sync += [held.eq(0), held_exist.eq(0)]
        with m.Elif(where.step):
            m.d.sync += [held.eq(beat), held_exist.eq(filled)]
        return m

    def _units(self, m: Module, where: RowPlace) -> tuple[Value, Value]:
        """Return the units of the chunk, zeros where it has none, and which of them there are."""
        lanes = [self.i.payload.y[c] & where.present[c].replicate(32) for c in range(self._columns)]
        halves, words = Cat(lane[:16] for lane in lanes), Cat(*lanes)
        some = Cat(where.present[c].replicate(2) for c in range(self._columns))
        return (
            named(m, "units", Mux(self.wide, words, halves)),
            named(m, "units_exist", Mux(self.wide, some, where.present)),
        )

    def _piece(self, m: Module, name: str, where: RowPlace, units: Value, width: int) -> Signal:
        """Return the part of the chunk that lies in the present beat, at its place there."""
        beats = chunk_beats(self._columns)
        shifted: Value = Cat(units, Const(0, beats * HALVES * width))[: beats * HALVES * width]
        for bit in _place_bits(self._columns):
            moved = Cat(Const(0, width << bit), shifted)[: len(shifted)]
            shifted = named(m, f"{name}_{bit}", Mux(where.at[bit], moved, shifted))
        return _choose(m, f"{name}_piece", where.piece, [shifted.word_select(i, HALVES * width) for i in range(beats)])


class RowGatherer(wiring.Component):
    """Take the elements of a chunk out of beats.

    Parameters: columns: elements of a chunk.
    Members; what is held still is held while a tile lasts:

    row_columns : In(9), elements of a row, held still.
    lane : In(5), place of the first one in its beat, in elements, held still.
    wide : In(1), elements have 4 bytes instead of 2, held still.
    start : In(1), begin a tile.
    i : In(stream of 512), beats.
    none : In(1), there are none: chunks are complete without, held still.
    complete : Out(1), the chunk is there.
    take : In(1), it is taken in this cycle, only with `complete`.
    units : Out(32 * columns), its elements side by side, of 2 or 4 bytes, meaningless where not `present`.
    present : Out(columns), elements of the chunk that exist.
    ends_row : Out(1), it is the last of its row.

    Timing: a chunk takes a cycle per beat over which it spreads. `i.ready` depends on `take`.
    """

    row_columns: Signal
    lane: Signal
    wide: Signal
    start: Signal
    i: Any
    none: Signal
    complete: Signal
    take: Signal
    units: Signal
    present: Signal
    ends_row: Signal

    def __init__(self, columns: int) -> None:
        self._columns = columns
        super().__init__(
            {
                "row_columns": In(9),
                "lane": In(5),
                "wide": In(1),
                "start": In(1),
                "i": In(stream.Signature(8 * BEAT_BYTES)),
                "none": In(1),
                "complete": Out(1),
                "take": In(1),
                "units": Out(32 * columns),
                "present": Out(columns),
                "ends_row": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        where = m.submodules.where = RowPlace(self._columns)
        there = named(m, "there", self.i.valid | self.none)
        held = Signal(32 * self._columns)
        m.d.comb += [
            where.row_columns.eq(self.row_columns),
            where.lane.eq(self.lane),
            where.wide.eq(self.wide),
            where.start.eq(self.start),
            where.step.eq(self.take | (there & ~where.ends_chunk)),
            self.complete.eq(there & where.ends_chunk),
            self.i.ready.eq(where.step & where.ends_beat & ~self.none),
            self.units.eq(held | self._piece(m, where)),
            self.present.eq(where.present),
            self.ends_row.eq(where.ends_row),
        ]
        with m.If(self.start | self.take):
            m.d.sync += held.eq(0)
        with m.Elif(where.step):
            m.d.sync += held.eq(self.units)
        return m

    def _piece(self, m: Module, where: RowPlace) -> Value:
        """Return what the present beat holds of the chunk, at its place there."""
        beats = chunk_beats(self._columns)
        beat = self.i.payload
        shifted: Value = Cat(Mux(where.piece == i, beat, 0) for i in range(beats)) if beats > 1 else beat
        shifted = named(m, "beats", shifted)
        for bit in _place_bits(self._columns):
            shifted = named(m, f"moved_{bit}", Mux(where.at[bit], shifted[16 << bit :], shifted))
        return shifted[: len(self.units)]


def _place_bits(columns: int) -> range:
    """Return the bits of a chunk's place in its beat that can be 1."""
    return range(gcd(columns, HALVES).bit_length() - 1, HALVES.bit_length() - 1)


def _choose(m: Module, name: str, index: ValueLike, choices: list[Value]) -> Signal:
    """Return choice number `index`."""
    result: Value = choices[0]
    for i, choice in enumerate(choices[1:], start=1):
        result = Mux(Value.cast(index) == i, choice, result)
    return named(m, name, result)
