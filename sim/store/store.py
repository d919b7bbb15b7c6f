"""The store engine, cycle by cycle: the control of `hw.store.store` (docs/machine/store.md), without data."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from nmsat.dataflow.contract.isa import Instruction, Opcode, Side
from nmsat.dataflow.contract.limits import SIDE_BEATS, STORE_AHEAD, WRITE_BEATS
from nmsat.dataflow.contract.timing import epilogue_path, queue_depth
from nmsat.sim.parts.state import Key, Registers
from nmsat.sim.store.beats import RowPlace, same_row, side_rows, write_rows
from nmsat.sim.store.bursts import RowBursts

if TYPE_CHECKING:
    from nmsat.dataflow.contract.config import SatConfig
    from nmsat.sim.memory.port import Burst
    from nmsat.sim.store.bursts import Bursts

INSIDE: Final = queue_depth(epilogue_path())
"""Chunks that may be between the capture buffers and the end of the epilogue."""

IN_EPILOGUE: Final = 2 + epilogue_path()
"""Cycles from the read of a chunk to its results."""


class Store(Registers):
    """Registers of `hw.store.store.Store`. Properties describe the present cycle; `tick` ends it.

    known: the bursts of tiles seen before; engines may share it.
    """

    REGISTERS = (
        *("done", "_next", "_starts", "_running", "_fresh", "_sided", "_same", "_beside", "_options"),
        *(
            "_set",
            "_rows",
            "_side_beats",
            "_side_room",
            "_pack_rows",
            "_write_beats",
            "_unasked",
            "_ends",
            "_under_way",
        ),
    )

    def __init__(self, config: SatConfig, known: dict[tuple[int, ...], Bursts] | None = None) -> None:
        self.done = False
        known = {} if known is None else known
        self._now = 0
        # reading: whether the instruction is new, the one whose chunks are read, what is left of it
        self._fresh = False
        self._reading: Instruction | None = None
        self._into, self._reads = RowPlace(config.columns), RowBursts(known)
        self._rows = 0  # still to be read from the capture buffers
        self._sided = self._same = self._beside = False  # with a second operand; one row of it; read beside stores
        self._options = self._set = _options(Instruction(Opcode.STORE, {}))  # of the instruction, of the epilogue
        self._inside: deque[int] = deque()  # cycles from which on the results of chunks stand behind the epilogue
        self._side_beats, self._side_room = 0, SIDE_BEATS
        # writing: the instruction that waits for it, the one in its first cycle, what is left of the one that runs
        self._next: Instruction | None = None
        self._starts: Instruction | None = None
        self._running = False
        self._writing: Instruction | None = None
        self._out, self._writes = RowPlace(config.columns), RowBursts(known)
        self._pack_rows = 0
        self._write_beats = self._unasked = 0
        # bursts without acknowledgement: of instructions that have asked for all of theirs, of the one that runs
        self._ends: deque[int] = deque()
        self._under_way = 0
        self._idle = super().key()

    @property
    def ready(self) -> bool:
        """Whether an instruction can start."""
        return self._next is None and not self._rows

    @property
    def busy(self) -> bool:
        """Whether an instruction is inside; until the cycle before its done."""
        if self._rows or self._running or self._next is not None:
            return True
        return self._starts is not None or bool(self._ends)

    @property
    def active(self) -> bool:
        """Whether there is anything to do but to take an instruction."""
        if self.done or self._rows or self._running or self._next is not None:
            return True
        return self._starts is not None or bool(self._ends)

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
        if self.busy:
            self._work(granted, arrives, write_granted, pulled, acknowledged)
        else:
            self.done = False
        if start is not None:
            self._next, self._fresh = start, True
            self._sided, self._beside = start["side"] != Side.NONE, bool(start["beside"])
            self._same = same_row(start)
            self._options = _options(start)
        self._now += 1

    @property
    def _alone(self) -> bool:
        """Whether the instructions in front are in memory."""
        return self._starts is None and not self._running and not self._ends

    def _work(self, granted: bool, arrives: bool, write_granted: bool, pulled: bool, acknowledged: bool) -> None:
        begins = self._fresh and (not self._sided or self._beside or self._alone)
        ended = self._running and self._writes.next is None and len(self._ends) < STORE_AHEAD
        free = self._starts is None and (ended or not self._running)
        self.done = bool(self._ends) and not self._ends[0]
        empty = not self._inside
        takes, uses = self._read()
        pushes = self._pack()
        if takes:
            self._inside.append(self._now + IN_EPILOGUE)
        if self.done:
            self._ends.popleft()
        if ended:
            self._ends.append(self._under_way)
            self._under_way, self._running = 0, False
        self._count_side(granted, arrives, uses)
        self._count_writes(write_granted, pushes, pulled, acknowledged)
        if self._starts is not None:
            self._begin_writing(self._starts)
            self._starts, self._running = None, True
        reading = self._next
        if reading is not None and free and (begins or not self._fresh):
            self._starts, self._next = reading, None
        if begins:
            assert reading is not None
            self._begin_reading(reading)
            self._fresh = False
        if empty:
            self._set = self._options

    def _begin_reading(self, instruction: Instruction) -> None:
        self._reading, self._rows = instruction, instruction["rows"]
        self._into.start(instruction["columns"], instruction["lane"], instruction["side"] == Side.TILE32)
        self._reads.start(instruction, *side_rows(instruction))

    def _begin_writing(self, instruction: Instruction) -> None:
        self._writing, self._pack_rows = instruction, instruction["rows"]
        self._out.start(instruction["columns"], instruction["lane"], not instruction["to_half"])
        self._writes.start(instruction, *write_rows(instruction))

    def bursts(self, instruction: Instruction) -> tuple[tuple[Bursts, int], tuple[Bursts, int]]:
        """Return the bursts of a STORE, writes and reads, moved to the first page, and by how many beats."""
        writes = self._writes.bursts(instruction, *write_rows(instruction))
        return writes, self._reads.bursts(instruction, *side_rows(instruction))

    def key(self) -> Key:
        """Return the state without addresses; chunks count from the present cycle. An idle engine has but one."""
        if not self.busy:
            return self.done, *self._idle[1:], (), None, None
        inside = tuple([max(0, cycle - self._now) for cycle in self._inside])
        reads = (self._reading, self._reads.at, self._into.key()) if self._rows else None
        writes = (self._writing, self._writes.at, self._out.key()) if self._running else None
        return *super().key(), inside, reads, writes

    def restore(self, key: Key) -> None:
        """Return to a state that `key` gave."""
        *registers, inside, reads, writes = key
        super().restore(tuple(registers))
        self._now, self._inside = 0, deque(inside)
        self._reading = self._writing = self._reads.next = self._writes.next = None
        if reads is not None:
            self._reading, at, place = reads
            self._reads.start(reads[0], *side_rows(reads[0]))
            self._reads.go(at)
            self._into.restore(place)
        if writes is not None:
            self._writing, at, place = writes
            self._writes.start(writes[0], *write_rows(writes[0]))
            self._writes.go(at)
            self._out.restore(place)

    @property
    def _whole(self) -> bool:
        """Whether all that has been asked for of the second operand, and all that will be, is there."""
        return self._reads.next is None and self._side_room + self._side_beats == SIDE_BEATS

    def _read(self) -> tuple[bool, bool]:
        """Return whether a chunk is read, and whether a beat of the second operand is used up."""
        place = self._into
        if self._sided and not (self._side_beats and (not self._same or self._whole)):
            return False, False
        fits = self._set == self._options and len(self._inside) < INSIDE
        takes = bool(self._rows) and place.ends_chunk and fits
        if not takes and place.ends_chunk:
            return False, False
        uses = self._sided and place.ends_beat and not (self._same and self._rows > 1)
        if takes and place.ends_row:
            self._rows -= 1
        place.step()
        return takes, uses

    def _pack(self) -> bool:
        """Return whether a beat of results is complete."""
        if not self._pack_rows or not self._inside or self._inside[0] > self._now or self._write_beats == WRITE_BEATS:
            return False
        place = self._out
        pushes = place.ends_beat
        self._pack_rows -= place.ends_row
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
            self._under_way += 1
        self._unasked += pushes
        self._write_beats += pushes - pulled
        if acknowledged:
            self._acknowledge()

    def _acknowledge(self) -> None:
        """Count an acknowledgement for the oldest instruction that waits for one."""
        for number, left in enumerate(self._ends):
            if left:
                self._ends[number] = left - 1
                return
        self._under_way -= 1


def _options(instruction: Instruction) -> tuple[bool, bool, bool, bool]:
    """Return the options of the epilogue that an instruction sets: sum, mask, rounding, ReLU."""
    side = instruction["side"]
    tile = side in (Side.TILE16, Side.TILE32)
    return tile, side == Side.MASK, bool(instruction["to_half"]), bool(instruction["relu"])
