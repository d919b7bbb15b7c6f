"""The store engine: captured results through the epilogue into memory (docs/machine/store.md).

A legal instruction has rows >= 1, 1 <= columns <= b C, lane 0 or a multiple of C, OS: rows <= a R, and results within
the capture buffers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, fifo, wiring
from amaranth.lib.wiring import In, Out

from nmsat.dataflow.contract.config import UNDER_WAY
from nmsat.dataflow.contract.isa import HALVES, INSTRUCTION_BITS, Opcode, Side
from nmsat.dataflow.contract.limits import SIDE_BEATS, STORE_AHEAD, WRITE_BEATS
from nmsat.dataflow.contract.timing import queue_depth
from nmsat.hw.fp.convert import F16ToF32
from nmsat.hw.parts.clients import ReadClient, WorkPort, WriteClient
from nmsat.hw.parts.fields import fields_of
from nmsat.hw.parts.steps import named
from nmsat.hw.parts.verilog import place
from nmsat.hw.store.beats import RowGatherer, RowPacker, chunk_layout
from nmsat.hw.store.bursts import RowBursts, row_walk
from nmsat.hw.store.epilogue import EpilogueEngine
from nmsat.hw.store.reader import ResultReader
from nmsat.hw.store.side import SideQueue, same_row

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nmsat.dataflow.contract.config import SatConfig

ACKNOWLEDGE_BITS: Final = (4 * UNDER_WAY - 1).bit_length()
"""Bits of counts of bursts, of which no more than `UNDER_WAY` lie between asked for and acknowledged."""


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

    Timing: C results are read per cycle, one cycle more for each further beat over which they spread. Without a second
    operand a burst that is complete with the x-th such cycle (from 1) is asked for 15 + x cycles after the start, if
    the engine was idle. An instruction is read while the one in front is written, and starts once that one is read and
    written are those before it; one with a second operand that is not `beside` is read only when all in front are done.
    `done` rises two cycles after memory's last acknowledgement.
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
        held, written = Signal(INSTRUCTION_BITS), Signal(INSTRUCTION_BITS)  # instructions that are read and written
        fields = fields_of(Opcode.STORE, held)
        fresh, waiting = Signal(), Signal()  # `held` is not being read yet; its turn to be written has not come
        starts, running = Signal(), Signal()  # `written` is in its first cycle; in a later one
        alone, ended, reading = Signal(), Signal(), Signal()
        start = named(m, "start", self.work.start.valid & self.work.start.ready)
        begins = named(m, "begins", fresh & ((fields["side"] == Side.NONE) | fields["beside"] | alone))
        copies = named(m, "copies", waiting & (begins | ~fresh) & ~starts & (ended | ~running))
        m.d.comb += self.work.start.ready.eq(~waiting & ~reading)
        with m.If(start):
            m.d.sync += [held.eq(self.work.start.payload), fresh.eq(1), waiting.eq(1)]
        with m.If(begins):
            m.d.sync += fresh.eq(0)
        with m.If(copies):
            m.d.sync += [written.eq(held), waiting.eq(0)]
        m.d.sync += starts.eq(copies)
        with m.If(starts | ended):
            m.d.sync += running.eq(starts)
        epilogue = EpilogueEngine(self._config.columns)
        m.submodules.epilogue = place(epilogue, "sat_epilogue", platform, parameters=self._config.columns)
        m.d.comb += reading.eq(self._results_in(m, fields, begins, epilogue, platform))
        all_asked, asked = self._results_out(m, fields_of(Opcode.STORE, written), starts, epilogue)
        ends = m.submodules.ends = fifo.SyncFIFO(width=ACKNOWLEDGE_BITS, depth=STORE_AHEAD)
        acknowledged = Signal(ACKNOWLEDGE_BITS)
        done = named(m, "ends_next", ends.r_rdy & (ends.r_data == acknowledged))
        m.d.comb += [
            ended.eq(running & all_asked & ends.w_rdy),
            alone.eq(~starts & ~running & ~ends.r_rdy),
            ends.w_en.eq(ended),
            ends.w_data.eq(asked),
            ends.r_en.eq(done),
        ]
        m.d.sync += [acknowledged.eq(acknowledged + self.write.acknowledged), self.work.done.eq(done)]
        return m

    def _results_in(
        self, m: Module, fields: Mapping[str, Value], begins: Value, epilogue: EpilogueEngine, platform: object
    ) -> Signal:
        """Read capture buffers and second operand side by side; return whether some is left to be read.

        The epilogue has room for all that is read. Its options change when it is empty.
        """
        columns = self._config.columns
        side = named(m, "side_kind", fields["side"])
        wide = named(m, "side_wide", side == Side.TILE32)
        gatherer = m.submodules.gatherer = RowGatherer(columns)
        reader = m.submodules.reader = ResultReader(self._config)
        inside = Signal(range(queue_depth(epilogue.latency - 1) + 1))
        room = named(m, "room", inside != queue_depth(epilogue.latency - 1))
        fits = self._set_options(m, fields, inside, epilogue)
        takes = named(m, "takes", reader.reading & gatherer.complete & room & fits)
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
        self._side(m, fields, begins, (gatherer, reader), wide)
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
        return reader.reading

    def _set_options(self, m: Module, fields: Mapping[str, Value], inside: Signal, epilogue: EpilogueEngine) -> Value:
        """Set the options of the epilogue while it is empty; return whether they are those of the instruction."""
        side = fields["side"]
        wanted = {
            "use_tile": (side == Side.TILE16) | (side == Side.TILE32),
            "use_mask": side == Side.MASK,
            "to_half": fields["to_half"],
            "use_relu": fields["relu"],
        }
        options = {name: Signal(name=f"set_{name}") for name in wanted}
        with m.If(inside == 0):
            m.d.sync += [options[name].eq(value) for name, value in wanted.items()]
        m.d.comb += [getattr(epilogue, name).eq(value) for name, value in options.items()]
        m.d.comb += epilogue.use_bias.eq(0)
        return named(m, "fits", Cat(*options.values()) == Cat(*wanted.values()))

    def _side(
        self,
        m: Module,
        fields: Mapping[str, Value],
        begins: Value,
        users: tuple[RowGatherer, ResultReader],
        wide: Value,
    ) -> None:
        """Ask for the second operand ahead, as far as there is room; for one row if all have the same."""
        gatherer, reader = users
        queue = m.submodules.side_queue = SideQueue()
        bursts = m.submodules.side_bursts = RowBursts(SIDE_BEATS)
        self._rows_of_beats(m, bursts, fields, "side_", wide)
        same = same_row(m, fields)
        kept = Signal()  # `same` of the instruction that is read
        m.d.sync += kept.eq(same)
        room = Signal(range(SIDE_BEATS + 1), init=SIDE_BEATS)
        whole = named(m, "side_whole", bursts.finished & (room + queue.level == SIDE_BEATS))
        keep = named(m, "side_keep", kept & ~reader.last)
        asked = Mux(bursts.request.valid & bursts.request.ready, bursts.beats_asked, 0)
        less = named(m, "side_room_less", (room - asked)[: len(room)])
        more = named(m, "side_room_more", (room - asked + 1)[: len(room)])
        m.d.sync += room.eq(Mux(queue.pop & ~keep, more, less))  # what decides late is `pop`
        wiring.connect(m, bursts.request, wiring.flipped(self.side.request))
        m.d.comb += [
            bursts.start.eq(begins),
            bursts.rows.eq(Mux(gatherer.none, 0, Mux(same, 1, fields["rows"]))),
            bursts.room.eq(room),
            queue.push.eq(self.side.valid),
            queue.i.eq(self.side.data),
            queue.begin.eq(begins),
            queue.keep.eq(keep),
            queue.ends_row.eq(gatherer.ends_row),
            queue.pop.eq(gatherer.i.ready & gatherer.i.valid),
            gatherer.i.valid.eq(queue.some & (whole | ~kept)),
            gatherer.i.payload.eq(queue.o),
        ]

    def _results_out(
        self, m: Module, fields: Mapping[str, Value], starts: Signal, epilogue: EpilogueEngine
    ) -> tuple[Signal, Signal]:
        """Form beats and write them burst by burst; return whether all are asked for, and how many were so far."""
        wide = named(m, "wide", ~fields["to_half"])
        packer = m.submodules.packer = RowPacker(self._config.columns)
        queue = m.submodules.write_queue = fifo.SyncFIFO(width=chunk_layout().size, depth=WRITE_BEATS)
        bursts = m.submodules.write_bursts = RowBursts(WRITE_BEATS)
        self._rows_of_beats(m, bursts, fields, "", wide)
        rows, packs = Signal(16), Signal()  # still to be packed; some are, results behind are the next instruction's
        wiring.connect(m, bursts.request, wiring.flipped(self.write.request))
        held = Signal(range(WRITE_BEATS + 1))  # beats in the queue that no burst has been asked for
        asks = named(m, "write_asks", bursts.request.valid & bursts.request.ready)
        asked = Signal(ACKNOWLEDGE_BITS)
        m.d.sync += [
            held.eq(held + (packer.o.valid & packer.o.ready) - Mux(asks, bursts.beats_asked, 0)),
            asked.eq(asked + asks),
        ]
        with m.If(starts):
            m.d.sync += [rows.eq(fields["rows"]), packs.eq(fields["rows"] != 0)]
        with m.Elif(packer.row_end):
            m.d.sync += [rows.eq(rows - 1), packs.eq(rows != 1)]
        beat = data.View(chunk_layout(), queue.r_data)
        m.d.comb += [
            packer.i.valid.eq(epilogue.o.valid & packs),
            packer.i.payload.eq(epilogue.o.payload),
            epilogue.o.ready.eq(packer.i.ready & packs),
            epilogue.clear.eq(self.clear_special),
            self.special.eq(epilogue.special),
            packer.row_columns.eq(fields["columns"]),
            packer.lane.eq(fields["lane"]),
            packer.wide.eq(wide),
            packer.start.eq(starts),
            packer.o.ready.eq(queue.w_rdy),
            queue.w_en.eq(packer.o.valid),
            queue.w_data.eq(packer.o.payload),
            bursts.start.eq(starts),
            bursts.rows.eq(fields["rows"]),
            bursts.room.eq(held),
            self.write.data.eq(beat.data),
            self.write.strobe.eq(beat.strobe),
            queue.r_en.eq(self.write.pull),
        ]
        return bursts.finished, asked

    def _rows_of_beats(
        self, m: Module, bursts: RowBursts, fields: Mapping[str, Value], prefix: str, wide: Value
    ) -> None:
        """Give the bursts their walk, and the beats of a row in which there is an element."""
        before = named(m, f"{prefix}before", fields["lane"] << wide)
        end = named(m, f"{prefix}end", ((fields["lane"] + fields["columns"]) << wide) + (HALVES - 1))
        m.d.sync += [bursts.first.eq(before[5:]), bursts.beats.eq((end >> 5) - before[5:])]
        m.d.comb += [bursts.region.eq(fields[prefix + "region"]), *row_walk(bursts, fields, prefix)]


def _above(half: Value) -> Value:
    """Return whether a binary16 number is above 0 or NaN."""
    nan = half[10:15].all() & half[:10].any()
    return nan | (~half[15] & half[:15].any())
