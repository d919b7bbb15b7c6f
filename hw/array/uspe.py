"""The element of the array (USPE): operand memories, product, adder, accumulators, links to its four neighbours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from nmsat.dataflow.contract.config import INTERLEAVE, PRODUCT_STAGES
from nmsat.hw.fp.accumulate import Accumulate
from nmsat.hw.fp.product import Product
from nmsat.hw.parts.links import activation_layout, control_layout, sum_layout, weight_layout

if TYPE_CHECKING:
    from amaranth.hdl import ValueLike
    from amaranth.lib.memory import ReadPort, WritePort

    from nmsat.dataflow.contract.config import SatConfig

_RESET: Final = ("v", "awe", "wwe", "dre")
"""Control bits that make something happen: the only ones with a reset."""

_STEP: Final = data.StructLayout({"output": 3, "last": 1, "again": 1, "above": 1, "not_again": 1, "not_above": 1})
"""Control at the adder: output, whether its sum leaves, and what the step adds to (twice, see `Accumulate`): the sum so
far, what comes from above, else 0."""


class Uspe(wiring.Component):
    """One multiply-accumulate per cycle for 8 interleaved outputs, output or weight stationary, dense or N:M.

    Members; inputs are the registers of the neighbours, outputs are registers:

    act_i : In(17 * act_lanes), widened activations (`activation_layout`) from the left, lane 0 at bit 0.
    act_o : Out(17 * act_lanes), the same to the right.
    ctl_i : In(`control_layout(config)`), control of the row from the left.
    ctl_o : Out(`control_layout(config)`), the same to the right.
    wgt_i : In(`weight_layout`), widened weight with its index from above.
    wgt_o : Out(`weight_layout`), the same downwards.
    sum_i : In(`sum_layout`), seed (WS) or result of an element above.
    sum_o : Out(`sum_layout`), result of this element while its row drains, otherwise what came from above.

    Timing: docs/machine/array.md, section "Element"; one step per cycle, links one cycle. Reset clears valid bits only;
    memories keep what they hold, and reading in the cycle of a write to the same address gives the old value.
    Numerics: docs/arithmetic.md, `hw.fp.product`, `hw.fp.accumulate`.
    """

    act_i: Value
    act_o: Value
    ctl_i: data.View[data.StructLayout]
    ctl_o: data.View[data.StructLayout]
    wgt_i: data.View[data.StructLayout]
    wgt_o: data.View[data.StructLayout]
    sum_i: data.View[data.StructLayout]
    sum_o: data.View[data.StructLayout]

    def __init__(self, config: SatConfig) -> None:
        self._config = config
        act = activation_layout().size * config.act_lanes
        ctl, wgt, total = control_layout(config), weight_layout(), sum_layout()
        super().__init__(
            {
                "act_i": In(act),
                "act_o": Out(act),
                "ctl_i": In(ctl),
                "ctl_o": Out(ctl),
                "wgt_i": In(wgt),
                "wgt_o": Out(wgt),
                "sum_i": In(total),
                "sum_o": Out(total),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        product = m.submodules.product = Product()
        self._links(m)
        self._operands(m, product)
        self._accumulators(m, product)
        return m

    def _links(self, m: Module) -> None:
        """Hand on what came from the left and from above."""
        act, wgt = _register(m, "act", self.act_i), _register(m, "wgt", self.wgt_i)
        m.d.comb += [self.act_o.eq(act), self.wgt_o.eq(wgt)]
        for name, _ in self.ctl_i.shape():
            m.d.comb += self.ctl_o[name].eq(_register(m, name, self.ctl_i[name], reset=name in _RESET))

    def _operands(self, m: Module, product: Product) -> None:
        """Cycle t: read weight and index, then the activation; write what the links bring for later."""
        ctl, lanes = self.ctl_i, self._config.act_lanes
        write, read = _memory(m, "weights", weight_layout(), 32)
        m.d.comb += [
            write.en.eq(ctl.wwe),
            write.addr.eq(Cat(ctl.wra, ~ctl.wrb)),
            write.data.eq(self.wgt_i),
            read.addr.eq(Cat(ctl.wra, ctl.wrb)),
        ]
        pair = read.data
        place = Signal(3 + lanes)
        # The lanes of a beat share an entry; the lowest bit of the place chooses among two.
        write, read = _memory(m, "activations", len(self.act_i), 32)
        m.d.comb += [
            place.eq(pair.index | ctl.ibits),
            write.en.eq(ctl.awe),
            write.addr.eq(Cat(ctl.t4, ~ctl.arb)),
            write.data.eq(self.act_i),
            read.addr.eq(Cat(place[lanes - 1 :], ctl.arb)),
        ]
        width = activation_layout().size
        chosen = Mux(place[0], read.data[-width:], read.data[:width]) if lanes == 2 else read.data
        m.d.comb += [
            product.act.eq(_register(m, "act_operand", chosen)),
            product.wgt.eq(_register(m, "wgt_operand", pair)),
        ]

    def _accumulators(self, m: Module, product: Product) -> None:
        """From cycle t + 2 on: read the sum so far, add, write back; results of other outputs leave meanwhile."""
        stages = self._config.adder_stages
        adder = m.submodules.adder = Accumulate(stages)
        step, valid = self._step(m)
        end: Value = Cat(step.output, step.last)
        for k in range(stages):
            end, valid = _register(m, f"end{k}", end), _register(m, f"end_valid{k}", valid, reset=True)
        write, read = _memory(m, "sums", 32, INTERLEAVE)
        m.d.comb += [
            read.addr.eq(step.output),
            adder.product.eq(product.out),
            # Two choices by registers of their own: see `Accumulate`.
            adder.x.eq(_either(read.data, step.again, self.sum_i.value, step.above)),
            adder.x_again.eq(_either(read.data, ~step.not_again, self.sum_i.value, ~step.not_above)),
            write.en.eq(valid),
            write.addr.eq(end[:3]),
            write.data.eq(adder.out),
        ]
        self._drain(m, adder.out, end[:3], valid & end[3])

    def _step(self, m: Module) -> tuple[data.View[data.StructLayout], Signal]:
        """Return control and valid bit of the step whose product is ready; the control link is the first delay."""
        ctl = self.ctl_o
        above = ctl.first & ctl.ws
        step = Signal(_STEP)
        m.d.comb += [
            step.output.eq(ctl.t4[:3]),
            step.last.eq(ctl.last),
            step.again.eq(~ctl.first),
            step.above.eq(above),
            step.not_again.eq(ctl.first),
            step.not_above.eq(~above),
        ]
        bits, valid = Value.cast(step), ctl.v
        for k in range(1, PRODUCT_STAGES):
            bits, valid = _register(m, f"step{k}", bits), _register(m, f"valid{k}", valid, reset=True)
        return data.View(_STEP, bits), valid

    def _drain(self, m: Module, value: Value, output: Value, enable: Value) -> None:
        """Keep finished sums until the row drains; hand on what comes from above in all other cycles."""
        ctl = self.ctl_i
        write, read = _memory(m, "results", 32, INTERLEAVE)
        m.d.comb += [write.en.eq(enable), write.addr.eq(output), write.data.eq(value), read.addr.eq(ctl.dra)]
        link = Mux(ctl.dre, read.data, self.sum_i.value)
        m.d.comb += [
            self.sum_o.value.eq(_register(m, "sum", link)),
            # In WS the sum from above is a seed, not a result.
            self.sum_o.valid.eq(_register(m, "sum_valid", ctl.dre | self.sum_i.valid & ~ctl.ws, reset=True)),
        ]


def _register(m: Module, name: str, value: ValueLike, *, reset: bool = False) -> Signal:
    """Return the value one cycle later."""
    bits = Value.cast(value)
    register = Signal(len(bits), name=f"{name}_r", reset_less=not reset)
    m.d.sync += register.eq(bits)
    return register


def _either(first: Value, with_first: Value, second: Value, with_second: Value) -> Value:
    """Return one of two values, or 0."""
    return (first & with_first.replicate(len(first))) | (second & with_second.replicate(len(second)))


def _memory(m: Module, name: str, shape: data.StructLayout | int, depth: int) -> tuple[WritePort, ReadPort]:
    """Return the two ports of a distributed RAM, one written at the clock edge, one read within the cycle."""
    memory = Memory(shape=shape, depth=depth, init=[], attrs={"ram_style": "distributed"})
    m.submodules[name] = memory
    return memory.write_port(), memory.read_port(domain="comb")
