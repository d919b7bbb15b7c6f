"""LOAD_ACT, mode 0: chunks of R tile rows are collected, then written side by side (docs/machine/load.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from nmsat.dataflow.contract.isa import HALVES, Opcode
from nmsat.dataflow.contract.limits import LOAD_CHUNK, LOAD_SETS
from nmsat.dataflow.contract.timing import takes_pairs
from nmsat.hw.load.ask import CHUNK_BITS, rows_layout
from nmsat.hw.load.writer import LoadWriter
from nmsat.hw.parts.fields import fields_of
from nmsat.hw.parts.steps import COPIED, named

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nmsat.dataflow.contract.config import SatConfig


class LoadRows(LoadWriter):
    """Write one word of every array row per cycle.

    Members, beside those of `LoadWriter` (beats: `rows_layout`, single ones or pairs; sets are written after `begin`):

    collect : In(1), beats may be taken from the next cycle on: with `begin`, or while the load before is written.
    en : Out(1), a word of every row is written.
    addr : Out(range(act_depth)), where.
    data : Out(16 * act_lanes * R), words, row 0 at bit 0.

    Timing: a beat, or a pair, is taken per cycle until the chunks of R tile rows are there. They are written from three
    cycles after the last one on, in (elements in use) / lanes cycles per beat of a tile row, and the next R collected
    meanwhile. The last write is in the cycle behind `ended`.
    """

    collect: Signal
    en: Signal
    addr: Signal
    data: Signal

    def __init__(self, config: SatConfig) -> None:
        self._config = config
        super().__init__(
            rows_layout(),
            {
                "collect": In(1),
                "en": Out(1),
                "addr": Out(range(config.act_depth)),
                "data": Out(16 * config.act_lanes * config.rows),
            },
        )

    def elaborate(self, platform: object) -> Module:
        rows, width = self._config.rows, 16 * self._config.act_lanes
        m = Module()
        # a set in each half of the memories: whether it is there, its beats per tile row less 1, whether it is the last
        # of its chunk, of the instruction
        layout = data.StructLayout({"full": 1, "count": CHUNK_BITS, "chunk": 1, "last": 1})
        halves = [Signal(layout, name=f"half_{half}") for half in range(LOAD_SETS)]
        fill, play, number = Signal(), Signal(), Signal(CHUNK_BITS)
        playing, play_last, ends = Signal(), Signal(), Signal()
        open_ = Signal()  # sets of `word` are to be written; those that are there may belong to the next instruction
        leaving = named(m, "leaving", Mux(play, Value.cast(halves[1]), Value.cast(halves[0])))
        out = layout(leaving)
        moves = named(m, "moves", out.full & open_ & (~playing | ends))
        final = named(m, "final", number == out.count)
        # Who plays which beat is decided from registers of few pins; what is far and wide follows a cycle later.
        moved, source = Signal(attrs=COPIED), Signal(CHUNK_BITS + 1, attrs=COPIED)
        m.d.comb += self.ended.eq(ends & play_last)
        m.d.sync += [self.en.eq(playing), moved.eq(moves), source.eq(Cat(number, play))]
        with m.If(moves):
            m.d.sync += [playing.eq(1), play_last.eq(final & out.last), number.eq(number + 1)]
        with m.Elif(ends):
            m.d.sync += playing.eq(0)
        with m.If(moves & final):
            m.d.sync += [play.eq(~play), number.eq(0), open_.eq(~out.last)]
            for half in range(LOAD_SETS):
                with m.If(play == half):
                    m.d.sync += halves[half].full.eq(0)
        with m.If(self.begin):
            m.d.sync += open_.eq(1)
        enters, address, entering = self._collect(m, halves, fill)
        for r in range(rows):
            memory = m.submodules[f"row_{r}"] = Memory(
                shape=16 * HALVES, depth=LOAD_SETS * LOAD_CHUNK, init=[], attrs={"ram_style": "distributed"}
            )
            write, read = memory.write_port(), memory.read_port(domain="comb")
            played = Signal(16 * HALVES, name=f"played_{r}", reset_less=True)
            m.d.comb += [
                write.en.eq(enters[r]),
                write.addr.eq(address),
                write.data.eq(entering[r % 2]),
                read.addr.eq(source),
                self.data.word_select(r, width).eq(played[:width]),
            ]
            m.d.sync += played.eq(Mux(moved, read.data, played >> width))
        self._places(m, moves, number, final, out.chunk, playing, ends)
        return m

    def _collect(
        self, m: Module, halves: list[data.View[data.StructLayout]], fill: Signal
    ) -> tuple[Sequence[Value], Value, tuple[Value, Value]]:
        """Return which rows take a beat, its place in their memories, and the beats for even and for odd rows."""
        rows = self._config.rows
        taking, at, place = Signal(), Signal(range(max(2, rows))), Signal(CHUNK_BITS)
        beat = self.beat.payload
        m.d.comb += self.beat.ready.eq(taking & ~Mux(fill, halves[1].full, halves[0].full))
        take = named(m, "take", self.beat.ready & self.beat.valid)
        row_end = named(m, "row_end", take & beat.turn)
        set_end = named(m, "set_end", row_end & (at == rows - 1))
        with m.If(take):
            m.d.sync += place.eq(place + 1)
            with m.If(beat.last):
                m.d.sync += taking.eq(0)
        with m.If(row_end):
            m.d.sync += [place.eq(0), at.eq(at + 1)]
        with m.If(set_end):
            m.d.sync += [at.eq(0), fill.eq(~fill)]
            for half in range(LOAD_SETS):
                found = halves[half]
                with m.If(fill == half):
                    m.d.sync += [found.full.eq(1), found.count.eq(place | beat.pair)]
                    m.d.sync += [found.chunk.eq(beat.chunk), found.last.eq(beat.last)]
        with m.If(self.collect):
            m.d.sync += taking.eq(1)
        if not takes_pairs(self._config):
            return [take & (at == r) for r in range(rows)], Cat(place, fill), (beat.data, beat.data)
        return self._couples(m, take, at, place, fill)

    def _couples(
        self, m: Module, take: Value, at: Signal, place: Signal, fill: Signal
    ) -> tuple[Sequence[Value], Value, tuple[Value, Value]]:
        """The same with pairs of beats: the pair of an even row waits for that of the odd row behind it.

        Then the first beats of both rows are written side by side, and the second ones one cycle later, so that every
        row takes one beat per cycle.
        """
        beat, width = self.beat.payload, 16 * HALVES
        ahead = [Signal(width, name=f"ahead_{i}", reset_less=True) for i in range(2)]  # the pair of the even row
        behind = Signal(width, reset_less=True)  # the second beat of the odd row
        second, couple, second_fill = Signal(), Signal(max(1, len(at) - 1)), Signal()
        first = named(m, "first", take & beat.pair & at[0])
        m.d.sync += second.eq(first)
        with m.If(take & ~at[0]):
            m.d.sync += [ahead[0].eq(beat.data), ahead[1].eq(beat.next)]
        with m.If(first):
            m.d.sync += [behind.eq(beat.next), couple.eq(at >> 1), second_fill.eq(fill)]
        alone = named(m, "alone", take & ~beat.pair)
        enters: list[Value] = []
        for r in range(self._config.rows):
            now = named(m, f"now_{r}", (at >> 1) == r >> 1)
            before = named(m, f"before_{r}", couple == r >> 1)
            enters.append(named(m, f"enters_{r}", (alone & (at == r)) | (first & now) | (second & before)))
        address = Mux(second, Cat(Const(1, CHUNK_BITS), second_fill), Cat(place, fill))
        even = Mux(second, ahead[1], Mux(beat.pair, ahead[0], beat.data))
        odd = Mux(second, behind, beat.data)
        return enters, named(m, "address", address), (named(m, "even", even), named(m, "odd", odd))

    def _places(
        self, m: Module, moves: Value, number: Signal, final: Value, chunk_end: Value, playing: Signal, ends: Signal
    ) -> None:
        """Address of the word that is written; `ends`: it is the last of its beats."""
        lanes, bits = self._config.act_lanes, len(self.addr)
        fields = fields_of(Opcode.LOAD_ACT, self.word)
        log2_m, log2_a = fields["log2_m_less_1"], fields["log2_a"]
        words = named(m, "words", (2 << log2_m) >> (lanes - 1))  # of a group, 1 to 16
        window = named(m, "window", words << log2_a)
        beat_groups = named(m, "beat_groups", (HALVES // 2) >> log2_m)
        groups = named(m, "groups", ((fields["k"] - 1)[:16] >> 1) >> log2_m)  # less 1
        set_at, next_at, address = Signal(bits), Signal(bits), Signal(bits)
        m.d.sync += self.addr.eq(address)
        chunk_group, next_group, group, word = Signal(16), Signal(16), Signal(16), Signal(4)
        word_end = named(m, "word_end", word == words - 1)
        group_end = named(m, "group_end", (group == groups) | ~((group + 1)[:5] & (beat_groups - 1)).any())
        # a beat of a tile row, and the one behind it
        beat_at = named(m, "beat_at", Mux(number == 0, set_at, next_at))
        beat_group = named(m, "beat_group", Mux(number == 0, chunk_group, next_group))
        behind = named(m, "behind", (beat_group + beat_groups)[:16])
        far = named(m, "far", ((HALVES // lanes) << log2_a)[:9])
        m.d.comb += ends.eq(playing & word_end & group_end)
        with m.If(playing):
            m.d.sync += [word.eq(word + 1), address.eq(address + 1)]
            with m.If(word_end):
                m.d.sync += [word.eq(0), group.eq(group + 1), address.eq(address + 1 + window - words)]
        with m.If(moves):
            m.d.sync += [address.eq(beat_at), word.eq(0), group.eq(beat_group)]
            m.d.sync += [next_at.eq(beat_at + far), next_group.eq(behind)]
        with m.If(moves & final):
            m.d.sync += set_at.eq(set_at + words)
            with m.If(chunk_end):
                m.d.sync += [set_at.eq(beat_at + far - window + words), chunk_group.eq(behind)]
        with m.If(self.begin):
            m.d.sync += [set_at.eq(fields["base"]), chunk_group.eq(0)]
