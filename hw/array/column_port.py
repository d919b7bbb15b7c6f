"""The top and bottom of one column: its weight buffer, its seeds and its results."""

from __future__ import annotations

from typing import TYPE_CHECKING

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from nmsat.hw.array.load_link import entering
from nmsat.hw.fp.widen import WidenWeight
from nmsat.hw.parts.buffer import buffer_memory
from nmsat.hw.parts.links import keep_layout, pair_layout, seed_layout, sum_layout, weight_control_layout, weight_layout

if TYPE_CHECKING:
    from nmsat.dataflow.contract.config import SatConfig


class ColumnPort(wiring.Component):
    """Feed one column with weights and seeds, and take its results.

    Members:

    load_en : In(1), a pair is written to the weight buffer.
    load_addr : In(range(weight_depth)), where.
    load_data : In(`pair_layout`), the pair.
    weight_i : In(`weight_control_layout(config)`), request for a pair, from the port on the left or the head.
    weight_o : Out(`weight_control_layout(config)`), the same for the port on the right.
    seed_i : In(`seed_layout(config)`), request for a seed, from the port on the left or the head.
    seed_o : Out(`seed_layout(config)`), the same for the port on the right.
    keep_i : In(`keep_layout(config)`), fate of the sum that stood on `sum_bottom` one cycle ago.
    keep_o : Out(`keep_layout(config)`), the same for the port on the right.
    wgt : Out(`weight_layout`), widened pair into row 0; a filler if none was asked for.
    sum_top : Out(`sum_layout`), seed into row 0, +0 if none was asked for; never valid.
    sum_bottom : In(`sum_layout`), what leaves the last row; valid: it is a result.
    out : Out(`sum_layout`), results that leave the array.

    Timing: a pair is in its buffer two cycles after it stands at the port. Control is handed on one cycle later. A pair
    asked for at cycle x stands on `wgt` at x + 2, a seed asked for at x on `sum_top` at x + 1; a sum
    on `sum_bottom` at cycle q leaves on `out` at q + 1, or is written to the result buffer by the end of q + 1.
    Numerics: weights are widened exactly (`hw.fp.widen`), sums are moved as they are.
    """

    load_en: Signal
    load_addr: Signal
    load_data: data.View[data.StructLayout]
    weight_i: data.View[data.StructLayout]
    weight_o: data.View[data.StructLayout]
    seed_i: data.View[data.StructLayout]
    seed_o: data.View[data.StructLayout]
    keep_i: data.View[data.StructLayout]
    keep_o: data.View[data.StructLayout]
    wgt: data.View[data.StructLayout]
    sum_top: data.View[data.StructLayout]
    sum_bottom: data.View[data.StructLayout]
    out: data.View[data.StructLayout]

    def __init__(self, config: SatConfig) -> None:
        self._config = config
        weight, seed, keep = weight_control_layout(config), seed_layout(config), keep_layout(config)
        super().__init__(
            {
                "load_en": In(1),
                "load_addr": In(range(config.weight_depth)),
                "load_data": In(pair_layout()),
                "weight_i": In(weight),
                "weight_o": Out(weight),
                "seed_i": In(seed),
                "seed_o": Out(seed),
                "keep_i": In(keep),
                "keep_o": Out(keep),
                "wgt": Out(weight_layout()),
                "sum_top": Out(sum_layout()),
                "sum_bottom": In(sum_layout()),
                "out": Out(sum_layout()),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.d.sync += [
            self.weight_o.eq(self.weight_i),
            self.seed_o.eq(self.seed_i),
            self.keep_o.eq(self.keep_i),
        ]
        self._weights(m, platform)
        self._sums(m, platform)
        return m

    def _weights(self, m: Module, platform: object) -> None:
        """Read, widen and register one pair per cycle; what nobody asked for is a filler."""
        memory = m.submodules.weights = buffer_memory("weights", self._config, platform)
        write, read = memory.write_port(), memory.read_port()
        pair = data.View(pair_layout(), read.data)
        asked = Signal()
        widen = m.submodules.widen = WidenWeight()
        enable, place, word = entering(m, self.load_en, self.load_addr, self.load_data.as_value())
        m.d.comb += [
            write.en.eq(enable),
            write.addr.eq(place),
            write.data.eq(word),
            read.addr.eq(self.weight_i.addr),
            widen.half.eq(pair.value),
            widen.index.eq(pair.index),
            widen.filler.eq(pair.filler | ~asked),
        ]
        m.d.sync += [asked.eq(self.weight_i.read), self.wgt.eq(widen.wide)]

    def _sums(self, m: Module, platform: object) -> None:
        """Keep partial sums for the next command of a chain, or let results leave."""
        memory = m.submodules.sums = buffer_memory("sums", self._config, platform)
        write, read = memory.write_port(), memory.read_port()
        seeded = Signal()
        result = Signal(sum_layout())
        m.d.sync += [seeded.eq(self.seed_i.read), result.eq(self.sum_bottom)]
        m.d.comb += [
            read.addr.eq(self.seed_i.addr),
            self.sum_top.value.eq(Mux(seeded, read.data, 0)),
            write.en.eq(result.valid & self.keep_i.keep),
            write.addr.eq(self.keep_i.addr),
            write.data.eq(result.value),
            self.out.value.eq(result.value),
            self.out.valid.eq(result.valid & ~self.keep_i.keep),
        ]
