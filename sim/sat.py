"""SAT, cycle by cycle: engines, sequencer, memory ports and memory wired as in hw/sat.py.

Time is stepped here; values are carried out once per instruction, when it is done (`sim.values`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

from nmsat.dataflow.contract.isa import BEAT_BYTES, ErrorCode, Queue
from nmsat.dataflow.contract.legal import check_machine
from nmsat.dataflow.contract.registers import COUNTERS, PAGE_BYTES, QUEUE_NAMES, WAIT_CAUSES, Launch, Region
from nmsat.dataflow.cycles.memory import memory_timing
from nmsat.sim.array.compute import Compute
from nmsat.sim.control.fetch import Words
from nmsat.sim.control.sequencer import Sequencer
from nmsat.sim.load.loader import Loader
from nmsat.sim.memory.channel import Channel
from nmsat.sim.memory.read_port import ReadPort
from nmsat.sim.memory.write_port import WritePort
from nmsat.sim.results.report import ProgramRun
from nmsat.sim.store.store import Store
from nmsat.sim.update.update import Updater
from nmsat.sim.values import State, execute

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from nmsat.dataflow.contract.config import SatConfig
    from nmsat.dataflow.contract.isa import Instruction
    from nmsat.dataflow.cycles.memory import MemoryTiming
    from nmsat.dataflow.program.tensors import Image, Place
    from nmsat.sim.control.fetch import Checked
    from nmsat.sim.load.beats import Beats
    from nmsat.sim.parts.state import Key
    from nmsat.sim.store.bursts import Bursts

LIMIT: Final = 1 << 32
"""Cycles after which a run of the model is given up."""


@dataclass(frozen=True)
class Report:
    """How a run ended. counters: by the names of `dataflow.contract.registers.COUNTERS`; error_index: instruction at
    fault."""

    counters: dict[str, int]
    error: ErrorCode
    error_index: int
    special: bool
    overflow: bool

    @property
    def cycles(self) -> int:
        """From the first to the last cycle of the run."""
        return self.counters["cycles"]


def launch(regions: Sequence[NDArray[np.uint8]], program: Place, *, base: int = 0) -> Launch:
    """Return what the host sets to run `program`: regions one behind the other from address `base` on.

    SAT may write all but the region of the program.
    """
    placed: list[Region | None] = []
    for number, region in enumerate(regions):
        placed.append(Region(base, region.size // BEAT_BYTES, number != program.region))
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

    Parameters: config; timing: of the one channel of memory behind the master, by default that of `config`; faults:
    beats (addresses divided by 64) that memory answers with an error.
    """

    def __init__(
        self, config: SatConfig, timing: MemoryTiming | None = None, faults: frozenset[int] = frozenset()
    ) -> None:
        check_machine(config)
        self.config = config
        self.timing = timing or memory_timing(config.memory, config.clock_mhz)
        self.faults = faults
        self.reports: list[Report] = []

    def run(self, settings: Launch, regions: list[NDArray[np.uint8]], *, limit: int = LIMIT) -> Report:
        """Run the program in the regions and change them as the machine does. RuntimeError after `limit` cycles."""
        state = State(self.config, regions)
        found = self.time(settings, program_words(regions, settings), lambda word: execute(word, state), limit=limit)
        return Report(found.counters, found.error, found.error_index, state.special, state.overflow)

    def time(
        self,
        settings: Launch,
        words: Sequence[int],
        done: Callable[[Instruction], object] | None = None,
        *,
        limit: int = LIMIT,
    ) -> Report:
        """Run a program without values; done: called with each instruction when it is done."""
        run = Run(self, settings, Words(self.config, words))
        while not run.over:
            for instruction in run.cycle():
                if done is not None:
                    done(instruction)
            if run.cycles > limit:
                raise RuntimeError(f"the program has not ended after {limit} cycles")
        report = run.report()
        self.reports.append(report)
        return report

    def run_program(self, image: Image, program: Place) -> ProgramRun:
        """Run a program that lies in the image (`sim.work.training.Machine`); RuntimeError if it ends in an error."""
        report = self.run(launch(image.regions, program), image.regions)
        if report.error is not ErrorCode.NONE:
            raise RuntimeError(f"program {program.name!r} ended in {report.error.name} at {report.error_index}")
        return ProgramRun(report.cycles, report.special, report.counters)


_Tag = tuple[bool, int, int]
"""Of a burst: whether it writes, its first beat in memory, its beats."""


class MemoryPort:
    """The memory behind the master: one channel, reads and writes in the order in which they were asked for.

    Timing: docs/timing.md; reads go first in a cycle with two requests; a write is answered one cycle after its last
    beat.
    """

    def __init__(self, settings: Launch, timing: MemoryTiming, faults: frozenset[int]) -> None:
        self._settings = settings
        self._timing = timing
        self._faults = faults
        self._channel = Channel(timing)
        self._answer: bool | None = None
        self.reads: tuple[bool, bool] | None = None
        self.writes = False
        self.answer: bool | None = None

    def ready(self) -> tuple[bool, bool]:
        """Return `arready` and `awready` of this cycle."""
        room = self._timing.outstanding - self._channel.in_flight
        return room > 0, room > 1

    def tick(self, read: Any, write: Any) -> None:
        """Take the bursts on AR and AW (None without) and end the cycle.

        Then reads is (last, fault) of the beat on R in this cycle or None; writes: a beat on W was taken; answer: the
        fault of the answer on B or None.
        """
        channel = self._channel
        self.answer, self._answer = self._answer, None
        for burst, is_write in ((read, False), (write, True)):
            if burst is not None:
                channel.request(burst.beats, (is_write, self._first(burst), burst.beats))
        beat = channel.tick()
        self.reads, self.writes = None, False
        if beat is None:
            return
        tag: Any = beat.tag
        is_write, first, beats = tag
        if is_write:
            self.writes = True
            if beat.last:
                self._answer = not self._faults.isdisjoint(range(first, first + beats))
        else:
            self.reads = (beat.last, first + beat.number in self._faults)

    def key(self) -> Key:
        """Return the state, without addresses."""
        writes = tuple([tag[0] for tag in cast("list[_Tag]", self._channel.tags)])
        return self._channel.key(), writes, self._answer, self.reads, self.writes, self.answer

    def restore(self, key: Key) -> None:
        """Return to a state that `key` gave."""
        channel, writes, self._answer, self.reads, self.writes, self.answer = key
        tags = [(is_write, 0, burst[0]) for is_write, burst in zip(writes, channel[1], strict=True)]
        self._channel.restore(channel, tags)

    def _first(self, burst: Any) -> int:
        region = self._settings.regions[burst.region]
        assert region is not None  # the port has checked
        return region.base // BEAT_BYTES + burst.offset


class Known(NamedTuple):
    """What engines have found out about instructions: the beats of loads, the bursts of stores."""

    beats: dict[tuple[int, ...], Beats]
    bursts: dict[tuple[int, ...], Bursts]


class Run:
    """One run of a program; `cycle` until `over`. known: beats and bursts seen before; runs may share it."""

    def __init__(self, sat: Sat, settings: Launch, program: Sequence[Checked], known: Known | None = None) -> None:
        config, known = sat.config, known or Known({}, {})
        self.read, self.write = ReadPort(settings.regions), WritePort(settings.regions)
        self.sequencer = Sequencer(settings, program)
        self.loader, self.compute = Loader(config, known.beats), Compute(config)
        self.store, self.update = Store(config, known.bursts), Updater(config)
        self.memory = MemoryPort(settings, sat.timing, sat.faults)
        self.cycles = 0
        self.over = False
        self._running = True
        self._error: tuple[ErrorCode, int] = (ErrorCode.NONE, 0)
        self._engines = (self.loader, self.compute, self.store, self.update)
        self._parts: tuple[Any, ...] = (self.sequencer, *self._engines, self.read, self.write, self.memory)
        self._masks = [0] * 256  # cycles by (blocked, busy) queues
        self._causes = [0] * 8
        self._moved = dict.fromkeys(("read_bursts", "read_beats", "write_bursts", "write_beats"), 0)
        self._windows = self._steps = 0

    def cycle(self) -> list[Instruction]:
        """Pass one cycle; return the instructions that are done in it."""
        sequencer, loader, store, update = self.sequencer, self.loader, self.store, self.update
        read, write, memory = self.read, self.write, self.memory
        halt = not self._running
        arready, awready = memory.ready()
        requests = (store.request, sequencer.fetch.request, loader.request, update.request)
        reader = read.choose(requests, arready, halt)
        writer = write.choose((store.write_request, update.write_request), awready, halt)
        memory.tick(read.address if arready else None, write.address if awready else None)
        self._count(reader >= 0, writer >= 0)
        queue, instruction = self._offer()
        ends = self._ending()
        client, told, pulled = read.client, write.told, write.client if memory.writes else -1
        done = [q for q, engine in enumerate(self._engines) if engine.done]
        finished = sequencer.tick(self._running, reader == 1, client == 1, queue, done)
        loader.tick(instruction if queue == 0 else None, reader == 2, client == 2)
        self.compute.tick(instruction if queue == 1 else None)
        store.tick(instruction if queue == 2 else None, reader == 0, client == 0, writer == 0, pulled == 0, told == 0)
        update.tick(instruction if queue == 3 else None, reader == 3, client == 3, writer == 1, pulled == 1, told == 1)
        last, fault = memory.reads or (False, False)
        read.tick(arready, memory.reads is not None, last, fault)
        write.tick(awready, memory.writes, memory.answer is not None, bool(memory.answer))
        self.cycles += 1
        self._running = self._running and not ends
        return finished

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

    @property
    def ending(self) -> bool:
        """Whether the run proper has ended, or shows why it will."""
        shown = self.read.error or self.write.error or self.sequencer.failure(None, None)
        return not self._running or shown is not None

    def counts(self) -> tuple[int, ...]:
        """Return all that is counted, in one row: sums of rows are those of runs one behind the other."""
        return (
            *(self.cycles, self.sequencer.instructions, self._windows, self._steps),
            *self._moved.values(),
            *self._causes,
            *self._masks,
        )

    def count(self, counts: Sequence[int]) -> None:
        """Add a row of `counts`."""
        values = [one + other for one, other in zip(self.counts(), counts, strict=True)]
        self.cycles, self.sequencer.instructions, self._windows, self._steps = values[:4]
        self._moved = dict(zip(self._moved, values[4:8], strict=True))
        self._causes, self._masks = values[8:16], values[16:]

    def report(self) -> Report:
        """Return what the host reads after the run."""
        counters = {"cycles": self.cycles, "instructions": self.sequencer.instructions}
        for kind, shift in (("busy", 0), ("blocked", 4)):
            for q, name in enumerate(QUEUE_NAMES):
                bit = 1 << (q + shift)
                counters[f"{name}_{kind}"] = sum(n for mask, n in enumerate(self._masks) if mask & bit)
        counters |= self._moved
        counters |= {f"wait_{cause}": self._causes[code] for code, cause in enumerate(WAIT_CAUSES, start=1)}
        counters |= {"windows": self._windows, "steps": self._steps}
        return Report({name: counters[name] for name in COUNTERS}, *self._error, special=False, overflow=False)

    def _offer(self) -> tuple[int, Any]:
        """Return the queue and the instruction that start in this cycle; -1 and None if none does."""
        if not self._running:
            return -1, None
        return self.sequencer.offer([engine.ready for engine in self._engines]) or (-1, None)

    def _ending(self) -> bool:
        """Return whether the run proper ends with this cycle; note why, and whether the machine comes to rest."""
        if not self._running:
            self.over = self.read.idle and self.write.idle
            return False
        failure = self.sequencer.failure(self.read.error, self.write.error)
        if failure is not None:
            self._error = failure
        return failure is not None or self.sequencer.finished

    def _count(self, reads: bool, writes: bool) -> None:
        sequencer, memory, moved = self.sequencer, self.memory, self._moved
        self._masks[sequencer.busy | sequencer.blocked << 4] += 1
        if sequencer.busy >> Queue.COMPUTE & 1:
            self._causes[self.compute.cause] += 1
            steps = self.compute.steps
            if steps:
                self._windows += 1
                self._steps += steps
        if reads:
            moved["read_bursts"] += 1
        if writes:
            moved["write_bursts"] += 1
        if memory.reads is not None:
            moved["read_beats"] += 1
        if memory.writes:
            moved["write_beats"] += 1
