"""External memory cycle by cycle: the model behind `dataflow.cycles.memory`, shared with the AXI memory of the benches.

Reads and writes cost the same (a DDR bus is half duplex). The model is deterministic: refresh, row misses and
turn-around are in the efficiency.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nmsat.dataflow.cycles.memory import MemoryTiming
    from nmsat.sim.parts.state import Key


@dataclass
class _Burst:
    """A burst in flight: what it belongs to, its parts, when its data may start, when it started, parts given."""

    tag: Any
    parts: int
    ready: int
    start: int = -1
    given: int = 0


class Beat(NamedTuple):
    """A beat of data in one cycle, or a part of it: its burst's tag, its number within the burst, and whether it is
    the last. Parts are numbered through all beats of a burst."""

    tag: Any
    number: int
    last: bool


class Channel:
    """One memory channel; call `request` any number of times, then `tick`, in every cycle.

    Timing: a burst requested in cycle t has its first beat in cycle t + latency or later, its beat j in the cycle
    before start + hold(j + 1). A request is taken while fewer than `outstanding` bursts are in flight; a burst leaves
    with its last beat. Behind a narrow port each beat comes in `timing.parts` parts, spread evenly over its cycles.
    """

    def __init__(self, timing: MemoryTiming) -> None:
        self.timing = timing
        self.cycle = self.free = 0
        self._queue: deque[_Burst] = deque()
        self._holds = [timing.hold_parts(parts) for parts in range(timing.burst_beats * timing.parts + 1)]

    def key(self) -> Key:
        """Return the state without tags; times count from the present cycle, None for a burst that has not begun."""
        now = self.cycle
        bursts = [
            (burst.parts, max(0, burst.ready - now), None if burst.start < 0 else now - burst.start, burst.given)
            for burst in self._queue
        ]
        return max(0, self.free - now), tuple(bursts)

    def restore(self, key: Key, tags: Sequence[Any]) -> None:
        """Return to a state that `key` gave; tags: of the bursts in flight, oldest first."""
        free, bursts = key
        self.cycle = now = max([passed or 0 for _, _, passed, _ in bursts], default=0)
        self.free = free + now
        self._queue = deque(
            _Burst(tag, parts, now + ready, -1 if passed is None else now - passed, given)
            for tag, (parts, ready, passed, given) in zip(tags, bursts, strict=True)
        )

    @property
    def tags(self) -> list[Any]:
        """Tags of the bursts in flight, oldest first."""
        return [burst.tag for burst in self._queue]

    @property
    def in_flight(self) -> int:
        """Bursts requested and not finished."""
        return len(self._queue)

    def request(self, beats: int, tag: Any = None) -> bool:
        """Ask for a burst in this cycle; False if the channel cannot take it yet. ValueError for an illegal length."""
        if not 1 <= beats <= self.timing.burst_beats:
            raise ValueError(f"beats is {beats!r}; a burst has from 1 to {self.timing.burst_beats}")
        if len(self._queue) >= self.timing.outstanding:
            return False
        self._queue.append(_Burst(tag, beats * self.timing.parts, self.cycle + self.timing.latency))
        return True

    def tick(self) -> Beat | None:
        """End the cycle; return the beat, or the part of one, that it moved."""
        beat = None
        if self._queue:
            head = self._queue[0]
            if head.start < 0 and max(head.ready, self.free) <= self.cycle:
                head.start = self.cycle
            if head.start >= 0 and self.cycle + 1 == head.start + self._holds[head.given + 1]:
                beat = Beat(head.tag, head.given, head.given + 1 == head.parts)
                head.given += 1
                if beat.last:
                    self.free = self.cycle + 1
                    self._queue.popleft()
        self.cycle += 1
        return beat
