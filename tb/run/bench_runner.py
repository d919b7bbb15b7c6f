"""Bench of the runner itself: a small accumulator (tests/tb/test_runner.py) and what must be reported about it."""

from __future__ import annotations

from typing import Any

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import RisingEdge, Timer

from nmsat.tb.run.jobs import load_job, save_result


async def _start(dut: Any) -> None:
    cocotb.start_soon(Clock(dut.clk, 10, "ns").start())
    dut.rst.value = 1
    dut.enable.value = 0
    await RisingEdge(dut.clk)
    dut.rst.value = 0
    dut.enable.value = 1


@cocotb.test()
async def accumulate(dut: Any) -> None:
    """Add the values of the job and answer the sums."""
    job = load_job()
    await _start(dut)
    totals: list[int] = []
    for value in job["values"].tolist():
        dut.value.value = value
        await RisingEdge(dut.clk)
        await Timer(1, "ns")
        totals.append(int(dut.total.value))
    save_result(totals=totals, scale=job["scale"])
    save_result(values=job["values"])


@cocotb.test()
async def wrong(dut: Any) -> None:
    """Fail, with a text that names both values."""
    await _start(dut)
    await RisingEdge(dut.clk)
    assert int(dut.total.value) == 77, f"total is {int(dut.total.value)}, expected 77"


@cocotb.test()
async def hidden(dut: Any) -> None:
    """Answer whether a signal below the ports is visible, and the seed."""
    await _start(dut)
    save_result(visible=hasattr(dut, "doubled"), seed=cocotb.RANDOM_SEED)


@cocotb.test()
async def endless(dut: Any) -> None:
    """Run for ever."""
    await _start(dut)
    while True:
        await RisingEdge(dut.clk)
