"""LOAD_ACT, modes 1 and 2: every beat is written at once, spread over the array rows (docs/machine.md, loader)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from nmsat.dataflow.contract.isa import HALVES, INSTRUCTION_BITS, ActMode, Opcode
from nmsat.hw.load.ask import beat_layout
from nmsat.hw.parts.fields import fields_of
from nmsat.hw.parts.steps import named

if TYPE_CHECKING:
    from nmsat.dataflow.contract.config import SatConfig

BEAT = 16 * HALVES
"""Bits of a beat."""


class LoadBeats(wiring.Component):
    """Write the elements of one beat after the other, one word per array row and cycle.

    Members: as `hw.load.rows.LoadSets`, but en has one bit per row.
    Timing: `begin` at cycle t, beats taken from t + 1 on; one taken at u is written from u + 1 on, and the next one can
    be taken in the cycle of its last write. Columns mode: min(a, 32 / R) cycles per beat; two lanes: the beats of an
    even step wait for those of the odd one, and one can be taken in any cycle. WS rows: M / lanes cycles.
    """

    word: Signal
    begin: Signal
    beat: stream.Interface
    en: Signal
    addr: Signal
    data: Signal
    ended: Signal

    def __init__(self, config: SatConfig) -> None:
        self._config = config
        super().__init__(
            {
                "word": In(INSTRUCTION_BITS),
                "begin": In(1),
                "beat": In(stream.Signature(beat_layout())),
                "en": Out(config.rows),
                "addr": Out(range(config.act_depth)),
                "data": Out(16 * config.act_lanes * config.rows),
                "ended": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        lanes, rows = self._config.act_lanes, self._config.rows
        m = Module()
        fields = fields_of(Opcode.LOAD_ACT, self.word)
        columns = named(m, "columns", fields["mode"] == ActMode.OS_COLUMNS)
        words = named(m, "words", (2 << fields["log2_m_less_1"]) >> (lanes - 1))
        beat = self.beat.payload
        taking, playing, play_last, even = (Signal(name=name) for name in ("taking", "playing", "play_last", "even"))
        first = Signal()  # the next beat is the first of its round
        chunk_at = Signal(11)  # number of the chunk's first beat
        number = Signal(3)
        left = Signal(4)
        ends = named(m, "ends", playing & ~left.any())
        keeps = named(m, "keeps", columns & even)
        m.d.comb += self.beat.ready.eq(taking & (keeps | ~playing | ends))
        take = named(m, "take", self.beat.ready & self.beat.valid)
        starts = named(m, "starts", take & ~keeps)
        m.d.comb += self.ended.eq(ends & play_last)
        with m.If(playing):
            m.d.sync += left.eq(left - 1)
        with m.If(starts):
            cycles = Mux(columns, _column_cycles(rows, fields["log2_a"]), words)
            m.d.sync += [playing.eq(1), play_last.eq(beat.last), left.eq(cycles - 1)]
        with m.Elif(ends):
            m.d.sync += playing.eq(0)
        with m.If(take):
            m.d.sync += [first.eq(beat.turn), number.eq(Mux(beat.turn, 0, number + 1))]
            with m.If(beat.turn):
                m.d.sync += even.eq(~even if lanes == 2 else 0)
            with m.If(beat.chunk):
                m.d.sync += chunk_at.eq(chunk_at + number + 1)
            with m.If(beat.last):
                m.d.sync += taking.eq(0)
        with m.If(self.begin):
            m.d.sync += [taking.eq(1), first.eq(1), number.eq(0), chunk_at.eq(0), even.eq(lanes == 2)]
        self._data(m, fields, columns, starts, take & keeps, number)
        self._enable(m, fields, columns, starts, playing, named(m, "q", chunk_at + number))
        self._places(m, fields, columns, words, starts, first, playing)
        return m

    def _data(
        self, m: Module, fields: dict[str, Value], columns: Value, starts: Value, keep: Value, number: Signal
    ) -> None:
        """Beats move towards element 0; each array row takes its word from a fixed place for each M."""
        lanes, rows = self._config.act_lanes, self._config.rows
        now = Signal(BEAT, reset_less=True)
        far = now >> 16 * rows
        m.d.sync += now.eq(Mux(starts, self.beat.payload.data, Mux(columns, far, now >> 16 * lanes)))
        before = Signal(BEAT, reset_less=True)
        if lanes == 2:
            memory = m.submodules.even = Memory(shape=BEAT, depth=8, init=[], attrs={"ram_style": "distributed"})
            write, read = memory.write_port(), memory.read_port(domain="comb")
            m.d.comb += [write.en.eq(keep), write.addr.eq(number), write.data.eq(self.beat.payload.data)]
            m.d.comb += read.addr.eq(number)
            m.d.sync += before.eq(Mux(starts, read.data, before >> 16 * rows))
        for r in range(rows):
            word = self.data.word_select(r, 16 * lanes)
            own = now.word_select(r, 16)
            with m.If(columns):
                m.d.comb += word.eq(own if lanes == 1 else Cat(before.word_select(r, 16), own))
            with m.Else(), m.Switch(fields["log2_m_less_1"]):
                for log2 in range(4):
                    place = (r * (2 << log2)) % HALVES
                    with m.Case(log2):
                        m.d.comb += word.eq(now[16 * place : 16 * (place + lanes)])

    def _enable(
        self, m: Module, fields: dict[str, Value], columns: Value, starts: Value, playing: Value, q: Value
    ) -> None:
        """Columns mode writes all rows, WS rows mode those whose group lies in the beat."""
        log2_m = fields["log2_m_less_1"]
        groups = named(m, "groups", ((fields["k"] - 1)[:16] >> 1) >> log2_m)  # less 1
        present = Signal(self._config.rows)
        for r in range(self._config.rows):
            with m.If(starts):
                m.d.sync += present[r].eq(columns | (((r << log2_m >> 4) == q) & (groups >= r if r else 1)))
        m.d.comb += self.en.eq(Mux(playing, present, 0))

    def _places(
        self,
        m: Module,
        fields: dict[str, Value],
        columns: Value,
        words: Value,
        starts: Value,
        first: Value,
        playing: Value,
    ) -> None:
        """Address of the words that are written; it moves on after every write."""
        bits = len(self.addr)
        step_at = Signal(bits)
        within = Signal(4)  # word of the step within its group
        window = named(m, "window", words << fields["log2_a"])
        with m.If(playing):
            m.d.sync += self.addr.eq(self.addr + Mux(columns, words, 1))
        with m.If(starts & columns & first):
            m.d.sync += [self.addr.eq(step_at), within.eq(within + 1), step_at.eq(step_at + 1)]
            with m.If(within == words - 1):
                m.d.sync += [within.eq(0), step_at.eq(step_at + 1 + window - words)]
        with m.If(starts & ~columns):
            m.d.sync += self.addr.eq(step_at)
            with m.If(self.beat.payload.chunk):
                m.d.sync += step_at.eq(fields["base"])
            with m.Elif(self.beat.payload.turn):
                m.d.sync += step_at.eq(step_at + words)
        with m.If(self.begin):
            m.d.sync += [step_at.eq(fields["base"]), within.eq(0)]


def _column_cycles(rows: int, log2_a: Value) -> Value:
    """Return min(a, 32 / R): the writes of a beat of tile rows."""
    most = (HALVES // rows).bit_length() - 1
    if most >= 3:
        return 1 << log2_a
    return Mux(log2_a > most, HALVES // rows, 1 << log2_a)
