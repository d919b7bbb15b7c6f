"""Bench of `sat_kernel`: its reset in front of a master that begins at once, and a program through all its ports.

Job: config (name); for `program` also first and count, random jobs as in `tb.machine.bench_runs`.
"""

from __future__ import annotations

from typing import Any, Final

import cocotb
import numpy as np
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, RisingEdge, with_timeout

from nmsat.dataflow.contract.registers import VERSION, Command, Status
from nmsat.hw.release.kernel import AP_RESET_STAGES, INNER_MEMORY, outside
from nmsat.sim.sat import Sat
from nmsat.tb.drive.axi_lite import Lite
from nmsat.tb.drive.host import PERIOD_NS, Machine
from nmsat.tb.drive.kernel import Kernel
from nmsat.tb.machine.configs import dealt, machine_config
from nmsat.tb.machine.jobs import random_job
from nmsat.tb.run.jobs import load_job, save_result

RESET_CYCLES: Final = 16
"""Cycles of a reset, as many as AXI cores of Xilinx ask for."""

ANSWER_CYCLES: Final = 40
"""Cycles within which a register access must be answered."""


async def _answered(access: Any) -> Any:
    return await with_timeout(access, ANSWER_CYCLES * PERIOD_NS, "ns")


@cocotb.test()
async def reset(dut: Any) -> None:
    """In reset nothing is offered and nothing taken; an access in the first cycle after it is answered."""
    dut.ap_rst_n.value = 0
    Clock(dut.ap_clk, PERIOD_NS, "ns").start()
    lite = Lite(dut, dut.ap_clk)
    await ClockCycles(dut.ap_clk, RESET_CYCLES)
    for wait in range(AP_RESET_STAGES + 3):
        for name in ("awready", "wready", "arready", "bvalid", "rvalid"):
            assert int(getattr(dut, f"s_axi_control_{name}").value) == 0, f"{name} is high in reset"
        dut.ap_rst_n.value = 1
        await ClockCycles(dut.ap_clk, 1 + wait)
        await _answered(lite.write("interrupt", 1))
        assert await _answered(lite.read("version")) == VERSION
        assert await _answered(lite.read("interrupt")) == 1
        await _answered(lite.write("command", Command.START))
        await ClockCycles(dut.ap_clk, 20)
        assert not await _answered(lite.read("status")) & Status.IDLE, "no run has started"
        dut.ap_rst_n.value = 0
        await ClockCycles(dut.ap_clk, AP_RESET_STAGES + 1)
        for _ in range(RESET_CYCLES):
            await RisingEdge(dut.ap_clk)
            for name in ("arvalid", "awvalid", "wvalid"):
                assert int(getattr(dut, f"{outside(INNER_MEMORY + '_' + name)}").value) == 0, f"{name} in reset"
            assert int(dut.interrupt.value) == 0
    dut.ap_rst_n.value = 1
    assert await _answered(lite.read("status")) == Status.IDLE, "the reset has not ended the run"
    assert await _answered(lite.read("interrupt")) == 0, "the reset has not cleared the settings"


@cocotb.test()
async def program(dut: Any) -> None:
    """Random programs through the ports of the kernel: memory, cycles and counters of the simulator."""
    job = load_job()
    config = machine_config(job["config"])
    machine = Machine(Kernel(dut), config)
    await machine.start()
    model, cycles = Sat(config), 0
    for seed in range(int(job["first"]), int(job["first"]) + int(job["count"])):
        drawn, expected = random_job(config, seed), random_job(config, seed)
        report = model.run(dealt(config, seed, expected.image.regions, expected.place), expected.image.regions)
        found = await machine.run(dealt(config, seed, drawn.image.regions, drawn.place), drawn.image.regions)
        assert found == report, f"seed {seed}: {found}, the simulator says {report}"
        for mine, theirs in zip(drawn.image.regions, expected.image.regions, strict=True):
            assert np.array_equal(mine, theirs), f"seed {seed}: memory differs"
        cycles += found.cycles
    save_result(cycles=cycles)
