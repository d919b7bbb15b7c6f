"""Queues, semaphores and errors of a run, cycle by cycle (hw/control/sequencer.py)."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from nmsat.dataflow.contract.isa import QUEUE_OF, SEMAPHORE_MAX, SEMAPHORES, ErrorCode, Opcode, Queue
from nmsat.dataflow.contract.limits import QUEUE_DEPTH, READERS, STARTED_DEPTH, WRITERS
from nmsat.sim.control.fetch import Fetch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nmsat.dataflow.contract.isa import Instruction
    from nmsat.dataflow.contract.registers import Launch
    from nmsat.sim.control.fetch import Checked
    from nmsat.sim.parts.state import Key

QUEUES: Final = tuple(range(len(Queue)))

FINE, LAST = ErrorCode.NONE, Opcode.END
"""Here once: looking up a member of an enumeration takes long."""

Failure = tuple[ErrorCode, int]
"""Code of an error and the instruction it belongs to."""


class Sequencer:
    """Registers of `hw.control.sequencer.Sequencer`; its values stand for the present cycle.

    busy, blocked, offers, able: one bit per queue; offers: an instruction waits for nothing but its engine; able: it
    could start in the cycle before; finished: the run is over; instructions: handed to the queues so far. In every
    cycle `offer` comes first, then `tick`.
    """

    def __init__(self, launch: Launch, program: Sequence[Checked]) -> None:
        self.fetch = Fetch(launch, program)
        self._program = program
        self._empty = launch.program_count == 0
        self._waiting: list[deque[tuple[Instruction, int]]] = [deque() for _ in QUEUES]
        self._started: list[deque[tuple[Instruction, int]]] = [deque() for _ in QUEUES]
        self._values = [0] * SEMAPHORES
        self._above = 0
        self._own: Failure | None = None
        self.busy = self.blocked = 0
        self.offers = self.able = 0
        self._still = False  # the cycle before changed nothing
        self.instructions = 0

    def key(self) -> Key:
        """Return the state, of a sequencer that shows no error, without places in the program."""
        queues = tuple([tuple([entry[0] for entry in queue]) for queue in (*self._waiting, *self._started)])
        return queues, tuple(self._values), self.able, self.fetch.key()

    def restore(self, key: Key, loaded: int) -> None:
        """Return to a state that `key` gave, in a program of which so many instructions have been loaded."""
        queues, values, self.able, fetch = key
        self.fetch.restore(fetch, loaded)
        self._values = list(values)
        self._above = sum(1 << s for s in range(SEMAPHORES) if values[s])
        self._own, self._still = None, False
        places = self._places([len(queues[q]) + len(queues[q + len(QUEUES)]) for q in QUEUES])
        for q in QUEUES:
            started = len(queues[q + len(QUEUES)])
            self._started[q] = deque(zip(queues[q + len(QUEUES)], places[q][:started], strict=True))
            self._waiting[q] = deque(zip(queues[q], places[q][started:], strict=True))
        self._look()

    def _places(self, counts: Sequence[int]) -> list[list[int]]:
        """Return where the last instructions of each queue stand that have been handed out, so many of each."""
        at = self.fetch.loaded - self.fetch.checks
        places: list[list[int]] = [[] for _ in QUEUES]
        left = sum(counts)
        while left:
            at -= 1
            instruction = self._program[at][1]
            assert instruction is not None
            q = QUEUE_OF[instruction.opcode]
            if len(places[q]) < counts[q]:
                places[q].insert(0, at)
                left -= 1
        return places

    @property
    def finished(self) -> bool:
        """END has been reached and nothing is left."""
        fetch = self.fetch
        if not fetch.valid or fetch.code is not FINE or fetch.instruction is None:
            return False
        return fetch.instruction.opcode is LAST and not self.busy and not any(self._waiting)

    def failure(self, read: Failure | None, write: Failure | None) -> Failure | None:
        """Return (code, index) of the error of this cycle; read, write: (code, client) that the ports show."""
        if read is not None:
            queue = READERS[read[1]]
            return read[0], self.fetch.received if queue is None else self._oldest(queue)
        if write is not None:
            return write[0], self._oldest(WRITERS[write[1]])
        return self._own

    def rests(self, ready: int) -> bool:
        """Return whether nothing changes until an engine is done or ready, or memory answers. ready: as in `tick`."""
        fetch = self.fetch
        if not self.busy or self._own is not None or fetch.request is not None or not fetch.settled:
            return False
        if fetch.valid:
            if fetch.instruction is None or fetch.code is not FINE:
                return False
            queue = QUEUE_OF.get(fetch.instruction.opcode)
            if queue is not None and len(self._waiting[queue]) < QUEUE_DEPTH:
                return False
        return not self.able and not self.offers & ready

    def offer(self, ready: int) -> tuple[int, Instruction] | None:
        """Return the queue and instruction that start in this cycle. ready: as in `tick`."""
        if not self.able:
            return None
        q = (self.able & -self.able).bit_length() - 1
        return (q, self._waiting[q][0][0]) if ready >> q & 1 else None

    def tick(
        self, run: bool, granted: bool, arrives: bool, start: int, done: Sequence[int], ready: int
    ) -> list[Instruction]:
        """End the cycle and return what is done.

        granted, arrives: of the fetch; start: queue whose instruction starts, -1 for none; done: queues of the engines
        that show `done`; ready: `start.ready` of the engines, a bit each, where `offers` or `able` has one.
        """
        self.able = self.offers & ready if run and start < 0 else 0
        if self._still and run and start < 0 and not (done or granted or arrives):
            return []
        still = self.fetch.still
        take = self._dispatch(run)  # looks at the queues as they are in this cycle
        finished: list[Instruction] = []
        if start >= 0 or done:
            finished = self._account(start, done)
        if take >= 0:
            fetch = self.fetch
            assert fetch.instruction is not None
            self._waiting[take].append((fetch.instruction, fetch.index))
            self.instructions += 1
        if take >= 0 or start >= 0 or done:
            self._look()
        self.fetch.tick(run, granted, arrives, take >= 0)
        moved = take >= 0 or start >= 0 or bool(done) or granted or arrives
        self._still = still and run and not moved and self._own is None and self.busy != 0
        return finished

    def _oldest(self, queue: Queue) -> int:
        started = self._started[queue]
        return started[0][1] if started else 0

    def _dispatch(self, run: bool) -> int:
        """Return the queue that takes an instruction, -1 for none; note errors that can be seen now."""
        fetch = self.fetch
        self._own = None
        if not run:
            return -1
        if self._empty:
            self._own = (ErrorCode.NO_END, 0)
        if not fetch.valid:
            return -1
        if fetch.code is not FINE:
            self._own = (fetch.code, fetch.index)
            return -1
        assert fetch.instruction is not None
        if fetch.instruction.opcode is not LAST:
            queue = QUEUE_OF[fetch.instruction.opcode]
            if len(self._waiting[queue]) < QUEUE_DEPTH:
                return queue
        if not self.busy:
            self._find_deadlock()
        return -1

    def _find_deadlock(self) -> None:
        for q in QUEUES:
            if self._waiting[q] and not self.blocked >> q & 1:
                return
        for q in QUEUES:
            if self._waiting[q]:
                self._own = (ErrorCode.DEADLOCK, self._waiting[q][0][1])
                return

    def _account(self, start: int, done: Sequence[int]) -> list[Instruction]:
        """Lower and raise semaphores, move instructions."""
        values = self._values
        before = list(values)
        finished: list[Instruction] = []
        masks: list[tuple[int, int]] = []
        for q in done:
            instruction, index = self._started[q].popleft()
            finished.append(instruction)
            masks.append((instruction["signal"], index))
            _add(values, instruction["signal"], 1)
        if start >= 0:
            instruction, index = self._waiting[start].popleft()
            self._started[start].append((instruction, index))
            _add(values, instruction["wait"], -1)
        self._overflow(masks)
        if values != before:
            self._above = sum(1 << s for s in range(SEMAPHORES) if values[s])
        return finished

    def _overflow(self, masks: Sequence[tuple[int, int]]) -> None:
        full = sum(1 << s for s in range(SEMAPHORES) if self._values[s] > SEMAPHORE_MAX)
        if not full:
            return
        for s in range(SEMAPHORES):
            self._values[s] = min(self._values[s], SEMAPHORE_MAX)
        if self._own is None or self._own[0] is ErrorCode.DEADLOCK:
            self._own = (ErrorCode.SEMAPHORE, next(index for mask, index in masks if mask & full))

    def _look(self) -> None:
        """Work out which queues wait, and which engines have an instruction."""
        busy = blocked = 0
        for q in QUEUES:
            if self._started[q]:
                busy |= 1 << q
            if self._waiting[q] and self._waiting[q][0][0]["wait"] & ~self._above:
                blocked |= 1 << q
        self.busy, self.blocked = busy, blocked
        offers = [q for q in QUEUES if self._waiting[q] and len(self._started[q]) < STARTED_DEPTH]
        self.offers = sum(1 << q for q in offers) & ~blocked


def _add(values: list[int], mask: int, step: int) -> None:
    while mask:
        low = mask & -mask
        values[low.bit_length() - 1] += step
        mask ^= low
