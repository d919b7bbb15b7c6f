"""What a cycle of a step is spent on: the one list that counters, rows and figures share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from nmsat.dataflow.contract.registers import WAIT_CAUSES

if TYPE_CHECKING:
    from collections.abc import Mapping

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

MACHINE_CAUSES: Final[tuple[str, ...]] = ("steps", "link", *WAIT_CAUSES.values(), "idle", "update")
"""What a cycle of the machine's programs is spent on, from its counters. steps: multiply-adds issue; link: a window
lasts longer than its multiply-adds, as operands enter one by one; operand ... tail: no window starts
(`registers.Wait`); idle: the array has no COMPUTE and waits for loads, stores or the program; update: the same in the
program of an UPDATE."""


def machine_causes(counters: Mapping[str, int], *, update: bool = False) -> dict[str, int]:
    """Return cycles by cause, which add up to the cycles of the counters (`registers.COUNTERS`).

    update: they are those of an UPDATE."""
    waits = {name: counters[f"wait_{name}"] for name in WAIT_CAUSES.values()}
    idle = counters["cycles"] - counters["compute_busy"]
    found = {
        "steps": counters["steps"],
        "link": counters["compute_busy"] - counters["steps"] - sum(waits.values()),
        **waits,
        "idle": 0 if update else idle,
        "update": idle if update else 0,
    }
    return {cause: found[cause] for cause in MACHINE_CAUSES}
