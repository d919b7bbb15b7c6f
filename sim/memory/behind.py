"""The memory behind the master, cycle by cycle."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

from nmsat.dataflow.contract.isa import BEAT_BYTES
from nmsat.sim.memory.channel import Channel

if TYPE_CHECKING:
    from nmsat.dataflow.contract.registers import Launch
    from nmsat.dataflow.cycles.memory import MemoryTiming
    from nmsat.sim.parts.state import Key

READS: Final = 1
WRITES: Final = 2
"""Directions in which a part moves."""

_Tag = tuple[bool, int, int]
"""Of a burst: whether it writes, its first beat in memory, its beats."""


class MemoryPort:
    """The memory behind the master: one channel, reads and writes in the order in which they were asked for.

    Timing: docs/timing.md; reads go first in a cycle with two requests; a write is answered one cycle after its last
    beat. A beat that comes in parts counts with the last of them.
    """

    def __init__(self, settings: Launch, timing: MemoryTiming, faults: frozenset[int]) -> None:
        self._settings = settings
        self._timing = timing
        self._faults = faults
        self._parts = timing.parts
        self._channel = Channel(timing)
        self._answer: bool | None = None
        self.reads: tuple[bool, bool] | None = None
        self.writes = False
        self.moves = 0
        self.answer: bool | None = None

    @property
    def idle(self) -> bool:
        """Whether no burst is under way and nothing is shown."""
        if self._channel.in_flight or self.reads is not None or self.writes:
            return False
        return self._answer is None and self.answer is None

    def ready(self) -> tuple[bool, bool]:
        """Return `arready` and `awready` of this cycle."""
        room = self._timing.outstanding - self._channel.in_flight
        return room > 0, room > 1

    def tick(self, read: Any, write: Any) -> None:
        """Take the bursts on AR and AW (None without) and end the cycle.

        Then reads is (last, fault) of the beat on R in this cycle or None; writes: a beat on W was taken; moves: as
        `READS` or `WRITES`, where a part moved that ends no beat, else 0; answer: the fault of the answer on B or None.
        """
        channel = self._channel
        self.answer, self._answer = self._answer, None
        if read is not None:
            channel.request(read.beats, (False, self._first(read), read.beats))
        if write is not None:
            channel.request(write.beats, (True, self._first(write), write.beats))
        beat = channel.tick()
        self.reads, self.writes, self.moves = None, False, 0
        if beat is None:
            return
        tag: Any = beat.tag
        is_write, first, beats = tag
        number = beat.number // self._parts
        if (beat.number + 1) % self._parts:
            self.moves = WRITES if is_write else READS
            return
        if is_write:
            self.writes = True
            if beat.last:
                self._answer = not self._faults.isdisjoint(range(first, first + beats))
        else:
            self.reads = (beat.last, first + number in self._faults)

    def key(self) -> Key:
        """Return the state, without addresses."""
        writes = tuple([tag[0] for tag in cast("list[_Tag]", self._channel.tags)])
        return self._channel.key(), writes, self._answer, self.reads, self.writes, self.answer, self.moves

    def restore(self, key: Key) -> None:
        """Return to a state that `key` gave."""
        channel, writes, self._answer, self.reads, self.writes, self.answer, self.moves = key
        tags = [(is_write, 0, burst[0] // self._parts) for is_write, burst in zip(writes, channel[1], strict=True)]
        self._channel.restore(channel, tags)

    def _first(self, burst: Any) -> int:
        region = self._settings.regions[burst.region]
        assert region is not None  # the port has checked
        return region.base // BEAT_BYTES + burst.offset
