"""What `nmsat model` makes of two runs: layers that are better left dense, and what the speed-up cannot exceed."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

    from nmsat.dataflow.network.step import Step
    from nmsat.sim.results.machine import MachineResult


def slower_layers(step: Step, result: MachineResult, full: MachineResult, fixed: set[str]) -> list[str]:
    """Return the pruned layers whose products take longer than dense ones; fixed: those that the user decided on."""
    from nmsat.dataflow.network.step import layer_of

    pruned = dict.fromkeys(layer_of(p.name) for p in step.products if p.pattern is not None)
    cycles: list[dict[str, int]] = []
    for run in (result, full):
        total: dict[str, int] = {}
        for row in run.rows:
            if row.shape is not None:
                total[layer_of(row.name)] = total.get(layer_of(row.name), 0) + row.cycles
        cycles.append(total)
    return [name for name in pruned if name not in fixed and cycles[0].get(name, 0) > cycles[1].get(name, 0)]


def slower_note(slower: Collection[str]) -> tuple[str, ...]:
    """Return the line that names them, if there are any."""
    if not slower:
        return ()
    shown = ", ".join(list(slower)[:6]) + (f" and {len(slower) - 6} more" if len(slower) > 6 else "")
    return (f"kept dense, since N:M makes them slower here: {shown} (--prune-all prunes them)",)


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
