"""A link to a Zynq board with PYNQ: the overlay of `xilinx/zynq.tcl`, in which the machine is called `sat`."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

CELL: Final = "sat"
"""Name of the machine in the overlay."""


class PynqBuffer:
    """Contiguous memory from `pynq.allocate`."""

    def __init__(self, memory: Any) -> None:
        self._memory = memory
        self.address = int(memory.device_address)

    def upload(self, data: NDArray[np.uint8]) -> None:
        """Copy bytes and write them out of the cache."""
        self._memory[: data.size] = data
        self._memory.sync_to_device()

    def download(self, data: NDArray[np.uint8]) -> None:
        """Copy bytes as memory holds them."""
        self._memory.sync_from_device()
        data[:] = self._memory[: data.size]

    def close(self) -> None:
        """Give the memory back."""
        self._memory.freebuffer()


class Pynq:
    """A link to a board. image: the bitstream, with its .hwh beside it. ImportError without the package pynq."""

    def __init__(self, image: Path) -> None:
        self._pynq: Any = import_module("pynq")
        self._registers: Any = getattr(self._pynq.Overlay(str(image)), CELL)

    def read(self, offset: int) -> int:
        """Return a register."""
        return int(self._registers.read(offset))

    def write(self, offset: int, value: int) -> None:
        """Write a register."""
        self._registers.write(offset, value)

    def buffer(self, size: int, port: int) -> PynqBuffer:
        """Return contiguous memory; pages are its unit. ValueError unless port is 0: the overlay has one."""
        if port:
            raise ValueError(f"port is {port!r}; the overlay of a Zynq board has one, 0")
        return PynqBuffer(self._pynq.allocate(shape=(size,), dtype=np.uint8))
