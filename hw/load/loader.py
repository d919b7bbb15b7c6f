"""The loader: STAGE, LOAD_ACT and LOAD_WGT, from memory to the buffers of the array (docs/machine/load.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out

from nmsat.dataflow.contract.isa import BEAT_BYTES, INSTRUCTION_BITS, ActMode, Opcode
from nmsat.dataflow.contract.legal import check_machine
from nmsat.dataflow.contract.limits import LOAD_AHEAD, LOAD_LINK, LOAD_OWNERS, LOAD_PLACES, STARTED_DEPTH
from nmsat.hw.load.ask import LoadAsk, place_layout
from nmsat.hw.load.beats import LoadBeats
from nmsat.hw.load.rows import LoadRows
from nmsat.hw.load.stage import LoadStage
from nmsat.hw.load.weights import LoadWeights
from nmsat.hw.parts.clients import ReadClient, WorkPort
from nmsat.hw.parts.fields import fields_of
from nmsat.hw.parts.links import pair_layout
from nmsat.hw.parts.small_queue import SmallQueue
from nmsat.hw.parts.steps import named

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nmsat.dataflow.contract.config import SatConfig


class Loader(wiring.Component):
    """Carry out the instructions of the load queue: each does as if those in front of it were done.

    Members:

    work : In(`WorkPort`), instructions, and when they are done.
    read : Out(`ReadClient`), memory.
    act_load_en : Out(R), a word of this row's activation buffer is written.
    act_load_addr : Out(range(act_depth)), where, the same for all rows.
    act_load_data : Out(16 * act_lanes * R), words, row 0 at bit 0.
    wgt_load_en : Out(C), a pair of this column's weight buffer is written.
    wgt_load_addr : Out(range(weight_depth)), where, the same for all columns.
    wgt_load_data : Out(21 * C), pairs, column 0 at bit 0.

    Timing: requests of an instruction may leave while the previous one is being written; `start.ready` is high when all
    requests of the last one are gathered and its writes have begun. Beats wait in a queue of `LOAD_PLACES` places,
    reserved when they are asked for. A STAGE runs beside the loads (`LoadStage`); instructions are done in order.
    `sim.load.loader` predicts every cycle. `done` is one cycle after the last write on the ports, or later. Raises
    ValueError for an array that cannot be part of a machine.
    """

    work: Any
    read: Any
    act_load_en: Signal
    act_load_addr: Signal
    act_load_data: Signal
    wgt_load_en: Signal
    wgt_load_addr: Signal
    wgt_load_data: Signal

    def __init__(self, config: SatConfig) -> None:
        check_machine(config)
        self._config = config
        super().__init__(
            {
                "work": In(WorkPort()),
                "read": Out(ReadClient()),
                "act_load_en": Out(config.rows),
                "act_load_addr": Out(range(config.act_depth)),
                "act_load_data": Out(16 * config.act_lanes * config.rows),
                "wgt_load_en": Out(config.columns),
                "wgt_load_addr": Out(range(config.weight_depth)),
                "wgt_load_data": Out(pair_layout().size * config.columns),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        ask = m.submodules.ask = LoadAsk(self._config)
        rows = m.submodules.sets = LoadRows(self._config)
        beats = m.submodules.beats = LoadBeats(self._config)
        weights = m.submodules.wgt = LoadWeights(self._config)
        stage = m.submodules.stage = LoadStage(self._config)
        writers = (rows, beats, weights)
        wiring.connect(m, wiring.flipped(self.work.start), ask.start)
        word = Signal(INSTRUCTION_BITS)
        busy, begin, ended = Signal(), Signal(), Signal()
        ahead = m.submodules.ahead = SyncFIFO(width=INSTRUCTION_BITS, depth=LOAD_AHEAD)
        early = Signal()  # the beats of the instruction behind `word` are taken already
        hold, valid = Signal(init=1), Signal()  # beats of another instruction come next; one waits for its writer
        in_rows = [named(m, name, _rows_mode(w)) for name, w in (("rows_now", word), ("rows_next", ahead.r_data))]
        waits = named(m, "waits", hold & ~valid & busy & ~begin & ~early)
        release = named(m, "release", waits & ahead.r_rdy & in_rows[0] & in_rows[1])
        opens = named(m, "opens", release | (begin & ~early))
        with m.If(release | begin):
            m.d.sync += early.eq(release)
        come = self._requests(m, ask, stage)
        self._queue(m, (ask, stage), writers, (valid, hold, opens), come)
        next_ = named(m, "next", ahead.r_rdy & ~busy)
        m.d.comb += [
            ask.handed.eq(ask.waiting & ahead.w_rdy),
            ahead.w_en.eq(ask.waiting),
            ahead.w_data.eq(ask.word),
            ahead.r_en.eq(~busy),
            ended.eq(rows.ended | beats.ended | weights.ended),
        ]
        m.d.sync += begin.eq(next_)
        with m.If(next_):
            m.d.sync += [word.eq(ahead.r_data), busy.eq(1)]
        with m.Elif(ended):
            m.d.sync += busy.eq(0)
        in_weights = named(m, "weights", word[:4] == Opcode.LOAD_WGT)
        m.d.comb += [
            *(writer.word.eq(word) for writer in writers),
            rows.begin.eq(begin & in_rows[0]),
            rows.collect.eq(opens & in_rows[0]),
            beats.begin.eq(begin & ~in_weights & ~in_rows[0]),
            weights.begin.eq(begin & in_weights),
        ]
        self._report(m, ask, stage, ended)
        self._ports(m, rows, beats, weights)
        return m

    def _requests(self, m: Module, ask: LoadAsk, stage: LoadStage) -> Value:
        """Let both ask, a STAGE first; return whether a beat that comes is for a load."""
        owner = data.StructLayout({"stage": 1, "beats_less_1": 4})
        owners = m.submodules.owners = SmallQueue(owner, LOAD_OWNERS)
        request, number = self.read.request, Signal(4)
        may = named(m, "may_ask", owners.level != LOAD_OWNERS)
        payload = Mux(stage.request.valid, stage.request.payload.as_value(), ask.request.payload.as_value())
        granted = named(m, "granted", request.valid & request.ready)
        last = named(m, "burst_ends", number == owners.o.beats_less_1)
        m.d.comb += [
            request.valid.eq(may & (stage.request.valid | ask.request.valid)),
            request.payload.eq(payload),
            stage.request.ready.eq(may & request.ready),
            ask.request.ready.eq(may & request.ready & ~stage.request.valid),
            owners.push.eq(granted),
            owners.i.stage.eq(stage.request.valid),
            owners.i.beats_less_1.eq(request.payload.beats_less_1),
            owners.pop.eq(self.read.valid & last),
            stage.valid.eq(self.read.valid & owners.o.stage),
            stage.data.eq(self.read.data),
        ]
        with m.If(self.read.valid):
            m.d.sync += number.eq(Mux(last, 0, number + 1))
        return named(m, "load_comes", self.read.valid & ~owners.o.stage)

    def _report(self, m: Module, ask: LoadAsk, stage: LoadStage, ended: Signal) -> None:
        """Say which instructions are done, in order. owed: loads that are written and have not been said to be done;
        inside: all that have not; front: those of them that stand in front of the STAGE."""
        told = Signal(1 + LOAD_LINK)
        owed, inside, front = (Signal(range(STARTED_DEPTH + 1), name=name) for name in ("owed", "inside", "front"))
        load = named(m, "load_done", owed.any() & (stage.free | front.any()))
        m.d.comb += stage.release.eq(stage.written & ~front.any())
        m.d.sync += [
            owed.eq(owed + ended - load),
            inside.eq(inside + ask.handed - load),
            told.eq(Cat(load | stage.release, told)),
        ]
        m.d.comb += self.work.done.eq(told[-1])  # what was written has passed the links to the buffers
        with m.If(ask.stage):
            m.d.sync += front.eq(inside - load)
        with m.Elif(load & ~stage.free):
            m.d.sync += front.eq(front - 1)

    def _queue(
        self,
        m: Module,
        sources: tuple[LoadAsk, LoadStage],
        writers: Sequence[Any],
        gate: tuple[Signal, Signal, Value],
        comes: Value,
    ) -> None:
        """Beats that have come, or stand in the staging buffer, meet the places they were asked for.

        They wait in a register for their writer, one instruction at a time. gate: a beat is in the register; the next
        one is held; it is let through. comes: a beat is there. A STAGE may ask when its mark has reached the front:
        those that read what it overwrites have done so.
        """
        (ask, stage), (valid, hold, opens) = sources, gate
        layout = place_layout(self._config.stage_depth)
        places = m.submodules.places = SyncFIFO(width=layout.size, depth=LOAD_PLACES)
        queue = m.submodules.queue = SyncFIFO(width=8 * BEAT_BYTES, depth=LOAD_PLACES)
        place: data.View[data.StructLayout] = layout(places.r_data)
        now = Signal(layout)
        come = Signal(8 * BEAT_BYTES, reset_less=True)
        ready = Value.cast(0)
        for writer in writers:
            ready = ready | writer.beat.ready
        taken = named(m, "beat_taken", valid & ready)
        local = named(m, "beat_local", place.zero | place.staged)
        some = named(m, "beat_some", places.r_rdy & ~place.mark & (local | queue.r_rdy))
        marked = named(m, "marked", places.r_rdy & place.mark)
        pops = named(m, "beat_pops", some & ~hold & (~valid | taken))
        value = named(m, "beat_data", Mux(now.zero, 0, Mux(now.staged, stage.read_data, come)))
        behind = named(m, "beat_next", Mux(now.zero, 0, stage.read_next))
        m.d.comb += [
            places.w_data.eq(ask.place.payload),
            places.w_en.eq(ask.place.valid),
            ask.place.ready.eq(places.w_rdy),
            queue.w_data.eq(self.read.data),
            queue.w_en.eq(comes),
            places.r_en.eq(pops | marked),
            ask.stage_free.eq(stage.free),
            ask.stage_written.eq(stage.written),
            stage.word.eq(ask.word),
            stage.take.eq(ask.stage),
            stage.begin.eq(marked),
            queue.r_en.eq(pops & ~local),
            stage.read_en.eq(pops),
            stage.read_addr.eq(place.at),
        ]
        with m.If(pops):
            m.d.sync += [now.eq(place), valid.eq(1), come.eq(queue.r_data), hold.eq(place.last)]
        with m.Elif(taken):
            m.d.sync += valid.eq(0)
        with m.If(opens):
            m.d.sync += hold.eq(0)
        for writer in writers:
            payload: data.View[data.StructLayout] = writer.beat.payload
            if isinstance(writer, LoadRows):
                m.d.comb += [payload.pair.eq(now.pair), payload.next.eq(behind)]
            m.d.comb += [
                writer.beat.valid.eq(valid),
                payload.data.eq(value),
                payload.turn.eq(now.turn),
                payload.chunk.eq(now.chunk),
                payload.last.eq(now.last),
            ]

    def _ports(self, m: Module, rows: LoadRows, beats: LoadBeats, weights: LoadWeights) -> None:
        """Registers in front of the array, which may lie far away."""
        m.d.sync += [
            self.act_load_en.eq(rows.en.replicate(self._config.rows) | beats.en),
            self.act_load_addr.eq(Mux(rows.en, rows.addr, beats.addr)),
            self.act_load_data.eq(Mux(rows.en, rows.data, beats.data)),
            self.wgt_load_en.eq(weights.en),
            self.wgt_load_addr.eq(weights.addr),
            self.wgt_load_data.eq(weights.data),
        ]


def _rows_mode(word: Value) -> Value:
    """Return whether an instruction is a LOAD_ACT of output stationary rows."""
    return (word[:4] == Opcode.LOAD_ACT) & (fields_of(Opcode.LOAD_ACT, word)["mode"] == ActMode.OS_ROWS)
