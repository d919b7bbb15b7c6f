"""The driver of a card: runs programs as `sim.sat.Sat` does, through registers and buffers of a link.

card = Card(preset("vcu1525"), link)         # link: sim.card.model, sim.card.xrt, sim.card.pynq, or a bench's
report = card.run(settings, regions)         # regions change in place, counters are those of the card
"""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final, Protocol

from nmsat.dataflow.contract.isa import ErrorCode
from nmsat.dataflow.contract.registers import (
    COUNTERS,
    Command,
    Launch,
    Status,
    configuration,
    registers,
)
from nmsat.sim.results.report import ProgramRun
from nmsat.sim.sat import Report, launch

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from nmsat.dataflow.contract.config import SatConfig
    from nmsat.dataflow.program.tensors import Image, Place

_LOG: Final = logging.getLogger("nmsat.sim")

TIMEOUT_SECONDS: Final = 60.0
"""Time after which a run is given up."""

RESET_SECONDS: Final = 1.0
"""Time after which a reset has not helped: what is on the bus ends in microseconds where memory answers."""

POLL_SECONDS: Final = 50e-6
"""Time between two looks at the status."""


class Buffer(Protocol):
    """Memory of a card. address: of its first byte as the machine sees it, a multiple of 4096."""

    address: int

    def upload(self, data: NDArray[np.uint8]) -> None:
        """Copy bytes to the card, from the start of the buffer."""
        ...

    def download(self, data: NDArray[np.uint8]) -> None:
        """Fill an array with the bytes of the card, from the start of the buffer."""
        ...

    def close(self) -> None:
        """Give the memory back."""
        ...


class Link(Protocol):
    """A way to a card: its registers by byte offset, and memory that the machine reaches."""

    def read(self, offset: int) -> int:
        """Return a register; OSError if the card refuses."""
        ...

    def write(self, offset: int, value: int) -> None:
        """Write a register; OSError if the card refuses."""
        ...

    def buffer(self, size: int, port: int) -> Buffer:
        """Return `size` bytes of the memory behind a port; MemoryError if the card has no room."""
        ...


class CardError(RuntimeError):
    """The card is not the machine that it should be, or a run on it has not ended as it should."""


class Card:
    """A machine behind a link, with the interface of `sim.sat.Sat`.

    Parameters: config: of the machine that the card should hold; link; timeout_s: time that a run may take.
    Raises CardError unless the card's registers say that it is this machine.
    """

    def __init__(self, config: SatConfig, link: Link, timeout_s: float = TIMEOUT_SECONDS) -> None:
        self.config = config
        self.reports: list[Report] = []
        self._link = link
        self._timeout_s = timeout_s
        self._registers = registers(config.ports)
        self._buffers: dict[int, tuple[int, int, Buffer]] = {}
        self._written: dict[str, int] = {}
        for name, wanted in configuration(config).items():
            found = self.read(name)
            if found != wanted:
                raise CardError(
                    f"register {name!r} of the card is {found!r}; configuration {config.name!r} has {wanted!r}; "
                    "name the configuration that the card was built from"
                )

    def check(self, machine: Mapping[str, int]) -> None:
        """Raise CardError unless the card is the machine of a launch: `machine` of launch.json, register -> value."""
        mine = configuration(self.config)
        for name, wanted in machine.items():
            if mine.get(name) != wanted:
                raise CardError(
                    f"the launch is for a machine with {name} {wanted!r}; the card, configuration "
                    f"{self.config.name!r}, has {mine.get(name, 'no such register')!r}; write it for this machine "
                    "(nmsat program --config)"
                )

    def read(self, name: str) -> int:
        """Return a register by name."""
        return self._link.read(self._registers[name].address)

    def write(self, name: str, value: int) -> None:
        """Write a register by name."""
        self._link.write(self._registers[name].address, value)

    def run(self, settings: Launch, regions: list[NDArray[np.uint8]]) -> Report:
        """Run the program in the regions and change them as the machine does; their addresses are the card's.

        A card that still runs, as after a host that was killed, is reset first: it would drop settings and start, and
        answer with the end of the other run. Raises CardError if that does not help, for memory does not answer; and
        if the run does not end in time: the machine is reset then.
        """
        settings.check_ports(self.config.ports)
        self._settle()
        placed = self._place(settings, regions)
        for name, value in placed.writes(self.config.ports).items():
            if self._written.get(name) != value:
                self.write(name, value)
                self._written[name] = value
        self.write("command", Command.START)
        self._wait()
        report = self._report()
        for number, region in enumerate(placed.regions):
            if region is not None and region.writable:
                self._buffers[number][2].download(regions[number])
        self.reports.append(report)
        return report

    def run_program(self, image: Image, program: Place) -> ProgramRun:
        """Run a program in the image (`sim.work.training.ProgramRunner`); CardError if it ends in an error."""
        report = self.run(launch(image.regions, program, ports=self.config.ports), image.regions)
        if report.error is not ErrorCode.NONE:
            raise CardError(f"program {program.name!r} ended in {report.error.name} at {report.error_index}")
        return ProgramRun(report.cycles, report.special, report.counters)

    def close(self) -> None:
        """Give all memory of the card back."""
        for _, _, buffer in self._buffers.values():
            buffer.close()
        self._buffers.clear()

    def _settle(self) -> None:
        """Before anything is written: end what is under way, if anything is."""
        if self.read("status") & Status.IDLE:
            return
        _LOG.warning("the card still runs what another host has started; it is reset")
        self.write("command", Command.RESET)
        limit = time.monotonic() + min(RESET_SECONDS, self._timeout_s)
        while not self.read("status") & Status.IDLE:
            if time.monotonic() > limit:
                raise CardError("the card still waits for its memory after a reset; load it anew")
            time.sleep(POLL_SECONDS)

    def _place(self, settings: Launch, regions: Sequence[NDArray[np.uint8]]) -> Launch:
        """Copy the regions to the card and return the launch with their addresses there."""
        placed = []
        for number, region in enumerate(settings.regions):
            if region is None:
                placed.append(None)
                continue
            size, port, buffer = self._buffers.get(number, (0, 0, None))
            if buffer is None or size < regions[number].size or port != region.port:
                if buffer is not None:
                    buffer.close()
                buffer = self._link.buffer(regions[number].size, region.port)
                self._buffers[number] = regions[number].size, region.port, buffer
            buffer.upload(regions[number])
            placed.append(replace(region, base=buffer.address))
        return replace(settings, regions=tuple(placed))

    def _wait(self) -> None:
        limit = time.monotonic() + self._timeout_s
        while not self.read("status") & Status.DONE:
            if time.monotonic() > limit:
                self.write("command", Command.RESET)
                raise CardError(f"the program has not ended within {self._timeout_s!r} s; the machine was reset")
            time.sleep(POLL_SECONDS)

    def _report(self) -> Report:
        status, code, index = self.read("status"), ErrorCode(self.read("error_code")), self.read("error_index")
        counters = {name: self.read(name) + (self.read(f"{name}_high") << 32) for name in COUNTERS}
        self.write("status", Status.DONE)
        flags = [bool(status & flag) for flag in (Status.SPECIAL, Status.OVERFLOW)]
        return Report(counters, code, index, *flags, given_up=not status & Status.IDLE)
