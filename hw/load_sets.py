"""LOAD_ACT, mode 0: beats of R tile rows are collected, then written side by side (docs/machine.md, loader)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from dataflow.isa import HALVES, INSTRUCTION_BITS, Opcode
from hw.fields import fields_of
from hw.fp.steps import named
from hw.load_ask import beat_layout

if TYPE_CHECKING:
    from dataflow.config import SatConfig


class LoadSets(wiring.Component):
    """Write one word of every array row per cycle.

    Members: word: the instruction, held from `begin` to `ended`; begin: it starts; beat: its beats (`beat_layout`),
    taken only while it runs; en, addr, data: write port of the activation buffers, all rows at once; ended: the last
    write of the instruction is in this cycle.
    Timing: `begin` at cycle t, beats taken from t + 1 on, one per cycle until R of them are collected; they are written
    from two cycles after the last of them on, and the next R collected meanwhile.
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
                "en": Out(1),
                "addr": Out(range(config.act_depth)),
                "data": Out(16 * config.act_lanes * config.rows),
                "ended": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        rows, width = self._config.rows, 16 * self._config.act_lanes
        m = Module()
        full, turn, last, moves, ends = (Signal(name=name) for name in ("full", "turn", "last", "moves", "ends"))
        take, at = self._collect(m, full, turn, last, moves)
        playing, play_last = Signal(), Signal()
        m.d.comb += [moves.eq(full & (~playing | ends)), self.en.eq(playing), self.ended.eq(ends & play_last)]
        with m.If(moves):
            m.d.sync += [playing.eq(1), play_last.eq(last)]
        with m.Elif(ends):
            m.d.sync += playing.eq(0)
        for r in range(rows):
            collected = Signal(16 * HALVES, name=f"collected_{r}", reset_less=True)
            played = Signal(16 * HALVES, name=f"played_{r}", reset_less=True)
            with m.If(take & (at == r)):
                m.d.sync += collected.eq(self.beat.payload.data)
            m.d.sync += played.eq(Mux(moves, collected, played >> width))
            m.d.comb += self.data.word_select(r, width).eq(played[:width])
        self._places(m, moves, turn, playing, ends)
        return m

    def _collect(self, m: Module, full: Signal, turn: Signal, last: Signal, moves: Signal) -> tuple[Signal, Signal]:
        """Return whether a beat is taken, and by which row."""
        rows = self._config.rows
        taking, at = Signal(), Signal(range(max(2, rows)))
        m.d.comb += self.beat.ready.eq(taking & (~full | moves))
        take = named(m, "take", self.beat.ready & self.beat.valid)
        with m.If(moves):
            m.d.sync += full.eq(0)
        with m.If(take):
            m.d.sync += [at.eq(at + 1), turn.eq(self.beat.payload.turn), last.eq(self.beat.payload.last)]
            with m.If(at == rows - 1):
                m.d.sync += [at.eq(0), full.eq(1)]
            with m.If(self.beat.payload.last):
                m.d.sync += taking.eq(0)
        with m.If(self.begin):
            m.d.sync += taking.eq(1)
        return take, at

    def _places(self, m: Module, moves: Signal, turn: Signal, playing: Signal, ends: Signal) -> None:
        """Address of the word that is written; `ends`: it is the last of its beats."""
        lanes, bits = self._config.act_lanes, len(self.addr)
        fields: dict[str, Value] = fields_of(Opcode.LOAD_ACT, self.word)
        log2_m, log2_a = fields["log2_m_less_1"], fields["log2_a"]
        words = named(m, "words", (2 << log2_m) >> (lanes - 1))  # of a group, 1 to 16
        window = named(m, "window", words << log2_a)
        beat_groups = named(m, "beat_groups", (HALVES // 2) >> log2_m)
        groups = named(m, "groups", ((fields["k"] - 1)[:16] >> 1) >> log2_m)  # less 1
        beat_at, set_at = Signal(bits), Signal(bits)
        first, group, word = Signal(16), Signal(16), Signal(4)
        word_end = named(m, "word_end", word == words - 1)
        group_end = named(m, "group_end", (group == groups) | ~((group + 1)[:5] & (beat_groups - 1)).any())
        next_beat = named(m, "next_beat", (beat_at + ((HALVES // lanes) << log2_a))[:bits])
        m.d.comb += ends.eq(playing & word_end & group_end)
        with m.If(playing):
            m.d.sync += [word.eq(word + 1), self.addr.eq(self.addr + 1)]
            with m.If(word_end):
                m.d.sync += [word.eq(0), group.eq(group + 1), self.addr.eq(self.addr + 1 + window - words)]
        with m.If(moves):
            m.d.sync += [self.addr.eq(set_at), word.eq(0), group.eq(first), set_at.eq(set_at + words)]
            with m.If(turn):
                m.d.sync += [first.eq(first + beat_groups), set_at.eq(next_beat), beat_at.eq(next_beat)]
        with m.If(self.begin):
            m.d.sync += [first.eq(0), set_at.eq(fields["base"]), beat_at.eq(fields["base"])]
