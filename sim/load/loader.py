"""Model of the loader (hw/load/loader.py): which requests leave, when beats are written, when an instruction is done.

It carries no data: what instructions do is computed elsewhere.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from nmsat.dataflow.contract.isa import OFFSET_MASK, ActMode, Opcode
from nmsat.dataflow.contract.limits import LOAD_AHEAD, LOAD_LINK, LOAD_OWNERS, LOAD_PLACES
from nmsat.sim.load.beats import FIRST, FOLLOWS, PLACES, Beats, canonical
from nmsat.sim.load.gather import Gather
from nmsat.sim.load.slots import slots
from nmsat.sim.load.stage import Stager
from nmsat.sim.load.writers import BeatPlace, LoadBeats, LoadRows, LoadWeights
from nmsat.sim.parts.state import Key, Registers

if TYPE_CHECKING:
    from nmsat.dataflow.contract.config import SatConfig
    from nmsat.dataflow.contract.isa import Instruction
    from nmsat.sim.memory.port import Burst

WAYS: Final = (LoadRows, LoadBeats, LoadWeights)
"""Kinds of writers; a state names one by its place."""

MARK: Final = 256
"""Bit of what is looked at: no beat, but a STAGE."""

_MARK: Final = BeatPlace(True, False, False, False, mark=True)
_LOCAL: Final = 1

_LOAD_ACT, _OS_ROWS, _STAGE = Opcode.LOAD_ACT, ActMode.OS_ROWS, Opcode.STAGE  # looking up a member takes long


def _rows_mode(instruction: Instruction) -> bool:
    """Whether an instruction is a LOAD_ACT of output stationary rows."""
    return instruction.opcode is _LOAD_ACT and instruction["mode"] == _OS_ROWS


class Loader(Registers):
    """The loader between two clock edges; properties describe the present cycle, `tick` ends it.

    known: the beats of loads seen before; loaders of one configuration may share it.
    """

    REGISTERS = (
        *("_rows", "_stager", "_gather", "_asking", "_prepare", "_waiting", "_marks", "_slot", "_places", "_owners"),
        *("_queued", "_now", "_hold", "_early", "_ahead", "_writing", "_begin", "_owed", "_inside", "_front", "_told"),
    )

    def __init__(self, config: SatConfig, known: dict[tuple[int, ...], Beats] | None = None) -> None:
        self._config = config
        self._known = {} if known is None else known
        self._rows, self._stager = LoadRows(config), Stager()
        # requests: the instruction looked at, its present beat, the bursts
        self._asking: Instruction | None = None
        self._prepare = self._waiting = False
        self._marks = False  # it is a STAGE that has not been taken yet
        self._beats: Beats | None = None  # of the instruction looked at
        self._next = self._shift = 0  # the next one of them; where they lie
        self._joins = 2  # whether the first of them follows the last one of the instruction in front; 2: not known
        self._slot = -1  # flags of the present one
        self._region = self._slot_region = 0  # of the instruction, of the present beat
        self._offset = self._end = 0  # of the present beat, behind it
        self._gather = Gather()
        # beats under way: what was asked for, bursts that have not come as a whole (beats left, below 0 those of a
        # STAGE), how many beats of loads have come
        self._places: deque[BeatPlace] = deque()
        self._owners: deque[int] = deque()
        self._queued = 0
        self._now: BeatPlace | None = None  # the one that waits for its writer
        self._hold = True  # the last beat of an instruction has left the places, the next may not follow yet
        self._early = False  # the beats of the instruction behind the one that is written are taken already
        # writes: instructions that wait for it, the one that is written
        self._ahead: deque[Instruction] = deque()
        self._writing: Instruction | None = None
        self._begin = False
        self._told = 0  # that instructions are done, on its way; bit 0 is shown
        self._writer: LoadRows | LoadBeats | LoadWeights | None = None
        # order: loads that have been written and are not done, that are not done, those of them in front of the STAGE
        self._owed = self._inside = self._front = 0

    @property
    def ready(self) -> bool:
        """Whether an instruction can start."""
        return self._asking is None

    @property
    def busy(self) -> bool:
        """Whether an instruction is inside: it has started and `done` has not been shown yet."""
        if self._asking is not None or self._inside or self._told:
            return True
        return not self._stager.free

    @property
    def request(self) -> Burst | None:
        """The read request that stands, that of a STAGE first."""
        if len(self._owners) == LOAD_OWNERS:
            return None
        return self._stager.request or self._gather.request

    @property
    def done(self) -> bool:
        """Whether the oldest instruction is done."""
        return (self._told & 1) != 0

    def tick(self, start: Instruction | None, granted: bool, arrives: bool) -> None:
        """End the cycle. start: the instruction taken; granted: the request is accepted; arrives: a beat comes."""
        if start is None and not self.busy:
            return
        room = len(self._places) < LOAD_PLACES
        asking, stager = self._asking, self._stager
        handed = self._waiting and len(self._ahead) < LOAD_AHEAD
        begin = self._writing is None and bool(self._ahead)
        release = self._releases()
        marked = bool(self._places) and self._places[0].mark
        free, written = stager.free, stager.written
        told = self._report(free, written, handed)
        ended = self._write(marked)
        staged = arrives and self._arrive()
        self._queued += arrives and not staged
        stages = granted and self._own()
        takes = self._ask(room, granted and not stages, handed, (free, written))
        if not free:
            stager.tick(marked, stages, staged)
        self._owed += ended
        if told:
            stager.release()
        if takes is not None:
            self._front = self._inside
            stager.take(takes)
            stager.find(*self.beats(takes))
        if release:
            self._early, self._hold = True, False
            self._rows.collect()
        elif self._begin:
            self._start_writer()
        self._begin = begin
        if begin:
            self._writing = self._ahead.popleft()
        elif ended:
            self._writing = None
            if not self._early:
                self._writer = None
        if handed:
            assert asking is not None
            self._ahead.append(asking)
            self._waiting = False
        if start is not None:
            self._asking = start
            self._prepare, self._waiting = True, start.opcode is not _STAGE

    def _report(self, free: bool, written: bool, handed: bool) -> bool:
        """Say which instruction is done once it is in the buffers: loads and STAGE in their order.

        Returns whether it is the STAGE; free, written: of that.
        """
        load = self._owed > 0 and (free or self._front > 0)
        stage = written and not self._front
        self._told = self._told >> 1 | int(load or stage) << LOAD_LINK
        self._owed -= load
        self._front -= load and not free
        self._inside += handed - load
        return stage

    def _arrive(self) -> bool:
        """Take a beat; return whether it is that of a STAGE."""
        left = self._owners[0]
        if left in (1, -1):
            self._owners.popleft()
        else:
            self._owners[0] = left - 1 if left > 0 else left + 1
        return left < 0

    def _own(self) -> bool:
        """Note whose request is accepted; return whether it is that of a STAGE."""
        burst = self._stager.request
        if burst is not None:
            self._owners.append(-burst.beats)
            return True
        burst = self._gather.request
        assert burst is not None
        self._owners.append(burst.beats)
        return False

    def _write(self, marked: bool) -> bool:
        """Hand a beat to the writer; return whether the last write of the instruction is in this cycle.

        marked: a STAGE stands in front of the beats that follow, and leaves in this cycle.
        """
        writer, taken = self._writer, None
        if writer is not None and writer.ready:
            taken = self._now
        if marked:
            self._places.popleft()
        if (self._now is None or taken is not None) and not self._hold and not marked:
            self._now = self._pop()
        elif taken is not None:
            self._now = None
        return False if writer is None else writer.tick(taken)

    def _pop(self) -> BeatPlace | None:
        """Return the next beat if it has come."""
        if not self._places or not (self._places[0].local or self._queued):
            return None
        place = self._places.popleft()
        self._queued -= not place.local
        self._hold = place.last
        return place

    def _releases(self) -> bool:
        """Whether the beats of the next instruction may follow while the present one is written: both in rows mode."""
        if not self._hold or self._now is not None or self._early or self._begin or self._writing is None:
            return False
        return bool(self._ahead) and _rows_mode(self._writing) and _rows_mode(self._ahead[0])

    def _start_writer(self) -> None:
        writing = self._writing
        assert writing is not None
        if _rows_mode(writing):
            self._writer = self._rows
            self._rows.begin(writing)
            if not self._early:
                self._rows.collect()
        else:
            self._writer = self._made(writing)
        self._hold = self._hold and self._early
        self._early = False

    def _made(self, writing: Instruction) -> LoadBeats | LoadWeights:
        """Return the writer of an instruction that is not of rows mode."""
        if writing.opcode == Opcode.LOAD_WGT:
            return LoadWeights(self._config, writing)
        return LoadBeats(self._config, writing)

    def _ask(self, room: bool, granted: bool, handed: bool, stage: tuple[bool, bool]) -> Instruction | None:
        """Look at one more beat, let bursts grow; return the STAGE that is taken.

        stage: whether a STAGE can be taken; whether all beats of the last one have come.
        """
        slot = self._slot
        taken = self._gather.tick(slot, (self._slot_region, self._offset), room, granted)
        if taken:
            self._places.append(_MARK if slot & MARK else PLACES[slot & 31])
        asking, beats = self._asking, self._beats
        takes: Instruction | None = None
        was_active = self._marks or beats is not None
        if taken or slot < 0:
            self._slot = -1
            if beats is not None:
                assert asking is not None
                if any(stage) or asking["beside"] or not asking["staged"]:
                    self._look(beats)
            elif self._marks and stage[0]:
                self._slot, self._marks, takes = MARK | _LOCAL, False, asking
        finished = not self._prepare and not (was_active and (self._marks or self._beats is not None))
        if self._prepare:
            self._prepare = False
            assert asking is not None
            if asking.opcode is _STAGE:
                self._marks = True
            else:
                self._find(asking)
        if finished and (handed or not self._waiting):
            self._asking = None
        return takes

    def _find(self, instruction: Instruction) -> None:
        """Find the beats of an instruction."""
        self._beats, self._shift = self.beats(instruction)
        self._next = 0
        self._region = instruction["region"]
        self._joins = instruction.fields.get("joins", 2)

    def beats(self, instruction: Instruction) -> tuple[Beats, int]:
        """Return the beats of an instruction as `canonical` puts them, and how far behind that they lie."""
        name, moved, shift = canonical(instruction)
        if name not in self._known:
            self._known[name] = Beats(slots(self._config, moved))
        return self._known[name], shift

    def _look(self, beats: Beats) -> None:
        """Look at the next beat."""
        at = self._next
        slot = beats.flags[at]
        if not slot & 1:
            self._offset = (beats.offsets[at] + self._shift) & OFFSET_MASK
            if slot & FIRST and (self._joins == 1 or (self._joins == 2 and self._offset == self._end)):
                slot |= FOLLOWS
            self._end, self._slot_region = self._offset + 1, self._region
        self._slot = slot
        self._next = at + 1
        if slot & 8:
            self._beats = None

    @property
    def left(self) -> int:
        """Beats of the instruction looked at that have not been looked at yet."""
        return 0 if self._beats is None else len(self._beats.flags) - self._next

    @property
    def looked_at(self) -> int:
        """Beats of the instruction looked at that have been looked at."""
        return self._next

    @property
    def flags(self) -> bytes:
        """Flags of all beats of the instruction looked at."""
        assert self._beats is not None
        return self._beats.flags

    def key(self) -> Key:
        """Return the state without addresses but for regions; instructions stand for their beats."""
        writer = self._writer
        kind = -1 if writer is None else WAYS.index(type(writer))
        inner = () if writer is None or writer is self._rows else writer.key()
        left = (self._next, self._joins) if self._beats is not None else None
        region = self._slot_region if self._slot >= 0 and not self._slot & _LOCAL else 0
        return (*super().key(), region, left, kind, inner)

    def rhythm(self) -> Key:
        """Return the state but for the place in the instruction looked at."""
        key = self.key()
        return (*key[:-3], key[-3] and key[-3][1], *key[-2:])

    def follow(self, rhythm: Key, place: int) -> None:
        """Return to a state that `rhythm` gave, at this place."""
        joins = rhythm[-3]
        self.restore((*rhythm[:-3], None if joins is None else (place, joins), *rhythm[-2:]))

    def restore(self, key: Key) -> None:
        """Return to a state that `key` gave."""
        super().restore(key[:-4])
        self._slot_region, left, kind, inner = key[-4:]
        self._beats = self._writer = None
        if left is not None and self._asking is not None:
            self._find(self._asking)
            self._next, self._joins = left
        staging = self._stager.instruction
        if staging is not None:
            self._stager.find(*self.beats(staging))
        if kind == WAYS.index(LoadRows):
            self._writer = self._rows
        elif kind >= 0 and self._writing is not None:
            self._writer = self._made(self._writing)
            self._writer.restore(inner)
