"""When beats move through pre-generation (hw/update/pregen.py), without their values: `sim.update.pregen` for long
runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from nmsat.dataflow.contract.isa import LANES
from nmsat.dataflow.contract.timing import queue_depth, wuve_path
from nmsat.sim.parts.state import Registers

if TYPE_CHECKING:
    from nmsat.algorithms.core.tape import Pattern

_PATH: Final = wuve_path()
_DEPTH: Final = queue_depth(_PATH)


class SoreTiming(Registers):
    """One pruning engine of one element per cycle (hw/update/sore.py). valid, last: what stands on the output
    stream."""

    __slots__ = ("_active", "_at", "_last2", "_m", "_n", "_seen", "_slot", "_stage1", "_valid2", "last", "valid")
    REGISTERS = ("_active", "_at", "_last2", "_seen", "_slot", "_stage1", "_valid2", "last", "valid")

    def __init__(self, pattern: Pattern) -> None:
        self._n = pattern.n
        self._m = pattern.m
        self._at = 0
        self._stage1: tuple[bool, bool, bool] | None = None  # first of its group, last of it, an element is present
        self._valid2 = self._last2 = self._seen = self._active = False
        self._slot = 0
        self.valid = self.last = False

    @property
    def idle(self) -> bool:
        """Whether no beat and no part of a group is inside."""
        return not (self.valid or self._active or self._valid2 or self._at or self._stage1)

    def ready(self, taken: bool) -> bool:
        """Return the ready signal of the input; taken: that of the output."""
        if not (self._valid2 and self._last2 and self._seen and self._active):
            return True
        return self._slot == self._n - 1 and (taken or not self.valid)

    def tick(self, beat: bool, present: bool, last: bool, taken: bool) -> None:
        """End the cycle. beat: one is taken in, with a present element, the last of its group; taken: as above."""
        ready = self.ready(taken)
        load = ready and self._valid2 and self._last2 and self._seen
        if self._active and (taken or not self.valid):
            self.valid = True
            self.last = self._slot == self._n - 1
            self._active = not self.last
            self._slot += 1
        elif taken:
            self.valid = False
        if load:
            self._active, self._slot = True, 0
        if ready:
            self._advance(beat, present, last)

    def _advance(self, beat: bool, present: bool, last: bool) -> None:
        stage = self._stage1
        if stage is None:
            self._valid2 = False
        else:
            first, self._last2, some = stage
            self._valid2 = True
            self._seen = some or (self._seen and not first)
        if beat:
            ends = last or self._at == self._m - 1
            self._stage1 = (self._at == 0, ends, present)
            self._at = 0 if ends else self._at + 1
        else:
            self._stage1 = None


class TransposerTiming(Registers):
    """The transposer of 16 lanes (hw/update/transpose.py). valid: a column stands on the output; present: n has it."""

    __slots__ = ("_at", "_ends", "_flushing", "_next_width", "_padding", "_whole", "_width", "present", "valid")
    REGISTERS = ("_at", "_ends", "_flushing", "_next_width", "_padding", "_whole", "_width", "present", "valid")

    def __init__(self) -> None:
        self._at = 0
        self._padding = self._flushing = self._ends = self._whole = False
        self._width = self._next_width = 0  # present columns of the block that leaves, of the one that enters
        self.valid = self.present = False

    @property
    def idle(self) -> bool:
        """Whether no row is inside."""
        return not (self.valid or self._whole or self._at or self._padding or self._flushing)

    def ready(self, taken: bool) -> bool:
        """Return the ready signal of the input; taken: that of the output."""
        return (taken or not self.valid) and not (self._padding or self._flushing)

    def tick(self, beat: bool, width: int, last: bool, end: bool, taken: bool) -> None:
        """End the cycle. beat: a row is taken in, of `width` present columns, the last of its columns, of the pass."""
        absent = self._padding or self._flushing
        if not ((taken or not self.valid) and (beat or absent)):
            if taken:
                self.valid = False
            return
        if beat:
            self._next_width = width
        full = self._at == LANES - 1
        self.valid = full or self._whole
        if full:
            self._whole = True
            self._width = self._next_width
        self._at = (self._at + 1) % LANES
        self.present = self._at < self._width
        if not absent:
            if last:
                self._ends = end
                self._padding, self._flushing = not full, full and end
        elif self._padding:
            if full:
                self._padding, self._flushing = False, self._ends
        elif self._at == LANES - 1:
            self._flushing = self._whole = False
            self._at = 0


class PregenTiming(Registers):
    """One pass over [k, n] (hw/update/pregen.py); bp: None if W_bp is not made; parts: in which a row passes WUVE.
    Between two clock edges.

    state, ff, bp: what stands on the output streams in this cycle.
    """

    REGISTERS = (
        *("_path", "_inside", "_waiting", "_enters", "_gathered", "_row", "_block", "_ff", "_bp", "_transposer"),
        *("_done_state", "_done_ff", "_done_bp"),
    )

    def __init__(self, k: int, n: int, ff: Pattern, bp: Pattern | None, parts: int) -> None:
        self._k = k
        self._blocks = -(-n // LANES)
        self._last_width = n - LANES * (self._blocks - 1)
        self._path = 0  # bit i: a part came i + 1 cycles ago
        self._inside = self._waiting = 0  # parts in WUVE, of them those in the queue behind it
        self._last_part = parts - 1
        self._enters = self._gathered = 0  # parts of a row that have entered, that have left the queue
        self._row, self._block = 0, 0
        self._ff = SoreTiming(ff)
        self._bp = None if bp is None else SoreTiming(bp)
        self._transposer = TransposerTiming()
        self._done_state = self._done_ff = self._done_bp = False

    @property
    def ready(self) -> bool:
        """Whether a row is taken in this cycle: its last part can enter."""
        return self._inside != _DEPTH and self._enters == self._last_part

    @property
    def idle(self) -> bool:
        """Whether no beat is inside."""
        if self._inside or not (self._ff.idle and self._transposer.idle):
            return False
        return self._bp is None or self._bp.idle

    @property
    def state(self) -> bool:
        """Whether weights and momenta stand on their stream."""
        return self._waiting != 0 and self._gathered == self._last_part and not self._done_state

    @property
    def ff(self) -> bool:
        """Whether a slot of W_ff stands on its stream."""
        return self._ff.valid

    @property
    def ff_last(self) -> bool:
        """Whether that slot is the last of its group."""
        return self._ff.last

    @property
    def bp(self) -> bool:
        """Whether a slot of W_bp stands on its stream."""
        return self._bp is not None and self._bp.valid

    def tick(self, offered: bool, state: bool, ff: bool, bp: bool) -> None:
        """End the cycle. offered: a row stands on the input; state, ff, bp: ready signals of the output streams."""
        enters = offered and self._inside != _DEPTH
        if not (enters or self._inside) and self.idle:
            return
        some = self._waiting != 0 and self._gathered == self._last_part
        pops = self._waiting != 0 and not some
        last = some and self._row == self._k - 1
        end = last and self._block == self._blocks - 1
        goes_ff = self._ff.ready(ff)
        leaves = some and (self._done_state or state) and (self._done_ff or goes_ff)
        self._ff.tick(some and goes_ff and not self._done_ff, True, last, ff)
        goes_bp = self._tick_bp(some, last, end, bp)
        leaves = leaves and (self._done_bp or goes_bp)
        if some:
            self._done_state = (self._done_state or state) and not leaves
            self._done_ff = (self._done_ff or goes_ff) and not leaves
            self._done_bp = (self._done_bp or goes_bp) and not leaves
        if leaves:
            self._row = 0 if last else self._row + 1
            self._block += last
            self._gathered = 0
        elif pops:
            self._gathered += 1
        if enters:
            self._enters = self._enters + 1 if self._enters != self._last_part else 0
        arrives = self._path >> (_PATH - 1)
        self._path = (self._path << 1 | enters) & ((1 << _PATH) - 1)
        self._inside += enters - (leaves or pops)
        self._waiting += arrives - (leaves or pops)

    def _tick_bp(self, some: bool, last: bool, end: bool, taken: bool) -> bool:
        """End the cycle of transposer and second pruning; return whether that branch is ready for the beat."""
        if self._bp is None:
            return True
        transposer = self._transposer
        column_taken = self._bp.ready(taken)
        ready = transposer.ready(column_taken)
        self._bp.tick(transposer.valid and column_taken, transposer.present, False, taken)
        width = self._last_width if self._block == self._blocks - 1 else LANES
        transposer.tick(some and ready and not self._done_bp, width, last, end, column_taken)
        return ready
