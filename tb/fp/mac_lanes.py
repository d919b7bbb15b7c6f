"""Tops for the benches of the multiply-add: many units side by side, so that one cycle checks many vectors."""

from __future__ import annotations

from typing import Final

from amaranth.hdl import Cat, Module, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from nmsat.hw.fp.accumulate import ADDER_CUTS, Accumulate
from nmsat.hw.fp.product import Product
from nmsat.hw.fp.widen import WidenActivation, WidenWeight
from nmsat.hw.parts.links import activation_layout, weight_layout
from nmsat.hw.parts.verilog import place

LATENCY: Final = 1 + max(ADDER_CUTS)
"""Cycles from operands to sums in `MacLanes`."""


class Mac(wiring.Component):
    """Widen, multiply, accumulate. Members: a, w: binary16; filler: w is none; x: sum so far; out: sum.

    Timing: 1 + stages cycles; all operands of a vector enter in one cycle.
    """

    a: Signal
    w: Signal
    filler: Signal
    x: Signal
    out: Signal

    def __init__(self, stages: int) -> None:
        self._stages = stages
        super().__init__({"a": In(16), "w": In(16), "filler": In(1), "x": In(32), "out": Out(32)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        act = m.submodules.act = WidenActivation()
        wgt = m.submodules.wgt = WidenWeight()
        product = m.submodules.product = Product()
        adder = m.submodules.adder = Accumulate(self._stages)
        x = Signal(32)
        m.d.sync += x.eq(self.x)
        m.d.comb += [
            act.half.eq(self.a),
            wgt.half.eq(self.w),
            wgt.index.eq(0),
            wgt.filler.eq(self.filler),
            product.act.eq(act.wide),
            product.wgt.eq(wgt.wide),
            adder.product.eq(product.out),
            adder.x.eq(x),
            adder.x_again.eq(x),
            self.out.eq(adder.out),
        ]
        return m


class MacLanes(wiring.Component):
    """`lanes` vectors per cycle, each through a unit of every number of stages.

    Members: a, w, filler, x: as those of `Mac`, lane 0 in the lowest bits; out<stages>: sums of the units with that
    many stages. Timing: `LATENCY` cycles for all of them.
    """

    a: Signal
    w: Signal
    filler: Signal
    x: Signal

    def __init__(self, lanes: int) -> None:
        self._lanes = lanes
        widths = {"a": 16, "w": 16, "filler": 1, "x": 32}
        super().__init__(
            {name: In(lanes * width) for name, width in widths.items()}
            | {f"out{stages}": Out(32 * lanes) for stages in ADDER_CUTS}
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        for stages in ADDER_CUTS:
            sums: list[Value] = []
            for lane in range(self._lanes):
                mac = Mac(stages)
                m.submodules[f"mac{stages}_{lane}"] = place(mac, f"mac{stages}", platform, parameters=stages)
                m.d.comb += [
                    mac.a.eq(self.a.word_select(lane, 16)),
                    mac.w.eq(self.w.word_select(lane, 16)),
                    mac.filler.eq(self.filler[lane]),
                    mac.x.eq(self.x.word_select(lane, 32)),
                ]
                sums.append(mac.out)
            late: Value = Cat(*sums)
            for k in range(LATENCY - 1 - stages):
                delay = Signal(len(late), name=f"late{stages}_{k}")
                m.d.sync += delay.eq(late)
                late = delay
            m.d.comb += getattr(self, f"out{stages}").eq(late)
        return m


class WidenLanes(wiring.Component):
    """`lanes` pairs of widening units. Members: half, filler; act, wgt: one registered word of 32 bits per lane."""

    half: Signal
    filler: Signal
    act: Signal
    wgt: Signal

    def __init__(self, lanes: int) -> None:
        self._lanes = lanes
        super().__init__({"half": In(16 * lanes), "filler": In(lanes), "act": Out(32 * lanes), "wgt": Out(32 * lanes)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        for lane in range(self._lanes):
            act, wgt = WidenActivation(), WidenWeight()
            m.submodules[f"act{lane}"] = place(act, "widen_activation", platform)
            m.submodules[f"wgt{lane}"] = place(wgt, "widen_weight", platform)
            half: Value = self.half.word_select(lane, 16)
            m.d.comb += [
                act.half.eq(half),
                wgt.half.eq(half),
                wgt.index.eq(half[6:10]),
                wgt.filler.eq(self.filler[lane]),
            ]
            m.d.sync += [
                self.act.word_select(lane, 32)[: activation_layout().size].eq(act.wide),
                self.wgt.word_select(lane, 32)[: weight_layout().size].eq(wgt.wide),
            ]
        return m
