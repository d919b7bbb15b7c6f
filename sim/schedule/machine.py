"""SAT running the program of a step: array, memory and update engine side by side, every cycle with its cause.

The array runs the products in order. Memory prefetches the next product's first operands in the last slot of the one
before, unless they are its results. The update engine takes updates and pruning in order and uses the memory cycles
that the products leave; what is left at the end of the step, or is needed before a product, is waited for.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from nmsat.dataflow.contract.timing import flush_cycles_os, flush_cycles_ws, last_result_os, last_result_ws
from nmsat.dataflow.cycles.memory import TensorStream, burst_shape, busy_cycles, memory_timing, transfer_cycles
from nmsat.dataflow.schedule.pipeline import Edge
from nmsat.dataflow.schedule.program import ProductRun, PruneRun
from nmsat.sim.results.causes import CAUSES

if TYPE_CHECKING:
    from nmsat.dataflow.cycles.memory import BusyBursts
    from nmsat.dataflow.schedule.pipeline import Piped
    from nmsat.dataflow.schedule.program import Program, UpdateRun


@dataclass(frozen=True)
class Span:
    """A stretch of the step: what ran from `start` on, cycles by cause, cycles in which the memory bus was busy."""

    name: str
    stage: str
    start: int
    causes: dict[str, int]
    memory_busy: int
    run: ProductRun | None = None
    piped: Piped | None = None

    @property
    def cycles(self) -> int:
        """Sum of all causes."""
        return sum(self.causes.values())


@dataclass(frozen=True)
class UpdateSpan:
    """An update or a pruning on the update engine, beside the array."""

    name: str
    stage: str
    start: int
    end: int
    beats: int
    bytes: int


@dataclass(frozen=True)
class MachineRun:
    """A program that has run: the spans follow each other without gap; update spans lie beside them."""

    spans: tuple[Span, ...]
    updates: tuple[UpdateSpan, ...]

    @property
    def cycles(self) -> int:
        """All cycles."""
        return sum(span.cycles for span in self.spans)


@dataclass
class _Work:
    """A task of the update engine with what is left of it."""

    task: UpdateRun | PruneRun
    engine: int
    memory: int
    start: int = -1

    @property
    def stage(self) -> str:
        return "prune" if isinstance(self.task, PruneRun) else "update"


def run_program(program: Program, *, prefetch: bool = True) -> MachineRun:
    """Run a program; prefetch: memory works beside the array, else in turn with it (an ablation)."""
    return _Machine(program, prefetch).run()


@dataclass
class _Machine:
    program: Program
    prefetch: bool
    now: int = 0
    spans: list[Span] = field(default_factory=list)
    done: list[UpdateSpan] = field(default_factory=list)
    queue: deque[_Work] = field(default_factory=deque)

    def run(self) -> MachineRun:
        config = self.program.config
        products = [run for run in self.program.instructions if isinstance(run, ProductRun)]
        piped = [run.piped(config) for run in products]
        at = 0
        for instruction in self.program.instructions:
            if not isinstance(instruction, ProductRun):
                self.queue.append(self._work(instruction))
                continue
            if instruction.prune_first:
                self._wait_for_prunes()
            before = (products[at - 1], piped[at - 1]) if at else None
            after = (products[at + 1], piped[at + 1]) if at + 1 < len(products) else None
            self._product(instruction, piped[at], before, after)
            at += 1
        if piped:
            self._store_last(products[-1], piped[-1])
        while self.queue:
            self._wait(self.queue[0])
        return MachineRun(tuple(self.spans), tuple(self.done))

    def _work(self, task: UpdateRun | PruneRun) -> _Work:
        timing = memory_timing(self.program.config.memory, self.program.config.clock_mhz)
        count, each = burst_shape(timing, TensorStream(task.bytes, 1 << 40))
        return _Work(task, task.beats, -(-count // timing.channels) * each)

    def _product(
        self,
        run: ProductRun,
        piped: Piped,
        before: tuple[ProductRun, Piped] | None,
        after: tuple[ProductRun, Piped] | None,
    ) -> None:
        causes = _no_cycles()
        loaded = before is not None and self.prefetch
        start, busy = self._start(run, piped, before, loaded, causes)
        if before is not None:
            causes["flush"] = max(0, _flush_gap(before[1], piped) - start)
        stored = before is None or run.depends or not self.prefetch
        edge = Edge(() if stored or before is None else before[1].last_y, self._ahead(after))
        for slot in piped.kinds(edge, overlap=self.prefetch):
            causes["bandwidth"] += slot.count * slot.bandwidth
            causes["latency"] += slot.count * slot.latency
            busy += slot.count * slot.busy
        duration = piped.duration
        causes["steps"] = duration.steps
        for name, cycles in duration.stalls.items():
            causes[name] += cycles
        span = Span(run.name, run.stage.value, self.now, causes, busy, run, piped)
        self._advance(span)

    def _start(
        self,
        run: ProductRun,
        piped: Piped,
        before: tuple[ProductRun, Piped] | None,
        loaded: bool,
        causes: dict[str, int],
    ) -> tuple[int, int]:
        """Charge what happens before the first window; return its cycles and those in which memory is busy."""
        missing: tuple[BusyBursts, ...] = ()
        stores: tuple[BusyBursts, ...] = ()
        if not loaded:
            missing = (*piped.first_a, *piped.first_w)
            stores = before[1].last_y if before else ()
        else:
            if run.depends and before:
                missing, stores = piped.first_a, before[1].last_y
            if run.prune_first or (run.depends and not run.weights):
                missing = (*missing, *piped.first_w)
        load, store = transfer_cycles(piped.timing, missing), transfer_cycles(piped.timing, stores)
        busy = busy_cycles(missing) + busy_cycles(stores)
        if run.depends:
            causes["order"] += load + store
        else:
            causes["bandwidth"] += busy
            causes["latency"] += load + store - busy
        return load + store, busy

    def _ahead(self, after: tuple[ProductRun, Piped] | None) -> tuple[BusyBursts, ...]:
        """First operands of the next product that the last slot of this one can load."""
        if after is None or not self.prefetch:
            return ()
        run, piped = after
        ahead = () if run.depends else piped.first_a
        if run.prune_first or (run.depends and not run.weights):
            return ahead
        return (*ahead, *piped.first_w)

    def _store_last(self, run: ProductRun, piped: Piped) -> None:
        """Store what the last product left over."""
        causes = _no_cycles()
        cycles = transfer_cycles(piped.timing, piped.last_y)
        if not cycles:
            return
        causes["bandwidth"] = busy_cycles(piped.last_y)
        causes["latency"] = cycles - causes["bandwidth"]
        self._advance(Span(run.name, run.stage.value, self.now, causes, causes["bandwidth"]))

    def _advance(self, span: Span) -> None:
        """Append a span of the array; the update engine works beside it."""
        self.spans.append(span)
        self._work_beside(span.cycles, span.cycles - span.memory_busy)

    def _work_beside(self, length: int, idle: int) -> None:
        """Let the update engine work for `length` cycles, in `idle` of which, evenly spread, memory is free."""
        at, end = self.now, self.now + length
        while self.queue and at < end:
            work = self.queue[0]
            work.start = at if work.start < 0 else work.start
            if work.memory and not idle:
                break
            need = max(work.engine, -(-work.memory * length // idle) if work.memory else 0)
            if at + need > end:
                part = end - at
                work.engine = max(0, work.engine - part)
                work.memory = max(0, work.memory - part * idle // length)
                break
            at += need
            self._finish(self.queue.popleft(), at)
        self.now = end

    def _finish(self, work: _Work, end: int) -> None:
        self.done.append(UpdateSpan(work.task.name, work.stage, work.start, end, work.task.beats, work.task.bytes))

    def _wait_for_prunes(self) -> None:
        """Hold the array until no pruning is left in the queue."""
        while any(isinstance(work.task, PruneRun) for work in self.queue):
            self._wait(self.queue[0])

    def _wait(self, work: _Work) -> None:
        """Hold the array until the first task of the update engine is done; memory is all its own."""
        timing = memory_timing(self.program.config.memory, self.program.config.clock_mhz)
        causes = _no_cycles()
        memory = work.memory + (timing.latency if work.memory else 0)
        causes["bandwidth"] = max(0, work.memory - work.engine)
        causes["update"] = min(work.memory, work.engine) + max(0, work.engine - memory)
        causes["latency"] = max(work.engine, memory) - causes["bandwidth"] - causes["update"]
        work.start = self.now if work.start < 0 else work.start
        span = Span(work.task.name, work.stage, self.now, causes, work.memory)
        self.spans.append(span)
        self.now += span.cycles
        self._finish(self.queue.popleft(), self.now)


def _no_cycles() -> dict[str, int]:
    return dict.fromkeys(CAUSES, 0)


def _flush_gap(before: Piped, piped: Piped) -> int:
    """Cycles between the last result of a product and the first window of one with another mapping, at least."""
    mapping, config = before.tiling.mapping, before.tiling.config
    shape = (mapping.ws, mapping.slots, mapping.m, mapping.a)
    other = piped.tiling.mapping
    if shape == (other.ws, other.slots, other.m, other.a):
        return 0
    slots = mapping.slots
    if mapping.ws:
        return max(0, flush_cycles_ws(config, slots) - last_result_ws(config, slots) - 1)
    return max(0, flush_cycles_os(config, slots) - last_result_os(config, slots) - 1)
