"""binary16 to the widened operands of elements: subnormals normalised, an exponent bit more (docs/machine/array.md).

They stand at the array's edge, once per row and once per column, so that elements see normal numbers only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from nmsat.dataflow.contract.links import FILLER_CODE, WEIGHT_OFFSET
from nmsat.hw.parts.links import activation_layout, weight_layout

if TYPE_CHECKING:
    from amaranth.lib import data


class WidenActivation(wiring.Component):
    """One binary16 activation, widened.

    Members:

    half : In(16), activation, binary16.
    wide : Out(`activation_layout`), the same, widened.

    Timing: combinational.
    Numerics: exact. Code 0: zero; e + 25 (1..40): 1.f * 2^e; 63: infinity (fraction 0) or NaN (fraction 0x200, whatever
    the payload was).
    """

    half: Signal
    wide: data.View[data.StructLayout]

    def __init__(self) -> None:
        super().__init__({"half": In(16), "wide": Out(activation_layout())})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        code, frac, special = _normalise(m, self.half)
        m.d.comb += [
            self.wide.sign.eq(self.half[15]),
            self.wide.code.eq(Mux(special, 63, code)),
            self.wide.frac.eq(frac),
        ]
        return m


class WidenWeight(wiring.Component):
    """One binary16 weight, widened, with its index; or a filler.

    Members:

    half : In(16), weight, binary16.
    index : In(4), its place in the group of M.
    filler : In(1), the pair contributes nothing.
    wide : Out(`weight_layout`), the weight, widened, with its index.

    Timing: combinational.
    Numerics: exact. Code 0: zero; 1 (all else 0 but the index): filler; e + 102 (78..117): 1.f * 2^e; 127: infinity
    (fraction 0) or NaN (fraction 0x200, whatever the payload was).
    """

    half: Signal
    index: Signal
    filler: Signal
    wide: data.View[data.StructLayout]

    def __init__(self) -> None:
        super().__init__({"half": In(16), "index": In(4), "filler": In(1), "wide": Out(weight_layout())})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        code, frac, special = _normalise(m, self.half)
        finite = Signal(7)
        m.d.comb += [
            finite.eq(Mux(code.any(), code + WEIGHT_OFFSET, 0)),
            self.wide.index.eq(self.index),
            self.wide.sign.eq(self.half[15] & ~self.filler),
            self.wide.code.eq(Mux(self.filler, FILLER_CODE, Mux(special, 127, finite))),
            self.wide.frac.eq(Mux(self.filler, 0, frac)),
        ]
        return m


def _normalise(m: Module, half: Value) -> tuple[Signal, Signal, Signal]:
    """Return exponent code (0..40), fraction (10) and whether the number is infinite or NaN."""
    exponent, fraction = half[10:15], half[:10]
    code, frac, special = Signal(6), Signal(10), Signal()
    m.d.comb += special.eq(exponent.all())
    with m.If(special):
        m.d.comb += frac.eq(Cat(Const(0, 9), fraction.any()))
    with m.Elif(exponent.any()):
        m.d.comb += [code.eq(exponent + 10), frac.eq(fraction)]
    with m.Else():
        # f * 2^-24 with its highest one at bit k is 1.f' * 2^(k - 24): code k + 1. The last assignment wins.
        for k in range(10):
            with m.If(fraction[k]):
                m.d.comb += [code.eq(k + 1), frac.eq(fraction << (10 - k))]
    return code, frac, special
