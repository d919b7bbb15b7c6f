"""What `nmsat bench` measures: pairs of works in turns, and what each takes, so that two runs can be compared.

What is compared runs in turns within each round, so that whatever else the machine does meets all of them alike. A
figure is the median of its rounds, its spread the distance between the least and the largest of them, as a share of it.
Seconds are of processor time, of this process and of those it started. `relative` is a work's time over that of a
yardstick of plain Python measured in the same round: machines and loads differ in seconds, and less so in that.
"""

from __future__ import annotations

import resource
import statistics
import time
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

from nmsat.algorithms.core.tape import ConvShape, Product, Stage
from nmsat.algorithms.training.workers import workers
from nmsat.dataflow.contract.config import preset
from nmsat.dataflow.program.pieces import given_jobs
from nmsat.reports.work.compare_gears import Measured, exact, quick
from nmsat.reports.work.compare_names import GEARS
from nmsat.reports.work.kernel_speed import ratio
from nmsat.sim.work.timed import Estimator

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from nmsat.dataflow.contract.config import SatConfig
    from nmsat.dataflow.program.jobs import Job

MACHINE: Final = "vcu1525"
"""Preset of the gears' works."""

BATCHES: Final = (1, 16)
"""Images of the convolution: the more there are, the more of it the quick gear looks up."""

LAYERS: Final = {
    **{
        f"conv 28x28x128 -> 128 3x3, batch {batch}": (
            Product(
                *("conv", Stage.FF, batch * 784, 1152, 128),
                conv=ConvShape(batch, 28, 28, 128, 128, (3, 3), padding=(1, 1)),
            ),
        )
        for batch in BATCHES
    },
    "ViT-S, five products": tuple(
        Product(f"gemm{place}", Stage.FF, m, k, n)
        for place, (m, k, n) in enumerate(
            ((197, 384, 1152), (197, 64, 197), (197, 197, 64), (197, 384, 1536), (197, 1536, 384))
        )
    ),
}
"""Layers that the gears and the estimate run, choice of the cut included."""

MODES: Final = {"exact gear": "exact", "quick gear": "quick", "estimate": "estimate"}
"""Work -> how it is run, the slowest first."""

YARDSTICK: Final = "yardstick"
"""The work that others are told relative to."""

_TURNS: Final = 200_000


@dataclass
class Rounds:
    """Samples of works that run in turns. samples: work -> seconds of each round; facts: what else is known of it."""

    samples: dict[str, list[float]] = field(default_factory=dict)
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)

    def run(
        self, works: Mapping[str, Callable[[], float]], rounds: int, told: Callable[[str], object] | None = None
    ) -> None:
        """Run works in turns, `rounds` times; each returns its seconds. told: called before each work."""
        for _ in range(rounds):
            for name, work in works.items():
                if told is not None:
                    told(name)
                self.samples.setdefault(name, []).append(work())

    def figure(self, name: str) -> dict[str, Any]:
        """Return what is known of a work: median seconds, spread, and both relative to the yardstick."""
        seconds = self.samples[name]
        pair = ratio(seconds, self.samples[YARDSTICK][: len(seconds)])
        found = {"seconds": statistics.median(seconds), "relative": pair["times"], "spread": pair["spread"]}
        return {**found, "rounds": len(seconds), **self.facts.get(name, {})}

    def ratio(self, slower: str, quicker: str) -> dict[str, Any]:
        """Return how many times as long one work takes as the other (`kernel_speed.ratio`)."""
        return ratio(self.samples[slower], self.samples[quicker])


def used() -> float:
    """Return the seconds of processor time of this process and of those it started and has waited for."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + ended.ru_utime + ended.ru_stime


def timed(work: Callable[[], object], repeats: int = 1) -> float:
    """Return the seconds of a call, the mean of so many."""
    start = used()
    for _ in range(repeats):
        work()
    return (used() - start) / repeats


def yardstick() -> float:
    """Return the seconds of a fixed work of plain Python."""

    def work() -> None:
        found: dict[int, int] = {}
        for turn in range(_TURNS):
            found[turn & 1023] = found.get(turn & 511, 0) + turn
        if len(found) != 1024:
            raise RuntimeError("the yardstick is broken")

    return timed(work)


def gear_works(rounds: Rounds) -> dict[str, Callable[[], float]]:
    """Return the works of the gears, each in a process of its own: nothing is walked, chosen or kept before."""
    works: dict[str, Callable[[], float]] = {}
    for layer, products in LAYERS.items():
        for name, mode in MODES.items():
            works[f"{name}, {layer}"] = partial(_apart, rounds, f"{name}, {layer}", mode, products)
    return works


def gear_ratios(rounds: Rounds) -> dict[str, dict[str, Any]]:
    """Return the ratios between the gears."""
    return {
        f"{quicker}, times as fast as the {slow}, {layer}": rounds.ratio(f"{slow}, {layer}", f"{quicker}, {layer}")
        for layer in LAYERS
        for slow, quicker in pairwise(MODES)
    }


def _apart(rounds: Rounds, name: str, mode: str, products: tuple[Product, ...]) -> float:
    with workers(1) as pool:
        seconds, cycles = pool.submit(_gear, mode, products).result()
    rounds.facts[name] = {"cycles": cycles} if mode in GEARS else {}
    return seconds


def _gear(mode: str, products: tuple[Product, ...]) -> tuple[float, int]:
    """Return the seconds and cycles of products; what is imported late is imported first, by a product of its own."""
    run = {"quick": quick, "exact": exact}.get(mode, _estimate)
    cycles, seconds = 0, 0.0
    (first,) = given_jobs([Product("first", Stage.FF, 8, 8, 8)])
    run(preset("tiny"), first)
    for job in given_jobs(products):
        found = run(preset(MACHINE), job)
        cycles, seconds = cycles + found.counters["cycles"], seconds + found.seconds
    return seconds, cycles


def _estimate(config: SatConfig, job: Job) -> Measured:
    start = time.process_time()
    found = Estimator(config).time(job)
    return Measured(found.counters, found.schedule, time.process_time() - start, 0)


@dataclass(frozen=True)
class Change:
    """A figure that got worse. before, now: of the two runs; by: as a share; allowed: the spread of both."""

    name: str
    before: float
    now: float
    by: float
    allowed: float


def slower(now: Mapping[str, Any], before: Mapping[str, Any]) -> tuple[list[Change], list[str]]:
    """Return what got slower by more than the spread, and what could not be judged: measured in one run, or once.

    now, before: what `nmsat bench --json` says. A ratio got worse where it fell, a work where its time rose.
    """
    worse: list[Change] = []
    unjudged: list[str] = []
    for kind, key, better in (("ratios", "times", 1), ("works", "relative", -1)):
        mine, theirs = now[kind], before[kind]
        unjudged += mine.keys() ^ theirs.keys()
        for name in mine.keys() & theirs.keys():
            one, other = mine[name], theirs[name]
            if one["spread"] is None or other["spread"] is None:
                unjudged.append(name)
                continue
            share = (other[key] / one[key] if better > 0 else one[key] / other[key]) - 1
            allowed = max(one["spread"], other["spread"])
            if share > allowed:
                worse.append(Change(name, other[key], one[key], share, allowed))
    return sorted(worse, key=lambda change: -change.by), sorted(unjudged)
