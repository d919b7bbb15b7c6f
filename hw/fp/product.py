"""Exact product of two widened binary16 operands."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from nmsat.hw.parts.links import activation_layout, weight_layout
from nmsat.hw.parts.steps import named


def product_layout() -> data.StructLayout:
    """A product on its way to the accumulator: (-1)^sign * significand * 2^(exponent - 127 - 20).

    significand: below 2^22, at least 2^20 unless the product is zero; then exponent is 0 too.
    special: infinity or NaN; nan: NaN. Then significand and exponent mean nothing.
    A filler is -0: the one number that changes no sum.
    """
    return data.StructLayout({"significand": 22, "exponent": 8, "sign": 1, "special": 1, "nan": 1})


class Product(wiring.Component):
    """Multiply a widened activation by a widened weight; one DSP48E2.

    Members:

    act : In(`activation_layout`), activation.
    wgt : In(`weight_layout`), weight; its index is ignored.
    out : Out(`product_layout`), product.

    Timing: 1 cycle, one product per cycle.
    Numerics: exact; 0 * infinity is NaN; a filler gives -0, whatever it meets.
    """

    act: data.View[data.StructLayout]
    wgt: data.View[data.StructLayout]
    out: data.View[data.StructLayout]

    def __init__(self) -> None:
        super().__init__({"act": In(activation_layout()), "wgt": In(weight_layout()), "out": Out(product_layout())})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        act, wgt, out = self.act, self.wgt, self.out
        # A few bits of the codes tell their classes apart: finite weights have 78..117, activations 1..40.
        some_act = named(m, "some_act", act.code.any())
        some_wgt = wgt.code[6]
        special_act = act.code[4:6].all()
        special_wgt = wgt.code[3:6].all()
        filler = named(m, "filler", ~wgt.code[6] & wgt.code[0])
        product = Signal(22, attrs={"use_dsp": "yes"})
        exponent = Signal(8)
        m.d.comb += [
            product.eq(Cat(act.frac, some_act) * Cat(wgt.frac, some_wgt)),
            exponent.eq(act.code + wgt.code),
        ]
        nan = special_act & ~filler & (act.frac[9] | ~some_wgt) | special_wgt & (wgt.frac[9] | ~some_act)
        register = Signal(product_layout(), reset_less=True)
        m.d.sync += [
            register.significand.eq(product),
            # A zero must lie below every sum, lest it pushes bits of the sum out of the adder's window.
            register.exponent.eq(Mux(some_act & some_wgt, exponent, 0)),
            register.sign.eq(Mux(filler, 1, act.sign ^ wgt.sign)),
            register.special.eq(special_wgt | special_act & ~filler),
            register.nan.eq(nan),
        ]
        m.d.comb += out.eq(register)
        return m
