"""What a cycle is spent on: the lists that counters, rows and figures share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from nmsat.dataflow.contract.registers import WAIT_CAUSES

if TYPE_CHECKING:
    from collections.abc import Mapping

ARRAY_CAUSES: Final[tuple[str, ...]] = ("steps", "link", "fill", "drain", "weight", "dependency", "finish")
"""What a cycle of the array alone is spent on, its operands on chip. steps: multiply-adds issue; link ... finish:
`dataflow.cycles.array.Duration`."""

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
