"""The quick gear: the exact gear walked once (docs/timing.md).

Between two boundaries, cycles in which a COMPUTE or an UPDATE is done, the machine is a function of its state and of
the instructions that are loaded in between. Such a stretch is walked once by the engines of `sim.sat` and looked up
afterwards. Nothing is estimated: cycles, counters and how a run ends are those of the exact gear.
"""

from __future__ import annotations

import gc
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from nmsat.dataflow.contract.isa import OFFSET_MASK, QUEUE_OF, REGIONS, ErrorCode, Queue
from nmsat.dataflow.contract.registers import Launch, Region, open_regions
from nmsat.sim import run as plain_run
from nmsat.sim.compiled import twin
from nmsat.sim.control.fetch import FAR
from nmsat.sim.parts.outcome import Machine, Report
from nmsat.sim.quick import inner as plain_inner
from nmsat.sim.quick.inner import STEP
from nmsat.sim.quick.read import read_stream
from nmsat.sim.quick.symbols import Symbols, decoded, ports_of
from nmsat.sim.sat import LIMIT, Sat

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from nmsat.dataflow.contract.config import SatConfig
    from nmsat.dataflow.contract.isa import Instruction
    from nmsat.dataflow.cycles.memory import MemoryTiming
    from nmsat.dataflow.program.stream import Stream
    from nmsat.sim.parts.state import Key
    from nmsat.sim.quick.symbols import Symbol
    from nmsat.sim.run import Run

KEPT_STRETCHES: Final = 1 << 16
"""States that are remembered: some kilobytes each, with the stretches that begin there."""


def _any(ports: int) -> tuple[Region, ...]:
    """Return regions that no access leaves, one behind each port: symbols have been checked against the true ones."""
    return tuple(Region(0, OFFSET_MASK, True, min(i, ports - 1)) for i in range(REGIONS))


@dataclass(eq=False)
class _State:
    """The machine at a boundary. far: stretches from it by the instructions that they load, while the end of the
    program is out of sight; near: the same for each number of instructions that are left."""

    key: Key
    far: Any = field(default_factory=dict)
    near: dict[int, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class _Stretch:
    """From one boundary to the next, None for the end of the run: instructions loaded, what was counted."""

    after: _State | None
    loads: int
    counts: tuple[int, ...]


@dataclass(frozen=True)
class QuickReport:
    """A run and how much of it was walked. exact: the exact gear ran it, since an access may leave its region, an
    instruction is not legal, or memory has faults."""

    report: Report
    walked: int
    stretches: int
    exact: bool


class Quick:
    """The quick gear of one machine: configuration and memory. What it has walked serves all later programs.

    Parameters as of `Sat`; faults of memory are for the exact gear. step: of `sim.quick.inner.Inner`; kept: most states
    that are remembered, all are forgotten at one more.
    """

    def __init__(
        self, config: SatConfig, timing: MemoryTiming | None = None, *, step: int = STEP, kept: int = KEPT_STRETCHES
    ) -> None:
        self.sat = Sat(config, timing)
        self._machine = Machine(config, self.sat.timing)
        self._engines, inner = twin(plain_run), twin(plain_inner)
        self._known = self._engines.Known()
        self.symbols = Symbols(config, self._engines, self._known)
        self.inner, self.walker = inner.Inner(step, kept), inner.Walker
        self._any = _any(config.ports)
        self._kept = kept
        self._states: dict[Key, _State] = {}
        self._parts: dict[Key, Key] = {}

    @property
    def states(self) -> int:
        """States that are kept."""
        return len(self._states)

    def time(self, settings: Launch, words: Sequence[int], *, limit: int = LIMIT) -> QuickReport:
        """Run a program without values. RuntimeError after `limit` cycles, or some more."""
        instructions = decoded(words, self.sat.config)
        symbols = None if instructions is None else self._fitting(settings, instructions)
        return self._exact(settings, words, limit) if symbols is None else self.run(settings, symbols, limit=limit)

    def time_code(self, settings: Launch, instructions: Sequence[Instruction], *, limit: int = LIMIT) -> QuickReport:
        """Run a program of legal instructions, as an assembler makes it: not encoded, not checked again."""
        symbols = self._fitting(settings, instructions)
        if symbols is None:
            return self._exact(settings, [instruction.encode() for instruction in instructions], limit)
        return self.run(settings, symbols, limit=limit)

    def time_stream(self, program: Stream, *, limit: int = LIMIT) -> QuickReport | None:
        """Run a program told by forms, in regions as large as can be; None if an access may leave even those."""
        settings = Launch(open_regions(self.sat.config.ports), 0, 0, len(program))
        symbols = read_stream(self.symbols, program, settings)
        return None if symbols is None else self.run(settings, symbols, limit=limit)

    def _exact(self, settings: Launch, words: Sequence[int], limit: int) -> QuickReport:
        report = self.sat.time(settings, words, limit=limit)
        return QuickReport(report, report.cycles, 0, exact=True)

    def _fitting(self, settings: Launch, instructions: Sequence[Instruction]) -> list[Symbol] | None:
        """Return the symbols of a program whose accesses, its own fetch too, stay within their regions.

        None with a watchdog as well: a run that it may end is for the exact gear.
        """
        at, count = settings.program_at, settings.program_count
        region = settings.regions[settings.program_region] if settings.program_region < len(settings.regions) else None
        if region is None or settings.watchdog or not 0 < count == len(instructions) or at + count > region.size:
            return None
        return self.symbols.program(instructions, settings)

    def run(self, settings: Launch, symbols: Sequence[Symbol], *, limit: int = LIMIT) -> QuickReport:
        """Run a program of symbols; of the settings only port, place and length of the program count."""
        with _uncollected():
            return self._ran(settings, symbols, limit)

    def _ran(self, settings: Launch, symbols: Sequence[Symbol], limit: int) -> QuickReport:
        settings.check_ports(self.sat.config.ports)
        port = ports_of(settings)[settings.program_region]
        launch = Launch(self._any, port, settings.program_at, settings.program_count)
        walk = _Walk(self, launch, symbols, limit)
        used: Counter[_Stretch] = Counter()
        at, state = 0, walk.state
        while state is not None:
            stretch = _known(state, symbols, at) or walk.walk(state, at)
            used[stretch] += 1
            at, state = at + stretch.loads, stretch.after
        total = self.new(launch, walk.program)
        for stretch, times in used.items():
            total.count([times * count for count in stretch.counts])
        report = total.report()
        if walk.error is not None:
            report = Report(report.counters, walk.error.error, walk.error.error_index, False, False)
        return QuickReport(report, walk.walked, walk.stretches, exact=False)

    def state(self, key: Key) -> _State:
        """Return the state of a key."""
        found = self._states.get(key)
        if found is None:
            if len(self._states) >= self._kept:
                self._states.clear()
                self._parts.clear()
            key = tuple([self._parts.setdefault(part, part) for part in key])
            found = self._states[key] = _State(key)
        return found

    def new(self, launch: Launch, program: Sequence[tuple[ErrorCode, Symbol]]) -> Run:
        """Return a machine before its first cycle."""
        return self._engines.Run(self._machine, launch, program, self._known)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Keep the collector of cycles away: it would look through all that is remembered again and again."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def _known(state: _State, symbols: Sequence[Symbol], at: int) -> _Stretch | None:
    """Return the stretch that follows, if it has been walked."""
    left = len(symbols) - at
    found = _leaf(state.far, symbols, at)
    if found is not None and found.loads + FAR <= left:
        return found
    near = state.near.get(left)
    return None if near is None else _leaf(near, symbols, at)


def _leaf(node: Any, symbols: Sequence[Symbol], at: int) -> _Stretch | None:
    """Follow the instructions from `at` on through a tree to its stretch."""
    while type(node) is dict:
        if at == len(symbols):
            return None
        node = node.get(symbols[at])
        at += 1
    return node


class _Walk:
    """One run: the machine that walks what has not been walked yet. error: how the run ended, if in an error."""

    def __init__(self, gear: Quick, launch: Launch, symbols: Sequence[Symbol], limit: int) -> None:
        self._gear = gear
        self._launch = launch
        self._symbols = symbols
        self._limit = limit
        self.program = [(ErrorCode.NONE, symbol) for symbol in symbols]
        self._run = gear.new(launch, self.program)
        self._at = 0
        self.state: _State | None = gear.state(self._run.key())
        self._stands = self.state
        self.walked = self.stretches = 0
        self.error: Report | None = None

    def walk(self, state: _State, at: int) -> _Stretch:
        """Walk from a state to the next boundary, and remember it."""
        if self._stands is not state or self._at != at:
            self._run = self._gear.new(self._launch, self.program)
            self._run.restore(state.key, at)
        run = self._run
        before = run.counts()
        over = self._to_boundary(run)
        loads = run.sequencer.fetch.loaded - at
        after = None if over else self._gear.state(run.key())
        counts = tuple([new - old for new, old in zip(run.counts(), before, strict=True)])
        stretch = _Stretch(after, loads, counts)
        self.stretches += 1
        self._stands, self._at = after, at + loads
        report = run.report()
        if over and report.error is not ErrorCode.NONE:
            self.error = report
        else:
            self._keep(state, at, stretch)
        return stretch

    def _to_boundary(self, run: Run) -> bool:
        """Walk to the next boundary; return whether the run is over there."""
        start = run.cycles
        walker = self._gear.walker(self._gear.inner, run)
        while not run.over:
            finished = walker.cycle()
            if finished and not run.ending and any(QUEUE_OF[f.opcode] in _BOUNDARIES for f in finished):
                break
            if run.cycles - start > self._limit:
                raise RuntimeError(f"the program has not ended after {self._limit} cycles")
        self.walked += run.cycles - start - walker.jumped
        return run.over

    def _keep(self, state: _State, at: int, stretch: _Stretch) -> None:
        left = len(self._symbols) - at
        path = self._symbols[at : at + stretch.loads]
        if stretch.loads + FAR <= left and left >= FAR:
            state.far = _grown(state.far, path, stretch)
        else:
            state.near[left] = _grown(state.near.get(left, {}), path, stretch)


_BOUNDARIES: Final = (Queue.COMPUTE, Queue.UPDATE)


def _grown(tree: Any, path: Sequence[Symbol], stretch: _Stretch) -> Any:
    """Return a tree with one stretch more."""
    if not path:
        return stretch
    node = tree
    for symbol in path[:-1]:
        node = node.setdefault(symbol, {})
    node[path[-1]] = stretch
    return tree
