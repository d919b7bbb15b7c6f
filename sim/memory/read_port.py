"""The read side of the memory port cycle by cycle (hw/memory/read_port.py), without data."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nmsat.dataflow.contract.isa import ErrorCode
from nmsat.dataflow.contract.limits import READERS
from nmsat.sim.memory.port import AxiPort

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nmsat.dataflow.contract.registers import Region


class ReadPort(AxiPort):
    """Registers of `hw.memory.read_port.ReadPort`; who is `told` gets a beat."""

    def __init__(self, regions: Sequence[Region | None], watchdog: int = 0) -> None:
        super().__init__(len(READERS), regions, ErrorCode.READ, watchdog, write=False)

    def tick(self, ready: bool, arrives: bool, last: bool, fault: bool, part: bool = False) -> None:
        """End the cycle. ready: `arready`; arrives, last, fault: a beat on R, the last of its burst, an error; part:
        of a beat that is not yet whole."""
        self._end(ready, arrives, last, fault, moves=part)
