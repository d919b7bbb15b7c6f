"""Inside a stretch: while the array works through a command, the rest of the machine repeats a rhythm of its own.

A long load is looked at beat by beat, in bursts that memory answers in a pattern that soon returns. Between two points
that lie some beats apart, with no instruction loaded, started or done, loader, ports and memory are a function of their
state and of the beats ahead; the compute engine, which nobody meets in that time, only counts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from nmsat.dataflow.contract.isa import Instruction
    from nmsat.sim.parts.state import Key
    from nmsat.sim.run import Run

STEP: Final = 64
"""Beats from one point to the next: those of a page, so that places in a page return.

With more of them more is walked at the ends of loads; with fewer, taking the states takes longer than the walk."""


class _Point:
    """The machine without compute engine and place in the load; steps: by the beats ahead."""

    def __init__(self, key: Key) -> None:
        self.key = key
        self.steps: dict[bytes, _Step] = {}


class _Step:
    """From one point to the next: beats looked at, cycles, what was counted outside of the compute engine: places in a
    row of counts, most of which stay 0, and how much."""

    def __init__(self, after: _Point, beats: int, cycles: int, counts: list[tuple[int, int]]) -> None:
        self.after, self.beats, self.cycles, self.counts = after, beats, cycles, counts


class Inner:
    """What has been walked inside of stretches, for one machine. step: beats from one point to the next; kept: most
    points that are remembered, all are forgotten at one more."""

    def __init__(self, step: int, kept: int) -> None:
        self.step = step
        self._kept = kept
        self._points: dict[Key, _Point] = {}
        self._parts: dict[Any, Any] = {}

    def point(self, key: Key) -> _Point:
        """Return the point of a key."""
        found = self._points.get(key)
        if found is None:
            if len(self._points) >= self._kept:
                self._points.clear()
                self._parts.clear()
            key = tuple([self._parts.setdefault(part, part) for part in key])
            found = self._points[key] = _Point(key)
        return found


class Walker:
    """Walks one run: jumps where it can, watches where it cannot. jumped: cycles that were not walked."""

    def __init__(self, inner: Inner, run: Run) -> None:
        self._inner, self._step = inner, inner.step
        self._run = run
        self._from: _Point | None = None  # where the step began that is being watched
        self._ahead = b""
        self._place = self._starts = self._loaded = self._cycles = 0
        self._ready = False
        self._before: tuple[int, ...] = ()
        self.jumped = 0

    def cycle(self) -> list[Instruction]:
        """Pass one cycle, after a jump if one is known here; return the instructions that are done in it."""
        run = self._run
        if self._from is None:
            if run.loader.left >= self._step:
                self._begin(self._inner.point(run.around()))
        elif run.loader.looked_at - self._place == self._step:
            self._begin(self._end())
        self.jumped += run.rest()
        finished = run.cycle()
        if self._from is not None and (finished or self._disturbed()):
            self._from = None
        return finished

    def _disturbed(self) -> bool:
        run = self._run
        if run.starts != self._starts or run.compute.ready is not self._ready or run.ending:
            return True
        return run.sequencer.fetch.loaded != self._loaded or run.loader.left == 0

    def _begin(self, point: _Point) -> None:
        """Jump from the present point as far as is known, then watch the next step."""
        run = self._run
        place, flags = run.loader.looked_at, run.loader.flags
        point, place = self._jump(point, place, flags)
        if len(flags) - place < self._step:
            self._from = None
            return
        self._from, self._place, self._ahead = point, place, flags[place : place + self._step]
        self._starts, self._loaded, self._ready = run.starts, run.sequencer.fetch.loaded, run.compute.ready
        self._before, self._cycles = run.counts(), run.cycles

    def _end(self) -> _Point:
        """Remember the step that has been watched; return the point where it ends."""
        run, begin = self._run, self._from
        assert begin is not None
        now, before = run.counts(), self._before
        counts = [(at, now[at] - before[at]) for at in range(len(now)) if now[at] != before[at] and run.outside(at)]
        after = self._inner.point(run.around())
        beats = run.loader.looked_at - self._place
        begin.steps[self._ahead] = _Step(after, beats, run.cycles - self._cycles, counts)
        return after

    def _jump(self, point: _Point, place: int, flags: bytes) -> tuple[_Point, int]:
        """Follow known steps while the compute engine meets nobody; return the point and the place reached."""
        run, used = self._run, dict[_Step, int]()
        horizon = run.compute.horizon
        last, passed = len(flags) - self._step, 0
        while place <= last:
            step = point.steps.get(flags[place : place + self._step])
            if step is None or passed + step.cycles > horizon:
                break
            used[step] = used.get(step, 0) + 1
            passed += step.cycles
            place += step.beats
            point = step.after
        if passed:
            run.advance(passed)
            row = [0] * len(run.counts())
            for step, times in used.items():
                for at, count in step.counts:
                    row[at] += times * count
            run.count(row)
            run.restore_around(point.key, run.sequencer.fetch.loaded, place)
            self.jumped += passed
        return point, place
