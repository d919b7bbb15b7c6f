"""Flags that rise and stay: all that can come, from every state."""

from __future__ import annotations

import itertools
from typing import Any

from amaranth.hdl import Module, Signal
from amaranth.sim import Simulator

from nmsat.hw.parts.steps import sticky


def test_a_flag_rises_stays_and_falls_only_when_cleared() -> None:
    m, flag, rises, clear = Module(), Signal(), Signal(), Signal()
    sticky(m, flag, rises, clear)
    after: list[int] = []
    inputs = list(itertools.product((0, 1), repeat=3))  # flag before, rises, clear

    async def bench(ctx: Any) -> None:
        for was, up, down in inputs:
            ctx.set(rises, was)
            ctx.set(clear, 1 - was)
            await ctx.tick()
            assert ctx.get(flag) == was
            ctx.set(rises, up)
            ctx.set(clear, down)
            await ctx.tick()
            after.append(ctx.get(flag))

    simulator = Simulator(m)
    simulator.add_clock(1e-8)
    simulator.add_testbench(bench)
    simulator.run()
    assert after == [1 if up else 0 if down else was for was, up, down in inputs]
