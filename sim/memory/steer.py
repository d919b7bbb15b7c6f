"""Which AXI4 master a client of memory is at, cycle by cycle (hw/memory/steer.py)."""

from __future__ import annotations

from nmsat.sim.parts.state import Registers


class Steer(Registers):
    """Registers of `hw.memory.steer`: bursts of a client are answered in the order in which it asks for them, so one
    behind another master waits until nothing is under way.

    by_beats: of a client that reads: memory answers it beat by beat; one that writes is answered burst by burst.
    """

    REGISTERS = ("_at", "_left")

    def __init__(self, *, by_beats: bool) -> None:
        self._by_beats = by_beats
        self._at = self._left = 0

    def may(self, port: int) -> bool:
        """Return whether a burst may leave by a master in this cycle."""
        return not self._left or self._at == port

    def tick(self, port: int, beats: int, answered: bool) -> None:
        """End the cycle. port, beats: of the burst that leaves, 0 beats without; answered: a beat or a burst is."""
        if beats:
            self._at = port
            self._left += beats if self._by_beats else 1
        self._left -= answered
        if not self._left:
            self._at = 0  # nobody asks: states are equal
