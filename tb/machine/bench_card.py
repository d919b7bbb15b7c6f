"""Bench of the driver of a card: `sim.card.driver` on the RTL of `sat_kernel`, through its AXI4-Lite slave.

Job: config, place (region, first beat, beats of the program), region0, region1, ...: memory before the run.
"""

from __future__ import annotations

from typing import Any, Final

import cocotb
from cocotb.task import bridge, resume
from cocotb.triggers import ClockCycles, First, RisingEdge

from nmsat.dataflow.contract.limits import PAGE_BYTES
from nmsat.dataflow.contract.registers import REGISTERS, Command, Launch, Region, Status
from nmsat.dataflow.program.tensors import Place
from nmsat.sim.card.driver import Card
from nmsat.sim.card.model import ModelBuffer
from nmsat.sim.sat import launch
from nmsat.tb.drive.host import Machine
from nmsat.tb.drive.kernel import Kernel
from nmsat.tb.machine.configs import machine_config
from nmsat.tb.run.jobs import load_job, save_result

BASE: Final = 1 << 34
"""Address of the first buffer: beyond 32 bits."""

REST: Final = 4096
"""Most cycles between two looks at the status of a run."""


class RtlLink:
    """A link to the RTL; to be called from a thread of `cocotb.bridge`."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._read = resume(machine.registers.read_word)
        self._write = resume(machine.registers.write_word)
        self._rest = resume(self._done)
        self._buffers: list[tuple[ModelBuffer, int]] = []
        self._next = BASE

    def read(self, offset: int) -> int:
        """Return a register; the status once it says that the run has ended, or after `REST` cycles.

        Time stands still in the RTL while a thread sleeps, so the driver's pauses between two looks are made here.
        """
        value, response = self._read(offset)
        if offset == REGISTERS["status"].address and not value & (Status.DONE | Status.IDLE):
            self._rest()
            value, response = self._read(offset)
        if response:
            raise OSError(f"reading {offset:#x} was answered with {response}")
        return value

    def write(self, offset: int, value: int) -> None:
        """Write a register; the memory is there when a run starts."""
        if offset == REGISTERS["command"].address and value & Command.START:
            regions = tuple(Region(b.address, b.data.size // 64, True, port) for b, port in self._buffers)
            self._machine.open(Launch(regions, 0, 0, 0), [b.data for b, _ in self._buffers])
        response = self._write(offset, value)
        if response:
            raise OSError(f"writing {offset:#x} was answered with {response}")

    async def _done(self) -> None:
        dut = self._machine.dut
        await First(RisingEdge(dut.interrupt), ClockCycles(dut.clk, REST))

    def buffer(self, size: int, port: int) -> ModelBuffer:
        """Return memory behind a port, behind all that there is."""
        made = ModelBuffer(self._next, size)
        self._next += -(-size // PAGE_BYTES) * PAGE_BYTES
        self._buffers.append((made, port))
        return made


@cocotb.test()
async def program(dut: Any) -> None:
    """One program in its memory, by the driver of a card."""
    job = load_job()
    config = machine_config(job["config"])
    machine = Machine(Kernel(dut), config)
    await machine.start()
    regions = [job[name] for name in sorted(name for name in job if name.startswith("region"))]
    region, at, beats = (int(value) for value in job["place"])

    def work() -> None:
        settings = launch(regions, Place("program", region, at, beats), ports=config.ports)
        report = Card(config, RtlLink(machine)).run(settings, regions)
        flags = {"error": int(report.error), "error_index": report.error_index}
        flags |= {"special": int(report.special), "overflow": int(report.overflow)}
        save_result(counters=report.counters, **flags, **{f"region{i}": data for i, data in enumerate(regions)})

    await bridge(work)()
