"""The loader: STAGE, LOAD_ACT and LOAD_WGT, from memory to the buffers of the array (docs/machine.md, loader)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out

from nmsat.dataflow.contract.isa import BEAT_BYTES, INSTRUCTION_BITS, ActMode, Opcode
from nmsat.dataflow.contract.legal import check_machine
from nmsat.dataflow.contract.timing import LOAD_AHEAD, LOAD_PLACES
from nmsat.hw.load.ask import LoadAsk, place_layout
from nmsat.hw.load.beats import LoadBeats
from nmsat.hw.load.rows import LoadSets
from nmsat.hw.load.stage import LoadStage
from nmsat.hw.load.weights import LoadWgt
from nmsat.hw.parts.clients import ReadClient, WorkPort
from nmsat.hw.parts.fields import fields_of
from nmsat.hw.parts.links import pair_layout
from nmsat.hw.parts.steps import named

if TYPE_CHECKING:
    from collections.abc import Sequence

    from amaranth.lib import data

    from nmsat.dataflow.contract.config import SatConfig


class Loader(wiring.Component):
    """Carry out the instructions of the load queue in order.

    Members: work: instructions; read: memory; act_load_en, act_load_addr, act_load_data, wgt_load_en, wgt_load_addr,
    wgt_load_data: write ports of the array's buffers, as the inputs of `hw.array.stce.Stce`.
    Timing: requests of an instruction may leave while the previous one is being written; `start.ready` is high when all
    requests of the last one are gathered and its writes have begun. Beats wait in a queue of `LOAD_PLACES` places,
    reserved when they are asked for. `sim.load.loader` predicts every cycle. `done` is one cycle after the last write
    on the ports. Raises ValueError for an array that cannot be part of a machine.
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
        sets = m.submodules.sets = LoadSets(self._config)
        beats = m.submodules.beats = LoadBeats(self._config)
        wgt = m.submodules.wgt = LoadWgt(self._config)
        stage = m.submodules.stage = LoadStage(self._config)
        writers = (sets, beats, wgt, stage)
        wiring.connect(m, wiring.flipped(self.work.start), ask.start)
        wiring.connect(m, ask.request, wiring.flipped(self.read.request))
        word = Signal(INSTRUCTION_BITS)
        busy, begin, ended = Signal(), Signal(), Signal()
        self._queue(m, ask, stage, writers, begin)
        ahead = m.submodules.ahead = SyncFIFO(width=INSTRUCTION_BITS, depth=LOAD_AHEAD)
        next_ = named(m, "next", ahead.r_rdy & ~busy)
        m.d.comb += [
            ask.handed.eq(ask.waiting & ahead.w_rdy),
            ahead.w_en.eq(ask.waiting),
            ahead.w_data.eq(ask.word),
            ahead.r_en.eq(~busy),
            ended.eq(sets.ended | beats.ended | wgt.ended | stage.ended),
        ]
        m.d.sync += begin.eq(next_)
        with m.If(next_):
            m.d.sync += [word.eq(ahead.r_data), busy.eq(1)]
        with m.Elif(ended):
            m.d.sync += busy.eq(0)
        rows_mode = named(m, "rows_mode", fields_of(Opcode.LOAD_ACT, word)["mode"] == ActMode.OS_ROWS)
        weights = named(m, "weights", word[:4] == Opcode.LOAD_WGT)
        stages = named(m, "stages", word[:4] == Opcode.STAGE)
        m.d.comb += [
            *(writer.word.eq(word) for writer in writers),
            sets.begin.eq(begin & ~weights & ~stages & rows_mode),
            beats.begin.eq(begin & ~weights & ~stages & ~rows_mode),
            wgt.begin.eq(begin & weights),
            stage.begin.eq(begin & stages),
        ]
        self._ports(m, sets, beats, wgt, ended)
        return m

    def _queue(self, m: Module, ask: LoadAsk, stage: LoadStage, writers: Sequence[Any], begin: Signal) -> None:
        """Beats that have come, or stand in the staging buffer, meet the places they were asked for.

        They wait in a register for their writer, one instruction at a time: what an instruction stages is in place
        before the next one reads it.
        """
        layout = place_layout(self._config.stage_depth)
        places = m.submodules.places = SyncFIFO(width=layout.size, depth=LOAD_PLACES)
        queue = m.submodules.queue = SyncFIFO(width=8 * BEAT_BYTES, depth=LOAD_PLACES)
        place: data.View[data.StructLayout] = layout(places.r_data)
        now = Signal(layout)
        valid, hold = Signal(), Signal(init=1)
        come = Signal(8 * BEAT_BYTES, reset_less=True)
        ready = Value.cast(0)
        for writer in writers:
            ready = ready | writer.beat.ready
        taken = named(m, "beat_taken", valid & ready)
        local = named(m, "beat_local", place.zero | place.staged)
        some = named(m, "beat_some", places.r_rdy & (local | queue.r_rdy))
        pops = named(m, "beat_pops", some & ~hold & (~valid | taken))
        value = named(m, "beat_data", Mux(now.zero, 0, Mux(now.staged, stage.read_data, come)))
        m.d.comb += [
            places.w_data.eq(ask.place.payload),
            places.w_en.eq(ask.place.valid),
            ask.place.ready.eq(places.w_rdy),
            queue.w_data.eq(self.read.data),
            queue.w_en.eq(self.read.valid),
            places.r_en.eq(pops),
            queue.r_en.eq(pops & ~local),
            stage.read_en.eq(pops),
            stage.read_addr.eq(place.at),
        ]
        with m.If(pops):
            m.d.sync += [now.eq(place), valid.eq(1), come.eq(queue.r_data), hold.eq(place.last)]
        with m.Elif(taken):
            m.d.sync += valid.eq(0)
        with m.If(begin):
            m.d.sync += hold.eq(0)
        for writer in writers:
            payload: data.View[data.StructLayout] = writer.beat.payload
            m.d.comb += [
                writer.beat.valid.eq(valid),
                payload.data.eq(value),
                payload.turn.eq(now.turn),
                payload.chunk.eq(now.chunk),
                payload.last.eq(now.last),
            ]

    def _ports(self, m: Module, sets: LoadSets, beats: LoadBeats, wgt: LoadWgt, ended: Signal) -> None:
        """Registers in front of the array, which may lie far away."""
        written = Signal()
        m.d.sync += [
            self.act_load_en.eq(sets.en.replicate(self._config.rows) | beats.en),
            self.act_load_addr.eq(Mux(sets.en, sets.addr, beats.addr)),
            self.act_load_data.eq(Mux(sets.en, sets.data, beats.data)),
            self.wgt_load_en.eq(wgt.en),
            self.wgt_load_addr.eq(wgt.addr),
            self.wgt_load_data.eq(wgt.data),
            written.eq(ended),
            self.work.done.eq(written),
        ]
