"""Between a client and several masters: the circuit in Amaranth's simulator against the model, cycle by cycle."""

from __future__ import annotations

import random
from collections import deque
from typing import Any

import pytest
from amaranth.sim import Simulator

from nmsat.hw.memory.steer import ReadSteer, WriteSteer
from nmsat.sim.memory.steer import Steer


@pytest.mark.parametrize("masters", [2, 4])
@pytest.mark.parametrize("reads", [True, False])
def test_circuit_against_model(masters: int, reads: bool) -> None:
    """Answers come in the order of the bursts of each master; a client meets those of one master at a time."""
    dut: Any = (ReadSteer if reads else WriteSteer)(masters)
    model, rng = Steer(by_beats=reads), random.Random(masters + reads)
    under_way: list[deque[int]] = [deque() for _ in range(masters)]
    ports = [rng.randrange(masters) for _ in range(4)]
    ports[:masters] = range(masters)  # each has a region
    seen = {"left": 0, "waited": 0, "answered": 0}

    def drive(ctx: Any, one: Any, taken: bool, answer: bool, beat: int) -> None:
        ctx.set(one.request.ready, taken)
        ctx.set(one.valid if reads else one.acknowledged, answer)
        ctx.set(one.data if reads else one.pull, beat if reads else answer)

    async def bench(ctx: Any) -> None:
        for region, port in enumerate(ports):
            ctx.set(dut.ports[region], port)
        asked: tuple[int, int] | None = None
        for _ in range(1500):
            if asked is None and rng.random() < 0.5:
                asked = rng.randrange(4) if rng.random() < 0.3 else 0, rng.randint(1, 4)
            region, beats = asked or (rng.randrange(4), 1)
            ready = [rng.random() < 0.7 for _ in range(masters)]
            ctx.set(dut.client.request.valid, asked is not None)
            ctx.set(dut.client.request.payload.region, region)
            ctx.set(dut.client.request.payload.beats_less_1, beats - 1)
            answers = [bool(queue) and rng.random() < 0.5 for queue in under_way]
            data = [rng.getrandbits(512) for _ in range(masters)]
            for one, taken, answer, beat in zip(dut.masters, ready, answers, data, strict=True):
                drive(ctx, one, taken, answer, beat)
            offered = [asked is not None and ports[region] == port and model.may(port) for port in range(masters)]
            assert [bool(ctx.get(one.request.valid)) for one in dut.masters] == offered
            leaves = any(one and other for one, other in zip(offered, ready, strict=True))
            assert bool(ctx.get(dut.client.request.ready)) == leaves
            answered = any(answers)
            assert sum(answers) <= 1, "two masters answer one client"
            if reads:
                assert bool(ctx.get(dut.client.valid)) == answered
                if answered:
                    assert ctx.get(dut.client.data) == data[answers.index(True)]
            else:
                assert (bool(ctx.get(dut.client.acknowledged)), bool(ctx.get(dut.client.pull))) == (answered, answered)
                assert len({ctx.get(one.data) for one in dut.masters}) == 1
            seen["left"] += leaves
            seen["waited"] += asked is not None and not any(offered)
            seen["answered"] += answered
            if answered:
                queue = under_way[answers.index(True)]
                queue[0] -= 1
                if not queue[0]:
                    queue.popleft()
            if leaves:
                under_way[ports[region]].append(beats if reads else 1)
            model.tick(ports[region], beats if leaves else 0, answered)
            asked = None if leaves else asked
            await ctx.tick()

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    assert min(seen.values()) > 100, seen
