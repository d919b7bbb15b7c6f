"""The write side of the memory port cycle by cycle (hw/memory/write_port.py), without data."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from nmsat.dataflow.contract.isa import ErrorCode
from nmsat.dataflow.contract.limits import PORT_PLACES, WRITERS
from nmsat.sim.memory.port import AxiPort

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nmsat.dataflow.contract.registers import Region


class WritePort(AxiPort):
    """Registers of `hw.memory.write_port.WritePort`; who is `told` has one burst more in memory."""

    REGISTERS = (*AxiPort.REGISTERS, "_order", "_number", "_pulled")

    def __init__(self, regions: Sequence[Region | None], watchdog: int = 0) -> None:
        super().__init__(len(WRITERS), regions, ErrorCode.WRITE, watchdog, write=True)
        self._order: deque[tuple[int, int]] = deque()
        self._number = 0
        self._pulled: deque[bool] = deque()

    @property
    def active(self) -> bool:
        """Whether a cycle changes anything even if no burst is taken in it."""
        if self._order or self._pulled or self.held:
            return True
        return not self.idle or self.error is not None or self._violation >= 0

    @property
    def client(self) -> int:
        """Whose beat is pulled in this cycle, -1 for nobody's."""
        return self._order[0][0] if self._order and len(self._pulled) < PORT_PLACES else -1

    @property
    def valid(self) -> bool:
        """Whether a beat stands on W."""
        return bool(self._pulled)

    @property
    def last(self) -> bool:
        """Whether the beat on W is the last of its burst."""
        return bool(self._pulled) and self._pulled[0]

    def tick(self, ready: bool, taken: bool, answered: bool, fault: bool, part: bool = False) -> None:
        """End the cycle. ready: `awready`; taken: a beat left on W; answered, fault: an answer on B, an error; part:
        one of a beat that has not left as a whole."""
        pulls = self.client >= 0
        if taken:
            self._pulled.popleft()
        if pulls:
            self._number += 1
            last = self._number == self._order[0][1]
            self._pulled.append(last)
            if last:
                self._number = 0
                self._order.popleft()
        if self._taken is not None:
            client, burst = self._taken
            self._order.append((client, burst.beats))
        self._end(ready, answered, last=True, fault=fault, moves=taken or part)
