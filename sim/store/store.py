"""The store engine, cycle by cycle: the control of `hw.store.store` (docs/machine/store.md), without data."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from nmsat.dataflow.contract.isa import Side
from nmsat.dataflow.contract.limits import SIDE_BEATS, WRITE_BEATS
from nmsat.sim.parts.state import Key, Registers
from nmsat.sim.store.bursts import RowBursts
from nmsat.sim.store.epilogue import latency

if TYPE_CHECKING:
    from nmsat.dataflow.contract.config import SatConfig
    from nmsat.dataflow.contract.isa import Instruction
    from nmsat.sim.memory.port import Burst
    from nmsat.sim.store.bursts import Bursts

UNITS: Final = 32
"""Units of 2 bytes of a beat."""

INSIDE: Final = 1 << latency().bit_length()
"""Chunks that may be between the capture buffers and the end of the epilogue (`hw.parts.result_queue.queue_depth`)."""

IN_EPILOGUE: Final = 1 + latency()
"""Cycles from the read of a chunk to its results."""


class RowPlace(Registers):
    """Registers of `hw.store.beats.RowPlace`."""

    REGISTERS = (
        *("_row_columns", "_lane", "_left", "_at", "_piece", "_wide"),
        *("ends_chunk", "ends_beat", "ends_row"),
    )

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


class Store(Registers):
    """Registers of `hw.store.store.Store`. Properties describe the present cycle; `tick` ends it.

    known: the bursts of tiles seen before; engines may share it.
    """

    REGISTERS = ("done", "_instruction", "_running")
    _COUNTS = ("_rows", "_sided", "_side_beats", "_side_room", "_write_beats", "_unasked", "_under_way")

    def __init__(self, config: SatConfig, known: dict[tuple[int, ...], Bursts] | None = None) -> None:
        self.done = False
        self._present: Instruction | None = None  # the one that runs
        self._instruction: Instruction | None = None  # in its first cycle, before it runs
        self._running = False
        self._now = 0
        self._into, self._out = RowPlace(config.columns), RowPlace(config.columns)
        known = {} if known is None else known
        self._writes, self._reads = RowBursts(known), RowBursts(known)
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
    def active(self) -> bool:
        """Whether there is anything to do but to take an instruction."""
        return self.done or not self.ready

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
                self._running, self.done, self._present = False, True, None
        elif self._instruction is not None:
            self._begin(self._instruction)
            self._instruction, self._running = None, True
        elif start is not None:
            self._instruction = start
        self._now += 1

    def key(self) -> Key:
        """Return the state without addresses; chunks count from the present cycle."""
        counts = tuple([getattr(self, name) for name in self._COUNTS])
        if not self._running:
            return (*super().key(), counts)
        inside = tuple([max(0, cycle - self._now) for cycle in self._inside])
        places = self._into.key(), self._out.key(), self._writes.at, self._reads.at
        return (*super().key(), counts, self._present, inside, *places)

    def restore(self, key: Key) -> None:
        """Return to a state that `key` gave."""
        super().restore(key[:3])
        self._now, self._present = 0, None
        self._inside.clear()
        self._writes.next = self._reads.next = None
        if self._running:
            self._present = key[4]
            self._inside.extend(key[5])
            self._find(key[4])
            self._into.restore(key[6])
            self._out.restore(key[7])
            self._writes.go(key[8])
            self._reads.go(key[9])
        for name, value in zip(self._COUNTS, key[3], strict=True):
            setattr(self, name, value)

    def _begin(self, instruction: Instruction) -> None:
        columns, lane, side = instruction["columns"], instruction["lane"], Side(instruction["side"])
        self._present = instruction
        self._rows, self._sided = instruction["rows"], side is not Side.NONE
        self._into.start(columns, lane, side is Side.TILE32)
        self._out.start(columns, lane, not instruction["to_half"])
        self._find(instruction)

    def bursts(self, instruction: Instruction) -> tuple[tuple[Bursts, int], tuple[Bursts, int]]:
        """Return the bursts of a STORE, writes and reads, moved to the first page, and by how many beats."""
        writes = self._writes.bursts(instruction, *write_rows(instruction))
        return writes, self._reads.bursts(instruction, *side_rows(instruction))

    def _find(self, instruction: Instruction) -> None:
        """Find the bursts of an instruction."""
        self._writes.start(instruction, *write_rows(instruction))
        self._reads.start(instruction, *side_rows(instruction))

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


def write_rows(instruction: Instruction) -> tuple[str, int, int, int]:
    """Return what `RowBursts` needs of the results of a STORE: prefix, rows, first beat of each, beats of each."""
    return "", instruction["rows"], *row_beats(instruction["columns"], instruction["lane"], not instruction["to_half"])


def side_rows(instruction: Instruction) -> tuple[str, int, int, int]:
    """Return the same of its second operand."""
    wide = instruction["side"] == Side.TILE32
    rows = instruction["rows"] if instruction["side"] else 0
    return "side_", rows, *row_beats(instruction["columns"], instruction["lane"], wide)
