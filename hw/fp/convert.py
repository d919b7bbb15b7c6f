"""binary16 to binary32 (exact) and binary32 to binary16 (nearest even, overflow to infinity, subnormals kept).

Source: IEEE 754-2019, 5.4.2; docs/arithmetic.md, "Results" and "Weight update". Every NaN leaves as the canonical one.
"""

from __future__ import annotations

from typing import Final

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from nmsat.dataflow.contract.isa import SHIFT_BITS
from nmsat.hw.fp.f32 import CANONICAL_NAN, unpack
from nmsat.hw.parts.steps import Cuts, chosen_cuts, leading_zeros, named, shift_left, shift_right_sticky

CANONICAL_NAN16: Final = 0x7E00
"""The only binary16 NaN that leaves a unit."""

HALF_CUTS: Final[dict[int, tuple[str, ...]]] = {1: ("round",), 2: ("shift", "round")}
"""Where `F32ToF16` of so many stages holds its registers."""


class F16ToF32(wiring.Component):
    """o = i * 2^-down, from binary16 to binary32: exact, so no rounding.

    Members:

    i : In(16), binary16.
    down : In(SHIFT_BITS), 0 to 24: the loss scale of a gradient, 0 for a plain conversion.
    o : Out(32), binary32.
    special : Out(1), i is infinite or NaN.

    Timing: latency 1 cycle, II = 1, always advancing; `down` belongs to the operand of the same cycle.
    Numerics: |o| is at least 2^-48 or zero; canonical NaN.
    """

    i: Signal
    down: Signal
    o: Signal
    special: Signal

    def __init__(self) -> None:
        self.latency = 1
        super().__init__({"i": In(16), "down": In(SHIFT_BITS), "o": Out(32), "special": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        frac, exp, sign = self.i[:10], self.i[10:15], self.i[15]
        hidden = named(m, "hidden", exp.any())
        special = named(m, "is_special", exp.all())
        nan = named(m, "is_nan", special & frac.any())
        zeros = leading_zeros(m, "zeros", Cat(frac, hidden))
        sig = shift_left(m, "moved", Cat(frac, hidden), zeros)
        # 112 = 127 - 15; exponent field 0 has the weight of exponent 1
        wide = named(m, "wide", (Cat(exp[0] | ~hidden, exp[1:]) + 112 - zeros - self.down)[:8])
        field = named(m, "field", Mux(special, 255, Mux(sig[10], wide, 0)))
        value = Cat(Const(0, 13), sig[:10], field, sign)
        result = Cuts(m, ("out",))("out", o=Mux(nan, CANONICAL_NAN, value), special=special)
        m.d.comb += [self.o.eq(result.o), self.special.eq(result.special)]
        return m


class F32ToF16(wiring.Component):
    """o = i rounded once to binary16.

    Parameters: stages: registers from operand to result, 1 or 2.
    Members:

    i : In(32), binary32.
    o : Out(16), binary16.

    Timing: latency `stages` cycles, II = 1, always advancing.
    Numerics: one rounding, nearest even; overflow to infinity; subnormals kept; canonical NaN.
    """

    i: Signal
    o: Signal

    def __init__(self, stages: int = 2) -> None:
        self._cuts = chosen_cuts("F32ToF16", HALF_CUTS, stages)
        self.latency = stages
        super().__init__({"i": In(32), "o": Out(16)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        cut = Cuts(m, self._cuts)
        x = unpack(m, "x", self.i)
        # Exponents below 113 are subnormal in binary16 and move right; 15 places lose all of it.
        low = named(m, "low", x.exp < 113)
        down = named(m, "down", (113 - x.exp)[:8])
        amount = named(m, "amount", Mux(low, Mux(down[4:].any(), 15, down[:4]), 0))
        moved, lost = shift_right_sticky(m, "kept", Cat(x.frac[12:], x.hidden), amount, x.frac[:12].any())
        s = cut(
            "shift",
            kept=moved,
            sticky=lost,
            # 113 is exponent 1 of binary16; only the five bits that matter below the overflow limit are kept
            field=Mux(moved[11], Mux(low, 1, (x.exp - 112)[:5]), 0),
            special=x.exp >= 143,
            nan=x.nan,
            sign=x.sign,
        )
        up = named(m, "up", s.kept[0] & (s.sticky | s.kept[1]))
        # a carry out of the largest finite number gives the bits of infinity
        magnitude = named(m, "magnitude", (Cat(s.kept[1:11], s.field) + up)[:15])
        value = Mux(s.special, Cat(Const(0, 10), Const(31, 5), s.sign), Cat(magnitude, s.sign))
        t = cut("round", o=Mux(s.nan, CANONICAL_NAN16, value))
        m.d.comb += self.o.eq(t.o)
        return m
