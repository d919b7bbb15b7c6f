"""SAT with values: `sim.run` steps time, cycle by cycle; `sim.values` carries out an instruction when it is done."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from nmsat.dataflow.contract.isa import BEAT_BYTES, ErrorCode
from nmsat.dataflow.contract.legal import check_machine
from nmsat.dataflow.contract.limits import PAGE_BYTES
from nmsat.dataflow.contract.registers import Launch, Region, port_of
from nmsat.dataflow.cycles.memory import memory_timing
from nmsat.sim import run as plain_run
from nmsat.sim.compiled import twin
from nmsat.sim.control.fetch import Words
from nmsat.sim.parts.outcome import Machine, Report
from nmsat.sim.results.report import ProgramRun
from nmsat.sim.values import State, execute

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from nmsat.dataflow.contract.config import SatConfig
    from nmsat.dataflow.contract.isa import Instruction
    from nmsat.dataflow.cycles.memory import MemoryTiming
    from nmsat.dataflow.program.tensors import Image, Place
    from nmsat.sim.run import Run

__all__ = ["LIMIT", "Report", "Sat", "launch", "program_words"]

LIMIT: Final = 1 << 32
"""Cycles after which a run of the model is given up."""


def launch(regions: Sequence[NDArray[np.uint8]], program: Place, *, base: int = 0, ports: int = 1) -> Launch:
    """Return what the host sets to run `program`: regions one behind the other from address `base` on.

    SAT may write all but the region of the program. ports: of the machine; each region lies behind one of them.
    """
    placed: list[Region | None] = []
    for number, region in enumerate(regions):
        port = port_of(number, ports)
        placed.append(Region(base, region.size // BEAT_BYTES, number != program.region, port))
        base += -(-region.size // PAGE_BYTES) * PAGE_BYTES
    return Launch(tuple(placed), program.region, program.at, program.beats)


def program_words(regions: Sequence[NDArray[np.uint8]], settings: Launch) -> list[int]:
    """Return the instruction words of a program as they stand in memory; those outside its region are left out."""
    if settings.program_region >= len(regions):
        return []
    start = settings.program_at * BEAT_BYTES
    part = regions[settings.program_region][start : start + settings.program_count * BEAT_BYTES]
    data = part[: part.size // BEAT_BYTES * BEAT_BYTES].tobytes()
    return [int.from_bytes(data[i : i + BEAT_BYTES], "little") for i in range(0, len(data), BEAT_BYTES)]


class Sat:
    """The whole machine.

    Parameters: config; timing: of the memory behind each master, by default that of `config`; faults: beats (addresses
    divided by 64) that memory answers with an error.
    """

    def __init__(
        self, config: SatConfig, timing: MemoryTiming | None = None, faults: frozenset[int] = frozenset()
    ) -> None:
        check_machine(config)
        self.config = config
        self.timing = timing or memory_timing(config)
        if self.timing.parts != config.parts:
            raise ValueError(
                f"timing.parts is {self.timing.parts!r}; "
                f"a port of {config.port_bits} bits moves a beat in {config.parts}"
            )
        self.faults = faults
        self.reports: list[Report] = []

    def run(self, settings: Launch, regions: list[NDArray[np.uint8]], *, limit: int = LIMIT) -> Report:
        """Run the program in the regions and change them as the machine does. RuntimeError after `limit` cycles."""
        state = State(self.config, regions)
        found = self.time(settings, program_words(regions, settings), lambda word: execute(word, state), limit=limit)
        return replace(found, special=state.special, overflow=state.overflow)

    def time(
        self,
        settings: Launch,
        words: Sequence[int],
        done: Callable[[Instruction], object] | None = None,
        *,
        limit: int = LIMIT,
    ) -> Report:
        """Run a program without values; done: called with each instruction when it is done."""
        run = self.start(settings, words)
        while not run.over:
            run.rest()
            for instruction in run.cycle():
                if done is not None:
                    done(instruction)
            if run.cycles > limit:
                raise RuntimeError(f"the program has not ended after {limit} cycles")
        report = run.report()
        self.reports.append(report)
        return report

    def start(self, settings: Launch, words: Sequence[int]) -> Run:
        """Return a run of a program before its first cycle, without values."""
        return twin(plain_run).Run(Machine(self.config, self.timing, self.faults), settings, Words(self.config, words))

    def run_program(self, image: Image, program: Place) -> ProgramRun:
        """Run a program in the image (`sim.work.training.ProgramRunner`); RuntimeError if it ends in an error."""
        report = self.run(launch(image.regions, program, ports=self.config.ports), image.regions)
        if report.error is not ErrorCode.NONE:
            raise RuntimeError(f"program {program.name!r} ended in {report.error.name} at {report.error_index}")
        return ProgramRun(report.cycles, report.special, report.counters)
