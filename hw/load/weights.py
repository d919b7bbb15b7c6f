"""LOAD_WGT: beats of packed or dense weights into the weight buffers (docs/machine/load.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib.wiring import Out

from nmsat.dataflow.contract.config import INTERLEAVE
from nmsat.dataflow.contract.isa import HALVES, LANES, Opcode
from nmsat.dataflow.contract.links import FILLER_PAIR, PAIR_BITS
from nmsat.hw.load.ask import beat_layout
from nmsat.hw.load.writer import LoadWriter
from nmsat.hw.parts.fields import fields_of
from nmsat.hw.parts.links import pair_layout
from nmsat.hw.parts.steps import named

if TYPE_CHECKING:
    from nmsat.dataflow.contract.config import SatConfig


class LoadWeights(LoadWriter):
    """Write one pair per array column and cycle.

    Members, beside those of `LoadWriter` (beats: `beat_layout`):

    en : Out(C), a pair of this column is written.
    addr : Out(range(weight_depth)), where, the same for all columns.
    data : Out(21 * C), pairs (`dataflow.contract.links.PAIR`), column 0 at bit 0.

    Timing: `begin` at cycle t, beats taken from t + 1 on; one taken at u is written from u + 1 on, in
    max(1, min(16, b C) / C) cycles (dense: 32 instead of 16), and the next one can be taken in the cycle of its last
    write. A beat of fillers takes the same cycles and none of memory.
    """

    en: Signal
    addr: Signal
    data: Signal

    def __init__(self, config: SatConfig) -> None:
        self._columns = config.columns
        super().__init__(
            beat_layout(),
            {
                "en": Out(config.columns),
                "addr": Out(range(config.weight_depth)),
                "data": Out(pair_layout().size * config.columns),
            },
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        fields = fields_of(Opcode.LOAD_WGT, self.word)
        beat = self.beat.payload
        taking, playing, play_last, filler = (Signal(name=n) for n in ("taking", "playing", "play_last", "filler"))
        padding, pad_last = Signal(), Signal()  # slot rows of fillers are to come; the instruction ends with them
        pads, left = Signal(16), Signal(5)
        across = Signal(3)  # dense: number of the next beat in its row
        row_end = named(m, "row_end", across == (fields["inner"] - 1)[:3])
        ends = named(m, "ends", playing & ~left.any())
        free = named(m, "free", ~playing | ends)
        m.d.comb += self.beat.ready.eq(taking & ~padding & free)
        take = named(m, "take", self.beat.ready & self.beat.valid)
        starts = named(m, "starts", take | (padding & free))
        pads_next = named(m, "pads_next", ~fields["dense"] | row_end)
        pad_end = named(m, "pad_end", pads_next & (pads == fields["pad"] - 1))
        block_end = named(m, "block_end", Mux(padding, pad_end, beat.turn & (fields["pad"] == 0)))
        turn = named(m, "turn", Mux(fields["dense"], row_end, block_end))
        m.d.comb += self.ended.eq(ends & play_last)
        with m.If(playing):
            m.d.sync += left.eq(left - 1)
        with m.If(starts):
            m.d.sync += [playing.eq(1), filler.eq(padding), left.eq(self._cycles(fields) - 1)]
            m.d.sync += play_last.eq(block_end & Mux(padding, pad_last, beat.last))
            m.d.sync += across.eq(Mux(row_end, 0, across + 1))
        with m.Elif(ends):
            m.d.sync += playing.eq(0)
        with m.If(take):
            m.d.sync += [padding.eq(beat.turn & (fields["pad"] != 0)), pads.eq(0), pad_last.eq(beat.last)]
            with m.If(beat.last):
                m.d.sync += taking.eq(0)
        with m.Elif(starts):
            m.d.sync += [pads.eq(pads + pads_next), padding.eq(~pad_end)]
        with m.If(self.begin):
            m.d.sync += [taking.eq(1), across.eq(0)]
        half = Signal()  # where C is 32: the half of the columns that a packed block fills
        with m.If(starts & turn):
            m.d.sync += half.eq(~half)
        with m.If(self.begin):
            m.d.sync += half.eq(0)
        self._places(m, fields, starts, turn, playing, half)
        self._data(m, fields, starts, turn, filler)
        self._enable(m, fields, starts, playing, half)
        return m

    def _cycles(self, fields: dict[str, Value]) -> Value:
        """Return the writes of a beat: min(16 or 32, b C) / C, at least 1."""
        interleave = (INTERLEAVE >> fields["log2_a"])[:4]
        packed, dense = (max(1, lanes // self._columns) for lanes in (LANES, HALVES))
        most = Mux(fields["dense"], dense, packed)
        return Mux(interleave > most, most, interleave)

    def _places(
        self, m: Module, fields: dict[str, Value], starts: Value, turn: Value, playing: Value, half: Value
    ) -> None:
        """Address of the pair that is written, one on with every write.

        A slot row is b places. Packed: down the slot rows of a block, then to the next block; dense: across a row, then
        to the next row. `turn`: the end of a block, of a row.
        """
        bits = len(self.addr)
        next_at, first_at = Signal(bits), Signal(bits)  # of the next beat, of the first one of its block or row
        slot_row = INTERLEAVE >> fields["log2_a"]
        packed = half if self._columns > LANES else LANES // self._columns
        near = Mux(fields["dense"], HALVES // self._columns, slot_row)
        far = named(m, "far_at", (first_at + Mux(fields["dense"], slot_row, packed))[:bits])
        with m.If(playing):
            m.d.sync += self.addr.eq(self.addr + 1)
        with m.If(starts):
            m.d.sync += [self.addr.eq(next_at), next_at.eq(next_at + near)]
            with m.If(turn):
                m.d.sync += [next_at.eq(far), first_at.eq(far)]
        with m.If(self.begin):
            m.d.sync += [next_at.eq(fields["base"]), first_at.eq(fields["base"])]

    def _data(self, m: Module, fields: dict[str, Value], starts: Value, turn: Value, filler: Value) -> None:
        """Beats move by C lanes with every write, so that a column finds its pair in the same place."""
        columns, dense = self._columns, fields["dense"]
        now = Signal(16 * HALVES, reset_less=True)
        index, played = Signal(4), Signal(4)  # dense: place in the group of the next beat, of the one in `now`
        last = named(m, "last_index", ((2 << fields["log2_m_less_1"]) - 1)[:4])
        with m.If(starts):
            m.d.sync += [now.eq(self._aligned(m, fields)), played.eq(index)]
            with m.If(turn):
                m.d.sync += index.eq((index + 1) & last)
        with m.Else():
            m.d.sync += now.eq(Mux(dense, now >> 16 * columns, now >> PAIR_BITS * columns))
        with m.If(self.begin):
            m.d.sync += index.eq(0)
        pair = pair_layout()
        for c in range(columns):
            out = self.data.word_select(c, pair.size)
            packed = now.word_select(c % LANES, PAIR_BITS)[: pair.size]
            whole = Cat(now.word_select(c, 16), played, Const(0, 1))
            m.d.comb += out.eq(Mux(filler, FILLER_PAIR, Mux(dense, whole, packed)))

    def _aligned(self, m: Module, fields: dict[str, Value]) -> Value:
        """Return the beat with the first lane in use at bit 0; lanes in use begin at multiples of C."""
        beat = self.beat.payload.data
        positions = HALVES // self._columns
        if positions == 1:
            return beat
        shift = named(m, "shift", Mux(fields["dense"], fields["lane"], fields["lane"] << 1))
        aligned = Signal(16 * HALVES)
        with m.Switch(shift[self._columns.bit_length() - 1 :][: positions.bit_length() - 1]):
            for p in range(positions):
                with m.Case(p):
                    m.d.comb += aligned.eq(beat >> 16 * self._columns * p)
        return aligned

    def _enable(self, m: Module, fields: dict[str, Value], starts: Value, playing: Value, half: Value) -> None:
        """Enable all columns, or those of the half that a packed block fills."""
        if self._columns <= LANES:
            m.d.comb += self.en.eq(playing.replicate(self._columns))
            return
        lower, upper = Signal(), Signal()
        with m.If(starts):
            m.d.sync += [lower.eq(fields["dense"] | ~half), upper.eq(fields["dense"] | half)]
        m.d.comb += self.en.eq(Cat((playing & lower).replicate(LANES), (playing & upper).replicate(LANES)))
