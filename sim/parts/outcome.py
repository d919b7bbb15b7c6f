"""What a run of the machine is of, and how it ended: the same classes for engines in Python and compiled ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nmsat.dataflow.contract.config import SatConfig
    from nmsat.dataflow.contract.isa import ErrorCode
    from nmsat.dataflow.cycles.memory import MemoryTiming


@dataclass(frozen=True)
class Report:
    """How a run ended. counters: by the names of `dataflow.contract.registers.COUNTERS`; error_index: instruction at
    fault; given_up: memory had not answered all that it was asked, so `idle` was low.
    """

    counters: dict[str, int]
    error: ErrorCode
    error_index: int
    special: bool
    overflow: bool
    given_up: bool = False

    @property
    def cycles(self) -> int:
        """From the first to the last cycle of the run."""
        return self.counters["cycles"]


@dataclass(frozen=True)
class Machine:
    """What a run is of. timing: of the memory behind each master; faults: beats (addresses divided by 64) that memory
    answers with an error."""

    config: SatConfig
    timing: MemoryTiming
    faults: frozenset[int] = frozenset()
