"""The store engine, cycle by cycle: the control of `hw.store.store` (docs/machine/store.md), without data."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from nmsat.dataflow.contract.isa import Side
from nmsat.dataflow.contract.limits import SIDE_BEATS, WRITE_BEATS
from nmsat.sim.store.bursts import RowBursts
from nmsat.sim.store.epilogue import latency

if TYPE_CHECKING:
    from nmsat.dataflow.contract.config import SatConfig
    from nmsat.dataflow.contract.isa import Instruction
    from nmsat.sim.memory.port import Burst

UNITS: Final = 32
"""Units of 2 bytes of a beat."""

INSIDE: Final = 1 << latency().bit_length()
"""Chunks that may be between the capture buffers and the end of the epilogue (`hw.parts.result_queue.queue_depth`)."""

IN_EPILOGUE: Final = 1 + latency()
"""Cycles from the read of a chunk to its results."""


class RowPlace:
    """Registers of `hw.store.beats.RowPlace`."""

    def __init__(self, columns: int) -> None:
        self._columns = columns
        self._row_columns = self._lane = self._left = self._at = self._piece = 0
        self._wide = False
        self.ends_chunk = self.ends_beat = self.ends_row = False

    def start(self, row_columns: int, lane: int, wide: bool) -> None:
        """Begin a row of so many columns, the first at `lane`, of 4 (wide) or 2 bytes."""
        self._row_columns, self._lane, self._wide = row_columns, lane, wide
        self._begin_row()

    def step(self) -> None:
        """Go to the next piece."""
        if self.ends_row:
            self._begin_row()
            return
        self._piece += 1
        if self.ends_chunk:
            self._piece = 0
            self._left -= self._columns
            self._at = (self._at + (self._columns << self._wide)) % UNITS
        self._look()

    def _begin_row(self) -> None:
        self._piece, self._left, self._at = 0, self._row_columns, (self._lane << self._wide) % UNITS
        self._look()

    def _look(self) -> None:
        end = self._at + (min(self._left, self._columns) << self._wide)
        edge = UNITS * (self._piece + 1)
        self.ends_chunk = end <= edge
        self.ends_row = self.ends_chunk and self._left <= self._columns
        self.ends_beat = end >= edge or self.ends_row


class Store:
    """Registers of `hw.store.store.Store`. Properties describe the present cycle; `tick` ends it."""

    def __init__(self, config: SatConfig) -> None:
        self.done = False
        self._instruction: Instruction | None = None  # in its first cycle, before it runs
        self._running = False
        self._now = 0
        self._into, self._out = RowPlace(config.columns), RowPlace(config.columns)
        self._writes, self._reads = RowBursts(), RowBursts()
        self._rows = 0  # still to be read from the capture buffers
        self._sided = False
        self._inside: deque[int] = deque()  # cycles from which on the results of chunks stand behind the epilogue
        self._side_beats, self._side_room = 0, SIDE_BEATS
        self._write_beats = self._unasked = self._under_way = 0

    @property
    def ready(self) -> bool:
        """Whether an instruction can start."""
        return not self._running and self._instruction is None

    @property
    def busy(self) -> bool:
        """Whether an instruction is inside; until the cycle before its done."""
        return not self.ready

    @property
    def request(self) -> Burst | None:
        """Read request for the second operand."""
        burst = self._reads.next
        return burst if burst is not None and burst.beats <= self._side_room else None

    @property
    def write_request(self) -> Burst | None:
        """Write request, all beats of which are here."""
        burst = self._writes.next
        return burst if burst is not None and burst.beats <= self._unasked else None

    def tick(
        self,
        start: Instruction | None,
        granted: bool,
        arrives: bool,
        write_granted: bool,
        pulled: bool,
        acknowledged: bool,
    ) -> None:
        """End the cycle.

        start: the instruction taken in it; granted: `request` is accepted; arrives: a beat of the second operand;
        write_granted: `write_request` is accepted; pulled: a beat leaves; acknowledged: memory has one more burst.
        """
        self.done = False
        if self._running:
            ends = self._writes.next is None and not self._under_way
            takes, uses = self._read()
            pushes = self._pack()
            if takes:
                self._inside.append(self._now + IN_EPILOGUE)
            self._count_side(granted, arrives, uses)
            self._count_writes(write_granted, pushes, pulled, acknowledged)
            if ends:
                self._running, self.done = False, True
        elif self._instruction is not None:
            self._begin(self._instruction)
            self._instruction, self._running = None, True
        elif start is not None:
            self._instruction = start
        self._now += 1

    def _begin(self, instruction: Instruction) -> None:
        columns, lane, side = instruction["columns"], instruction["lane"], Side(instruction["side"])
        self._rows, self._sided = instruction["rows"], side is not Side.NONE
        wide, side_wide = not instruction["to_half"], side is Side.TILE32
        self._into.start(columns, lane, side_wide)
        self._out.start(columns, lane, wide)
        self._writes.start(instruction, "", self._rows, *row_beats(columns, lane, wide))
        side_rows = self._rows if self._sided else 0
        self._reads.start(instruction, "side_", side_rows, *row_beats(columns, lane, side_wide))

    def _read(self) -> tuple[bool, bool]:
        """Return whether a chunk is read, and whether a beat of the second operand is used up."""
        place = self._into
        if self._sided and not self._side_beats:
            return False, False
        takes = bool(self._rows) and place.ends_chunk and len(self._inside) < INSIDE
        if not takes and place.ends_chunk:
            return False, False
        uses = self._sided and place.ends_beat
        if takes and place.ends_row:
            self._rows -= 1
        place.step()
        return takes, uses

    def _pack(self) -> bool:
        """Return whether a beat of results is complete."""
        if not self._inside or self._inside[0] > self._now or self._write_beats == WRITE_BEATS:
            return False
        place = self._out
        pushes = place.ends_beat
        if place.ends_chunk:
            self._inside.popleft()
        place.step()
        return pushes

    def _count_side(self, granted: bool, arrives: bool, uses: bool) -> None:
        if granted and self._reads.next is not None:
            self._side_room -= self._reads.next.beats
            self._reads.advance()
        self._side_room += uses
        self._side_beats += arrives - uses

    def _count_writes(self, granted: bool, pushes: bool, pulled: bool, acknowledged: bool) -> None:
        if granted and self._writes.next is not None:
            self._unasked -= self._writes.next.beats
            self._writes.advance()
        self._unasked += pushes
        self._write_beats += pushes - pulled
        self._under_way += granted - acknowledged


def row_beats(columns: int, lane: int, wide: bool) -> tuple[int, int]:
    """Return (first beat that holds an element, beats) of a row of so many columns, the first at place `lane`."""
    first = (lane << wide) // UNITS
    return first, -(-(lane + columns << wide) // UNITS) - first
