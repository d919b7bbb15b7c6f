"""Model of the loader (hw/load/loader.py): which requests leave, when beats are written, when an instruction is done.

It carries no data: what instructions do is computed elsewhere.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from nmsat.dataflow.contract.isa import OFFSET_MASK, ActMode, Opcode
from nmsat.dataflow.contract.limits import LOAD_AHEAD, LOAD_BURST, LOAD_PLACES
from nmsat.sim.load.beats import FIRST, FOLLOWS, PAGE_END, PLACES, Beats, canonical
from nmsat.sim.load.slots import slots
from nmsat.sim.load.writers import LoadBeats, LoadRows, LoadStage, LoadWeights
from nmsat.sim.memory.port import Burst
from nmsat.sim.parts.state import Key, Registers

if TYPE_CHECKING:
    from nmsat.dataflow.contract.config import SatConfig
    from nmsat.dataflow.contract.isa import Instruction
    from nmsat.sim.load.writers import BeatPlace

WAYS: Final = (LoadRows, LoadBeats, LoadWeights, LoadStage)
"""Kinds of writers; a state names one by its place."""


_LOAD_ACT, _OS_ROWS = Opcode.LOAD_ACT, ActMode.OS_ROWS  # looking up a member takes long


def _rows_mode(instruction: Instruction) -> bool:
    """Whether an instruction is a LOAD_ACT of output stationary rows."""
    return instruction.opcode is _LOAD_ACT and instruction["mode"] == _OS_ROWS


class Loader(Registers):
    """The loader between two clock edges; properties describe the present cycle, `tick` ends it.

    known: the beats of loads seen before; loaders of one configuration may share it.
    """

    REGISTERS = (
        *("_rows", "_asking", "_prepare", "_waiting", "_slot", "_open", "_open_page", "_open_last", "_places"),
        *("_queued", "_now", "_hold", "_early", "_ahead", "_writing", "_begin", "_written", "_done"),
    )

    def __init__(self, config: SatConfig, known: dict[tuple[int, ...], Beats] | None = None) -> None:
        self._config = config
        self._known = {} if known is None else known
        self._rows = LoadRows(config)
        # requests: the instruction looked at, its present beat, the burst that grows, the one that stands
        self._asking: Instruction | None = None
        self._prepare = self._waiting = False
        self._beats: Beats | None = None  # of the instruction looked at
        self._next = self._shift = 0  # the next one of them; where they lie
        self._joins = 2  # whether the first of them follows the last one of the instruction in front; 2: not known
        self._slot = -1  # flags of the present one
        self._region = self._slot_region = 0  # of the instruction, of the present beat
        self._offset = self._end = 0  # of the present beat, behind it
        self._open = 0  # beats of the burst that grows
        self._open_page = self._open_last = False  # a page begins behind it, the instruction has no more
        self._open_at = (0, 0)  # its region and offset
        self._request: Burst | None = None
        # beats under way: what was asked for, how many have come
        self._places: deque[BeatPlace] = deque()
        self._queued = 0
        self._now: BeatPlace | None = None  # the one that waits for its writer
        self._hold = True  # the last beat of an instruction has left the places, the next may not follow yet
        self._early = False  # the beats of the instruction behind the one that is written are taken already
        # writes: instructions that wait for it, the one that is written
        self._ahead: deque[Instruction] = deque()
        self._writing: Instruction | None = None
        self._begin = self._written = self._done = False
        self._writer: LoadRows | LoadBeats | LoadWeights | LoadStage | None = None

    @property
    def ready(self) -> bool:
        """Whether an instruction can start."""
        return self._asking is None

    @property
    def busy(self) -> bool:
        """Whether an instruction is inside: it has started and `done` has not been shown yet."""
        if self._asking is not None or self._writing is not None or self._written or self._done:
            return True
        return bool(self._ahead)

    @property
    def request(self) -> Burst | None:
        """The read request that stands."""
        return self._request

    @property
    def done(self) -> bool:
        """Whether the oldest instruction is done."""
        return self._done

    def tick(self, start: Instruction | None, granted: bool, arrives: bool) -> None:
        """End the cycle. start: the instruction taken; granted: the request is accepted; arrives: a beat comes."""
        if start is None and not self.busy:
            return
        room = len(self._places) < LOAD_PLACES
        asking = self._asking
        handed = self._waiting and len(self._ahead) < LOAD_AHEAD
        begin = self._writing is None and bool(self._ahead)
        release = self._releases()
        ended = self._write()
        self._queued += arrives
        self._ask(room, granted, handed)
        self._done, self._written = self._written, ended
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
            self._prepare = self._waiting = True

    def _write(self) -> bool:
        """Hand a beat to the writer; return whether the last write of the instruction is in this cycle."""
        writer, taken = self._writer, None
        if writer is not None and writer.ready:
            taken = self._now
        if (self._now is None or taken is not None) and not self._hold:
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

    def _made(self, writing: Instruction) -> LoadBeats | LoadWeights | LoadStage:
        """Return the writer of an instruction that is not of rows mode."""
        if writing.opcode == Opcode.LOAD_WGT:
            return LoadWeights(self._config, writing)
        return LoadStage() if writing.opcode == Opcode.STAGE else LoadBeats(self._config, writing)

    def _ask(self, room: bool, granted: bool, handed: bool) -> None:
        """Look at one more beat, let bursts grow."""
        free = self._gather(room, granted)
        beats = self._beats
        was_active = beats is not None
        if free:
            self._slot = -1
            if beats is not None:
                self._look(beats)
        finished = not self._prepare and (not was_active or self._beats is None)
        if self._prepare:
            self._prepare = False
            assert self._asking is not None
            self._find(self._asking)
        if finished and (handed or not self._waiting):
            self._asking = None

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

    def _gather(self, room: bool, granted: bool) -> bool:
        """Give the present beat its place and join it to the burst; return whether the next one can come."""
        slot, opened = self._slot, self._open
        joins = closes = False
        if opened:
            full = self._open_last or opened == LOAD_BURST or self._open_page
            joins = not full and slot >= 0 and slot & (1 | FOLLOWS) == FOLLOWS
            closes = (full or (slot >= 0 and not joins)) and (self._request is None or granted)
        takes = slot >= 0 and room and (joins or closes or not opened)
        if closes:
            self._request = Burst(*self._open_at, opened)
            self._open, self._open_last, self._open_page = 0, False, False
        elif granted:
            self._request = None
        if takes:
            self._places.append(PLACES[slot & 31])
            if not slot & 1:
                self._open_last, self._open_page = bool(slot & 8), bool(slot & PAGE_END)
                if joins:
                    self._open = opened + 1
                else:
                    self._open, self._open_at = 1, (self._slot_region, self._offset)
        return takes or slot < 0

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
        asked = (self._request.region, self._request.beats) if self._request is not None else None
        left = (self._next, self._joins) if self._beats is not None else None
        regions = self._open_at[0] if self._open else 0, self._slot_region if self._slot >= 0 else 0
        return (*super().key(), regions, left, asked, kind, inner)

    def rhythm(self) -> Key:
        """Return the state but for the place in the instruction looked at."""
        key = self.key()
        return (*key[:-4], key[-4] and key[-4][1], *key[-3:])

    def follow(self, rhythm: Key, place: int) -> None:
        """Return to a state that `rhythm` gave, at this place."""
        joins = rhythm[-4]
        self.restore((*rhythm[:-4], None if joins is None else (place, joins), *rhythm[-3:]))

    def restore(self, key: Key) -> None:
        """Return to a state that `key` gave."""
        super().restore(key[:-5])
        (opened, self._slot_region), left, asked, kind, inner = key[-5:]
        self._open_at = opened, 0
        self._beats = self._writer = None
        if left is not None and self._asking is not None:
            self._find(self._asking)
            self._next, self._joins = left
        self._request = None if asked is None else Burst(asked[0], 0, asked[1])
        if kind == WAYS.index(LoadRows):
            self._writer = self._rows
        elif kind >= 0 and self._writing is not None:
            self._writer = self._made(self._writing)
            self._writer.restore(inner)
