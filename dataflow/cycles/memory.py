"""How long external memory takes for a list of bursts: the closed form of the model in `sim.memory.channel`
(docs/timing.md).

A channel holds up to `outstanding` bursts. The first data of a burst come `latency` cycles after its request, bursts
are served in order, and a burst of b beats holds its channel for max(b, b beats / bandwidth) cycles, rounded up:

    done[i] = max(done[i - 1], done[i - outstanding] + latency) + hold[i]

The rate of a long stream is therefore the least of bandwidth x efficiency, one beat per cycle, and outstanding x burst
/ round trip.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import TYPE_CHECKING

from nmsat.dataflow.contract.isa import BEAT_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from nmsat.dataflow.contract.config import MemoryConfig


@dataclass(frozen=True)
class MemoryTiming:
    """External memory in cycles of the machine's clock.

    channels, outstanding: as in `MemoryConfig`; latency: cycles from request to first data; burst_beats: longest burst;
    beat_cycles: cycles of one beat at the attained bandwidth (at least 1).
    """

    channels: int
    outstanding: int
    latency: int
    burst_beats: int
    beat_cycles: Fraction

    def hold(self, beats: int) -> int:
        """Cycles for which a burst of so many beats holds its channel."""
        return -(-beats * self.beat_cycles.numerator // self.beat_cycles.denominator)

    @property
    def bytes_per_cycle(self) -> float:
        """Most bytes that all channels together move in a cycle."""
        full = self.burst_beats
        return self.channels * full * BEAT_BYTES / self.hold(full)


@dataclass(frozen=True)
class TensorStream:
    """Bytes of one operand to move, stored in contiguous runs of `run` bytes; the last run may be shorter."""

    bytes: int
    run: int

    def __post_init__(self) -> None:
        if self.bytes < 0 or self.run < 1:
            raise ValueError(f"stream is {self.bytes!r} bytes in runs of {self.run!r}; needs at least 0 and 1")


BusyBursts = tuple[int, int]
"""(bursts on the busiest channel, cycles that each holds it)."""


@lru_cache(maxsize=1024)
def memory_timing(memory: MemoryConfig, clock_mhz: float) -> MemoryTiming:
    """Return the memory in cycles of a clock of `clock_mhz`."""
    clock = Fraction(str(clock_mhz)) * 10**6
    rate = Fraction(str(memory.bytes_per_second)) * Fraction(str(memory.efficiency))
    latency = Fraction(str(memory.latency_ns)) * clock / 10**9
    return MemoryTiming(
        channels=memory.channels,
        outstanding=memory.outstanding,
        latency=-(-latency.numerator // latency.denominator),
        burst_beats=memory.burst_bytes // BEAT_BYTES,
        beat_cycles=max(Fraction(1), BEAT_BYTES * clock / rate),
    )


def burst_shape(timing: MemoryTiming, stream: TensorStream) -> tuple[int, int]:
    """Return (bursts of all channels, cycles that each holds its channel) of a stream.

    Runs longer than the longest burst are cut into such; a run never shares a burst with another.
    """
    if not stream.bytes:
        return 0, 1
    longest = timing.burst_beats * BEAT_BYTES
    if stream.run >= longest:
        return -(-stream.bytes // longest), timing.hold(timing.burst_beats)
    run = min(stream.run, stream.bytes)
    return -(-stream.bytes // run), timing.hold(-(-run // BEAT_BYTES))


def transfer_cycles(timing: MemoryTiming, bursts: Iterable[BusyBursts]) -> int:
    """Return the cycles from the first request to the last beat of bursts that a channel serves one after the other.

    Exact; the time taken does not grow with the number of bursts. No bursts take no time.
    """
    wanted = [burst for burst in bursts if burst[0]]
    if not wanted:
        return 0
    if len(wanted) == 1:
        return _alone(timing, *wanted[0])
    latency, others = timing.latency, timing.outstanding - 1
    if others * min([hold for _, hold in wanted]) >= latency:
        return latency + sum([count * hold for count, hold in wanted])
    return _walk(timing, wanted)


def transfer_bound(timing: MemoryTiming, bursts: Iterable[BusyBursts]) -> int:
    """Return cycles that `transfer_cycles` does not exceed.

    The lesser of two bounds: a latency for every `outstanding` bursts; each kind of burst as if it began on an idle
    channel.
    """
    number = busy = apart = 0
    for count, hold in bursts:
        if count:
            number += count
            busy += count * hold
            apart += _alone(timing, count, hold)
    return min(apart, busy - (-number // timing.outstanding) * timing.latency)


def busy_cycles(bursts: Iterable[BusyBursts]) -> int:
    """Return the cycles in which the busiest channel moves data."""
    return sum([count * hold for count, hold in bursts])


def _alone(timing: MemoryTiming, count: int, hold: int) -> int:
    """Cycles of equal bursts on an idle channel: rounds of `outstanding` bursts, each a round trip or a stream."""
    latency, depth = timing.latency, timing.outstanding
    if hold * (depth - 1) >= latency:
        return latency + count * hold
    rounds, left = divmod(count - 1, depth)
    return rounds * (latency + hold) + latency + (left + 1) * hold


def _walk(timing: MemoryTiming, bursts: Sequence[BusyBursts]) -> int:
    """Follow the recurrence until each burst of a window of `outstanding` is later by the same step, then jump.

    The first kind of burst begins on an idle channel, where the ends of its last `outstanding` bursts are known.
    """
    latency, depth = timing.latency, timing.outstanding
    first, each = bursts[0]
    ends = [_alone(timing, count, each) if count > 0 else 0 for count in range(first - depth + 1, first + 1)]
    done: deque[int] = deque(ends, depth)  # done[0] is the burst `outstanding` before the next one
    last = done[-1]
    for count, hold in bursts[1:]:
        left, equal, step = count, 0, -1
        while left:
            oldest = done[0]
            ready = oldest + latency
            last = (ready if ready > last else last) + hold
            gained = last - oldest
            done.append(last)
            left -= 1
            equal = equal + 1 if gained == step else 1
            step = gained
            if equal >= depth and left >= depth:
                rounds = left // depth
                done = deque([d + rounds * step for d in done], depth)
                last = done[-1]
                left -= rounds * depth
    return last
