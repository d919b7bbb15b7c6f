"""What each choice of the programs brings: the same step with one of them left out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from nmsat.dataflow.program.jobs import Switches

if TYPE_CHECKING:
    from nmsat.sim.results.machine import MachineResult

VARIANTS: Final[dict[str, Switches]] = {
    "as built": Switches(),
    "fixed rectangle 1x8": Switches(rectangle=1),
    "OS only": Switches(dataflow="os"),
    "WS only": Switches(dataflow="ws"),
    "no pre-generation": Switches(pregenerate=False),
}
"""Name of an ablation -> what is left on; a product without such a cut keeps its own. 'OS only' and 'WS only' are the
machine without offline scheduling."""


@dataclass(frozen=True)
class Ablation:
    """One row: cycles of the step and of the dense step under the same switches; exceptions: products of the other
    dataflow or rectangle, because they have no other cut."""

    name: str
    cycles: int
    dense: int
    exceptions: int = 0

    @property
    def speedup(self) -> float:
        """Over the dense step under the same switches."""
        return self.dense / self.cycles


def ablation(name: str, sparse: MachineResult, dense: MachineResult) -> Ablation:
    """Return the row of a variant from the step and the dense step that ran under it."""
    left = VARIANTS[name]
    other = [
        row
        for row in sparse.rows
        if row.schedule
        and (
            left.dataflow not in (None, row.schedule["dataflow"])
            or (left.rectangle is not None and not str(row.schedule["rectangle"]).startswith(f"{left.rectangle}x"))
        )
    ]
    return Ablation(name, sparse.cycles, dense.cycles, len(other))
