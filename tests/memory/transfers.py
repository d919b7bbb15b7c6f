"""Transfers on the stepped memory."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from nmsat.sim.memory.channel import Beat, Channel

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nmsat.dataflow.cycles.memory import MemoryTiming


class Channels:
    """All channels; the bursts of a stream are dealt to them in turn."""

    def __init__(self, timing: MemoryTiming) -> None:
        self.channels = tuple(Channel(timing) for _ in range(timing.channels))

    def tick(self) -> list[Beat | None]:
        """End the cycle on all channels; return what each moved."""
        return [channel.tick() for channel in self.channels]


def run_transfer(timing: MemoryTiming, bursts: Sequence[tuple[int, int]]) -> int:
    """Return the cycles of a transfer, counted on the stepped model: (number, beats) of bursts, dealt in turn."""
    memory = Channels(timing)
    waiting: list[deque[int]] = [deque() for _ in memory.channels]
    for number, beats in bursts:
        for i in range(number):
            waiting[i % timing.channels].append(beats)
    cycle = 0
    while any(waiting) or any(channel.in_flight for channel in memory.channels):
        for channel, queue in zip(memory.channels, waiting, strict=True):
            while queue and channel.request(queue[0]):
                queue.popleft()
        memory.tick()
        cycle += 1
    return cycle
