"""The write side of the memory port cycle by cycle (hw/memory/write_port.py), without data."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from nmsat.dataflow.contract.config import UNDER_WAY
from nmsat.dataflow.contract.isa import ErrorCode
from nmsat.sim.memory.read_port import Burst, violates
from nmsat.sim.parts.state import Key, Registers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nmsat.dataflow.contract.registers import Region


class WritePort(Registers):
    """Registers of `hw.memory.write_port.WritePort`.

    address: the burst on AW, None without; told: who is acknowledged in the present cycle, -1 for nobody; error: as in
    `sim.memory.read_port.ReadPort`. In every cycle `choose` comes first, then `tick`.
    """

    REGISTERS = ("_order", "_answers", "_number", "_failed", "told")

    def __init__(self, regions: Sequence[Region | None]) -> None:
        self._regions = regions
        self._order: deque[tuple[int, int]] = deque()
        self._answers: deque[int] = deque()
        self._number = 0
        self._failed = False
        self._taken: tuple[int, Burst] | None = None
        self._violation = -1
        self.address: Burst | None = None
        self.told = -1
        self.error: tuple[ErrorCode, int] | None = None

    def key(self) -> Key:
        """Return the state without addresses, of a port that shows no error."""
        return (*super().key(), self.address.beats if self.address is not None else 0)

    def restore(self, key: Key) -> None:
        """Return to a state that `key` gave."""
        super().restore(key[:-1])
        self.address = Burst(0, 0, key[-1]) if key[-1] else None

    @property
    def idle(self) -> bool:
        """Nothing is under way."""
        return self.address is None and not self._answers and self.told < 0

    @property
    def active(self) -> bool:
        """Whether a cycle changes anything even if no burst is chosen in it."""
        return bool(self._order) or not self.idle or self.error is not None or self._violation >= 0

    @property
    def client(self) -> int:
        """Whose beat stands on W, -1 for nobody's."""
        return self._order[0][0] if self._order else -1

    @property
    def last(self) -> bool:
        """Whether the beat on W is the last of its burst."""
        return bool(self._order) and self._number + 1 == self._order[0][1]

    def choose(self, requests: Sequence[Burst | None], ready: bool, halt: bool) -> int:
        """Return the client whose burst is accepted in this cycle, -1 for none. ready: `awready`."""
        if halt or self._failed or (self.address is not None and not ready) or len(self._answers) == UNDER_WAY:
            return -1
        for client, burst in enumerate(requests):
            if burst is not None:
                if violates(burst, self._regions, write=True):
                    self._violation = client
                    return -1
                self._taken = (client, burst)
                return client
        return -1

    def tick(self, ready: bool, taken: bool, answered: bool, fault: bool) -> None:
        """End the cycle. ready: `awready`; taken: a beat left on W; answered, fault: an answer on B, an error."""
        self.error = None
        if self._violation >= 0:
            self.error = (ErrorCode.REGION, self._violation)
            self._failed = True
            self._violation = -1
        self.told = -1
        if answered:
            self.told = self._answers.popleft()
            if fault:
                self.error = (ErrorCode.WRITE, self.told)
                self._failed = True
        if taken:
            self._number += 1
            if self._number == self._order[0][1]:
                self._number = 0
                self._order.popleft()
        if self._taken is not None:
            client, burst = self._taken
            self.address = burst
            self._order.append((client, burst.beats))
            self._answers.append(client)
            self._taken = None
        elif ready:
            self.address = None
