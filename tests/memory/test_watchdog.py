"""The watchdog of a port against a count of cycles that stand still."""

from __future__ import annotations

import random
from typing import Any

import pytest
from amaranth.sim import Simulator

from nmsat.hw.memory.watchdog import Watchdog


def told(limit: int, cycles: list[tuple[bool, bool]]) -> list[bool]:
    """Return `late` in every cycle. cycles: whether memory owes, whether it moves."""
    dut, found = Watchdog(), list[bool]()

    async def bench(ctx: Any) -> None:
        ctx.set(dut.limit, limit)
        await ctx.tick()  # a run begins with nothing under way
        for owes, moves in cycles:
            ctx.set(dut.owes, owes)
            ctx.set(dut.moves, moves)
            found.append(bool(ctx.get(dut.late)))
            await ctx.tick()

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    return found


def expected(limit: int, cycles: list[tuple[bool, bool]]) -> list[bool]:
    """Return what docs/machine/control.md says of it."""
    still, found = 0, []
    for owes, moves in cycles:
        still = still + 1 if owes and not moves else 0
        found.append(limit > 0 and still == limit)
    return found


@pytest.mark.parametrize("limit", [0, 1, 2, 7])
def test_it_tells_once_that_nothing_has_moved_for_so_many_cycles(limit: int) -> None:
    rng = random.Random(limit)
    shares = ((1, 0.1), (0.9, 0.02))
    cycles = [(rng.random() < owes, rng.random() < moves) for owes, moves in shares for _ in range(150)]
    wanted = expected(limit, cycles)
    assert told(limit, cycles) == wanted
    assert sum(wanted) > 3 or limit == 0


@pytest.mark.parametrize("bit", [8, 16, 24, 31])
def test_all_bits_of_the_limit_count(bit: int) -> None:
    assert not any(told((1 << bit) + 3, [(True, False)] * 40))
