"""External memory in cycles of the machine's clock; `sim.memory.channel` lives by it (docs/timing.md).

A channel holds up to `outstanding` bursts. The first data of a burst come `latency` cycles after its request, bursts
are served in order, and a burst of b beats holds its channel for max(b, b beats / bandwidth) cycles, rounded up:

    done[i] = max(done[i - 1], done[i - outstanding] + latency) + hold[i]

The rate of a long stream is therefore the least of bandwidth x efficiency, what the port carries (a beat per cycle, or
a part of one), and outstanding x burst / round trip.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

from nmsat.dataflow.contract.isa import BEAT_BYTES

if TYPE_CHECKING:
    from nmsat.dataflow.contract.config import MemoryConfig, SatConfig


@dataclass(frozen=True)
class MemoryTiming:
    """External memory in cycles of the machine's clock.

    channels, outstanding: as in `MemoryConfig`; latency: cycles from request to first data; burst_beats: longest burst;
    beat_cycles: cycles of one beat at the attained bandwidth (at least `parts`); parts: transfers of a port that are a
    beat.
    """

    channels: int
    outstanding: int
    latency: int
    burst_beats: int
    beat_cycles: Fraction
    parts: int = 1

    @cached_property
    def beat(self) -> float:
        """`beat_cycles` as a float."""
        return float(self.beat_cycles)

    def hold(self, beats: int) -> int:
        """Cycles for which a burst of so many beats holds its channel."""
        return self.hold_parts(beats * self.parts)

    def hold_parts(self, parts: int) -> int:
        """Cycles in which a burst moves so many parts of beats."""
        return -(-parts * self.beat_cycles.numerator // (self.beat_cycles.denominator * self.parts))

    @property
    def bytes_per_cycle(self) -> float:
        """Most bytes that all channels together move in a cycle."""
        full = self.burst_beats
        return self.channels * full * BEAT_BYTES / self.hold(full)


def memory_timing(config: SatConfig) -> MemoryTiming:
    """Return the memory of a machine in cycles of its clock."""
    return _timing(config.memory, config.clock_mhz, config.parts)


@lru_cache(maxsize=1024)
def _timing(memory: MemoryConfig, clock_mhz: float, parts: int) -> MemoryTiming:
    clock = Fraction(str(clock_mhz)) * 10**6
    rate = Fraction(str(memory.bytes_per_second)) * Fraction(str(memory.efficiency))
    latency = Fraction(str(memory.latency_ns)) * clock / 10**9
    return MemoryTiming(
        channels=memory.channels,
        outstanding=memory.outstanding,
        latency=-(-latency.numerator // latency.denominator),
        burst_beats=memory.burst_bytes // BEAT_BYTES,
        beat_cycles=max(Fraction(parts), BEAT_BYTES * clock / rate),
        parts=parts,
    )
