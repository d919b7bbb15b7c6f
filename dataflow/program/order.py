"""Which instructions of a program are certainly done when another one starts (docs/machine/control.md).

Four queues, each in order; semaphores between them. A clock says for each queue how many of its instructions are done.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from nmsat.dataflow.contract.isa import QUEUE_OF, SEMAPHORE_MAX, SEMAPHORES, Queue
from nmsat.dataflow.contract.limits import QUEUE_DEPTH

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nmsat.dataflow.contract.isa import Instruction

Clock = tuple[int, ...]
"""Instructions that are done, by queue."""

START: Final[Clock] = (0,) * len(Queue)


@dataclass(frozen=True)
class Fault:
    """Why a program is not well-formed.

    index, field: the instruction, and its field; other: the instruction that it collides with, None if there is none.
    """

    index: int
    opcode: str
    field: str
    what: str
    other: int | None = None

    def __str__(self) -> str:
        return f"instruction {self.index} ({self.opcode}), field {self.field!r}: {self.what}"


class IllFormedError(ValueError):
    """A program that is not well-formed; `fault` says why."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(str(fault))
        self.fault = fault


@dataclass
class Order:
    """The order of a program's instructions, END left out.

    queue, number: of each instruction, its queue and its place in it; turns: an order in which they can run one by
    one; before: of each, what is done when it starts; members: index of each instruction, by queue.
    """

    queue: list[Queue] = field(default_factory=list)
    number: list[int] = field(default_factory=list)
    turns: list[int] = field(default_factory=list)
    before: list[Clock] = field(default_factory=list)
    members: dict[Queue, list[int]] = field(default_factory=lambda: {queue: [] for queue in Queue})


def semaphores(mask: int) -> list[int]:
    """Return the semaphores of a mask."""
    return [s for s in range(SEMAPHORES) if mask >> s & 1]


def order(code: Sequence[Instruction]) -> Order:
    """Return the order of a program without END.

    Raises IllFormedError where a semaphore has signals, or waits, of two queues (which of them comes first is a matter
    of time), where one may pass 255, and where instructions wait for ever.
    """
    _check_owners(code)
    found = Order()
    for index, instruction in enumerate(code):
        queue = QUEUE_OF[instruction.opcode]
        found.queue.append(queue)
        found.number.append(len(found.members[queue]))
        found.members[queue].append(index)
        found.before.append(START)
    _Turns(code, found).run()
    return found


def _check_owners(code: Sequence[Instruction]) -> None:
    for name, does in (("signal", "signals"), ("wait", "waits for")):
        owner: dict[int, int] = {}
        for index, instruction in enumerate(code):
            for s in semaphores(instruction[name]):
                first = owner.setdefault(s, index)
                queue = QUEUE_OF[code[first].opcode]
                if queue is not QUEUE_OF[instruction.opcode]:
                    what = (
                        f"{does} semaphore {s}, as does instruction {first} of the queue {queue.name}; who comes first?"
                    )
                    raise IllFormedError(Fault(index, instruction.opcode.name, name, what, first))


class _Turns:
    """Runs the instructions one by one as the sequencer would, each done at once."""

    def __init__(self, code: Sequence[Instruction], found: Order) -> None:
        self._code, self._found = code, found
        self._queues: dict[Queue, deque[int]] = {queue: deque() for queue in Queue}
        self._started: dict[Queue, Clock] = dict.fromkeys(Queue, START)  # clock of the last start of each queue
        self._done: dict[Queue, Clock] = dict.fromkeys(Queue, START)
        self._signals: list[list[int]] = [[] for _ in range(SEMAPHORES)]  # who signalled, in order
        self._clocks: list[list[Clock]] = [[] for _ in range(SEMAPHORES)]  # ... and what was done then
        self._waits: list[list[int]] = [[] for _ in range(SEMAPHORES)]  # who has waited, in order
        self._there = 0  # mask of the semaphores above 0

    def run(self) -> None:
        """Run all of them."""
        code, queues = self._code, self._queues
        fetched = 0
        while True:
            while fetched < len(code) and len(queues[self._found.queue[fetched]]) < QUEUE_DEPTH:
                queues[self._found.queue[fetched]].append(fetched)
                fetched += 1
            heads = [queue[0] for queue in queues.values() if queue]
            ready = [index for index in heads if not code[index]["wait"] & ~self._there]
            if not ready:
                break
            index = min(ready)  # so that of two that collide the later one is named
            queues[self._found.queue[index]].popleft()
            self._take(index)
        if heads:
            lacks = ", ".join(map(str, semaphores(code[heads[0]]["wait"] & ~self._there)))
            raise self._fault(heads[0], "wait", f"waits for ever, for semaphore {lacks}")
        self._check_heights()

    def _take(self, index: int) -> None:
        instruction, queue = self._code[index], self._found.queue[index]
        start = self._started[queue]
        for s in semaphores(instruction["wait"]):
            start = _later(start, self._clocks[s][len(self._waits[s])])
            self._waits[s].append(self._found.number[index])
            if len(self._waits[s]) == len(self._signals[s]):
                self._there &= ~(1 << s)
        self._started[queue] = self._found.before[index] = start
        done = list(_later(start, self._done[queue]))
        done[queue] = self._found.number[index] + 1
        self._done[queue] = tuple(done)
        for s in semaphores(instruction["signal"]):
            self._signals[s].append(index)
            self._clocks[s].append(self._done[queue])
        self._there |= instruction["signal"]
        self._found.turns.append(index)

    def _check_heights(self) -> None:
        """Look for a signal before which more than 254 may be there that nobody has waited for."""
        for s, (signals, clocks) in enumerate(zip(self._signals, self._clocks, strict=True)):
            waiting = next((self._found.queue[i] for i, one in enumerate(self._code) if one["wait"] >> s & 1), None)
            for height, (index, clock) in enumerate(zip(signals, clocks, strict=True), 1):
                taken = bisect_left(self._waits[s], clock[waiting]) if waiting is not None else 0
                if height - taken > SEMAPHORE_MAX:
                    raise self._fault(index, "signal", f"may raise semaphore {s} beyond {SEMAPHORE_MAX}")

    def _fault(self, index: int, name: str, what: str) -> IllFormedError:
        return IllFormedError(Fault(index, self._code[index].opcode.name, name, what))


def _later(one: Clock, other: Clock) -> Clock:
    return tuple(map(max, one, other))
