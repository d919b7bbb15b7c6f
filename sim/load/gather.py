"""Beats that follow each other joined into bursts (hw/load/gather.py)."""

from __future__ import annotations

from typing import Final

from nmsat.dataflow.contract.limits import LOAD_BURST
from nmsat.sim.load.beats import FOLLOWS, PAGE_END
from nmsat.sim.memory.port import Burst
from nmsat.sim.parts.state import Key, Registers

_LAST: Final = 8
"""Bit of a beat: the last of its instruction."""


class Gather(Registers):
    """The burst that grows, and the one that stands (`request`)."""

    REGISTERS = ("_open", "_page", "_last")

    def __init__(self) -> None:
        self._open = 0  # beats of the burst that grows
        self._page = self._last = False  # a page begins behind it, its instruction has no more
        self._at = (0, 0)  # its region and offset
        self.request: Burst | None = None

    def key(self) -> Key:
        """Return the state without addresses but for regions."""
        stands = (self.request.region, self.request.beats) if self.request is not None else None
        return (*super().key(), self._at[0] if self._open else 0, stands)

    def restore(self, key: Key) -> None:
        """Return to a state that `key` gave."""
        super().restore(key[:-2])
        region, stands = key[-2:]
        self._at = region, 0
        self.request = None if stands is None else Burst(stands[0], 0, stands[1])

    @property
    def idle(self) -> bool:
        """Whether no burst grows and none stands."""
        return not self._open and self.request is None

    def tick(self, flags: int, at: tuple[int, int], room: bool, granted: bool) -> bool:
        """End the cycle; return whether the beat is taken.

        flags: of the beat (`sim.load.beats`), -1 without one; at: its region and offset; room: it has a place to come
        to; granted: the request is accepted.
        """
        opened = self._open
        joins = closes = False
        if opened:
            full = self._last or opened == LOAD_BURST or self._page
            joins = not full and flags >= 0 and flags & (1 | FOLLOWS) == FOLLOWS
            closes = (full or (flags >= 0 and not joins)) and (self.request is None or granted)
        takes = flags >= 0 and room and (joins or closes or not opened)
        if closes:
            self.request = Burst(*self._at, opened)
            self._open, self._last, self._page = 0, False, False
        elif granted:
            self.request = None
        if takes and not flags & 1:
            self._last, self._page = bool(flags & _LAST), bool(flags & PAGE_END)
            if joins:
                self._open = opened + 1
            else:
                self._open, self._at = 1, at
        return takes
