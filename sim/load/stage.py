"""Model of STAGE (hw/load/stage.py): its requests, beside the loads behind it, and when all its beats have come."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nmsat.dataflow.contract.isa import OFFSET_MASK
from nmsat.sim.load.gather import Gather
from nmsat.sim.parts.state import Registers

if TYPE_CHECKING:
    from nmsat.dataflow.contract.isa import Instruction
    from nmsat.sim.load.beats import Beats
    from nmsat.sim.memory.port import Burst


class Stager(Registers):
    """One STAGE at a time, from `take` until `free` is set.

    It is taken (`take`), begins when the beats of all loads in front have been taken (`begin`), and is `written` when
    its last beat has come.
    """

    REGISTERS = ("_instruction", "_begun", "_active", "_next", "_under_way", "_gather")

    def __init__(self) -> None:
        self._instruction: Instruction | None = None
        self._beats: Beats | None = None
        self._shift = self._next = 0  # where the beats lie; the next one that is looked at
        self._begun = self._active = False  # it has begun; there are beats to be looked at
        self._under_way = 0  # beats that were looked at and have not come
        self._gather = Gather()

    @property
    def free(self) -> bool:
        """Whether a STAGE can be taken."""
        return self._instruction is None

    @property
    def written(self) -> bool:
        """Whether all beats of the one that was taken have come."""
        return self._begun and not self._active and not self._under_way

    @property
    def request(self) -> Burst | None:
        """The read request that stands."""
        return self._gather.request

    @property
    def instruction(self) -> Instruction | None:
        """The one that was taken."""
        return self._instruction

    def find(self, beats: Beats, shift: int) -> None:
        """Tell the beats of the one that was taken, and how far behind they lie."""
        self._beats, self._shift = beats, shift

    def take(self, instruction: Instruction) -> None:
        """Take one at the end of the cycle."""
        self._instruction = instruction

    def release(self) -> None:
        """The one that was taken is done, from the next cycle on."""
        self._instruction, self._begun, self._next = None, False, 0

    def tick(self, begins: bool, granted: bool, arrives: bool) -> None:
        """End the cycle. begins: the loads in front have all their beats; granted, arrives: of its own requests."""
        self._under_way -= arrives
        if self._active:
            beats, at = self._beats, self._next
            assert beats is not None
            assert self._instruction is not None
            flags = beats.flags[at]
            place = (self._instruction["region"], beats.offsets[at] + self._shift & OFFSET_MASK)
            if self._gather.tick(flags, place, room=True, granted=granted):
                self._next, self._under_way = at + 1, self._under_way + 1
                self._active = not flags & 8
        elif not self._gather.idle:
            self._gather.tick(-1, (0, 0), room=True, granted=granted)
        if begins:
            self._begun = self._active = True
