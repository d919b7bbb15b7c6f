"""A row of weights in parts, for a WUVE of fewer lanes than a row has: dealt in front of it, gathered behind it."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Module, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from nmsat.hw.parts.steps import named
from nmsat.hw.update.wuve import update_layout, updated_layout


class DealRow(wiring.Component):
    """Hand out each row in parts, the first lanes first.

    Parameters: lanes: of a row; parts: 2 or more, a power of two that divides them.
    Members:

    i : In(stream of `update_layout(lanes)`), rows, which stand until they are taken.
    o : Out(stream of `update_layout(lanes // parts)`), parts; `last` and `end` stand at all parts of their row.

    Timing: no cycle passes; a row is taken with its last part.
    """

    i: Any
    o: Any

    def __init__(self, lanes: int, parts: int) -> None:
        self._parts = parts
        super().__init__(
            {
                "i": In(stream.Signature(update_layout(lanes))),
                "o": Out(stream.Signature(update_layout(lanes // parts))),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        part = Signal(range(self._parts))
        row, beat = self.i.payload, self.o.payload
        m.d.comb += [
            self.o.valid.eq(self.i.valid),
            self.i.ready.eq(self.o.ready & part.all()),
            beat.last.eq(row.last),
            beat.end.eq(row.end),
        ]
        with m.Switch(part):
            for i in range(self._parts):
                with m.Case(i):
                    m.d.comb += [Value.cast(beat[n]).eq(_part(row[n], i, self._parts)) for n in _DEALT]
        with m.If(self.o.valid & self.o.ready):
            m.d.sync += part.eq(part + 1)
        return m


class GatherRow(wiring.Component):
    """Put parts together again.

    Parameters: as of `DealRow`.
    Members:

    i : In(stream of `updated_layout(lanes // parts)`), parts of rows, the first lanes first.
    o : Out(stream of `updated_layout(lanes)`), rows.

    Timing: all parts but the last are taken as they come; a row stands on `o` in the cycle in which its last part
    stands on `i`, and both are taken together.
    """

    i: Any
    o: Any

    def __init__(self, lanes: int, parts: int) -> None:
        self._parts = parts
        super().__init__(
            {
                "i": In(stream.Signature(updated_layout(lanes // parts))),
                "o": Out(stream.Signature(updated_layout(lanes))),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        part = Signal(range(self._parts))
        beat, row = self.i.payload, self.o.payload
        final = named(m, "final", part.all())
        m.d.comb += [
            self.o.valid.eq(self.i.valid & final),
            self.i.ready.eq(self.o.ready | ~final),
            row.last.eq(beat.last),
            row.end.eq(beat.end),
        ]
        moves = named(m, "moves", self.i.valid & self.i.ready)
        with m.If(moves):
            m.d.sync += part.eq(part + 1)
        for name in _GATHERED:
            came = Value.cast(beat[name])
            early = Signal(len(came) * (self._parts - 1), name=f"early_{name}", reset_less=True)
            m.d.comb += Value.cast(row[name]).eq(Cat(early, came))
            with m.If(moves):
                m.d.sync += early.eq(Cat(early, came)[len(came) :])
        return m


_DEALT = ("w", "v", "g", "kept", "present")
_GATHERED = ("w", "v", "half", "present")
"""What a part has of its row; `last` and `end` are of the row."""


def _part(value: Any, number: int, parts: int) -> Value:
    bits = Value.cast(value)
    return bits.word_select(number, len(bits) // parts)
