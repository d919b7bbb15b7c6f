"""What the simulator says of a program that may be damaged: how it ends, and what memory holds if that is defined."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nmsat.dataflow.contract.config import INTERLEAVE
from nmsat.dataflow.contract.isa import Compute, Opcode
from nmsat.dataflow.program.order import IllFormedError
from nmsat.dataflow.program.wellformed import check_words
from nmsat.sim.sat import Report, Sat, program_words
from nmsat.tb.machine.bins import carry_out, fresh_state

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nmsat.dataflow.contract.config import SatConfig
    from nmsat.dataflow.contract.isa import Instruction
    from nmsat.dataflow.contract.registers import Launch
    from nmsat.sim.values import State
    from nmsat.tb.machine.bins import Counted


@dataclass(frozen=True)
class Expected:
    """How a run must end.

    report: counters, error and, if memory is defined, flags; memory: the regions afterwards, None where the program is
    not well-formed, or where it reads pairs that are none (a place beyond M).
    """

    report: Report
    memory: list[NDArray[np.uint8]] | None


def expected(
    config: SatConfig, settings: Launch, regions: list[NDArray[np.uint8]], counted: Counted | None = None
) -> Expected:
    """Return what a run must do; the regions stay as they are; counted: takes the instructions that are carried out."""
    words = program_words(regions, settings)
    try:
        check_words(config, words, settings)
    except IllFormedError:

        def passed(instruction: Instruction) -> None:
            if counted is not None:
                counted.instruction(instruction, config, None)

        return Expected(Sat(config).time(settings, words, passed), None)
    state = fresh_state(config, [region.copy() for region in regions])
    carries_out = carry_out(counted, state)
    strange = False

    def done(instruction: Instruction) -> None:
        nonlocal strange
        strange = strange or (instruction.opcode is Opcode.COMPUTE and _strange(Compute.of(instruction), state))
        carries_out(instruction)

    found = Sat(config).time(settings, words, done)
    report = Report(found.counters, found.error, found.error_index, state.special, state.overflow)
    return Expected(report, None if strange else state.regions)


def difference(expected: Expected, found: Report, regions: list[NDArray[np.uint8]]) -> str:
    """Return in words where memory and flags after a run are not as expected, if they are defined; empty if nowhere."""
    if expected.memory is None:
        return ""
    for number, (mine, theirs) in enumerate(zip(regions, expected.memory, strict=True)):
        places = np.flatnonzero(mine != theirs)
        if places.size:
            return f"{places.size} bytes of region {number} differ, the first at {places[0]:#x}"
    flags = [(report.special, report.overflow) for report in (found, expected.report)]
    return "" if flags[0] == flags[1] else f"flags (special, overflow) are {flags[0]}, the simulator says {flags[1]}"


def _strange(f: Compute, state: State) -> bool:
    """Whether a command meets a pair whose place lies beyond M."""
    groups = state.config.rows if f.ws else f.windows
    part = slice(f.wgt_base, f.wgt_base + groups * f.n * (INTERLEAVE // f.a))
    return bool(((state.index[:, part] >= f.m) & ~state.filler[:, part]).any())
