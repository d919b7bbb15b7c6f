"""binary32 sum plus exact product: the adder of an element.

Paths are merged to save logic. Let x be the sum with exponent ex and significand in [1, 2), p the product with
exponent ep and significand in [1, 4), not normalised. The larger exponent (p's at a tie) makes the *big* operand, the
other one is aligned to it in a window of 29 bits, 2^2 .. 2^-25 and a sticky bit below, in units of the big exponent. x
is big at ex > ep only, then p / 2 is shifted right by ex - ep - 1; else x is shifted right by ep - ex: one subtraction,
and its complement.

The difference big - small is negative only for shifts by 0, where it is exact and below 1. Its magnitude is then the
complement plus 1 at the window's last place. Only the complement is taken: below the rounded result it leaves ones, so
that rounding to nearest adds the missing 1.

What small lacks to be more than a quarter of the last place is dropped altogether (shifts of 32 and more).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from nmsat.hw.fp.product import product_layout
from nmsat.hw.parts.steps import Cuts, chosen_cuts, named

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import SimpleNamespace

ADDER_CUTS: Final[dict[int, tuple[str, ...]]] = {
    1: ("round",),
    2: ("add", "round"),
    3: ("swap", "coarse", "round"),
    4: ("swap", "add", "middle", "round"),
    5: ("swap", "add", "coarse", "middle", "round"),
    6: ("swap", "align", "add", "coarse", "middle", "round"),
    7: ("compare", "swap", "align", "add", "coarse", "middle", "round"),
}
"""Places with registers for each number of stages, in the order of the data path. `round` always holds registers: the
result goes straight into memories."""


class Accumulate(wiring.Component):
    """x + p, rounded to nearest even.

    Members:

    product : In(`product_layout`), p.
    x : In(32), the sum so far, binary32.
    x_again : In(32), the same, best from logic of its own: then the choice of x and the ordering of the operands share
        one table per bit.
    out : Out(32), the new sum, binary32.

    Timing: `stages` cycles (1..7), one sum per cycle.
    Numerics: x must be +0, -0 or the result of a chain of such sums from +0: a multiple of 2^-48 below 2^92 (so neither
    subnormals nor overflow arise, and exponents of finite x are 0 or 79..218), infinity, or the canonical NaN
    0x7fc00000, the only NaN that leaves. Infinities of unlike signs give NaN. An exact zero is +0, except -0 + -0 = -0.
    """

    product: data.View[data.StructLayout]
    x: Signal
    x_again: Signal
    out: Signal

    def __init__(self, stages: int) -> None:
        self._cuts = chosen_cuts("Accumulate", ADDER_CUTS, stages)
        super().__init__({"product": In(product_layout()), "x": In(32), "x_again": In(32), "out": Out(32)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        cut = Cuts(m, self._cuts)
        swapped = self._swap(m, cut)
        added = self._align_and_add(m, cut, swapped)
        self._normalise_and_round(m, cut, added)
        return m

    def _swap(self, m: Module, cut: Cuts) -> SimpleNamespace:
        """Compare exponents, order the operands, settle signs and specials."""
        p = self.product
        # ex - ep - 1: its sign says that p is big, and its complement is then ep - ex.
        difference = named(m, "difference", (Cat(self.x[23:31], 0) + ~Cat(p.exponent, 0))[:9])
        c = cut("compare", p=p, x=self.x, difference=difference)
        # Behind registers there is no choice left to share a table with.
        x_again = (c.x if "compare" in self._cuts else self.x_again)[:23]
        p, x = data.View(product_layout(), c.p), c.x
        p_big = c.difference[8]
        x_exponent, x_sign = x[23:31], x[31]
        x_special = named(m, "x_special", x_exponent[5:8].all())
        x_one = named(m, "x_one", x_exponent[6:8].any())
        nan = named(m, "is_nan", p.nan | x_special & (x[22] | p.special & (x_sign ^ p.sign)))
        special = named(m, "is_special", p.special | x_special)
        shift = Mux(p_big, ~c.difference[:8], c.difference[:8])
        small = Mux(p_big, Cat(x[:23], x_one), Cat(Const(0, 2), p.significand))
        sign = Mux(special, Mux(x_special, x_sign, p.sign), Mux(p_big, p.sign, x_sign))
        return cut(
            "swap",
            big=Mux(p_big, Cat(Const(0, 3), p.significand), Cat(x_again, x_one)),
            small=Mux(shift[5:8].any(), 0, small),
            shift=shift[:5],
            exponent=Mux(p_big, p.exponent, x_exponent),
            sign=Mux(nan, 0, sign),
            subtract=Mux(special, 0, x_sign ^ p.sign),
            special=special,
            nan=nan,
        )

    def _align_and_add(self, m: Module, cut: Cuts, s: SimpleNamespace) -> SimpleNamespace:
        """Shift small right and add it or its complement; bit 0 is the sticky bit, 2^0 stands at bit 26."""
        fine = named(m, "fine", Cat(Const(0, 3), s.small) >> s.shift[:2])
        medium = _shift_right(m, "medium", fine, s.shift[3:], 8)
        a = cut("align", aligned=medium, **vars(s))
        # This step is left for last: a two-way choice still fits into the tables of the sum.
        aligned = _shift_right(m, "aligned", a.aligned, a.shift[2], 4)
        sticky = aligned[0]
        # The lowest column makes the carry in: subtracting adds 1 at the sticky bit, which passes unless that is set.
        left = Cat(Const(1, 1), Const(0, 2), a.big, 0)
        right = Cat(a.subtract & ~sticky, Mux(a.subtract, ~aligned[1:], aligned[1:]), a.subtract.replicate(2))
        total = named(m, "total", (left + right)[:29])
        negative = named(m, "negative", total[28] & a.subtract)
        return cut(
            "add",
            total=Cat(sticky, total[1:]),
            negative=negative,
            exponent=a.exponent,
            sign=a.sign ^ negative,
            subtract=a.subtract,
            special=a.special,
            nan=a.nan,
        )

    def _normalise_and_round(self, m: Module, cut: Cuts, t: SimpleNamespace) -> None:
        """Shift the leading one to bit 28, complementing a negative total on the way; round."""
        n = t.negative
        positive = named(m, "positive", t.total ^ n.replicate(29))
        by16 = named(m, "by16", ~positive[13:].any())
        c = cut(
            "coarse",
            total=Mux(by16, Cat(n.replicate(16), positive[:13]), positive),
            by16=by16,
            **{name: value for name, value in vars(t).items() if name != "total"},
        )
        medium, by4 = _shift_left(m, "upper", c.total, 4, c.negative)
        d = cut(
            "middle",
            total=medium,
            negative=c.negative,
            # The leading one at bit 28 stands for 2^2; the last step adds what is missing: 3 less its own shift.
            exponent=named(m, "lowered", c.exponent + ~Cat(Const(0, 2), by4, c.by16, Const(0, 3)))[:8],
            sign=c.sign,
            subtract=c.subtract,
            special=c.special,
            nan=c.nan,
        )
        final, by1 = _shift_left(m, "final", d.total, 1, d.negative)
        some = named(m, "some", d.total[25:29].any())
        up = named(m, "up", final[4] & (final[5] | final[:4].any()))
        left = Cat(Const(1, 1), final[5:28], d.exponent & some.replicate(8))
        right = Cat(up, Const(0, 23), ~by1)
        packed = named(m, "packed", (left + right)[1:32])
        r = cut(
            "round",
            sign=d.sign & (some | ~d.subtract),
            exponent=Mux(d.special, 0xFF, packed[23:]),
            top=Mux(d.special, d.nan, packed[22]),
            fraction=Mux(d.special, 0, packed[:22]),
        )
        m.d.comb += self.out.eq(Cat(r.fraction, r.top, r.exponent, r.sign))


def _shift_right(m: Module, name: str, value: Value, amount: Value, unit: int) -> Signal:
    """Return `value >> unit * amount`, where bit 0 keeps whether any one was shifted out or stood there."""
    width = len(value)
    steps = [
        Cat(value[: unit * k + 1].any(), value[unit * k + 1 :], Const(0, width))[:width]
        for k in range(1 << len(amount))
    ]
    return named(m, name, _choose(steps, amount))


def _shift_left(m: Module, name: str, value: Value, unit: int, fill: Value) -> tuple[Signal, Signal]:
    """Bring the leading one into the uppermost `unit` bits, by 0..3 units; return the value and the units."""
    width = len(value)
    groups = [value[width - unit * (k + 1) : width - unit * k].any() for k in range(3)]
    amount = Signal(2, name=f"{name}_by")
    m.d.comb += amount.eq(Mux(groups[0], 0, Mux(groups[1], 1, Mux(groups[2], 2, 3))))
    steps = [Cat(fill.replicate(unit * k), value)[:width] for k in range(4)]
    return named(m, name, _choose(steps, amount)), amount


def _choose(values: Sequence[Value], which: Value) -> Value:
    """Return `values[which]` as a tree of two-way choices: a four-way one fills a six-input table."""
    for bit in which:
        values = [Mux(bit, high, low) for low, high in zip(values[::2], values[1::2], strict=True)]
    return values[0]
