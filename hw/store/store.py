"""The store engine: captured results through the epilogue into memory (docs/machine/store.md).

A legal instruction has rows >= 1, 1 <= columns <= b C, lane 0 or a multiple of C, OS: rows <= a R, and results within
the capture buffers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import data, fifo, wiring
from amaranth.lib.wiring import In, Out

from nmsat.dataflow.contract.isa import BEAT_BYTES, INSTRUCTION_BITS, Opcode, Side
from nmsat.dataflow.contract.limits import SIDE_BEATS, WRITE_BEATS
from nmsat.hw.fp.convert import F16ToF32
from nmsat.hw.parts.clients import ReadClient, WorkPort, WriteClient
from nmsat.hw.parts.fields import fields_of
from nmsat.hw.parts.result_queue import queue_depth
from nmsat.hw.parts.steps import named
from nmsat.hw.parts.verilog import place
from nmsat.hw.store.beats import UNITS, RowGatherer, RowPacker, beat_layout
from nmsat.hw.store.bursts import RowBursts, row_walk
from nmsat.hw.store.epilogue import Epilogue

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nmsat.dataflow.contract.config import SatConfig

BURST_BITS: Final = 18
"""Bits of a count of bursts: 65535 rows of up to three bursts each."""


class ResultReader(wiring.Component):
    """Places of the results in the capture buffers: tile rows outside, chunks of columns inside.

    Members; fields of the instruction are held still:

    ws : In(1), field: results of weight stationary commands.
    log2_a : In(2), field: log2 of the rows of an interleave rectangle.
    capture : In(range(sum_depth)), field: place of the first result.
    rows : In(16), field: tile rows.
    start : In(1), begin.
    step : In(1), go to the next chunk.
    ends_row : In(1), beside `step`: it is in the next row.
    address : Out(range(sum_depth)), place of the present chunk, the same in all columns.
    reading : Out(1), there is one.

    Timing: `address` is a register, `reading` depends on one; those of the first chunk stand one cycle after `start`.
    """

    ws: Signal
    log2_a: Signal
    capture: Signal
    rows: Signal
    start: Signal
    step: Signal
    ends_row: Signal
    address: Signal
    reading: Signal

    def __init__(self, config: SatConfig) -> None:
        self._config = config
        super().__init__(
            {
                "ws": In(1),
                "log2_a": In(2),
                "capture": In(range(config.sum_depth)),
                "rows": In(16),
                "start": In(1),
                "step": In(1),
                "ends_row": In(1),
                "address": Out(range(config.sum_depth)),
                "reading": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        rows = self._config.rows
        left = Signal(16)
        inner = Signal(range(max(rows, 8)))  # OS: array row, WS: row in the block
        first, row = Signal.like(self.address), Signal.like(self.address)  # places of inner = 0, of the present row
        a = named(m, "a", (1 << self.log2_a)[:4])
        wraps = named(m, "wraps", Mux(self.ws, inner == a - 1, inner == rows - 1))
        wrapped = named(m, "wrapped", first + Mux(self.ws, 8, 1))
        next_row = named(m, "next_row", Mux(wraps, wrapped, row + Mux(self.ws, 1, 8))[: len(row)])
        m.d.comb += self.reading.eq(left != 0)
        with m.If(self.start):
            m.d.sync += [left.eq(self.rows), inner.eq(0)]
            m.d.sync += [place_.eq(self.capture) for place_ in (first, row, self.address)]
        with m.Elif(self.step & self.ends_row):
            m.d.sync += [left.eq(left - 1), inner.eq(inner + 1), row.eq(next_row), self.address.eq(next_row)]
            with m.If(wraps):
                m.d.sync += [inner.eq(0), first.eq(wrapped)]
        with m.Elif(self.step):
            m.d.sync += self.address.eq(self.address + a)
        return m


class Store(wiring.Component):
    """Results out of the capture buffers: second operand, rounding, ReLU, mask, and into memory.

    Members:

    work : In(`WorkPort`), instructions STORE, and when they are done.
    write : Out(`WriteClient`), memory, for results.
    side : Out(`ReadClient`), memory, for the second operand.
    read_en : Out(1), one place of all capture buffers is read.
    read_addr : Out(range(sum_depth)), which.
    read_data : In(32 * C), what they hold one cycle later, binary32, column 0 at bit 0.
    special : Out(1), sticky: a result that was written under `watch` was infinite or NaN.
    clear_special : In(1), lower `special`.

    Timing: one instruction at a time. C results are read per cycle, one cycle more for each further beat over which
    they spread. Without a second operand a burst that is complete with the x-th such cycle (from 1) is asked for 15 + x
    cycles after the start. `done` rises two cycles after memory's last acknowledgement.
    Numerics: `hw.store.epilogue`; binary16 second operands are widened exactly.
    """

    work: Any
    write: Any
    side: Any
    read_en: Signal
    read_addr: Signal
    read_data: Signal
    special: Signal
    clear_special: Signal

    def __init__(self, config: SatConfig) -> None:
        self._config = config
        super().__init__(
            {
                "work": In(WorkPort()),
                "write": Out(WriteClient()),
                "side": Out(ReadClient()),
                "read_en": Out(1),
                "read_addr": Out(range(config.sum_depth)),
                "read_data": In(32 * config.columns),
                "special": Out(1),
                "clear_special": In(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        held = Signal(INSTRUCTION_BITS)
        fields = fields_of(Opcode.STORE, held)
        begins, running = Signal(), Signal()  # `begins` for one cycle before `running`
        m.d.sync += [begins.eq(0), self.work.done.eq(0)]
        m.d.comb += self.work.start.ready.eq(~begins & ~running)
        with m.If(self.work.start.valid & self.work.start.ready):
            m.d.sync += [held.eq(self.work.start.payload), begins.eq(1)]
        with m.If(begins):
            m.d.sync += running.eq(1)
        epilogue = Epilogue(self._config.columns)
        m.submodules.epilogue = place(epilogue, "sat_epilogue", platform, parameters=self._config.columns)
        self._results_in(m, fields, begins, epilogue, platform)
        written = self._results_out(m, fields, begins, epilogue)
        with m.If(running & written):
            m.d.sync += [running.eq(0), self.work.done.eq(1)]
        return m

    def _results_in(
        self, m: Module, fields: Mapping[str, Value], begins: Signal, epilogue: Epilogue, platform: object
    ) -> None:
        """Read capture buffers and second operand side by side; the epilogue has room for all that is read."""
        columns = self._config.columns
        side = named(m, "side_kind", fields["side"])
        wide = named(m, "side_wide", side == Side.TILE32)
        gatherer = m.submodules.gatherer = RowGatherer(columns)
        reader = m.submodules.reader = ResultReader(self._config)
        inside = Signal(range(queue_depth(epilogue.latency - 1) + 1))
        takes = named(m, "takes", reader.reading & gatherer.complete & (inside != queue_depth(epilogue.latency - 1)))
        m.d.comb += [getattr(reader, name).eq(fields[name]) for name in ("ws", "log2_a", "capture", "rows")]
        m.d.comb += [
            reader.start.eq(begins),
            reader.step.eq(takes),
            reader.ends_row.eq(gatherer.ends_row),
            gatherer.row_columns.eq(fields["columns"]),
            gatherer.lane.eq(fields["lane"]),
            gatherer.wide.eq(wide),
            gatherer.start.eq(begins),
            gatherer.none.eq(side == Side.NONE),
            gatherer.take.eq(takes),
            self.read_en.eq(takes),
            self.read_addr.eq(reader.address),
        ]
        m.d.sync += inside.eq(inside + takes - (epilogue.o.valid & epilogue.o.ready))
        self._side(m, fields, begins, gatherer, wide)
        beat = epilogue.i.payload
        m.d.sync += [
            epilogue.i.valid.eq(takes),
            Value.cast(beat.present).eq(gatherer.present & fields["watch"].replicate(columns)),
        ]
        m.d.comb += Value.cast(beat.x).eq(self.read_data)
        for c in range(columns):
            half, word = gatherer.units.word_select(c, 16), gatherer.units.word_select(c, 32)
            widen = F16ToF32()
            m.submodules[f"widen_{c}"] = place(widen, "sat_f16_to_f32", platform)
            late = Signal(32, name=f"side_word_{c}")
            m.d.comb += [widen.i.eq(half), beat.tile[c].eq(Mux(wide, late, widen.o))]
            m.d.sync += [late.eq(word), beat.mask[c].eq(_above(half))]

    def _side(self, m: Module, fields: Mapping[str, Value], begins: Signal, gatherer: RowGatherer, wide: Value) -> None:
        """Ask for the second operand ahead, as far as there is room."""
        queue = m.submodules.side_queue = fifo.SyncFIFO(width=8 * BEAT_BYTES, depth=SIDE_BEATS)
        bursts = m.submodules.side_bursts = RowBursts(SIDE_BEATS)
        self._rows_of_beats(m, bursts, fields, "side_", wide)
        room = Signal(range(SIDE_BEATS + 1), init=SIDE_BEATS)
        asked = Mux(bursts.request.valid & bursts.request.ready, bursts.beats_asked, 0)
        m.d.sync += room.eq(room - asked + (queue.r_rdy & queue.r_en))
        wiring.connect(m, bursts.request, wiring.flipped(self.side.request))
        m.d.comb += [
            bursts.start.eq(begins),
            bursts.rows.eq(Mux(gatherer.none, 0, fields["rows"])),
            bursts.room.eq(room),
            queue.w_en.eq(self.side.valid),
            queue.w_data.eq(self.side.data),
            queue.r_en.eq(gatherer.i.ready),
            gatherer.i.valid.eq(queue.r_rdy),
            gatherer.i.payload.eq(queue.r_data),
        ]

    def _results_out(self, m: Module, fields: Mapping[str, Value], begins: Signal, epilogue: Epilogue) -> Signal:
        """Form beats and write them burst by burst; return whether memory has all of them."""
        wide = named(m, "wide", ~fields["to_half"])
        packer = m.submodules.packer = RowPacker(self._config.columns)
        queue = m.submodules.write_queue = fifo.SyncFIFO(width=beat_layout().size, depth=WRITE_BEATS)
        bursts = m.submodules.write_bursts = RowBursts(WRITE_BEATS)
        self._rows_of_beats(m, bursts, fields, "", wide)
        wiring.connect(m, epilogue.o, packer.i)
        wiring.connect(m, bursts.request, wiring.flipped(self.write.request))
        held = Signal(range(WRITE_BEATS + 1))  # beats in the queue that no burst has been asked for
        asks = named(m, "write_asks", bursts.request.valid & bursts.request.ready)
        under_way = Signal(BURST_BITS)
        m.d.sync += [
            held.eq(held + (packer.o.valid & packer.o.ready) - Mux(asks, bursts.beats_asked, 0)),
            under_way.eq(under_way + asks - self.write.acknowledged),
        ]
        beat = data.View(beat_layout(), queue.r_data)
        m.d.comb += [
            epilogue.use_bias.eq(0),
            epilogue.use_tile.eq((fields["side"] == Side.TILE16) | (fields["side"] == Side.TILE32)),
            epilogue.use_mask.eq(fields["side"] == Side.MASK),
            epilogue.to_half.eq(fields["to_half"]),
            epilogue.use_relu.eq(fields["relu"]),
            epilogue.clear.eq(self.clear_special),
            self.special.eq(epilogue.special),
            packer.row_columns.eq(fields["columns"]),
            packer.lane.eq(fields["lane"]),
            packer.wide.eq(wide),
            packer.start.eq(begins),
            packer.o.ready.eq(queue.w_rdy),
            queue.w_en.eq(packer.o.valid),
            queue.w_data.eq(packer.o.payload),
            bursts.start.eq(begins),
            bursts.rows.eq(fields["rows"]),
            bursts.room.eq(held),
            self.write.data.eq(beat.data),
            self.write.strobe.eq(beat.strobe),
            queue.r_en.eq(self.write.pull),
        ]
        return named(m, "written", bursts.finished & (under_way == 0))

    def _rows_of_beats(
        self, m: Module, bursts: RowBursts, fields: Mapping[str, Value], prefix: str, wide: Value
    ) -> None:
        """Give the bursts their walk, and the beats of a row in which there is an element."""
        before = named(m, f"{prefix}before", fields["lane"] << wide)
        end = named(m, f"{prefix}end", ((fields["lane"] + fields["columns"]) << wide) + (UNITS - 1))
        m.d.sync += [bursts.first.eq(before[5:]), bursts.beats.eq((end >> 5) - before[5:])]
        m.d.comb += [bursts.region.eq(fields[prefix + "region"]), *row_walk(bursts, fields, prefix)]


def _above(half: Value) -> Value:
    """Return whether a binary16 number is above 0 or NaN."""
    nan = half[10:15].all() & half[:10].any()
    return nan | (~half[15] & half[:15].any())
