"""Bench of the array engine: products of a job, one after the other without reset, every result with its cycle.

The clock is driven here: all inputs change while it is low, all outputs are read just before it rises.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cocotb
import numpy as np
from cocotb.triggers import Timer

from nmsat.tb.run.jobs import load_job, save_result

if TYPE_CHECKING:
    from collections.abc import Sequence


class Driver:
    """One clock of the engine at a time."""

    def __init__(self, dut: Any) -> None:
        self.dut = dut
        self.cycle = 0

    async def tick(self) -> None:
        """Finish the cycle whose inputs have been set and settled."""
        self.dut.clk.value = 1
        await Timer(5, "ns")
        self.dut.clk.value = 0
        self.cycle += 1

    async def settle(self) -> None:
        """Let the outputs follow the inputs of this cycle."""
        await Timer(5, "ns")

    async def reset(self) -> None:
        """Reset for two cycles with all inputs idle."""
        for name in ("commands__valid", "act_load_en", "wgt_load_en"):
            getattr(self.dut, name).value = 0
        self.dut.clk.value = 0
        self.dut.rst.value = 1
        for _ in range(2):
            await self.settle()
            await self.tick()
        self.dut.rst.value = 0

    async def load(self, kind: str, words: np.ndarray, gaps: np.ndarray) -> None:
        """Write `words` (uint8[entries, bytes of all ports]) to all buffers of one kind, entry 0 first.

        gaps: int[entries], idle cycles in front of each write.
        """
        dut = self.dut
        enable, address, bus = (getattr(dut, f"{kind}_load_{part}") for part in ("en", "addr", "data"))
        everyone = (1 << len(enable)) - 1
        for i, (word, gap) in enumerate(zip(words, gaps.tolist(), strict=True)):
            enable.value = 0
            for _ in range(gap):
                await self.settle()
                await self.tick()
            enable.value = everyone
            address.value = i
            bus.value = int.from_bytes(word.tobytes(), "little")
            await self.settle()
            await self.tick()
        enable.value = 0

    async def run(self, commands: Sequence[int], gaps: Sequence[int], expected: int, limit: int) -> Collected:
        """Offer commands, each `gap` cycles after the one before was taken; collect `expected` results per column."""
        dut = self.dut
        found = Collected(len(dut.out_valid), self.cycle)
        at = 0
        wait = gaps[0]
        stop = self.cycle + limit
        while not found.complete(expected):
            if self.cycle > stop:
                raise AssertionError(f"{found.least()} of {expected} results per column after {limit} cycles")
            offered = at < len(commands) and wait == 0
            dut.commands__valid.value = int(offered)
            if offered:
                dut.commands__payload.value = commands[at]
            await self.settle()
            found.sample(dut, self.cycle)
            if offered and dut.commands__ready.value == 1:
                at += 1
                wait = gaps[at] if at < len(commands) else 0
            elif wait:
                wait -= 1
            await self.tick()
        return found


class Collected:
    """Results per column with the cycles in which they left, counted from the start of the first window."""

    def __init__(self, columns: int, cycle: int) -> None:
        self.start: int | None = None
        self.begin = cycle
        self.cycles: list[list[int]] = [[] for _ in range(columns)]
        self.values: list[list[int]] = [[] for _ in range(columns)]
        self.waits = [0] * 8

    def sample(self, dut: Any, cycle: int) -> None:
        """Note what stands at the outputs in this cycle."""
        if self.start is None and dut.token_valid.value == 1:
            self.start = cycle
        self.waits[int(dut.cause.value)] += 1
        valid = int(dut.out_valid.value)
        if not valid:
            return
        if self.start is None:
            raise AssertionError(f"a result left in cycle {cycle}, before any window started")
        word = dut.out_value.value
        # X stands in columns without a result; Amaranth's simulator has integers, without X
        known = isinstance(word, int) or word.is_resolvable
        bits: Any = int(word) if known else word
        for c in range(len(self.values)):
            if valid >> c & 1:
                self.cycles[c].append(cycle - self.start)
                at = 32 * c
                self.values[c].append(bits >> at & 0xFFFFFFFF if known else int(bits[at + 31 : at]))

    def least(self) -> int:
        """Fewest results any column gave."""
        return min(len(column) for column in self.values)

    def complete(self, expected: int) -> bool:
        """Whether every column gave what is expected; AssertionError if one gave more."""
        if any(len(column) > expected for column in self.values):
            raise AssertionError(f"a column gave more than {expected} results")
        return self.least() == expected


@cocotb.test()
async def products(dut: Any) -> None:
    """Run the products of the job and answer results and cycles of each."""
    job = load_job()
    driver = Driver(dut)
    await driver.reset()
    for i in range(job["count"]):
        part = {name: job[f"{name}_{i}"] for name in ("act", "wgt", "act_gaps", "wgt_gaps", "commands", "gaps")}
        await driver.load("act", part["act"], part["act_gaps"])
        await driver.load("wgt", part["wgt"], part["wgt_gaps"])
        if job[f"abort_{i}"]:
            await _abort(driver, part["commands"], int(job[f"abort_{i}"]))
            continue
        found = await driver.run(
            part["commands"].tolist(), part["gaps"].tolist(), int(job[f"expected_{i}"]), int(job[f"limit_{i}"])
        )
        save_result(
            **{
                f"cycles_{i}": np.array(found.cycles),
                f"values_{i}": np.array(found.values, np.uint32),
                f"waits_{i}": np.array(found.waits),
            }
        )


async def _abort(driver: Driver, commands: np.ndarray, cycles: int) -> None:
    """Start commands and reset the engine after some cycles, in the middle of whatever it does."""
    dut = driver.dut
    at = 0
    for _ in range(cycles):
        dut.commands__valid.value = int(at < len(commands))
        if at < len(commands):
            dut.commands__payload.value = int(commands[at])
        await driver.settle()
        if at < len(commands) and dut.commands__ready.value == 1:
            at += 1
        await driver.tick()
    await driver.reset()
