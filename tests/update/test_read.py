"""The read streams of the update engine alone, in Amaranth's simulator: every row is whole, in order, none is lost."""

from __future__ import annotations

import random
from collections import deque
from typing import Any

import pytest
from amaranth.sim import Simulator

from nmsat.dataflow.contract.limits import UPDATE_BEATS
from nmsat.hw.update.read import UpdateRead

SPACE = 1 << 20
"""Beats between the first beats of two streams."""

STREAMS = ("weights", "momenta", "gradient", "mask")


def beat(offset: int) -> int:
    """Return what memory holds there: any number that is not elsewhere too."""
    return random.Random(offset).getrandbits(512)


def rows(k: int, blocks: int, step: int, m: int) -> list[dict[str, int]]:
    """Return what comes, row by row (docs/machine/update.md); m: rows of a group, 0 without a mask."""
    found = []
    for block in range(blocks):
        for r in range(k):
            number, group = block * k + r, block * -(-k // max(m, 1)) + r // max(m, 1)
            row = {name: beat(i * SPACE + number) for i, name in enumerate(STREAMS[:2])}
            row["gradient"] = beat(2 * SPACE + r * step + block // 2) >> 256 * (block % 2) & (1 << 256) - 1
            if m:
                row["mask"] = beat(3 * SPACE + group) & (1 << 256) - 1
            found.append(row)
    return found


@pytest.mark.parametrize(("k", "blocks", "step", "m"), [(90, 2, 1, 8), (37, 3, 2, 4), (150, 1, 1, 0)])
def test_a_reader_asks_for_no_more_than_its_queues_hold(k: int, blocks: int, step: int, m: int) -> None:
    """Nobody takes a row until all queues are full; then rows are taken now and then."""
    rng, dut, expected = random.Random(5), UpdateRead(), rows(k, blocks, step, m)
    groups = blocks * -(-k // max(m, 1))

    async def process(ctx: Any) -> None:
        sizes = {"k": k, "blocks": blocks, "rows": k * blocks, "groups": groups, "g_step": step, "use_mask": bool(m)}
        for i, name in enumerate(STREAMS):
            sizes[f"{name}_at"] = i * SPACE
        for name, value in sizes.items():
            ctx.set(dut.settings[name], value)
        ctx.set(dut.start, 1)
        await ctx.tick()
        ctx.set(dut.start, 0)
        asked: deque[int] = deque()
        inside = dict.fromkeys(range(len(STREAMS)), 0)
        taken = cycle = 0
        ctx.set(dut.read.request.ready, 1)
        while taken < len(expected):
            takes = cycle > 400 and rng.random() < 0.4
            last = bool(m) and (taken % k % m == m - 1 or taken % k == k - 1)
            ctx.set(dut.o.ready, takes)
            ctx.set(dut.next_mask, last)
            arrives = bool(asked) and rng.random() < 0.8
            ctx.set(dut.read.valid, arrives)
            if arrives:
                ctx.set(dut.read.data, beat(asked.popleft()))
            if ctx.get(dut.read.request.valid):
                offset = ctx.get(dut.read.request.payload.offset)
                beats = ctx.get(dut.read.request.payload.beats_less_1) + 1
                asked.extend(range(offset, offset + beats))
                inside[offset // SPACE] += beats
            if takes and ctx.get(dut.o.valid):
                for name, value in expected[taken].items():
                    assert ctx.get(dut.o.payload[name]) == value, (taken, name)
                    inside[STREAMS.index(name)] -= name != "mask" or last
                taken += 1
            assert max(inside.values()) <= UPDATE_BEATS, cycle
            if cycle == 400:
                assert [inside[i] for i in range(2)] == [UPDATE_BEATS] * 2
            cycle += 1
            assert cycle < 400 + 20 * len(expected)
            await ctx.tick()
        assert not any(inside.values())

    simulator = Simulator(dut)
    simulator.add_clock(1e-9)
    simulator.add_testbench(process)
    simulator.run()
