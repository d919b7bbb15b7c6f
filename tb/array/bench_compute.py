"""Bench of the compute engine: RTL against sim.array.compute in every cycle, captured results for the caller to
compare.

Job: config (fields of `SatConfig`); reset_after: cycles after which a reset cuts each of the first commands short;
timing: instructions without operands, and the idle cycles before each; count, and for each product i: act_i, wgt_i
(operands), words_i (instructions), gaps_i, results_i (results that each column captures), first_i (their first place).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import cocotb
import numpy as np
from cocotb.triggers import Timer

from nmsat.dataflow.contract.config import SatConfig
from nmsat.dataflow.contract.isa import Instruction
from nmsat.sim.array.compute import ComputeEngine
from nmsat.tb.run.jobs import load_job, save_result

if TYPE_CHECKING:
    from collections.abc import Sequence


LIMIT: Final = 30_000
"""Cycles in which any instruction is done."""


class Lockstep:
    """Circuit and model, one clock at a time."""

    def __init__(self, dut: Any, config: SatConfig) -> None:
        self.dut = dut
        self.config = config
        self.model = ComputeEngine(config)
        self.cycles = self.done = 0

    async def clock(self) -> None:
        """Pass an edge of the clock; inputs may change behind it."""
        self.dut.clk.value = 1
        await Timer(5, "ns")
        self.dut.clk.value = 0

    async def reset(self) -> None:
        """Reset for two cycles with idle inputs, and take a fresh model."""
        dut = self.dut
        for name in ("work__start__valid", "act_load_en", "wgt_load_en", "read_en", "clk"):
            getattr(dut, name).value = 0
        dut.rst.value = 1
        for _ in range(2):
            await Timer(5, "ns")
            await self.clock()
        dut.rst.value = 0
        self.model = ComputeEngine(self.config)

    async def cycle(self, start: int | None) -> bool:
        """Compare one cycle in which instruction `start` is offered; return whether it was taken."""
        dut, model = self.dut, self.model
        dut.work__start__valid.value = int(start is not None)
        if start is not None:
            dut.work__start__payload.value = start
        await Timer(5, "ns")
        token = model.token
        expected = {
            "work__start__ready": int(model.ready),
            "work__done": int(model.done),
            "cause": int(model.cause),
            "token_valid": int(token is not None),
            "token_compute": int(token.compute) if token is not None else None,
            "steps": model.steps,
        }
        for name, value in expected.items():
            got = int(getattr(dut, name).value)
            assert value is None or got == value, f"cycle {self.cycles}: {name} is {got}, the model says {value}"
        taken = start is not None and model.ready
        self.done += model.done
        model.tick(Instruction.decode(start) if start is not None and taken else None)
        await self.clock()
        self.cycles += 1
        return taken

    async def run(self, words: Sequence[int], gaps: Sequence[int], stop: int | None = None) -> bool:
        """Start instructions, each `gap` cycles after the one before, until all are done or `stop` comes (False)."""
        at, wait, limit, target = 0, gaps[0], self.cycles + LIMIT * len(words), self.done + len(words)
        end = None if stop is None else self.cycles + stop
        while self.done < target:
            assert self.cycles < limit, f"{target - self.done} instructions are not done after {limit} cycles"
            if end is not None and self.cycles >= end:
                return False
            offered = at < len(words) and wait == 0
            if await self.cycle(words[at] if offered else None):
                at += 1
                wait = gaps[at] if at < len(words) else 0
            elif wait:
                wait -= 1
        assert at == len(words), f"{self.done} instructions are done, {at} have started"
        for _ in range(3):
            await self.cycle(None)
        assert not self.model.busy, "the model still has an instruction after the last was done"
        return True

    async def load(self, kind: str, words: np.ndarray) -> None:
        """Write `words` (uint8[entries, bytes of all ports]) to all operand buffers of one kind, entry 0 first."""
        enable, address, bus = (getattr(self.dut, f"{kind}_load_{part}") for part in ("en", "addr", "data"))
        enable.value = (1 << len(enable)) - 1
        for i, word in enumerate(words):
            address.value = i
            bus.value = int.from_bytes(word.tobytes(), "little")
            await self.cycle(None)
        enable.value = 0

    async def captured(self, first: int, count: int) -> np.ndarray:
        """Read `count` places of the capture buffers from `first` on: uint32[columns, count]."""
        columns, depth = self.config.columns, self.config.sum_depth
        found = np.zeros((columns, count), np.uint32)
        self.dut.read_en.value = 1
        for i in range(count):
            self.dut.read_addr.value = (first + i) % depth
            await self.cycle(None)
            await Timer(1, "ns")
            word = int(self.dut.read_data.value)
            found[:, i] = [word >> 32 * c & 0xFFFFFFFF for c in range(columns)]
        self.dut.read_en.value = 0
        return found


@cocotb.test()
async def against_model(dut: Any) -> None:
    """Commands of all shapes with gaps, resets in mid-operation, then products with their captured results."""
    job = load_job()
    config = SatConfig(**{**job["config"], **{k: tuple(job["config"][k]) for k in ("row_slices", "column_slices")}})
    bench = Lockstep(dut, config)
    await bench.reset()
    for stop in job["reset_after"]:
        finished = await bench.run(job["timing"], [0] * len(job["timing"]), stop)
        assert not finished, f"all instructions were done before cycle {stop}"
        await bench.reset()
    await bench.run(job["timing"], job["gaps"])
    for i in range(job["count"]):
        await bench.load("act", job[f"act_{i}"])
        await bench.load("wgt", job[f"wgt_{i}"])
        await bench.run(job[f"words_{i}"], job[f"gaps_{i}"])
        save_result(**{f"values_{i}": await bench.captured(job[f"first_{i}"], job[f"results_{i}"])})
    save_result(cycles=bench.cycles, done=bench.done)
