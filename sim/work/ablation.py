"""What each optimisation brings: the same step with one of them switched off."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from nmsat.algorithms.core.tape import Pattern
from nmsat.dataflow.schedule.plan import Switches
from nmsat.sim.schedule.step import simulate_step

if TYPE_CHECKING:
    from collections.abc import Callable

    from nmsat.algorithms.core.tape import Product
    from nmsat.dataflow.contract.config import SatConfig
    from nmsat.dataflow.network.step import Step

VARIANTS: Final[dict[str, Switches]] = {
    "all on": Switches(),
    "fixed rectangle 1x8": Switches(rectangle=1),
    "no pre-generation": Switches(pregenerate=False),
    "OS only": Switches(dataflow="os"),
    "WS only": Switches(dataflow="ws"),
    "no prefetch": Switches(prefetch=False),
}
"""Name of an ablation -> what is left on. 'OS only' and 'WS only' are the machine without offline scheduling."""


@dataclass(frozen=True)
class Ablation:
    """One row: cycles of the step and of the dense step under the same switches; exceptions: products of the other
    dataflow, because the wanted one cannot take them."""

    name: str
    cycles: int
    dense: int
    exceptions: int = 0

    @property
    def speedup(self) -> float:
        """Over the dense step under the same switches."""
        return self.dense / self.cycles


def ablations(step: Step, dense: Step, config: SatConfig, told: Callable[[str], None] | None = None) -> list[Ablation]:
    """Return the step under every variant; the first row is the machine as built.

    told: called before each of the 2 x len(VARIANTS) simulations with what comes next.
    """
    tell = told or (lambda _: None)
    out = []
    for name, switches in VARIANTS.items():
        tell(name)
        sparse = simulate_step(step, config, switches)
        tell(f"{name}, dense")
        full = simulate_step(dense, config, switches)
        other = [s for s in sparse.run.spans if s.run and switches.dataflow not in (None, s.run.mapping.name)]
        out.append(Ablation(name, sparse.cycles, full.cycles, len(other)))
    pair = [sum(_without_interleave(config, p) for p in s.products) for s in (step, dense)]
    return [*out, Ablation("no interleave", pair[0], pair[1])]


def _without_interleave(config: SatConfig, product: Product) -> int:
    """Cycles on the array with one output per element, OS, operands on chip: each addition waits for the one before.

    A closed form of a machine that was not built: R x C outputs a tile, adder loop of `adder_stages` + 1 cycles.
    """
    pattern = product.pattern or Pattern(2, 2)
    tiles = -(-product.m // config.rows) * -(-product.n // config.columns)
    slots = -(-product.k // pattern.m) * pattern.n
    return product.count * tiles * slots * (config.adder_stages + 1)
