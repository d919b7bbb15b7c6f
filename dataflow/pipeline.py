"""One product with its memory traffic: pieces that load, compute and store side by side, in closed form.

A product runs in `slots` pieces. While piece i computes, memory loads piece i + 1 into the other halves of the buffers
and stores the results of piece i - 1 (docs/memory.md). The last window of a piece fetches the first window of the next
one, so it starts only when that has been loaded: a slot lasts max(array, memory + window). Work and bursts are dealt to
the slots evenly, earlier slots take what is left over, so a product has only a few kinds of slots.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING

from dataflow.duration import Duration, product_duration
from dataflow.transfers import Bursts, burst_shape, busy_cycles, memory_timing, transfer_cycles

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dataflow.tiling import Tiling
    from dataflow.traffic import Order, Traffic
    from dataflow.transfers import MemoryTiming, Stream


@dataclass(frozen=True)
class Share:
    """Bursts on the busiest channel, `each` cycles long, dealt to slots: the first `count % slots` take one more."""

    count: int
    each: int
    slots: int

    def at(self, slot: int) -> Bursts:
        """Bursts of a slot; none outside the product."""
        if not 0 <= slot < self.slots:
            return 0, self.each
        return self.count // self.slots + (slot < self.count % self.slots), self.each

    @property
    def extra(self) -> int:
        """Slots that take one more."""
        return self.count % self.slots


@dataclass(frozen=True)
class Slot:
    """One kind of slot: how many in a row, cycles of the array, of memory, and waiting by cause."""

    first: int
    count: int
    array: int
    memory: int
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

    before: tuple[Bursts, ...] = ()
    after: tuple[Bursts, ...] = ()


@dataclass(frozen=True)
class Piped:
    """A product cut into slots: its tiling, loop order, traffic and number of slots."""

    tiling: Tiling
    order: Order
    traffic: Traffic
    slots: int

    def __post_init__(self) -> None:
        if self.slots < 1:
            raise ValueError(f"slots is {self.slots!r}; a product has at least 1")

    @cached_property
    def duration(self) -> Duration:
        """Cycles on the array with operands on chip."""
        return product_duration(self.tiling)

    @cached_property
    def timing(self) -> MemoryTiming:
        """The memory in cycles."""
        return memory_timing(self.tiling.config.memory, self.tiling.config.clock_mhz)

    def _share(self, stream: Stream) -> Share:
        count, each = burst_shape(self.timing, stream)
        return Share(-(-count // self.timing.channels), each, self.slots)

    @cached_property
    def shares(self) -> tuple[Share, Share, Share]:
        """How A, W and Y are dealt to the slots."""
        return self._share(self.traffic.a), self._share(self.traffic.w), self._share(self.traffic.y)

    @property
    def first_a(self) -> tuple[Bursts, ...]:
        """Loads of A before the first slot."""
        return (self.shares[0].at(0),)

    @property
    def first_w(self) -> tuple[Bursts, ...]:
        """Loads of W before the first slot."""
        return (self.shares[1].at(0),)

    @property
    def last_y(self) -> tuple[Bursts, ...]:
        """Stores after the last slot."""
        return (self.shares[2].at(self.slots - 1),)

    def kinds(self, edge: Edge, *, overlap: bool = True) -> Iterator[Slot]:
        """Yield the slots of the product, equal ones together; overlap: memory works beside the array, not after it."""
        a, w, y = self.shares
        array = Share(self._array, 1, self.slots)
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

    def _slot(self, first: int, count: int, array: int, bursts: tuple[Bursts, ...], overlap: bool) -> Slot:
        memory = transfer_cycles(self.timing, bursts)
        busy = busy_cycles(bursts)
        hidden = array if overlap else self.tiling.window
        wait = max(0, memory + self.tiling.window - hidden) if memory else 0
        latency = min(wait, memory - busy)
        return Slot(first, count, array, memory, busy, wait - latency, latency)


def piped_cycles(product: Piped) -> int:
    """Return the cycles of a product by itself: first operands, slots, last results; what the scheduler compares."""
    start = transfer_cycles(product.timing, (*product.first_a, *product.first_w))
    slots = sum(slot.count * slot.cycles for slot in product.kinds(Edge()))
    end = transfer_cycles(product.timing, product.last_y)
    return start + product.duration.fill + slots + product.duration.finish + end
