"""What a cycle of a step is spent on: the one list that counters, rows and figures share."""

from __future__ import annotations

from typing import Final

CAUSES: Final[tuple[str, ...]] = (
    "steps",
    "link",
    "fill",
    "drain",
    "weight",
    "dependency",
    "finish",
    "bandwidth",
    "latency",
    "order",
    "flush",
    "update",
)
"""What a cycle of a step is spent on. steps: multiply-adds issue; link ... finish: `dataflow.cycles.array.Duration`;
bandwidth, latency: waiting for memory; order: results of the product before have to be stored and read; flush: the
array empties before another mapping; update: waiting for update or pruning."""
