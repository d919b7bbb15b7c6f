"""One run of SAT, cycle by cycle: engines, sequencer, memory ports and memory wired as in hw/sat.py, without values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from nmsat.dataflow.contract.isa import ErrorCode
from nmsat.dataflow.contract.registers import COUNTERS, QUEUE_NAMES, WAIT_CAUSES
from nmsat.sim.array.compute import NEVER, ComputeEngine
from nmsat.sim.control.sequencer import Sequencer
from nmsat.sim.load.loader import Loader
from nmsat.sim.memory.masters import MOVED, masters
from nmsat.sim.parts.outcome import Machine, Report
from nmsat.sim.store.store import Store
from nmsat.sim.update.update import Updater

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nmsat.dataflow.contract.isa import Instruction
    from nmsat.dataflow.contract.registers import Launch
    from nmsat.sim.control.fetch import Checked
    from nmsat.sim.load.beats import Beats
    from nmsat.sim.parts.state import Key
    from nmsat.sim.store.bursts import Bursts

# Numbers are written out: mypyc makes them part of the machine code (tests/machine/test_compiled.py).

READS_STORE: Final = 1
READS_FETCH: Final = 2
READS_LOAD: Final = 4
READS_UPDATE: Final = 8
"""Clients that read (`READERS`), as bits (`sim.memory.masters`)."""

WRITES_STORE: Final = 1
WRITES_UPDATE: Final = 2
"""Clients that write (`WRITERS`)."""

LOAD: Final = 0
COMPUTE: Final = 1
STORE: Final = 2
UPDATE: Final = 3
"""The queues (`Queue`)."""

LOAD_OFFERS: Final = 1
COMPUTE_OFFERS: Final = 2
STORE_OFFERS: Final = 4
UPDATE_OFFERS: Final = 8
"""A bit of each queue."""

LEAST_REST: Final = 8
"""Cycles of rest that are worth a look at the whole machine."""


class Known:
    """What engines have found out about instructions: the beats of loads, the bursts of stores."""

    def __init__(self) -> None:
        self.beats: dict[tuple[int, ...], Beats] = {}
        self.bursts: dict[tuple[int, ...], Bursts] = {}


class Run:
    """One run of a program; `cycle` until `over`, with `rest` in front of any of them.

    program: its checked instructions; known: beats and bursts seen before, runs may share it.
    """

    def __init__(
        self, machine: Machine, settings: Launch, program: Sequence[Checked], known: Known | None = None
    ) -> None:
        config, known = machine.config, known or Known()
        self.memory = masters(config.ports, settings, machine.timing, machine.faults)
        self.sequencer = Sequencer(settings, program)
        self.loader, self.compute = Loader(config, known.beats), ComputeEngine(config)
        self.store, self.update = Store(config, known.bursts), Updater(config)
        self.cycles = self.starts = 0
        self.over = False
        self._running = True
        self._given_up = False
        self._error: tuple[ErrorCode, int] = (ErrorCode.NONE, 0)
        self._engines = (self.loader, self.compute, self.store, self.update)
        self._parts: tuple[Any, ...] = (self.sequencer, *self._engines, *self.memory.parts)
        self._masks = [0] * 256  # cycles by (blocked, busy) queues
        self._causes = [0] * 8
        self._moved = [0] * len(MOVED)
        self._windows = self._steps = 0

    def cycle(self) -> list[Instruction]:
        """Pass one cycle; return the instructions that are done in it."""
        sequencer, loader, store, update = self.sequencer, self.loader, self.store, self.update
        memory = self.memory
        stores, updates = store.active, update.active
        reads: Sequence[Any] | None = None
        writes: Sequence[Any] | None = None
        fetches, loads = sequencer.fetch.request, loader.request
        if stores or updates:
            reads = store.request if stores else None, fetches, loads, update.request if updates else None
            writes = store.write_request, update.write_request
        elif fetches is not None or loads is not None:
            reads = None, fetches, loads
        memory.move(reads, writes, not self._running)
        self._count()
        ready = self._ready(sequencer.offers | sequencer.able)
        queue, instruction = self._offer(ready)
        self.starts += queue >= 0
        ends = self._ending()
        taken, arrives = memory.reads, memory.arrives
        done: Sequence[int] = ()
        if loader.done or self.compute.done or (stores and store.done) or (updates and update.done):
            shown = (loader.done, self.compute.done, store.done, update.done)
            done = [q for q in range(len(shown)) if shown[q]]
        fetched = (taken & READS_FETCH) != 0
        finished = sequencer.tick(self._running, fetched, (arrives & READS_FETCH) != 0, queue, done, ready)
        offered = instruction if queue == LOAD else None
        loader.tick(offered, (taken & READS_LOAD) != 0, (arrives & READS_LOAD) != 0)
        self.compute.tick(instruction if queue == COMPUTE else None)
        if stores or queue == STORE:
            offered = instruction if queue == STORE else None
            beside = (taken & READS_STORE) != 0, (arrives & READS_STORE) != 0
            store.tick(offered, *beside, *self._written(WRITES_STORE))
        if updates or queue == UPDATE:
            offered = instruction if queue == UPDATE else None
            beside = (taken & READS_UPDATE) != 0, (arrives & READS_UPDATE) != 0
            update.tick(offered, *beside, *self._written(WRITES_UPDATE))
        memory.tick()
        self.cycles += 1
        self._running = self._running and not ends
        return finished

    def rest(self) -> int:
        """Pass the cycles in which only the compute engine works and meets nobody; return them."""
        compute, store, update = self.compute, self.store, self.update
        if self.loader.busy or store.active or not update.ready or not self._running:
            return 0
        cycles = compute.horizon
        if not LEAST_REST <= cycles < NEVER or update.done or not self.memory.rests:
            return 0
        if not self.sequencer.rests(self._ready(self.sequencer.offers)):
            return 0
        self._masks[self.sequencer.busy | self.sequencer.blocked << 4] += cycles
        self.cycles += cycles
        self.advance(cycles)
        return cycles

    def key(self) -> Key:
        """Return the state of the machine in the present cycle, without counters, addresses and place in the program.

        Two runs with equal keys, whose programs go on alike, go on alike. Not of a run that is ending or has an error.
        """
        return tuple([part.key() for part in self._parts])

    def restore(self, key: Key, loaded: int) -> None:
        """Return to a state that `key` gave, in this program, of which so many instructions have been loaded."""
        self.sequencer.restore(key[0], loaded)
        for part, state in zip(self._parts[1:], key[1:], strict=True):
            part.restore(state)

    def around(self) -> Key:
        """Return the state of all but the compute engine, of which only counts whether it is ready, and of the loader
        but for the place in its load."""
        parts = [part.key() for part in self._parts[3:]]
        return (self.sequencer.key(), self.loader.rhythm(), *parts, self.compute.ready)

    def restore_around(self, key: Key, loaded: int, place: int) -> None:
        """Return to a state that `around` gave, with the loader at a place in its load; the compute engine stays."""
        self.sequencer.restore(key[0], loaded)
        self.loader.follow(key[1], place)
        for part, state in zip(self._parts[3:], key[2:-1], strict=True):
            part.restore(state)

    def advance(self, cycles: int) -> None:
        """End so many cycles of the compute engine alone, in which it takes and ends nothing; count what it did."""
        causes = self._causes if self.sequencer.busy >> COMPUTE & 1 else [0] * 8
        windows, steps = self.compute.advance(cycles, causes)
        if causes is self._causes:
            self._windows += windows
            self._steps += steps

    @property
    def ending(self) -> bool:
        """Whether the run proper has ended, or shows why it will."""
        return not self._running or self.sequencer.failure(*self.memory.errors) is not None

    def counts(self) -> tuple[int, ...]:
        """Return all that is counted, in one row: sums of rows are those of runs one behind the other."""
        return (
            *(self.cycles, self.sequencer.instructions, self._windows, self._steps),
            *self._moved,
            *self._causes,
            *self._masks,
        )

    def outside(self, place: int) -> bool:
        """Whether a place in a row of `counts` is not of what the compute engine does."""
        return not (2 <= place < 4 or 8 <= place < 16)

    def count(self, counts: Sequence[int]) -> None:
        """Add a row of `counts`."""
        values = [one + other for one, other in zip(self.counts(), counts, strict=True)]
        self.cycles, self.sequencer.instructions, self._windows, self._steps = values[:4]
        self._moved = values[4:8]
        self._causes, self._masks = values[8:16], values[16:]

    def report(self) -> Report:
        """Return what the host reads after the run."""
        counters = {"cycles": self.cycles, "instructions": self.sequencer.instructions}
        for kind, shift in (("busy", 0), ("blocked", 4)):
            for q, name in enumerate(QUEUE_NAMES):
                bit = 1 << (q + shift)
                counters[f"{name}_{kind}"] = sum(n for mask, n in enumerate(self._masks) if mask & bit)
        counters |= dict(zip(MOVED, self._moved, strict=True))
        counters |= {f"wait_{cause}": self._causes[code] for code, cause in WAIT_CAUSES.items()}
        counters |= {"windows": self._windows, "steps": self._steps}
        found = {name: counters[name] for name in COUNTERS}
        return Report(found, *self._error, special=False, overflow=False, given_up=self._given_up)

    def _offer(self, ready: int) -> tuple[int, Any]:
        """Return the queue and the instruction that start in this cycle; -1 and None if none does."""
        if not self._running:
            return -1, None
        return self.sequencer.offer(ready) or (-1, None)

    def _ready(self, queues: int) -> int:
        """Return which engines of some queues can start an instruction, a bit each."""
        ready = 0
        if queues & LOAD_OFFERS and self.loader.ready:
            ready = LOAD_OFFERS
        if queues & COMPUTE_OFFERS and self.compute.ready:
            ready |= COMPUTE_OFFERS
        if queues & STORE_OFFERS and self.store.ready:
            ready |= STORE_OFFERS
        if queues & UPDATE_OFFERS and self.update.ready:
            ready |= UPDATE_OFFERS
        return ready

    def _ending(self) -> bool:
        """Return whether the run proper ends with this cycle; note why, and whether the machine comes to rest."""
        sequencer = self.sequencer
        if not self._running:
            self.over = self._given_up = self.memory.gives_up  # it may never end what is under way
            if not self.over:
                self.over = self.memory.idle
            elif self._error[0] is ErrorCode.NONE:
                failure = sequencer.failure(*self.memory.errors)
                assert failure is not None
                self._error = ErrorCode.TIMEOUT, failure[1]
            return False
        failure = sequencer.failure(*self.memory.errors)
        if failure is not None:
            self._error = failure
            self.over = self._given_up = self.memory.gives_up
            return True
        return not sequencer.busy and sequencer.finished

    def _written(self, client: int) -> tuple[bool, bool, bool]:
        """Return whether a burst of a client leaves to be written, a beat of it does, and one more is in memory."""
        memory = self.memory
        return bool(memory.writes & client), bool(memory.pulled & client), bool(memory.written & client)

    def _count(self) -> None:
        sequencer = self.sequencer
        self._masks[sequencer.busy | sequencer.blocked << 4] += 1
        if sequencer.busy >> COMPUTE & 1:
            self._causes[self.compute.cause] += 1
            steps = self.compute.steps
            if steps:
                self._windows += 1
                self._steps += steps
        self.memory.count(self._moved)
