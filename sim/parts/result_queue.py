"""Model of the queue behind a data path that never stops, and of its engine (hw/parts/result_queue.py)."""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

from nmsat.dataflow.contract.timing import queue_depth

Item = TypeVar("Item")


class ResultQueue(Generic[Item]):
    """Results under way and results waiting.

    latency: cycles of the data path; a result stands at the output latency + 1 cycles after its beat entered.
    """

    def __init__(self, latency: int) -> None:
        self.depth = queue_depth(latency)
        self._path: deque[Item | None] = deque([None] * latency)
        self._waiting: deque[Item] = deque()
        self._inside = 0

    @property
    def output(self) -> Item | None:
        """The oldest result that waits."""
        return self._waiting[0] if self._waiting else None

    @property
    def idle(self) -> bool:
        """Whether no result is under way or waiting."""
        return self._inside == 0

    @property
    def ready(self) -> bool:
        """Whether a beat may enter in this cycle; it does not depend on the output."""
        return self._inside < self.depth

    def clock(self, item: Item | None, taken: bool) -> Item | None:
        """Pass one clock edge; item: result of the beat that enters. Returns the result that came to the queue."""
        arrived = self._path.popleft()
        self._path.append(item)
        if self._waiting and taken:
            self._waiting.popleft()
            self._inside -= 1
        if arrived is not None:
            self._waiting.append(arrived)
        if item is not None:
            self._inside += 1
        return arrived


class QueuedEngine(Generic[Item]):
    """An engine with such a queue at its output, between two clock edges; see `sim.parts.stream.StreamEngine`.

    cycles: latency from the beat to its result on the output, 2 or more.
    """

    def __init__(self, cycles: int) -> None:
        self._queue: ResultQueue[Item] = ResultQueue(cycles - 1)

    @property
    def idle(self) -> bool:
        """Whether no beat is inside."""
        return self._queue.idle

    @property
    def output(self) -> Item | None:
        """What stands on the output stream."""
        return self._queue.output

    def ready(self, taken: bool) -> bool:
        """Return the ready signal of the input."""
        del taken  # the queue answers from its own state
        return self._queue.ready
