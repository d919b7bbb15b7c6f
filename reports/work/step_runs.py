"""Training steps of networks on one machine, dense and at patterns: what the figures of a report are made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from nmsat.dataflow.network.models import load_model
from nmsat.dataflow.network.step import training_products
from nmsat.reports.work.progress import task
from nmsat.reports.work.text import InputError
from nmsat.reports.work.timings import Wanted, distinct, time_all
from nmsat.sim.results.energy import Energy, step_energy
from nmsat.sim.work.ablation import VARIANTS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nmsat.algorithms.core.tape import Pattern
    from nmsat.dataflow.contract.config import SatConfig
    from nmsat.dataflow.network.step import Step
    from nmsat.dataflow.program.jobs import Job
    from nmsat.sim.results.machine import MachineResult

DENSE: Final = "dense"
"""Pattern of the step that the others are compared with."""

METHOD: Final = "bdwp"
"""The method of the paper."""


@dataclass(frozen=True, eq=False)
class StepRun:
    """A step as it ran. network: its name; pattern: 'dense', or N:M; bound: of its speed-up over the dense step."""

    network: str
    pattern: str
    step: Step
    result: MachineResult
    bound: float

    @property
    def label(self) -> str:
        """Network and pattern."""
        return f"{self.network} {self.pattern}"

    @property
    def energy(self) -> Energy:
        """Of the step, modelled."""
        return step_energy(self.result, self.step.update_elements)


@dataclass(frozen=True, eq=False)
class NetworkRuns:
    """The steps of a network: the dense one, the sparse ones, and by variant of the ablation those of `ablated`.

    ablated: variant -> result of the sparse step `of` under it, empty without an ablation.
    """

    network: str
    dense: StepRun
    sparse: tuple[StepRun, ...]
    ablated: dict[str, MachineResult]
    of: str = ""

    @property
    def all(self) -> tuple[StepRun, ...]:
        """The dense step and the sparse ones."""
        return (self.dense, *self.sparse)

    def at(self, pattern: str) -> StepRun:
        """Return the step of a pattern."""
        return next(run for run in self.all if run.pattern == pattern)

    def speedup(self, run: StepRun) -> float:
        """Return how many times as fast as the dense step a step is."""
        return self.dense.result.cycles / run.result.cycles


def network_runs(
    config: SatConfig,
    networks: Sequence[str],
    patterns: Sequence[Pattern],
    batch: int,
    ablated: Sequence[str],
    processes: int,
    label: str = "report",
) -> list[NetworkRuns]:
    """Return the steps of networks, timed together with one bar; ablated: networks with an ablation of `shown`.

    label: of the bar.

    Raises InputError for a step that the machine has no program for.
    """
    texts = [str(pattern) for pattern in patterns]
    of = shown(texts)
    steps = {name: _steps(name, patterns, batch) for name in networks}
    plain = [Wanted(step) for found in steps.values() for step in found.values()]
    others = [Wanted(steps[name][of], switches) for name in ablated for switches in VARIANTS.values()]
    timed = iter(_time(config, [*plain, *others], processes, label))
    results = {name: {text: next(timed) for text in found} for name, found in steps.items()}
    variants = {name: {variant: next(timed) for variant in VARIANTS} for name in ablated}
    return [
        NetworkRuns(
            name,
            _run(name, DENSE, steps, results),
            tuple(_run(name, text, steps, results) for text in texts),
            variants.get(name, {}),
            of if name in variants else "",
        )
        for name in networks
    ]


def shown(patterns: Sequence[str]) -> str:
    """Return the pattern that figures with room for one show: the paper's 2:8 if it is among them, else the first."""
    return "2:8" if "2:8" in patterns else patterns[0]


def _steps(name: str, patterns: Sequence[Pattern], batch: int) -> dict[str, Step]:
    layers = load_model(name, batch)
    sparse = {str(pattern): training_products(layers, METHOD, pattern) for pattern in patterns}
    return {DENSE: training_products(layers, DENSE), **sparse}


def _run(
    name: str, text: str, steps: dict[str, dict[str, Step]], results: dict[str, dict[str, MachineResult]]
) -> StepRun:
    return StepRun(name, text, steps[name][text], results[name][text], steps[name][text].bound)


def _time(config: SatConfig, wanted: list[Wanted], processes: int, label: str) -> list[MachineResult]:
    try:
        with task(label, distinct(config, wanted), "program") as running:

            def told(job: Job) -> None:
                running.now(f"{job.name} {job.stage}")
                running.advance()

            return time_all(config, wanted, told, processes)
    except ValueError as error:
        raise InputError(str(error)) from None
