"""Bench of a whole run by parts of others: memory and host of cocotbext-axi, who know the public register map only.

Job: registers: text of `sat_registers.py`, which a release brings; count: programs, and for each program i: memory_i_j
(bytes of region j, program among them), base_i (their addresses), writable_i, program_i (region, first beat,
instructions). Saves for each memory_i_j as the run has left it and status_i (status, code, index).
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import cocotb
import numpy as np
from cocotb.clock import Clock
from cocotb.triggers import RisingEdge, with_timeout
from cocotbext.axi import AxiBus, AxiLiteBus, AxiLiteMaster, AxiRam

from nmsat.tb.drive.protocol import Axi4, AxiLite, watch
from nmsat.tb.run.jobs import load_job, save_result

if TYPE_CHECKING:
    from collections.abc import Iterator

BEAT = 64
ADDRESSES = 1 << 62
"""As many as Python tells the length of."""

LIMIT = 400_000
"""Nanoseconds within which a program has ended."""


def _pauses(seed: int) -> Iterator[bool]:
    rng = random.Random(seed)
    while True:
        yield rng.random() < 0.2


class Host:
    """A host that knows names and addresses of registers."""

    def __init__(self, dut: Any, text: str) -> None:
        self._map: dict[str, int] = {}
        exec(text, self._map)  # what a release brings is a module
        bus: Any = AxiLiteBus.from_prefix(dut, "s_axi_control")
        self._master: Any = AxiLiteMaster(bus, dut.clk, dut.rst)

    def __getitem__(self, name: str) -> int:
        return self._map[name]

    async def write(self, name: str, value: int) -> None:
        """Write a register; one of 64 bits has an upper half of its own."""
        await self._master.write_dword(self._map[name], value & 0xFFFFFFFF)
        if f"{name}_HIGH" in self._map:
            await self._master.write_dword(self._map[f"{name}_HIGH"], value >> 32)

    async def read(self, name: str) -> int:
        """Read a register of 32 bits."""
        return await self._master.read_dword(self._map[name])


@cocotb.test()
async def programs(dut: Any) -> None:
    """Programs one after the other, without a reset in between, their regions anywhere."""
    job = load_job()
    dut.rst.value = 1
    Clock(dut.clk, 10, "ns").start()
    host = Host(dut, str(job["registers"]))
    bus: Any = AxiBus.from_prefix(dut, "m_axi")
    ram: Any = AxiRam(bus, dut.clk, dut.rst, size=ADDRESSES)
    for part in (ram.write_if, ram.read_if):
        part.log.setLevel("ERROR")
    channels = (ram.write_if.aw_channel, ram.write_if.w_channel, ram.read_if.ar_channel, ram.read_if.r_channel)
    for seed, channel in enumerate(channels):
        channel.set_pause_generator(_pauses(seed))
    for _ in range(4):
        await RisingEdge(dut.clk)
    rules: dict[str, Any] = {"m_axi_": Axi4(), "s_axi_control_": AxiLite()}
    for prefix, rule in rules.items():
        cocotb.start_soon(watch(dut, prefix, rule))
    dut.rst.value = 0
    await RisingEdge(dut.clk)
    assert await host.read("VERSION") == host["VERSION_VALUE"]
    await host.write("INTERRUPT", 1)
    saved: dict[str, Any] = {}
    for number in range(int(job["count"])):
        saved |= await _run(dut, host, ram, job, number)
        for rule in rules.values():
            rule.finish()
    save_result(**saved)


async def _run(dut: Any, host: Host, ram: Any, job: dict[str, Any], number: int) -> dict[str, Any]:
    """Run a program; return its memory and what the registers say."""
    bases = [int(base) for base in job[f"base_{number}"]]
    sizes = []
    for region, base in enumerate(bases):
        content = job[f"memory_{number}_{region}"].astype(np.uint8).tobytes()
        ram.write(base, content)
        sizes.append(len(content))
        await host.write(f"REGION{region}_BASE", base)
        await host.write(f"REGION{region}_SIZE", len(content) // BEAT)
        writable = host[f"REGION{region}_FLAGS_WRITABLE"] * int(job[f"writable_{number}"][region])
        await host.write(f"REGION{region}_FLAGS", host[f"REGION{region}_FLAGS_OPEN"] | writable)
    for name, value in zip(("REGION", "AT", "COUNT"), job[f"program_{number}"], strict=True):
        await host.write(f"PROGRAM_{name}", int(value))
    await host.write("COMMAND", host["COMMAND_START"])
    await with_timeout(RisingEdge(dut.interrupt), LIMIT, "ns")
    status = [await host.read(name) for name in ("STATUS", "ERROR_CODE", "ERROR_INDEX")]
    await host.write("STATUS", host["STATUS_DONE"])
    found = {f"status_{number}": np.array(status)}
    for region, (base, size) in enumerate(zip(bases, sizes, strict=True)):
        found[f"memory_{number}_{region}"] = np.frombuffer(bytes(ram.read(base, size)), np.uint8)
    return found
