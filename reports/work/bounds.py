"""What a speed-up cannot exceed: one bound for all commands and pages."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nmsat.dataflow.network.step import Step
    from nmsat.sim.results.machine import MachineResult


def speedup_bound(step: Step, result: MachineResult, full: MachineResult) -> tuple[float, str]:
    """Return what the speed-up cannot exceed, and a line if that is not the ratio of the multiply-adds.

    A dense step that leaves elements idle can be beaten by more than that, but not by more than a step whose products
    keep every element busy and whose updates take what they take.
    """
    ratio = step.bound
    if full.cycles / result.cycles <= ratio:
        return ratio, ""
    padding = " and multiplies padding in its input gradients" if ratio < step.macs_dense / step.macs_kept else ""
    updates = sum(row.cycles for row in result.rows if row.shape is None)
    busy = sum(row.macs for row in result.rows) / result.config.elements
    return full.cycles / (busy + updates), (
        f"the speed-up is above the ratio of multiply-adds, {ratio:.4f}, because the dense step uses only "
        f"{full.utilization:.1%} of the array{padding}; the bound is that of products that use all of it"
    )
