"""binary32 multiply and add: nearest even, subnormals, infinities, signed zeros; every NaN leaves as 0x7fc00000.

Source: IEEE 754-2019, 6.2 to 6.3 and 7; docs/arithmetic.md. The units always advance and take operands every cycle.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Final

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from nmsat.hw.parts.steps import Cuts, chosen_cuts, leading_zeros, named, shift_left, shift_right_sticky

if TYPE_CHECKING:
    from amaranth.hdl import ValueLike

CANONICAL_NAN: Final = 0x7FC00000
"""The only binary32 NaN that leaves a unit."""

NEGATIVE_ZERO: Final = 1 << 31
"""x + (-0) is x, bit for bit, for every x but a NaN: what a sum that is switched off adds."""

_INFINITY: Final = 0xFF << 23

ADD_CUTS: Final[dict[int, tuple[str, ...]]] = {
    1: ("round",),
    2: ("sum", "round"),
    3: ("align", "count", "round"),
    4: ("order", "align", "count", "round"),
    5: ("order", "align", "sum", "count", "round"),
    6: ("order", "align", "sum", "count", "shift", "round"),
}
"""Where an adder of so many stages holds its registers."""

PRODUCT_CUTS: Final[dict[int, tuple[str, ...]]] = {
    1: ("round",),
    2: ("product", "round"),
    3: ("product", "shift", "round"),
    4: ("operands", "product", "shift", "round"),
    5: ("operands", "product", "amount", "shift", "round"),
}
"""Where a multiplier of so many stages holds its registers, not counting those of `F32Normalise`."""


def normal_layout() -> data.StructLayout:
    """A normalised binary32 number, from bit 0: significand 24 (top bit set unless the number is zero), exponent.

    The value is significand * 2^(exponent - 150); the exponent (9 bits, two's complement, -23 to 254) is the biased one
    of binary32, continued below 1 for subnormal numbers. Then sign; `special`: infinity or NaN; `nan`.
    """
    return data.StructLayout({"sig": 24, "exp": 9, "sign": 1, "special": 1, "nan": 1})


def unpack(m: Module, name: str, x: Value) -> SimpleNamespace:
    """Name the fields of a binary32 number: frac, exp, sign, `hidden` (not subnormal, not zero), special, nan."""
    exp = named(m, f"{name}_exp", x[23:31])
    special = named(m, f"{name}_special", exp.all())
    return SimpleNamespace(
        frac=x[:23],
        exp=exp,
        sign=x[31],
        hidden=named(m, f"{name}_hidden", exp.any()),
        special=special,
        nan=named(m, f"{name}_nan", special & x[:23].any()),
    )


def rounded(m: Module, name: str, base: Value, kept: Value, sticky: ValueLike, overflow: ValueLike = 0) -> Value:
    """Round a magnitude to nearest even and pack it: 31 bits.

    kept: significand with the guard bit below it, 25 bits. base (8 bits): biased exponent less 1, which the hidden bit
    makes good when it is added; 0 for subnormal numbers and zero. Exponent 255 or `overflow` gives infinity, a carry
    out of the significand the next exponent.
    """
    up = named(m, f"{name}_up", kept[0] & (Value.cast(sticky) | kept[1]))
    magnitude = Signal(31, name=f"{name}_magnitude")
    m.d.comb += magnitude.eq(Cat(kept[1:24], base) + Cat(up, Const(0, 22), kept[24]))
    return Mux(base[1:].all() | overflow, _INFINITY, magnitude)


class F32Add(wiring.Component):
    """o = a + b in binary32.

    Parameters: stages: registers from operands to result, 1 to 6.
    Members:

    a : In(32), one operand.
    b : In(32), the other one.
    o : Out(32), their sum.

    Timing: latency `stages` cycles, II = 1, always advancing.
    Numerics: one rounding, nearest even; x + (-x) is +0; subnormals honoured; canonical NaN.
    """

    a: Signal
    b: Signal
    o: Signal

    def __init__(self, stages: int = 4) -> None:
        self._cuts = chosen_cuts("F32Add", ADD_CUTS, stages)
        self.latency = stages
        super().__init__({"a": In(32), "b": In(32), "o": Out(32)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        cut = Cuts(m, self._cuts)
        p = self._order(m, cut)
        # align: the smaller significand moves right; guard, round and one sticky bit below it decide the rounding
        small, lost = shift_right_sticky(m, "aligned", Cat(Const(0, 2), p.small, p.small_hidden), p.distance)
        q = cut(
            "align",
            big=Cat(p.big, p.big_hidden),
            small=Cat(lost, small),
            exp=p.exp,
            less=p.less,
            sign=p.sign,
            special=p.special,
            nan=p.nan,
        )
        # sum: never negative, because the larger magnitude is `big`; its top bit is the carry of an addition
        big = Cat(Const(0, 3), q.big)
        r = cut(
            "sum",
            sum=_add_or_subtract(m, big, q.small, q.less),
            exp=q.exp,
            less=q.less,
            sign=q.sign,
            special=q.special,
            nan=q.nan,
        )
        # count: the leading one moves to the top bit, but never past exponent 1
        zeros = leading_zeros(m, "zeros", r.sum)
        some = named(m, "some", r.sum.any())
        free = named(m, "free", (zeros < r.exp) & some)
        s = cut(
            "count",
            sum=r.sum,
            amount=Mux(free, zeros, r.exp[:5]),
            base=Mux(free, (r.exp - zeros)[:8], 0),
            sign=r.sign & ~(r.less & ~some),
            special=r.special,
            nan=r.nan,
        )
        moved = shift_left(m, "moved", s.sum, s.amount)
        t = cut(
            "shift",
            kept=moved[3:],
            sticky=moved[:3].any(),
            base=s.base,
            sign=s.sign,
            special=s.special,
            nan=s.nan,
        )
        magnitude = rounded(m, "rounded", t.base, t.kept, t.sticky, t.special)
        u = cut("round", o=Mux(t.nan, CANONICAL_NAN, Cat(magnitude, t.sign)))
        m.d.comb += self.o.eq(u.o)
        return m

    def _order(self, m: Module, cut: Cuts) -> SimpleNamespace:
        a, b = unpack(m, "a", self.a), unpack(m, "b", self.b)
        swap = named(m, "swap", self.b[:31] > self.a[:31])
        big = named(m, "larger", Mux(swap, self.b, self.a))
        small = named(m, "smaller", Mux(swap, self.a, self.b))
        big_hidden = named(m, "larger_hidden", Mux(swap, b.hidden, a.hidden))
        small_hidden = named(m, "smaller_hidden", Mux(swap, a.hidden, b.hidden))
        less = named(m, "less", a.sign ^ b.sign)
        # Exponent field 0 has the weight of exponent 1, so the distance of a normal and a subnormal number is 1 less.
        near = named(m, "near", small_hidden | ~big_hidden)
        difference = Signal(9)
        m.d.comb += difference.eq(Cat(Const(1, 1), big[23:31]) + Cat(near, ~small[23:31]))
        distance = difference[1:]
        far = named(m, "far", distance[5:].any())
        return cut(
            "order",
            big=big[:23],
            big_hidden=big_hidden,
            small=small[:23],
            small_hidden=small_hidden,
            distance=distance[:5] | far.replicate(5),
            exp=big[23:31] | ~big_hidden,
            less=less,
            sign=big[31],
            special=a.special | b.special,
            nan=a.nan | b.nan | (a.special & b.special & less),
        )


def _add_or_subtract(m: Module, big: Value, small: Value, less: Value) -> Value:
    total = Signal(29, name="total")
    # one carry chain for both: x - y = x + ~y + 1, where the 1 is the carry of a bit below
    m.d.comb += total.eq(Cat(Const(1, 1), big) + Cat(less, small ^ less.replicate(len(small)), less))
    return total[1:]


class F32Normalise(wiring.Component):
    """Normalise one operand of `F32Product`.

    Members:

    i : In(32), operand, binary32.
    o : Out(`normal_layout`), the same, normalised.

    Timing: latency 1 cycle, II = 1, always advancing.
    Numerics: exact.
    """

    i: Signal
    o: data.View[data.StructLayout]

    def __init__(self) -> None:
        self.latency = 1
        super().__init__({"i": In(32), "o": Out(normal_layout())})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        x = unpack(m, "x", self.i)
        zeros = leading_zeros(m, "zeros", Cat(x.frac, x.hidden))
        normal = Cuts(m, ("normal",))(
            "normal",
            sig=shift_left(m, "moved", Cat(x.frac, x.hidden), zeros),
            exp=(Cat(x.exp[0] | ~x.hidden, x.exp[1:]) - zeros)[:9],
            sign=x.sign,
            special=x.special,
            nan=x.nan,
        )
        m.d.comb += [self.o[field].eq(getattr(normal, field)) for field in ("sig", "exp", "sign", "special", "nan")]
        return m


class F32Product(wiring.Component):
    """o = a * b in binary32, of operands that `F32Normalise` prepared.

    Parameters: stages: registers from operands to result, 1 to 5.
    Members:

    a : In(`normal_layout`), one operand.
    b : In(`normal_layout`), the other one.
    o : Out(32), their product, binary32.

    Timing: latency `stages` cycles, II = 1, always advancing.
    Numerics: one rounding, nearest even; subnormals honoured; canonical NaN.
    """

    a: data.View[data.StructLayout]
    b: data.View[data.StructLayout]
    o: Signal

    def __init__(self, stages: int = 4) -> None:
        self._cuts = chosen_cuts("F32Product", PRODUCT_CUTS, stages)
        self.latency = stages
        super().__init__({"a": In(normal_layout()), "b": In(normal_layout()), "o": Out(32)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        a, b = self.a, self.b
        cut = Cuts(m, self._cuts)
        p = cut(
            "operands",
            x=a.sig,
            y=b.sig,
            base=a.exp.as_signed() + b.exp.as_signed() - 128,
            zero=~(a.sig[23] & b.sig[23]),
            sign=a.sign ^ b.sign,
            special=a.special | b.special,
            nan=a.nan | b.nan | (a.special & ~b.sig[23]) | (b.special & ~a.sig[23]),
        )
        # `base` is the biased exponent less 1, if the product of the significands is below 2. Below 0 the significand
        # moves right until it is 0; 31 places lose all of it.
        low = named(m, "low", (p.base < 0) | p.zero)
        down = named(m, "down", -p.base)
        q = cut(
            "product",
            product=p.x * p.y,
            low=low,
            down=Mux(down[5:].any(), 31, down[:5]),
            base=Mux(low, 0, p.base[:8]),
            sign=p.sign,
            special=p.special | (p.base >= 254),
            nan=p.nan,
        )
        carry = q.product[47]
        r = cut(
            "amount",
            top=q.product[22:],
            sticky=q.product[:22].any(),
            amount=Mux(q.low, q.down, carry),
            base=(q.base + (carry & ~q.low))[:8],
            sign=q.sign,
            special=q.special,
            nan=q.nan,
        )
        moved, lost = shift_right_sticky(m, "moved", r.top, r.amount, r.sticky)
        s = cut("shift", kept=moved[:25], sticky=lost, base=r.base, sign=r.sign, special=r.special, nan=r.nan)
        magnitude = rounded(m, "rounded", s.base, s.kept, s.sticky, s.special)
        t = cut("round", o=Mux(s.nan, CANONICAL_NAN, Cat(magnitude, s.sign)))
        m.d.comb += self.o.eq(t.o)
        return m


class F32Multiply(wiring.Component):
    """o = a * b in binary32.

    Parameters: stages: registers from operands to result, 2 to 6.
    Members:

    a : In(32), one operand.
    b : In(32), the other one.
    o : Out(32), their product.

    Timing: latency `stages` cycles, II = 1, always advancing.
    Numerics: as `F32Product`.
    """

    a: Signal
    b: Signal
    o: Signal

    def __init__(self, stages: int = 5) -> None:
        if not 2 <= stages <= 1 + max(PRODUCT_CUTS):
            raise ValueError(f"stages of F32Multiply is {stages!r}; it must be from 2 to {1 + max(PRODUCT_CUTS)}")
        self.latency = stages
        super().__init__({"a": In(32), "b": In(32), "o": Out(32)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.a = a = F32Normalise()
        m.submodules.b = b = F32Normalise()
        m.submodules.product = product = F32Product(self.latency - a.latency)
        m.d.comb += [
            a.i.eq(self.a),
            b.i.eq(self.b),
            product.a.eq(a.o),
            product.b.eq(b.o),
            self.o.eq(product.o),
        ]
        return m
