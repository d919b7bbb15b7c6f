"""The edges of the array alone, in Amaranth's simulator: every cycle of head and ports is that of their models.

The array hides some of what they do wrong: a port that computes too long is given fillers.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from amaranth.sim import Simulator

from nmsat.dataflow.contract.codes import codes
from nmsat.dataflow.contract.config import SatConfig, preset
from nmsat.dataflow.contract.isa import Compute
from nmsat.dataflow.contract.links import FILLER_CODE, TOKEN, control
from nmsat.dataflow.contract.registers import Wait
from nmsat.hw.array.column_port import ColumnPort
from nmsat.hw.array.head import Head
from nmsat.hw.array.row_port import RowPort
from nmsat.sim.array.head import Head as HeadModel
from nmsat.sim.array.head import Token
from nmsat.sim.array.row_port import RowPort as RowModel

if TYPE_CHECKING:
    from amaranth.lib.wiring import Component

TINY = preset("tiny")
TWO_LANES = SatConfig(name="lanes", rows=3, columns=2, act_lanes=2)


def play(circuit: Component, process: Any) -> None:
    simulator = Simulator(circuit)
    simulator.add_clock(1e-9)
    simulator.add_testbench(process)
    simulator.run()


def word(token: Token | None) -> int:
    """Return the word of a window; without one anything may stand there."""
    if token is None:
        return 0
    fields = {name: int(value) for name, value in asdict(token).items() if name not in ("n", "m", "a")}
    return TOKEN.pack(**fields, **codes(n=token.n, m=token.m, a=token.a), valid=1)


def shapes(config: SatConfig, rng: np.random.Generator) -> tuple[int, int, int]:
    """Return N, M and a; every other window has one step per output, and may have more beats than steps."""
    while True:
        m, a = int(rng.choice([2, 4, 8, 16])), int(rng.choice([1, 2, 4, 8]))
        if a * m <= config.act_bank:
            return 1 if rng.random() < 0.5 else int(rng.integers(1, m + 1)), m, a


def commands(config: SatConfig, rng: np.random.Generator, count: int) -> list[Compute]:
    """Return commands; half of them continue from sums, whatever these are."""
    found: list[Compute] = []
    while len(found) < count:
        ws, (n, m, a) = bool(rng.integers(2)), shapes(config, rng)
        if ws and n * (8 // a) > config.weight_bank:
            continue
        for _ in range(int(rng.integers(1, 5))):
            act, wgt = (int(rng.integers(depth)) for depth in (config.act_depth, config.weight_depth))
            seed, keep = (bool(rng.integers(2)) for _ in range(2))
            windows = int(rng.integers(1, 5))
            shape = {"ws": ws, "n": n, "m": m, "a": a, "windows": windows, "seed": seed, "keep": keep}
            found.append(Compute(**shape, act_base=act, wgt_base=wgt))
    return found


@pytest.mark.parametrize("config", [TINY, TWO_LANES], ids=lambda config: config.name)
def test_the_head(config: SatConfig) -> None:
    rng = np.random.default_rng(1)
    dut, model, todo = Head(config), HeadModel(config), commands(config, rng, 24)
    seen = {"seeded": 0}

    async def process(ctx: Any) -> None:
        while todo or not model.idle:
            command = todo[0] if todo and rng.random() < 0.9 else None
            ready = bool(rng.random() < 0.9)
            ctx.set(dut.commands.valid, command is not None)
            if command is not None:
                ctx.set(dut.commands.payload.as_value(), command.command())
            ctx.set(dut.tail_ready, ready)
            got, expected = (TOKEN.unpack(one) for one in (ctx.get(dut.token.as_value()), word(model.token)))
            if not expected["rebase"]:
                got["base"] = expected["base"]
            assert got == expected if expected["valid"] else not got["valid"]
            for port, (read, at) in ((dut.weight, model.weight), (dut.seed, model.seed)):
                assert ctx.get(port.read) == read
                assert not read or ctx.get(port.addr) == at
            begin = model.begin
            assert ctx.get(dut.begins) == (begin is not None)
            assert begin is None or (ctx.get(dut.begin_count), ctx.get(dut.begin_keep)) == (begin.count, begin.keep)
            assert ctx.get(dut.idle) == model.idle
            if model.token is not None and not model.token.ws and begin is not None:
                seen["seeded"] += not model.token.first
            gives = ctx.get(dut.commands.ready), Wait(ctx.get(dut.cause))
            assert gives == model.tick(command, ready)
            taken = gives[0]
            if taken:
                todo.pop(0)
            await ctx.tick()

    play(dut, process)
    assert seen["seeded"] > 2


@pytest.mark.parametrize("config", [TINY, TWO_LANES], ids=lambda config: config.name)
def test_a_row_port(config: SatConfig) -> None:
    """Windows as the head may send them: each at its earliest, when steps and beats of the one before are over."""
    rng = np.random.default_rng(2)
    dut, model, layout = RowPort(config), RowModel(config), control(config)
    seen = {"beats": 0}

    async def process(ctx: Any) -> None:
        for _ in range(200):
            n, m, a = shapes(config, rng)
            flags = [bool(x) for x in rng.integers(0, 2, 8)]
            ws, compute, first, last, fetch, rebase, wload, wflip = flags
            base = int(rng.integers(config.act_depth))
            token: Token | None = Token(ws, n, m, a, compute, first, last, fetch, rebase, base, wload, wflip)
            beats = a * m // config.act_lanes
            seen["beats"] += compute and not ws and beats > 8 * n
            for _ in range(max(8 * n, beats) + int(rng.choice([0, 0, 5]))):
                drain = bool(rng.random() < 0.02)
                ctx.set(dut.token_i.as_value(), word(token))
                ctx.set(dut.drain_i, drain)
                assert ctx.get(dut.ctl.as_value()) == layout.pack(**model.ctl._asdict())
                got, expected = ctx.get(dut.token_o.as_value()), word(model.token)
                assert got == expected if expected else not got & 1
                assert (ctx.get(dut.drain_o), ctx.get(dut.ended)) == (model.drain, model.event)
                model.tick(token, drain)
                await ctx.tick()
                token = None

    play(dut, process)
    assert seen["beats"] > 2


def test_a_column_port_gives_fillers_where_nothing_was_asked_for() -> None:
    rng = np.random.default_rng(3)
    dut = ColumnPort(TINY)

    async def process(ctx: Any) -> None:
        for at in range(16):
            ctx.set(dut.load_en, 1)
            ctx.set(dut.load_addr, at)
            ctx.set(dut.load_data.value, 0x3C00 + at)
            ctx.set(dut.load_data.index, at)
            ctx.set(dut.load_data.filler, at == 9)
            await ctx.tick()
        ctx.set(dut.load_en, 0)
        asked: list[tuple[int, int]] = []
        for cycle in range(200):
            asked.append((int(rng.integers(2)), int(rng.integers(16))))
            ctx.set(dut.weight_i.read, asked[-1][0])
            ctx.set(dut.weight_i.addr, asked[-1][1])
            if cycle >= 2:
                read, at = asked[-3]
                filler = not read or at == 9
                assert (ctx.get(dut.wgt.code) == FILLER_CODE) == filler
                assert filler or (ctx.get(dut.wgt.frac), ctx.get(dut.wgt.index)) == (at, at)
            await ctx.tick()

    play(dut, process)
