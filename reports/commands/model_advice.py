"""What `nmsat model` makes of two runs: layers that are better left dense."""

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
