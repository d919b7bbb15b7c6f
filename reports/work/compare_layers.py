"""What `nmsat compare` compares: distinct products of a step, each as programs of SAT and as plain matrix products."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from nmsat.algorithms.core.tape import ConvShape, Stage
from nmsat.dataflow.program.jobs import ProductJob, step_jobs

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from nmsat.algorithms.core.tape import Pattern, Product
    from nmsat.dataflow.network.step import Step
    from nmsat.dataflow.program.jobs import Job, Switches

@dataclass(frozen=True)
class Gemm:
    """`count` equal products Y[m, n] = A[m, k] W[k, n]; pattern: of W along k, None for dense; conv: the convolution of
    one image whose windows A are, None if A lies as it is."""

    m: int
    k: int
    n: int
    count: int = 1
    pattern: Pattern | None = None
    conv: ConvShape | None = None

    @property
    def kept(self) -> int:
        """Rows of W that are left when the same places of every group are dropped in all columns."""
        if self.pattern is None:
            return self.k
        groups, rest = divmod(self.k, self.pattern.m)
        return groups * self.pattern.n + min(rest, self.pattern.n)


@dataclass(frozen=True, eq=False)
class Layer:
    """A product of a step, or an update. name: of the first one; times: how many equal ones the step has; job: its
    programs; gemms: the same as matrix products, () for an update."""

    name: str
    stage: str
    times: int
    job: Job
    gemms: tuple[Gemm, ...]

    @property
    def label(self) -> str:
        """Name, stage and how often, for a table."""
        return f"{self.name} {self.stage}{f' x{self.times}' if self.times > 1 else ''}"

    @property
    def macs(self) -> int:
        """Multiply-adds of kept elements of one of them."""
        return sum(product.macs_kept for product in self.job.products)

    @property
    def pattern(self) -> str:
        """N:M of its weights, 'dense', or '' for an update."""
        return "" if not self.gemms else str(self.gemms[0].pattern or "dense")


def layers_of(step: Step, stages: Collection[str], only: Sequence[str], switches: Switches) -> list[Layer]:
    """Return the distinct products of a step in their order. stages: of `compare_names.STAGES`; only: globs of names,
    () for all.

    Raises ValueError where nothing is left.
    """
    found: dict[str, tuple[Job, int]] = {}
    for job in step_jobs(step, switches):
        if job.stage in stages and (not only or any(fnmatchcase(job.name, glob) for glob in only)):
            key = f"{job.stage} {job.facts}"
            first, times = found.get(key, (job, 0))
            found[key] = (first, times + 1)
    if not found:
        names = ", ".join(sorted({job.name for job in step_jobs(step, switches)})[:8])
        asked = f"--only {', '.join(only)} and " if only else ""
        raise ValueError(f"{asked}--stages {','.join(stages)} leave nothing to compare; the step has {names} ...")
    return [Layer(job.name, job.stage, times, job, _gemms(job)) for job, times in found.values()]


def _gemms(job: Job) -> tuple[Gemm, ...]:
    return tuple(_gemm(product) for product in job.products) if isinstance(job, ProductJob) else ()


def _gemm(product: Product) -> Gemm:
    conv = product.conv if product.stage is Stage.FF else None
    plain = isinstance(conv, ConvShape) and conv.batch == 1 and len({*conv.stride}) == 1 and {*conv.dilation} == {1}
    image = conv if plain and isinstance(conv, ConvShape) else None
    return Gemm(product.m, product.k, product.n, product.count, product.pattern, image)
