"""The tree by which loader and reset reach the array: registers for a group of rows or columns, then one in each port.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from amaranth.hdl import Module, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from nmsat.hw.parts.steps import COPIED

if TYPE_CHECKING:
    from collections.abc import Sequence

def load_groups(count: int, slices: Sequence[int]) -> list[range]:
    """Return the rows, or columns, between slices."""
    return [range(start, stop) for start, stop in pairwise((0, *slices, count))]


def entering(m: Module, enable: Value, address: Value, word: Value) -> tuple[Signal, Signal, Signal]:
    """Return what is written one cycle later; only whether it is needs a reset."""
    late = (
        Signal(len(enable), name="enable_late"),
        Signal(len(address), name="address_late", reset_less=True),
        Signal(len(word), name="word_late", reset_less=True),
    )
    m.d.sync += [later.eq(now) for later, now in zip(late, (enable, address, word), strict=True)]
    return late


class LoadLink(wiring.Component):
    """Hand on what is written to the buffers of a group of rows or columns, and the reset.

    Parameters: depth: entries of a buffer; width: bits of a word; count: buffers.
    Members:

    en_i : In(count), a word is written to this buffer.
    addr_i : In(range(depth)), where, the same for all.
    data_i : In(width * count), words, that of the first buffer at bit 0.
    en_o : Out(count), `en_i` one cycle later.
    addr_o : Out(range(depth)), `addr_i` one cycle later.
    data_o : Out(width * count), `data_i` one cycle later.
    held : Out(1), the group is in reset.

    Timing: one cycle; `held` begins and ends one cycle behind the reset of the link.
    """

    en_i: Signal
    addr_i: Signal
    data_i: Signal
    en_o: Signal
    addr_o: Signal
    data_o: Signal
    held: Signal

    def __init__(self, depth: int, width: int, count: int) -> None:
        super().__init__(
            {
                "en_i": In(count),
                "addr_i": In(range(depth)),
                "data_i": In(width * count),
                "en_o": Out(count),
                "addr_o": Out(range(depth)),
                "data_o": Out(width * count),
                "held": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        enable, address, word = entering(m, self.en_i, self.addr_i, self.data_i)
        held = Signal(init=1, name="reset_held", attrs=COPIED)
        m.d.sync += held.eq(0)  # its reset makes it 1
        m.d.comb += [self.held.eq(held), self.en_o.eq(enable), self.addr_o.eq(address), self.data_o.eq(word)]
        return m
