"""The transposer of pre-generation: rows of a matrix come in, columns of square blocks go out, one per cycle each way.

Lane n of a row waits n steps, so that in step t the lanes hold a diagonal: lane n has its element of row t - n. A
rotation by t brings every element to the lane of its row, and lane k then waits L - 1 - k steps, so that the elements
of a column leave together. No memory is addressed and no block waits for another one.
"""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from nmsat.hw.parts.steps import named
from nmsat.hw.update.sore import elements_layout


def lanes_layout(lanes: int) -> data.StructLayout:
    """One row of a block of columns: value (binary16) and present of each lane; last: row of the block of columns;

    end: last row of the pass.
    """
    return data.StructLayout(
        {"value": data.ArrayLayout(16, lanes), "present": data.ArrayLayout(1, lanes), "last": 1, "end": 1}
    )


class Transposer(wiring.Component):
    """Turn rows of `lanes` columns into columns of `lanes` rows.

    Parameters: lanes: a power of two, 2 or more.
    Members:

    i : In(stream of `lanes_layout(lanes)`), rows.
    o : Out(stream of `elements_layout(lanes, 1)`), columns: lane k holds row k of its block, `last` is never set; the
        value of an absent element means nothing.
    idle : Out(1), no row is inside.

    After a row with `last`, absent rows fill the block up; after one with `end` also `lanes - 1` more, which push the
    block out. Rows without `end` stay inside until more rows come.
    Timing: column c of a block stands on `o` one cycle after step lanes - 1 + c, counted from the block's first row;
    a step takes one cycle, unless a row is missing or `o` is stalled.
    """

    i: Any
    o: Any
    idle: Signal

    def __init__(self, lanes: int) -> None:
        if lanes < 2 or lanes & (lanes - 1):
            raise ValueError(f"lanes is {lanes!r}; the transposer needs a power of two from 2 on")
        self.lanes = lanes
        super().__init__(
            {
                "i": In(stream.Signature(lanes_layout(lanes))),
                "o": Out(stream.Signature(elements_layout(lanes, 1))),
                "idle": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        step, at, rows = self._control(m)
        beat = self.i.payload
        lanes = range(self.lanes)
        skewed = [self._wait(m, f"skew_{n}", Cat(beat.value[n], beat.present[n] & rows), n, step) for n in lanes]
        level: list[Value] = [skewed[-k % self.lanes] for k in lanes]
        for b in range(len(at)):
            level = [named(m, f"rotated_{b}_{k}", Mux(at[b], level[k - (1 << b)], level[k])) for k in lanes]
        for k in lanes:
            out = self._wait(m, f"deskew_{k}", level[k], self.lanes - k, step)
            m.d.comb += [self.o.payload.value[k].eq(out[:16]), self.o.payload.present[k].eq(out[16])]
        return m

    def _control(self, m: Module) -> tuple[Signal, Signal, Signal]:
        """Return: a step happens; its place in the block; it takes a row from the input."""
        at = Signal(range(self.lanes))
        # absent rows: until the block is full; until the last block has left
        padding, flushing = Signal(), Signal()
        whole, ends, valid = Signal(), Signal(), Signal()
        free = named(m, "free", ~valid | self.o.ready)
        rows = named(m, "rows", ~(padding | flushing))
        step = named(m, "step", free & (self.i.valid | ~rows))
        full = named(m, "full", at == self.lanes - 1)
        beat = self.i.payload
        m.d.comb += [
            self.i.ready.eq(free & rows),
            self.o.valid.eq(valid),
            self.idle.eq(rows & ~whole & ~at.any() & ~valid),
        ]
        with m.If(step):
            m.d.sync += [at.eq(at + 1), valid.eq(full | whole)]
            with m.If(full):
                m.d.sync += whole.eq(1)
        with m.Elif(self.o.ready):
            m.d.sync += valid.eq(0)
        with m.If(step & rows & (beat.last | beat.end)):
            m.d.sync += [ends.eq(beat.end), padding.eq(~full), flushing.eq(full & beat.end)]
        with m.Elif(step & padding & full):
            m.d.sync += [padding.eq(0), flushing.eq(ends)]
        with m.Elif(step & flushing & (at == self.lanes - 2)):
            m.d.sync += [flushing.eq(0), at.eq(0), whole.eq(0)]
        return step, at, rows

    def _wait(self, m: Module, name: str, value: Value, steps: int, step: Signal) -> Value:
        """Return the value some steps later, from shift-register memory."""
        if steps == 0:
            return named(m, name, value)
        width = len(value)
        line = Signal(width * steps, name=name, reset_less=True)
        with m.If(step):
            m.d.sync += line.eq(Cat(value, line[: width * (steps - 1)]))
        return line[width * (steps - 1) :]
