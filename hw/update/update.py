"""The update engine: streams of memory around one pass of pre-generation (docs/machine/update.md).

A legal instruction has k and n of at least 1, `shift` of at most 24 and N of at most M in both patterns; its tensors do
not overlap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from nmsat.dataflow.contract.isa import INSTRUCTIONS, LANES, Opcode
from nmsat.hw.parts.clients import ReadClient, WorkPort, WriteClient
from nmsat.hw.parts.steps import named
from nmsat.hw.update.pregen import Pregen
from nmsat.hw.update.read import BEATS_BITS, UpdateRead
from nmsat.hw.update.write import UpdateWrite

if TYPE_CHECKING:
    from nmsat.dataflow.contract.config import SatConfig

_SETTINGS = ("lr", "mu", "wd", "lam", "shift", "ff_n_less_1", "ff_log2_m_less_1", "bp_n_less_1", "bp_log2_m_less_1")


class Updater(wiring.Component):
    """Carry out UPDATE instructions, one at a time.

    Parameters: config: its `sore_lanes` must be the 16 weights of a beat, `wuve_lanes` some part of them.
    Members:

    work : In(`WorkPort`), instructions UPDATE, and when they are done.
    read : Out(`ReadClient`), memory, for weights, momenta, gradients, masks.
    write : Out(`WriteClient`), memory, for new weights, momenta, masks and both pruned copies.
    hold : In(1), weights and momenta stay; sampled when an instruction starts.
    overflow : Out(1), sticky: a gradient was infinite or NaN.
    clear : In(1), lower `overflow`.

    Timing: the first request stands 5 cycles after the start. A row of a block is 3 beats read (and one of the mask for
    each group), 2 written, and those of the packed copies; never faster than a row in 16 / `wuve_lanes` cycles. `done`
    comes when all writes are acknowledged; the next instruction can start in that cycle.
    Numerics: docs/arithmetic.md, "Weight update" and "Pruning".
    """

    work: Any
    read: Any
    write: Any
    hold: Signal
    overflow: Signal
    clear: Signal

    def __init__(self, config: SatConfig) -> None:
        if config.sore_lanes != LANES:
            raise ValueError(f"sore_lanes is {config.sore_lanes!r}; the update engine works on beats of {LANES}")
        if config.wuve_lanes < 1 or LANES % config.wuve_lanes:
            raise ValueError(f"wuve_lanes is {config.wuve_lanes!r}; {LANES} lanes must be equal parts of so many")
        self._wuve_lanes = config.wuve_lanes
        super().__init__(
            {
                "work": In(WorkPort()),
                "read": Out(ReadClient()),
                "write": Out(WriteClient()),
                "hold": In(1),
                "overflow": Out(1),
                "clear": In(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.pregen = pregen = Pregen(LANES, wuve_lanes=self._wuve_lanes)
        m.submodules.reader = reader = UpdateRead()
        m.submodules.writer = writer = UpdateWrite()
        wiring.connect(m, reader.read, wiring.flipped(self.read))
        wiring.connect(m, writer.write, wiring.flipped(self.write))
        for name in ("state", "ff", "bp"):
            wiring.connect(m, getattr(pregen, name), getattr(writer, name))
        layout = data.StructLayout(INSTRUCTIONS[Opcode.UPDATE].widths())
        fields = data.View(layout, Signal(layout.size, name="fields"))
        blocks, start, fed = Signal(13), Signal(), Signal()
        m.d.comb += [reader.start.eq(start), writer.start.eq(start)]
        self._control(m, fields, start, fed & pregen.idle, writer)
        self._measure(m, fields, blocks, reader, writer)
        m.d.sync += fed.eq(self._feed(m, fields, blocks, reader, pregen) | (fed & ~start))
        m.d.comb += [getattr(pregen, name).eq(fields[name]) for name in _SETTINGS]
        m.d.comb += [pregen.ff_use.eq(1), pregen.bp_use.eq(fields.use_bp), pregen.clear.eq(self.clear)]
        m.d.comb += self.overflow.eq(pregen.overflow)
        with m.If(self.work.start.ready):
            m.d.sync += pregen.hold.eq(self.hold)
        return m

    def _control(self, m: Module, fields: Any, start: Signal, drained: Value, writer: UpdateWrite) -> None:
        """Take an instruction, let its sizes settle, start the pass, see its end."""
        busy, active, flush, setup = Signal(), Signal(), Signal(), Signal(3)
        ends = named(m, "ends", flush & writer.empty)
        m.d.comb += [self.work.start.ready.eq(~busy), start.eq(setup[-1]), writer.flush.eq(flush)]
        m.d.sync += [
            busy.eq(Mux(busy, ~ends, self.work.start.valid)),
            setup.eq(Cat(self.work.start.valid & ~busy, setup[:-1])),
            active.eq(start | (active & ~ends)),
            flush.eq(active & drained & ~ends),
            self.work.done.eq(ends),
        ]
        with m.If(~busy):
            m.d.sync += Value.cast(fields).eq(self.work.start.payload)

    def _measure(self, m: Module, fields: Any, blocks: Signal, reader: UpdateRead, writer: UpdateWrite) -> None:
        """Work out sizes and offsets of the streams: blocks and groups first, their products one cycle later."""
        groups, rows, all_groups = Signal(16), Signal(BEATS_BITS), Signal(BEATS_BITS)
        up = named(m, "up", fields.k + _group_mask(fields))
        m.d.sync += [
            blocks.eq((fields.n + (LANES - 1)) >> 4),
            groups.eq(up >> (fields.ff_log2_m_less_1 + 1)),
            rows.eq(blocks * fields.k),
            all_groups.eq(blocks * groups),
        ]
        momenta_at = named(m, "momenta_at", (fields.w_at + rows)[: len(fields.w_at)])
        shared = {"weights_at": fields.w_at, "momenta_at": momenta_at, "mask_at": fields.mask_at}
        read = {"gradient_at": fields.g_at, "k": fields.k, "blocks": blocks, "rows": rows, "groups": all_groups}
        read |= {name: fields[name] for name in ("region", "g_step", "use_mask")}
        write = {"region": fields.region, "ff_at": fields.ff_at, "bp_at": fields.bp_at}
        m.d.comb += [reader.settings[name].eq(value) for name, value in (shared | read).items()]
        m.d.comb += [writer.settings[name].eq(value) for name, value in (shared | write).items()]

    def _feed(self, m: Module, fields: Any, blocks: Signal, reader: UpdateRead, pregen: Pregen) -> Signal:
        """Give rows to pre-generation, numbered; return whether the last one is taken."""
        row, block, place = Signal(16), Signal(13), Signal(4)
        last = named(m, "last", row == fields.k - 1)
        final = named(m, "final", block == blocks - 1)
        group = named(m, "group", last | (place == _group_mask(fields)))
        moves = named(m, "moves", reader.o.valid & pregen.i.ready)
        with m.If(moves):
            m.d.sync += [row.eq(Mux(last, 0, row + 1)), place.eq(Mux(group, 0, place + 1))]
            with m.If(last):
                m.d.sync += block.eq(Mux(final, 0, block + 1))
        beat, o = pregen.i.payload, reader.o.payload
        here = named(m, "here", (Const(1, 1) << place)[:16])
        kept = [(o.mask.word_select(lane, 16) & here).any() | ~fields.use_mask for lane in range(LANES)]
        in_last = named(m, "in_last", ((Const(2, 2) << (fields.n - 1)[:4])[:17] - 1)[:LANES])
        m.d.comb += [
            pregen.i.valid.eq(reader.o.valid),
            reader.o.ready.eq(pregen.i.ready),
            reader.next_mask.eq(group & fields.use_mask),
            Value.cast(beat.w).eq(o.weights),
            Value.cast(beat.v).eq(o.momenta),
            Value.cast(beat.g).eq(o.gradient),
            Value.cast(beat.kept).eq(Cat(kept)),
            Value.cast(beat.present).eq(in_last | (~final).replicate(LANES)),
            beat.last.eq(last),
            beat.end.eq(last & final),
        ]
        return named(m, "fed_all", moves & last & final)


def _group_mask(fields: Any) -> Value:
    """Return M - 1 of W_ff."""
    return (Const(0xF, 4) >> ~fields.ff_log2_m_less_1)[:4]
