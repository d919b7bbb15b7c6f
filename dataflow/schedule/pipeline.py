"""One product with its memory traffic: pieces that load, compute and store side by side, in closed form.

A product runs in `slots` pieces. While piece i computes, memory loads piece i + 1 into the other halves of the buffers
and stores the results of piece i - 1 (docs/timing.md). The last window of a piece fetches the first window of the next
one, so it starts only when that has been loaded: a slot lasts max(array, memory + window). Work and bursts are dealt to
the slots evenly, earlier slots take what is left over, so a product has only a few kinds of slots.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from nmsat.dataflow.cycles.memory import (
    BusyBursts,
    burst_shape,
    busy_cycles,
    memory_timing,
    transfer_bound,
    transfer_cycles,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nmsat.dataflow.cycles.array import Duration
    from nmsat.dataflow.cycles.memory import MemoryTiming, TensorStream
    from nmsat.dataflow.mapping.tiling import Tiling
    from nmsat.dataflow.schedule.traffic import Order, Traffic


class Share(NamedTuple):
    """Bursts on the busiest channel, `each` cycles long: `whole` for every slot and one more for the first `extra`."""

    whole: int
    extra: int
    each: int
    slots: int

    @classmethod
    def deal(cls, count: int, each: int, slots: int) -> Share:
        """Return `count` bursts dealt to slots."""
        whole, extra = divmod(count, slots)
        return cls(whole, extra, each, slots)

    def at(self, slot: int) -> BusyBursts:
        """Bursts of a slot; none outside the product."""
        if not 0 <= slot < self.slots:
            return 0, self.each
        return self.whole + (slot < self.extra), self.each


@dataclass(frozen=True)
class Slot:
    """One kind of slot: how many in a row, cycles of the array, cycles of the memory bus, and waiting by cause."""

    first: int
    count: int
    array: int
    busy: int
    bandwidth: int
    latency: int

    @property
    def cycles(self) -> int:
        """Length of the slot."""
        return self.array + self.bandwidth + self.latency


@dataclass(frozen=True)
class Edge:
    """What the slots at the ends of a product do for its neighbours.

    before: results of the previous product to store in the first slot; after: operands of the next one to load in the
    last slot.
    """

    before: tuple[BusyBursts, ...] = ()
    after: tuple[BusyBursts, ...] = ()


@dataclass(frozen=True)
class Piped:
    """A product cut into slots: its tiling, loop order, traffic and number of slots."""

    tiling: Tiling
    order: Order
    traffic: Traffic
    slots: int

    # Derived once: duration (cycles with operands on chip), timing (memory in cycles), shares (A, W, Y dealt to slots).
    duration: Duration = field(init=False, compare=False, repr=False)
    timing: MemoryTiming = field(init=False, compare=False, repr=False)
    shares: tuple[Share, Share, Share] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.slots < 1:
            raise ValueError(f"slots is {self.slots!r}; a product has at least 1")
        config, traffic = self.tiling.config, self.traffic
        timing = memory_timing(config.memory, config.clock_mhz)
        object.__setattr__(self, "duration", self.tiling.duration)
        object.__setattr__(self, "timing", timing)
        shares = tuple(_share(timing, stream, self.slots) for stream in (traffic.a, traffic.w, traffic.y))
        object.__setattr__(self, "shares", shares)

    @property
    def first_a(self) -> tuple[BusyBursts, ...]:
        """Loads of A before the first slot."""
        return (self.shares[0].at(0),)

    @property
    def first_w(self) -> tuple[BusyBursts, ...]:
        """Loads of W before the first slot."""
        return (self.shares[1].at(0),)

    @property
    def last_y(self) -> tuple[BusyBursts, ...]:
        """Stores after the last slot."""
        return (self.shares[2].at(self.slots - 1),)

    @property
    def hides_memory(self) -> bool:
        """Whether every slot computes so long that the most bursts that one moves are hidden; False is no proof."""
        bursts = [share.at(0) for share in self.shares]
        return transfer_bound(self.timing, bursts) <= self._array // self.slots - self.tiling.window

    def kinds(self, edge: Edge, *, overlap: bool = True) -> Iterator[Slot]:
        """Yield the slots of the product, equal ones together; overlap: memory works beside the array, not after it."""
        a, w, y = self.shares
        array = Share.deal(self._array, 1, self.slots)
        last = self.slots - 1
        marks = {0, 1, last, self.slots, a.extra - 1, w.extra - 1, y.extra + 1, array.extra}
        places = sorted(mark for mark in marks if 0 <= mark <= self.slots)
        for first, end in pairwise(places):
            load = edge.after if first == last else (a.at(first + 1), w.at(first + 1))
            store = edge.before if first == 0 else (y.at(first - 1),)
            yield self._slot(first, end - first, array.at(first)[0], (*load, *store), overlap)

    @property
    def _array(self) -> int:
        return self.duration.total - self.duration.fill - self.duration.finish

    def _slot(self, first: int, count: int, array: int, bursts: tuple[BusyBursts, ...], overlap: bool) -> Slot:
        busy = busy_cycles(bursts)
        hidden = array - self.tiling.window if overlap else 0
        if not busy or transfer_bound(self.timing, bursts) <= hidden:
            return Slot(first, count, array, busy, 0, 0)
        memory = transfer_cycles(self.timing, bursts)
        wait = max(0, memory - hidden)
        latency = min(wait, memory - busy)
        return Slot(first, count, array, busy, wait - latency, latency)


def _share(timing: MemoryTiming, stream: TensorStream, slots: int) -> Share:
    count, each = burst_shape(timing, stream)
    return Share.deal(-(-count // timing.channels), each, slots)


def piped_cycles(product: Piped) -> int:
    """Return the cycles of a product by itself: first operands, slots, last results; what the scheduler compares."""
    timing = product.timing
    start = transfer_cycles(timing, (*product.first_a, *product.first_w))
    end = transfer_cycles(timing, product.last_y)
    if product.hides_memory:
        return start + product.duration.total + end
    slots = sum([slot.count * slot.cycles for slot in product.kinds(Edge())])
    return start + product.duration.fill + slots + product.duration.finish + end
