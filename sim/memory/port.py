"""Bursts, and what both memory ports share cycle by cycle (hw/memory/port.py), without data."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from nmsat.dataflow.contract.config import UNDER_WAY
from nmsat.dataflow.contract.isa import ErrorCode
from nmsat.dataflow.contract.limits import PORT_PLACES
from nmsat.sim.parts.state import Key, Registers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nmsat.dataflow.contract.registers import Region


@dataclass(frozen=True)
class Burst:
    """A burst: region, first beat in it, beats (1 to 16)."""

    region: int
    offset: int
    beats: int


def violates(burst: Burst, regions: Sequence[Region | None], *, write: bool) -> bool:
    """Return whether a burst lies outside its region or lacks the right to write."""
    region = regions[burst.region] if burst.region < len(regions) else None
    if region is None or (write and not region.writable):
        return True
    return burst.offset + burst.beats > region.size


class AxiPort(Registers):
    """Registers of `hw.memory.port.arbitrate`.

    clients: how many; write: bursts need the right to write; code: of an error that memory answers. address: the burst
    on the address channel, None without; told: who is told of an answer in the present cycle, -1 for nobody; error:
    (code, client) shown in the present cycle; gives_up: memory is given up, beside an error. In every cycle `take` and
    `choose` come first, in any order, then `tick`. watchdog: cycles in which memory may move nothing of what it owes;
    0: any number.
    """

    REGISTERS: ClassVar[tuple[str, ...]] = ("_waiting", "_failed", "told", "_left")

    def __init__(
        self, clients: int, regions: Sequence[Region | None], code: ErrorCode, watchdog: int, *, write: bool
    ) -> None:
        self._regions = regions
        self._code = code
        self._write = write
        self._asked: list[deque[tuple[Burst, bool]]] = [deque() for _ in range(clients)]  # and whether it violates
        self._entering: list[tuple[int, Burst]] = []
        self._waiting: deque[int] = deque()
        self._failed = False
        self._watchdog = self._left = watchdog
        self._taken: tuple[int, Burst] | None = None
        self._violation = -1
        self.held = 0
        self.address: Burst | None = None
        self.told = -1
        self.error: tuple[ErrorCode, int] | None = None
        self.gives_up = False

    def key(self) -> Key:
        """Return the state without addresses, of a port that shows no error."""
        asked = tuple([tuple([(burst.beats, wrong) for burst, wrong in queue]) for queue in self._asked])
        return (*super().key(), self.address.beats if self.address is not None else 0, asked if self.held else None)

    def restore(self, key: Key) -> None:
        """Return to a state that `key` gave."""
        super().restore(key[:-2])
        self.address = Burst(0, 0, key[-2]) if key[-2] else None
        for client, queue in enumerate(self._asked):
            queue.clear()
            if key[-1] is not None:
                queue.extend([(Burst(0, 0, beats), wrong) for beats, wrong in key[-1][client]])
        self.held = sum([len(queue) for queue in self._asked])

    @property
    def idle(self) -> bool:
        """Nothing is under way."""
        return self.address is None and not self._waiting and self.told < 0

    def ready(self, client: int) -> bool:
        """Whether a burst of a client is taken in this cycle."""
        return len(self._asked[client]) < PORT_PLACES

    def take(self, requests: Sequence[Burst | None]) -> int:
        """Return the clients whose bursts are taken in this cycle, as bits. requests: what each asks for."""
        taken = 0
        for client, burst in enumerate(requests):
            if burst is not None and len(self._asked[client]) < PORT_PLACES:
                self._entering.append((client, burst))
                taken |= 1 << client
        return taken

    def choose(self, ready: bool, halt: bool) -> int:
        """Return the client whose burst leaves in this cycle, -1 for none. ready: of the address channel."""
        if not self.held or halt or self._failed or (self.address is not None and not ready):
            return -1
        if len(self._waiting) == UNDER_WAY:
            return -1
        for client, queue in enumerate(self._asked):
            if queue:
                burst, wrong = queue[0]
                if wrong:
                    self._violation = client
                    return -1
                self._taken = (client, burst)
                return client
        return -1

    def _end(self, ready: bool, answered: bool, last: bool, fault: bool, moves: bool = False) -> None:
        """End the cycle; answered, last, fault: memory answers, for the last time to its burst, with an error.

        moves: something was taken that is neither address nor answer.
        """
        self.error = None
        self.gives_up = False
        if self._watchdog:
            self._watch(moves or answered or (ready and self.address is not None))
        if self._violation >= 0:
            self.error = (ErrorCode.REGION, self._violation)
            self._failed = True
            self._violation = -1
        self.told = -1
        if answered:
            self.told = self._waiting[0]
            if fault:
                self.error = (self._code, self.told)
                self._failed = True
            if last:
                self._waiting.popleft()
        if self._taken is not None:
            client, self.address = self._taken
            self._asked[client].popleft()
            self.held -= 1
            self._waiting.append(client)
            self._taken = None
        elif ready:
            self.address = None
        if self._entering:
            for client, burst in self._entering:
                self._asked[client].append((burst, violates(burst, self._regions, write=self._write)))
            self.held += len(self._entering)
            self._entering.clear()

    def _watch(self, moves: bool) -> None:
        """Tell if memory has moved nothing for too long."""
        if moves or not self._waiting:
            self._left = self._watchdog
        elif self._left:
            self._left -= 1
            if not self._left:
                self.error = (ErrorCode.TIMEOUT, self._waiting[0])
                self._failed = self.gives_up = True
