"""Rows in parts: dealing and gathering in Amaranth's simulator, against rows cut by hand, with pauses on both sides."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest
from amaranth.hdl import Value
from amaranth.sim import Simulator

from nmsat.hw.update.parts import DealRow, GatherRow

if TYPE_CHECKING:
    from collections.abc import Callable

LANES = 8
DEALT = {"w": 32, "v": 32, "g": 16, "kept": 1, "present": 1}
GATHERED = {"w": 32, "v": 32, "half": 16, "present": 1}


def random_row(rng: random.Random, fields: dict[str, int]) -> dict[str, list[int]]:
    """Return the numbers of each lane, and what is of the row."""
    lanes = {name: [rng.getrandbits(bits) for _ in range(LANES)] for name, bits in fields.items()}
    return lanes | {name: [rng.getrandbits(1)] for name in ("last", "end")}


def part_of(row: dict[str, list[int]], number: int, parts: int) -> dict[str, list[int]]:
    """Return a part of a row: neighbouring lanes, the first ones first."""
    size = LANES // parts
    return {name: v if len(v) == 1 else v[size * number : size * (number + 1)] for name, v in row.items()}


def show(ctx: Any, payload: Any, beat: dict[str, list[int]], fields: dict[str, int]) -> None:
    for name, values in beat.items():
        bits = fields.get(name, 1)
        ctx.set(Value.cast(payload[name]), sum(value << bits * i for i, value in enumerate(values)))


def shown(ctx: Any, payload: Any, fields: dict[str, int], lanes: int) -> dict[str, list[int]]:
    found = {}
    for name in (*fields, "last", "end"):
        bits, count = fields.get(name, 1), lanes if name in fields else 1
        word = ctx.get(Value.cast(payload[name]))
        found[name] = [word >> bits * i & (1 << bits) - 1 for i in range(count)]
    return found


def simulate(dut: Any, bench: Callable[[Any], Any]) -> None:
    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()


@pytest.mark.parametrize("parts", [2, 8])
def test_dealing(parts: int) -> None:
    dut, rng = DealRow(LANES, parts), random.Random(parts)

    async def bench(ctx: Any) -> None:
        row, number, taken = None, 0, 0
        while taken < 40:
            if row is None and rng.random() < 0.7:
                row = random_row(rng, DEALT)
                show(ctx, dut.i.payload, row, DEALT)
            ready = rng.random() < 0.6
            ctx.set(dut.i.valid, row is not None)
            ctx.set(dut.o.ready, ready)
            assert ctx.get(dut.o.valid) == (row is not None)
            leaves = row is not None and ready and number == parts - 1
            if row is not None:
                assert shown(ctx, dut.o.payload, DEALT, LANES // parts) == part_of(row, number, parts)
                assert ctx.get(dut.i.ready) == leaves
                number = (number + ready) % parts
            await ctx.tick()
            if leaves:
                row, taken = None, taken + 1

    simulate(dut, bench)


@pytest.mark.parametrize("parts", [2, 8])
def test_gathering(parts: int) -> None:
    dut, rng = GatherRow(LANES, parts), random.Random(parts)

    async def bench(ctx: Any) -> None:
        row, number, offered, rows = random_row(rng, GATHERED), 0, False, 0
        while rows < 40:
            offered = offered or rng.random() < 0.7
            ready = rng.random() < 0.6
            show(ctx, dut.i.payload, part_of(row, number, parts), GATHERED)
            ctx.set(dut.i.valid, offered)
            ctx.set(dut.o.ready, ready)
            whole = offered and number == parts - 1
            assert ctx.get(dut.o.valid) == whole
            if whole:
                assert shown(ctx, dut.o.payload, GATHERED, LANES) == row
            takes = offered and (ready or not whole)
            if offered:
                assert ctx.get(dut.i.ready) == takes
            await ctx.tick()
            if takes:
                offered, number = False, (number + 1) % parts
                if whole:
                    row, rows = random_row(rng, GATHERED), rows + 1

    simulate(dut, bench)
