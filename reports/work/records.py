"""What a report is made of: records that a command fills in and that plots, page and summary read."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from nmsat.reports.work.proof import Covered
from nmsat.sim.results.provenance import Source

if TYPE_CHECKING:
    from collections.abc import Iterable

    from nmsat.dataflow.contract.config import SatConfig

STAGES = ("ff", "bp", "wu")
"""Stages of a training step in their order."""

LEAST_VALUES: Final = 64
"""Every part of a product that is compared has at least so many results; a smaller product is compared whole."""


@dataclass(frozen=True)
class TrainingRun:
    """One training run: label for people, loss of every step, test accuracy (0..1) after every epoch, wall seconds."""

    label: str
    losses: tuple[float, ...]
    accuracies: tuple[float, ...]
    seconds: float

    @property
    def accuracy(self) -> float:
        """Test accuracy at the end, 0..1."""
        return self.accuracies[-1]


@dataclass(frozen=True)
class ProductRun:
    """One matrix product Y[m, n] = A[m, k] @ W[k, n] of a training step, simulated sparse and dense.

    stage: 'ff', 'bp' or 'wu'; pattern: 'N:M' or 'dense'; elements: MAC units of the array; macs: multiply-adds of the
    kept weights; cycles: of the product as trained; cycles_dense: of the same product without sparsity;
    stalls: cycles of `cycles` in which nothing was multiplied, by cause.
    """

    layer: str
    stage: str
    m: int
    k: int
    n: int
    pattern: str
    elements: int
    macs: int
    cycles: int
    cycles_dense: int
    stalls: dict[str, int]

    @property
    def macs_dense(self) -> int:
        """Multiply-adds without sparsity."""
        return self.m * self.k * self.n

    @property
    def ideal(self) -> float:
        """Cycles of an array that multiplies in every element and every cycle, and only kept weights."""
        return self.macs / self.elements

    @property
    def utilization(self) -> float:
        """Multiply-adds done per element and cycle, 0..1."""
        return self.macs / (self.cycles * self.elements)


@dataclass(frozen=True)
class StageTotal:
    """Sums over the products of one stage, or of the whole step."""

    stage: str
    cycles_dense: int
    cycles: int
    ideal_dense: float
    ideal: float

    @property
    def speedup(self) -> float:
        """Cycles without sparsity over cycles with it."""
        return self.cycles_dense / self.cycles

    @property
    def bound(self) -> float:
        """The speed-up if every element multiplied in every cycle, in both cases."""
        return self.ideal_dense / self.ideal


@dataclass(frozen=True)
class Span:
    """Cycles [start, stop) of a timeline that belong to one product."""

    layer: str
    stage: str
    start: int
    stop: int


@dataclass(frozen=True)
class Timeline:
    """Use of the array over a training step: `busy[i]` is the share (0..1) of elements times cycles that multiplied in
    cycles [edges[i], edges[i + 1])."""

    label: str
    edges: tuple[int, ...]
    busy: tuple[float, ...]
    spans: tuple[Span, ...]

    def __post_init__(self) -> None:
        if len(self.edges) != len(self.busy) + 1:
            raise ValueError(f"edges has {len(self.edges)} entries; it must have one more than busy ({len(self.busy)})")


@dataclass(frozen=True)
class Zoom:
    """Elements that multiply in each cycle of one product (or of a cut of it), from its first window's start."""

    layer: str
    stage: str
    m: int
    k: int
    n: int
    pattern: str
    elements: int
    busy: tuple[int, ...]


@dataclass(frozen=True)
class Check:
    """One product, or a cut of it, run on the RTL and compared with the simulator bit for bit and cycle for cycle.

    difference: the first difference in words; None when everything agreed.
    """

    layer: str
    stage: str
    m: int
    k: int
    n: int
    pattern: str
    whole: bool
    cycles_rtl: int
    cycles_sim: int
    values: int
    difference: str | None

    @property
    def match(self) -> bool:
        """Whether values and cycles agreed."""
        return self.difference is None and self.cycles_rtl == self.cycles_sim


@dataclass(frozen=True)
class DemoRecord:
    """Everything `nmsat demo` found.

    runs: dense first, then sparse; seconds: wall time by part; command: the command line that repeats the run.
    """

    config: SatConfig
    pattern: str
    seed: int
    runs: tuple[TrainingRun, TrainingRun]
    products: tuple[ProductRun, ...]
    timelines: tuple[Timeline, ...]
    zoom: Zoom
    checks: tuple[Check, ...]
    versions: dict[str, str]
    seconds: dict[str, float]
    command: str

    @property
    def match(self) -> bool:
        """Whether the RTL agreed in every check."""
        return bool(self.checks) and all(check.match for check in self.checks)

    @property
    def covered(self) -> Covered:
        """What of the step was compared with the RTL."""
        return Covered.of((check.match, check.whole, check.values) for check in self.checks)

    @property
    def by_layer(self) -> tuple[ProductRun, ...]:
        """The products layer by layer in the order of the forward pass, each FF, BP, WU."""
        layers = list(dict.fromkeys(product.layer for product in self.products))
        return tuple(sorted(self.products, key=lambda p: (layers.index(p.layer), STAGES.index(p.stage))))

    @property
    def total(self) -> StageTotal:
        """Sums over the whole step."""
        return total("step", self.products)

    @property
    def stages(self) -> tuple[StageTotal, ...]:
        """Sums by stage."""
        return tuple(total(stage, (p for p in self.products if p.stage == stage)) for stage in STAGES)


def total(stage: str, products: Iterable[ProductRun]) -> StageTotal:
    """Return the sums over `products`."""
    chosen = list(products)
    return StageTotal(
        stage=stage,
        cycles_dense=sum(p.cycles_dense for p in chosen),
        cycles=sum(p.cycles for p in chosen),
        ideal_dense=sum(p.macs_dense / p.elements for p in chosen),
        ideal=sum(p.ideal for p in chosen),
    )


def summary(record: DemoRecord) -> dict[str, Any]:
    """Return the record as one JSON object, without the timelines."""
    dense, sparse = record.runs
    step = record.total
    return {
        "accuracy_dense": dense.accuracy,
        "accuracy_sparse": sparse.accuracy,
        "pattern": record.pattern,
        "config": record.config.name,
        "seed": record.seed,
        "match": record.match,
        "source": Source.ARRAY,
        "planned": list(record.config.planned),
        "rtl": {"source": Source.ARRAY_RTL, **record.covered.record()},
        "cycles_dense": step.cycles_dense,
        "cycles": step.cycles,
        "speedup": step.speedup,
        "speedup_bound": step.bound,
        "stages": [{**asdict(item), "speedup": item.speedup, "speedup_bound": item.bound} for item in record.stages],
        "products": [
            {**asdict(item), "ideal_cycles": item.ideal, "utilization": item.utilization} for item in record.products
        ],
        "checks": [{**asdict(item), "match": item.match} for item in record.checks],
        "training": [asdict(run) for run in record.runs],
        "versions": record.versions,
        "seconds": record.seconds,
        "command": record.command,
    }
