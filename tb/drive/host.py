"""Bench of the whole machine: what a host does, inside a simulation of the RTL."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any, Final

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import RisingEdge, with_timeout

from nmsat.dataflow.contract.isa import ErrorCode
from nmsat.dataflow.contract.registers import COUNTERS, Command, Status
from nmsat.dataflow.cycles.memory import memory_timing
from nmsat.hw.memory.axi import master
from nmsat.sim.sat import Report
from nmsat.tb.drive.axi_lite import Lite
from nmsat.tb.drive.axi_memory import ModelMemory, Space, random_memory
from nmsat.tb.drive.protocol import Axi4, AxiLite, watch

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from nmsat.dataflow.contract.config import SatConfig
    from nmsat.dataflow.contract.registers import Launch
    from nmsat.dataflow.cycles.memory import MemoryTiming

PERIOD_NS: Final = 10
LIMIT: Final = 50_000_000
"""Cycles after which a run is given up."""


class Machine:
    """The RTL behind its AXI ports, all held to the rules of their bus (`tb.drive.protocol`).

    Parameters: dut: a model of `hw.sat.Sat`; pauses: None for the memory of the simulator, else the share of paused
    cycles of a random memory; seed: of the random memory; timing: of the other, by default as configured. Call `start`
    first.
    """

    def __init__(
        self,
        dut: Any,
        config: SatConfig,
        *,
        pauses: float | None = None,
        seed: int = 0,
        timing: MemoryTiming | None = None,
    ) -> None:
        self.dut = dut
        self.config = config
        self._pauses = pauses
        self._seed = seed
        self._timing = timing or memory_timing(config)
        self._spaces = [Space(port) for port in range(config.ports)]
        self._loaded: dict[str, int] = {}
        self._buses: dict[str, Axi4 | AxiLite] = {
            f"{master(port)}_": Axi4(bits=config.port_bits) for port in range(config.ports)
        }
        self._buses["s_axi_control_"] = AxiLite()
        self._lite: Lite

    async def start(self) -> None:
        """Start clock and memory, leave reset."""
        dut = self.dut
        dut.rst.value = 1
        Clock(dut.clk, PERIOD_NS, "ns").start()
        self._lite = Lite(dut, dut.clk)
        timing, rng = self._timing, random.Random(self._seed)
        for port, space in enumerate(self._spaces):
            if self._pauses is None:
                cocotb.start_soon(ModelMemory(dut, dut.clk, timing, space, master(port)).run())
            else:
                random_memory(dut, dut.clk, space, rng, self._pauses, master(port))
        for _ in range(3):
            await RisingEdge(dut.clk)
        for prefix, bus in self._buses.items():
            cocotb.start_soon(watch(dut, prefix, bus))
        dut.rst.value = 0
        await RisingEdge(dut.clk)
        await self._lite.write("interrupt", 1)

    @property
    def registers(self) -> Lite:
        """Access to the registers."""
        return self._lite

    def open(
        self, settings: Launch, regions: Sequence[NDArray[np.uint8]], faults: frozenset[int] = frozenset()
    ) -> None:
        """Put the arrays of the regions in place; faults: as of `Space.open`."""
        for space in self._spaces:
            space.open(settings, regions, faults)

    async def run(
        self,
        settings: Launch,
        regions: Sequence[NDArray[np.uint8]],
        faults: frozenset[int] = frozenset(),
        *,
        limit: int = LIMIT,
    ) -> Report:
        """Run a program to its end and return what the registers say; the arrays of the regions change in place."""
        await self.begin(settings, regions, faults)
        await with_timeout(RisingEdge(self.dut.interrupt), limit * PERIOD_NS, "ns")
        return await self.report()

    async def begin(
        self, settings: Launch, regions: Sequence[NDArray[np.uint8]], faults: frozenset[int] = frozenset()
    ) -> None:
        """Set registers that differ from the run before, and start."""
        self.open(settings, regions, faults)
        for name, value in settings.writes(self.config.ports).items():
            if self._loaded.get(name) != value:
                await self._lite.write(name, value)
                self._loaded[name] = value
        await self._lite.write("command", Command.START)

    def forget(self) -> None:
        """Write all registers again before the next run."""
        self._loaded = {}

    async def report(self) -> Report:
        """Return what the registers say about the last run."""
        for space in self._spaces:
            assert space.wrong is None, space.wrong
        for _ in range(3):  # counters lag
            await RisingEdge(self.dut.clk)
        read = self._lite.read
        status = await read("status")
        while status & Status.DONE and not status & Status.IDLE:  # it has given memory up, which answers later
            status = await read("status")
        for bus in self._buses.values():
            bus.finish()
        assert status & Status.DONE, f"status is {status:#x} after the interrupt"
        code, index = ErrorCode(await read("error_code")), await read("error_index")
        assert bool(status & Status.ERROR) == (code is not ErrorCode.NONE), f"status {status:#x}, code {code!r}"
        counters = {name: await read(name) + (await read(f"{name}_high") << 32) for name in COUNTERS}
        await self._lite.write("status", Status.DONE)
        return Report(counters, code, index, bool(status & Status.SPECIAL), bool(status & Status.OVERFLOW))
