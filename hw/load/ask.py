"""The loader's requests: which beats an instruction needs, in order, gathered into bursts (docs/machine/load.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from nmsat.dataflow.contract.isa import BEAT_BYTES, INSTRUCTION_BITS, OFFSET_BITS, ActMode, Opcode
from nmsat.dataflow.contract.limits import LOAD_CHUNK
from nmsat.dataflow.contract.timing import reads_pairs
from nmsat.hw.load.gather import LoadGather
from nmsat.hw.parts.clients import burst_layout
from nmsat.hw.parts.fields import fields_of
from nmsat.hw.parts.steps import named
from nmsat.hw.parts.walk import Walk, walk_fields

if TYPE_CHECKING:
    from nmsat.dataflow.contract.config import SatConfig

CHUNK_BITS: Final = LOAD_CHUNK.bit_length() - 1
"""Bits of the place of a beat in its chunk."""


def place_layout(stage_depth: int) -> data.StructLayout:
    """One beat on its way to the buffers. zero: it is not read but all zeros.

    staged: it comes from place `at` of the staging buffer; pair: so does its neighbour, in the same cycle; turn: the
    last of its step (rows modes: of the chunk of a tile row; columns mode: of the step; weights: of the block); chunk:
    rows modes: the last of its chunk, that is of all tile rows; last: of its instruction; mark: it is no beat, but a
    STAGE begins here.
    """
    at = (stage_depth - 1).bit_length()
    names = ("zero", "staged", "pair", "turn", "chunk", "last", "mark")
    return data.StructLayout({**dict.fromkeys(names, 1), "at": at})


def beat_layout() -> data.StructLayout:
    """One beat for a writer, with what its place says of it."""
    return data.StructLayout({"data": 8 * BEAT_BYTES, "turn": 1, "chunk": 1, "last": 1})


def rows_layout() -> data.StructLayout:
    """The same for rows mode; pair: `next` is the beat behind it, which comes with it."""
    return data.StructLayout({"pair": 1, "next": 8 * BEAT_BYTES, **beat_layout().members})


class LoadAsk(wiring.Component):
    """Walk through the beats of one load instruction after the other.

    Members:

    start : In(stream of 512), instructions of the load queue.
    word : Out(512), the one in work.
    waiting : Out(1), nobody has copied it yet; not a STAGE.
    handed : In(1), it is copied in this cycle.
    stage_free : In(1), a STAGE can be taken.
    stage_written : In(1), all beats of the last one have come.
    stage : Out(1), `word` is a STAGE and is taken in this cycle.
    request : Out(stream of `burst_layout`), bursts.
    place : Out(stream of `place_layout(stage_depth)`), a record per beat or pair, in the order in which data will come.

    Timing: an instruction started at cycle t has its first beat looked at in t + 2, then one per cycle, as long as
    `place` takes them; its place is taken two cycles later at the earliest. Bursts are those of `LoadGather`. A STAGE
    waits for `stage_free` and takes a place as one beat would, its mark; a staged load waits for the beats of the STAGE
    in front unless it is `beside`. `start.ready`, `request.valid` and `request.payload` are registers.
    """

    start: stream.Interface
    word: Signal
    waiting: Signal
    handed: Signal
    stage_free: Signal
    stage_written: Signal
    stage: Signal
    request: Any
    place: Any

    def __init__(self, config: SatConfig) -> None:
        self._config = config
        self._place = place_layout(config.stage_depth)
        super().__init__(
            {
                "start": In(stream.Signature(INSTRUCTION_BITS)),
                "word": Out(INSTRUCTION_BITS),
                "waiting": Out(1),
                "handed": In(1),
                "stage_free": In(1),
                "stage_written": In(1),
                "stage": Out(1),
                "request": Out(stream.Signature(burst_layout())),
                "place": Out(stream.Signature(self._place)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        valid, prepare, active = Signal(), Signal(), Signal()
        free, ends, may = Signal(), Signal(), Signal()
        stages = named(m, "stages", self.word[:4] == Opcode.STAGE)
        act = fields_of(Opcode.LOAD_ACT, self.word)
        reads = named(m, "reads", (self.word[:4] == Opcode.LOAD_ACT) & act["staged"] & ~act["beside"])
        waits = named(m, "waits", reads & ~self.stage_written)
        m.d.comb += may.eq(self.stage_free | ~(stages | waits))
        m.d.comb += self.start.ready.eq(~valid)
        m.d.sync += prepare.eq(self.start.valid & self.start.ready)
        with m.If(self.start.valid & self.start.ready):
            m.d.sync += [self.word.eq(self.start.payload), valid.eq(1)]
            m.d.sync += self.waiting.eq(self.start.payload[:4] != Opcode.STAGE)
        with m.If(prepare):
            m.d.sync += active.eq(1)
        go = named(m, "go", active & may & free)
        done = named(m, "all_looked_at", go & (stages | ends))
        with m.If(done):
            m.d.sync += active.eq(0)
        with m.If(self.handed):
            m.d.sync += self.waiting.eq(0)
        with m.If(valid & ~prepare & (~active | done) & (~self.waiting | self.handed)):
            m.d.sync += valid.eq(0)
        m.d.comb += self.stage.eq(go & stages)
        slot = self._slots(m, prepare, (go, free), ends)
        with m.If(free):
            m.d.sync += [slot.valid.eq(active & may), slot.place.mark.eq(stages)]
        self._gather(m, slot, free)
        return m

    def _slots(self, m: Module, prepare: Signal, moves: tuple[Signal, Signal], ends: Signal) -> data.View:
        """Return the register with the present beat. moves: a beat is looked at, the register is free; `ends`: which
        is the last."""
        go, free = moves
        weights = named(m, "weights", self.word[:4] == Opcode.LOAD_WGT)
        walk = m.submodules.walk = Walk()
        act, wgt = (fields_of(opcode, self.word) for opcode in (Opcode.LOAD_ACT, Opcode.LOAD_WGT))
        self._walk(m, walk, weights, act, wgt)
        columns = named(m, "columns", ~weights & (act["mode"] == ActMode.OS_COLUMNS))
        rows = named(m, "rows", ~weights & ~columns)
        last_step, last_real, last_beat = self._limits(m, prepare, weights, act, wgt)
        step, beat = Signal(16), Signal(11)
        pairs = named(m, "pairs", rows & reads_pairs(self._config, act))
        upto = named(m, "upto", beat | pairs)  # the beat, or the second one of its pair
        at_end = named(m, "at_end", step == last_step)
        step_end = named(m, "step_end", Mux(weights, walk.image_end, at_end))
        chunk_end = rows & (pairs | beat[:CHUNK_BITS].all())
        beats_end = named(m, "beats_end", upto == last_beat)
        beat_end = named(m, "beat_end", beats_end | chunk_end)
        turn = named(m, "turn", Mux(weights, step_end, beat_end))
        m.d.comb += [
            ends.eq(step_end & Mux(weights, at_end, beats_end)),
            walk.start.eq(prepare | (go & rows & turn & step_end)),
            walk.advance.eq(go & (weights | beat_end)),
        ]
        with m.If(prepare):
            m.d.sync += [step.eq(0), beat.eq(0)]
        with m.Elif(go & turn):
            m.d.sync += [step.eq(step + 1), beat.eq(0)]
            with m.If(rows):
                m.d.sync += beat.eq(Mux(pairs, beat, Cat(Const(0, CHUNK_BITS), beat[CHUNK_BITS:])))
                with m.If(step_end):
                    m.d.sync += [step.eq(0), beat.eq(upto + 1)]
        with m.Elif(go & ~weights):
            m.d.sync += beat.eq(beat + 1)
        slot = Signal(data.StructLayout({"place": self._place, "region": 2, "offset": OFFSET_BITS, "valid": 1}))
        inside = named(m, "inside", weights | (walk.inside & (step <= last_real)))
        offset = named(m, "offset", (walk.offset + beat)[:OFFSET_BITS])
        with m.If(free):
            m.d.sync += [
                slot.place.zero.eq(~inside),
                slot.place.staged.eq(inside & ~weights & act["staged"]),
                slot.place.pair.eq(pairs),
                slot.place.at.eq(offset),
                slot.place.turn.eq(turn),
                slot.place.chunk.eq(turn & step_end),
                slot.place.last.eq(ends),
                slot.region.eq(Mux(weights, wgt["region"], act["region"])),
                slot.offset.eq(offset),
            ]
        return slot

    def _walk(self, m: Module, walk: Walk, weights: Value, act: dict[str, Value], wgt: dict[str, Value]) -> None:
        """Give the walk its fields: pixels of an image, or blocks of runs of beats."""
        runs = {
            **dict.fromkeys(("at", "line_at", "image_at"), wgt["at"]),
            "x_step": wgt["inner_step"],
            "y_step": wgt["outer_step"],
            "image_step": wgt["block_step"],
            "width": wgt["inner"],
            "height": wgt["outer"],
            "x0": Const(0),
            "y0": Const(0),
            "windowed": Const(0),
        }
        with m.If(weights):
            m.d.comb += walk_fields(walk, runs)
        with m.Else():
            m.d.comb += walk_fields(walk, {**act, "width": Mux(act["windowed"], act["width"], 0)})

    def _limits(
        self, m: Module, prepare: Signal, weights: Value, act: dict[str, Value], wgt: dict[str, Value]
    ) -> tuple[Signal, Signal, Signal]:
        """Return registers: last step of the walk (weights: last block), last one that is read, last beat q."""
        last_step, last_real, last_beat = Signal(16), Signal(16), Signal(11)
        rows = named(m, "rows_less_1", (act["rows"] - 1)[:16])
        k = named(m, "k_less_1", (act["k"] - 1)[:16])
        group = named(m, "group_mask", ((2 << act["log2_m_less_1"]) - 1)[:16])
        with m.If(prepare):
            m.d.sync += [last_real.eq(rows), last_beat.eq(k >> 5)]
            with m.If(weights):
                m.d.sync += [last_step.eq(wgt["blocks"] - 1), last_beat.eq(0)]
            with m.Elif(act["mode"] == ActMode.OS_COLUMNS):
                m.d.sync += [last_step.eq(k | group), last_real.eq(k), last_beat.eq(rows >> 5)]
            with m.Elif(act["mode"] == ActMode.OS_ROWS):
                m.d.sync += last_step.eq((self._config.rows << act["log2_a"]) - 1)
            with m.Else():
                m.d.sync += last_step.eq(rows)
        return last_step, last_real, last_beat

    def _gather(self, m: Module, slot: data.View, free: Signal) -> None:
        """Join beats that follow each other into bursts, and give each beat its place."""
        gather = m.submodules.gather = LoadGather()
        wiring.connect(m, gather.request, wiring.flipped(self.request))
        m.d.comb += [
            gather.valid.eq(slot.valid),
            gather.beat.local.eq(slot.place.zero | slot.place.staged | slot.place.mark),
            gather.beat.region.eq(slot.region),
            gather.beat.offset.eq(slot.offset),
            gather.beat.last.eq(slot.place.last),
            gather.room.eq(self.place.ready),
            self.place.valid.eq(slot.valid & gather.fits),
            self.place.payload.eq(slot.place),
            free.eq((slot.valid & self.place.ready & gather.fits) | ~slot.valid),
        ]
