"""A card that is a model: the registers of `hw/control/host.py` in front of the exact simulator, memory in arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from nmsat.dataflow.contract.isa import BEAT_BYTES, REGIONS, ErrorCode
from nmsat.dataflow.contract.limits import PAGE_BYTES
from nmsat.dataflow.contract.registers import (
    COUNTERS,
    Access,
    Command,
    Launch,
    Region,
    RegionFlag,
    Status,
    configuration,
    registers,
)
from nmsat.sim.sat import Sat

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nmsat.dataflow.contract.config import SatConfig
    from nmsat.dataflow.cycles.memory import MemoryTiming

BASE: Final = 1 << 32
"""Address of the first buffer: beyond 32 bits, so that the upper halves matter."""


class ModelBuffer:
    """Memory of the model, or of a bench behind the RTL."""

    def __init__(self, address: int, size: int) -> None:
        self.address = address
        self.data = np.zeros(size, np.uint8)

    def upload(self, data: NDArray[np.uint8]) -> None:
        """Copy bytes into it."""
        self.data[: data.size] = data

    def download(self, data: NDArray[np.uint8]) -> None:
        """Copy its bytes out."""
        data[:] = self.data[: data.size]

    def close(self) -> None:
        """Nothing is to be given back."""


class Model:
    """A link to the simulator. What the registers refuse is an OSError.

    A run ends in the moment in which it starts; one in which memory is given up stays on, and then the registers refuse
    what they refuse during a run.

    Parameters: config; timing: of the memory, by default that of `config`.
    """

    def __init__(self, config: SatConfig, timing: MemoryTiming | None = None) -> None:
        self._sat = Sat(config, timing)
        self._registers = registers(config.ports)
        self._names = {register.address: name for name, register in self._registers.items()}
        self._settings = {name: 0 for name, register in self._registers.items() if register.access is Access.SETTING}
        self._constants = configuration(config)
        self._results: dict[str, int] = dict.fromkeys(("error_code", "error_index", *COUNTERS), 0)
        self._status = Status.IDLE
        self._high = 0
        self._buffers: list[ModelBuffer] = []
        self._next = BASE

    def read(self, offset: int) -> int:
        """Return a register."""
        name = self._name(offset)
        if name in COUNTERS:
            self._high = self._results[name] >> 32
            return self._results[name] & 0xFFFFFFFF
        if name.removesuffix("_high") in COUNTERS:
            return self._high
        if name == "command":
            return 0
        if name == "status":
            return self._status
        return {**self._settings, **self._constants, **self._results}[name]

    def write(self, offset: int, value: int) -> None:
        """Write a register; a start carries the program out."""
        name = self._name(offset)
        register = self._registers[name]
        if register.access is Access.READ:
            raise OSError(f"register {name!r} at {offset:#x} is read only")
        if value & register.spare:
            raise OSError(f"register {name!r} is written with {value:#x}; bits {register.spare:#x} must be 0")
        if name == "status":
            self._status &= ~(value & Status.DONE)
        elif name == "command":
            if value & Command.RESET:
                self._status &= Status.IDLE  # a run that was given up waits for memory that never answers
            elif value & Command.START:
                self._check_idle(name)
                self._start()
        else:
            self._check_idle(name)
            self._settings[name] = value

    def buffer(self, size: int, port: int) -> ModelBuffer:
        """Return memory behind all that there is; a port reaches all of it."""
        del port
        made = ModelBuffer(self._next, size)
        self._next += -(-size // PAGE_BYTES) * PAGE_BYTES
        self._buffers.append(made)
        return made

    def _check_idle(self, name: str) -> None:
        if not self._status & Status.IDLE:
            raise OSError(f"register {name!r} is written while a run is on")

    def _name(self, offset: int) -> str:
        if offset not in self._names:
            raise OSError(f"there is no register at {offset:#x}")
        return self._names[offset]

    def _wide(self, name: str) -> int:
        return self._settings[name] + (self._settings[f"{name}_high"] << 32)

    def _start(self) -> None:
        placed: list[Region | None] = []
        arrays: list[NDArray[np.uint8]] = []
        for i in range(REGIONS):
            flags = self._settings[f"region{i}_flags"]
            port = self._settings.get(f"region{i}_port", 0)
            region = Region(self._wide(f"region{i}_base"), self._wide(f"region{i}_size"), bool(flags & 2), port)
            placed.append(region if flags & RegionFlag.OPEN else None)
            arrays.append(self._bytes(region) if flags & RegionFlag.OPEN else np.zeros(0, np.uint8))
        settings = self._settings
        at, count, watchdog = self._wide("program_at"), settings["program_count"], settings["watchdog"]
        launched = Launch(tuple(placed), settings["program_region"], at, count, watchdog)
        report = self._sat.run(launched, arrays)
        self._results = {"error_code": report.error, "error_index": report.error_index, **report.counters}
        self._status = Status.DONE | Status.ERROR * (report.error is not ErrorCode.NONE)
        self._status |= Status.IDLE * (not report.given_up)
        self._status |= Status.SPECIAL * report.special | Status.OVERFLOW * report.overflow

    def _bytes(self, region: Region) -> NDArray[np.uint8]:
        """Return the bytes of a region, a view of the buffer in which it lies; OSError if it lies in none."""
        size = region.size * BEAT_BYTES
        for buffer in self._buffers:
            at = region.base - buffer.address
            if at >= 0 and at + size <= buffer.data.size:
                return buffer.data[at : at + size]
        raise OSError(f"region at {region.base:#x}, {size} bytes, lies in no buffer")
