"""Register accesses of the host through AXI4-Lite, one at a time."""

from __future__ import annotations

from typing import Any, Final

from cocotb.triggers import RisingEdge

from nmsat.dataflow.contract.ranges import MAX_PORTS
from nmsat.dataflow.contract.registers import registers

OKAY: Final = 0

_REGISTERS: Final = registers(MAX_PORTS)
"""Those of every machine, and those of machines with several masters."""


class Lite:
    """Driver of the slave `s_axi_control`. Inputs change behind a rising edge; outputs are read at one."""

    def __init__(self, dut: Any, clock: Any) -> None:
        self._dut = dut
        self._edge = RisingEdge(clock)
        for name in ("awvalid", "wvalid", "arvalid", "bready", "rready"):
            self._drive(name, 0)

    async def write(self, name: str, value: int) -> None:
        """Write a register by name; AssertionError if the machine refuses."""
        response = await self.write_word(_REGISTERS[name].address, value)
        assert response == OKAY, f"writing {value:#x} to {name!r} was answered with {response}"

    async def read(self, name: str) -> int:
        """Read a register by name; AssertionError if the machine refuses."""
        value, response = await self.read_word(_REGISTERS[name].address)
        assert response == OKAY, f"reading {name!r} was answered with {response}"
        return value

    async def write_word(self, address: int, value: int, strobe: int = 15) -> int:
        """Write 32 bits and return the response."""
        for name, bits in (("awaddr", address), ("wdata", value), ("wstrb", strobe), ("awvalid", 1), ("wvalid", 1)):
            self._drive(name, bits)
        waiting = {"aw", "w"}
        while waiting:
            await self._edge
            for channel in list(waiting):
                if self._get(f"{channel}ready"):
                    self._drive(f"{channel}valid", 0)
                    waiting.remove(channel)
        return await self._response("b", ("bresp",))

    async def read_word(self, address: int) -> tuple[int, int]:
        """Read 32 bits and return them with the response."""
        self._drive("araddr", address)
        self._drive("arvalid", 1)
        await self._edge
        while not self._get("arready"):
            await self._edge
        self._drive("arvalid", 0)
        word = await self._response("r", ("rdata", "rresp"))
        return word & 0xFFFFFFFF, word >> 32

    async def _response(self, channel: str, names: tuple[str, ...]) -> int:
        """Take the answer on a channel; return its signals side by side, 32 bits each."""
        self._drive(f"{channel}ready", 1)
        await self._edge
        while not self._get(f"{channel}valid"):
            await self._edge
        word = sum(self._get(name) << 32 * i for i, name in enumerate(names))
        self._drive(f"{channel}ready", 0)
        return word

    def _get(self, name: str) -> int:
        return int(getattr(self._dut, f"s_axi_control_{name}").value)

    def _drive(self, name: str, value: int) -> None:
        getattr(self._dut, f"s_axi_control_{name}").value = value
