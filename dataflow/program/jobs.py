"""A training step as programs of the machine: one a product, a part of an input gradient, an update of a matrix.

Programs are apart, as the host works between products (normalisation, pooling, loss). Copies of a small product, such
as the heads of an attention, share a program.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from typing import TYPE_CHECKING, Final, TypeAlias

from nmsat.algorithms.core.ranges import check_flag
from nmsat.algorithms.core.tape import Stage
from nmsat.algorithms.core.vocabulary import METHODS
from nmsat.dataflow.network.gradient import GradientPart, gradient_parts
from nmsat.dataflow.network.step import layer_of, run_of
from nmsat.dataflow.program import kinds
from nmsat.dataflow.program.assembler import Assembler
from nmsat.dataflow.program.emit import assemble
from nmsat.dataflow.program.estimate import estimate_program, fastest
from nmsat.dataflow.program.lower import Form, form_of, place_product
from nmsat.dataflow.program.product import cuts
from nmsat.dataflow.program.tensors import DENSE, Layout
from nmsat.dataflow.program.update import emit_update, estimate_update, slices

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from nmsat.algorithms.core.tape import Pattern, Product
    from nmsat.dataflow.contract.config import SatConfig
    from nmsat.dataflow.network.step import Step
    from nmsat.dataflow.program.assembler import Code
    from nmsat.dataflow.program.product import Cut, ProductCode
    from nmsat.dataflow.program.tensors import Weights

COMMANDS: Final = 4096
"""Commands of a program that copies of a product share: its start is then nothing beside them."""

ATTENTION: Final = {
    "scores": Form.TURNED,
    "dshare": Form.TURNED,
    "dv": Form.TRANSPOSED,
    "dk": Form.TRANSPOSED,
    "mix": Form.PLAIN,
    "dq": Form.PLAIN,
}
"""Last word of the products that `algorithms.layers.attention` records -> how their operands lie."""


@dataclass(frozen=True)
class Switches:
    """What the programs of a step may use; all of it by default.

    dataflow: 'os' or 'ws' alone; rectangle: rows of outputs per element (the a of a x b = 8) of every product; either
    where a product has such a cut. pregenerate: the update makes both packed copies at once; without, masters, W_ff and
    W_bp each take a pass of their own.
    """

    dataflow: str | None = None
    rectangle: int | None = None
    pregenerate: bool = True

    def __post_init__(self) -> None:
        if self.dataflow not in (None, "os", "ws"):
            raise ValueError(f"dataflow is {self.dataflow!r}; it must be 'os', 'ws' or None")
        if self.rectangle not in (None, 1, 2, 4, 8) or isinstance(self.rectangle, bool | float):
            raise ValueError(f"rectangle is {self.rectangle!r}; it must be 1, 2, 4, 8 or None")
        check_flag("pregenerate", self.pregenerate)

    def choose(self, config: SatConfig, code: ProductCode) -> Cut:
        """Return the cut that the estimate finds fastest among those that are left on."""
        found = cuts(config, code)
        fits = [
            cut
            for cut in found
            if self.dataflow in (None, cut.mapping.name) and self.rectangle in (None, cut.mapping.a)
        ]
        return fastest(fits or found)


ALL_ON: Final = Switches()


@dataclass(frozen=True)
class JobRun:
    """The program of a product, or of several, which runs `times` times. cuts: how each of them is cut."""

    times: int
    cuts: tuple[Cut, ...]

    def estimate(self, config: SatConfig) -> float:
        """Return about how many cycles it takes once."""
        del config  # a cut has it
        return estimate_program(self.cuts)

    def assemble(self, config: SatConfig) -> Code:
        """Return the instructions of the program."""
        out = Assembler(config)
        for cut in self.cuts:
            assemble(out, cut.code, cut)
        return out.finish()


@dataclass(frozen=True)
class UpdateRun:
    """The program of an UPDATE, `times` times."""

    times: int
    job: UpdateJob

    def estimate(self, config: SatConfig) -> float:
        """Return about how many cycles it takes once."""
        return estimate_update(config, self._weights(), decays=self.job.decays)

    def assemble(self, config: SatConfig) -> Code:
        """Return the instruction of the update, and END."""
        out = Assembler(config)
        emit_update(out, "update", self._weights(), decays=self.job.decays)
        return out.finish()

    def _weights(self) -> Weights:
        job = self.job
        return Layout().weights("w", 1, job.k, job.n, job.ff, job.bp, backward=job.backward)


@dataclass(frozen=True, eq=False)
class ProductJob:
    """A product of a step on the machine.

    products: the product, or all parts of an input gradient; form: how its operands lie; bias: a row is added to its
    results; backward: its layer has an input gradient; switches: which cuts it may have.
    """

    name: str
    stage: str
    products: tuple[Product, ...]
    form: Form
    bias: bool = False
    backward: bool = True
    switches: Switches = ALL_ON

    @property
    def count(self) -> int:
        """How many equal products it stands for."""
        return self.products[0].count

    @cached_property
    def facts(self) -> str:
        """All that its programs depend on, as text; not its name."""
        left = (self.switches.dataflow, self.switches.rectangle)
        return repr((self.form.value, self.bias, self.backward, left, *(p.facts()[1:] for p in self.products)))

    def runs(self, config: SatConfig) -> list[JobRun]:
        """Return its programs; ValueError for a product that the machine has no instructions for."""
        first = [self.switches.choose(config, code) for code in self._codes(config, 0)]
        if self.count == 1:
            return [JobRun(1, (cut,)) for cut in first]
        commands = sum(len(cut.rows) * cut.column_tiles * len(cut.parts) for cut in first)
        shared = min(self.count, max(1, COMMANDS // commands))
        copies = [first]
        for index in range(1, shared):
            codes = self._codes(config, index)
            copies.append([replace(cut, code=code) for cut, code in zip(first, codes, strict=True)])
        whole, rest = divmod(self.count, shared)
        found = [JobRun(whole, tuple(kinds.turned_first(copies)))]
        return found + ([JobRun(1, tuple(kinds.turned_first(copies[:rest])))] if rest else [])

    def _codes(self, config: SatConfig, index: int) -> tuple[ProductCode, ...]:
        product = self.products[0]
        if self.count > 1:
            name = product.name.split("/phase", maxsplit=1)[0]
            product = replace(product, name=f"{name}/copy{index}")
        return place_product(config, product, self.form, index=index, bias=self.bias, backward=self.backward).codes


@dataclass(frozen=True)
class UpdateJob:
    """`count` weight matrices to update. k: rows as they lie, with the zeros of padded channels; ff, bp: of the copies;
    backward: the copy of the backward pass is made; decays: the method has an SR-STE term; elements: learnt ones."""

    name: str
    k: int
    n: int
    count: int
    ff: Pattern
    bp: Pattern
    backward: bool
    decays: bool
    elements: int

    stage: Final = "update"

    @property
    def products(self) -> tuple[Product, ...]:
        """None: an update multiplies no matrices."""
        return ()

    @cached_property
    def facts(self) -> str:
        """All that its program depends on, as text; not its name."""
        return repr((self.stage, self.k, self.n, self.count, self.ff, self.bp, self.backward, self.decays))

    def runs(self, config: SatConfig) -> list[UpdateRun]:
        """Return its program, or those of the slices of a matrix that no one UPDATE spans."""
        return [
            UpdateRun(self.count * times, replace(self, k=k, n=n)) for (k, n), times in slices(self.k, self.n).items()
        ]


Job: TypeAlias = "ProductJob | UpdateJob"


def step_jobs(step: Step, switches: Switches = ALL_ON) -> tuple[Job, ...]:
    """Return a step as programs of the machine, in its order; updates last: one infinite gradient suppresses them all.

    Not among them is what the host does: updates of biases and normalisations, pruning of dY within the step.
    """
    back = {layer_of(p.name) for p in step.products if p.stage is Stage.BP}
    biases = {update.name.removesuffix(".bias") for update in step.updates if update.name.endswith(".bias")}
    windowed, start = _windowed(step), layer_of(step.products[0].name)
    jobs: list[Job] = []
    together = _together(step)
    for _, group in groupby(step.products, key=lambda product: together.get(id(product), id(product))):
        members = tuple(group)
        first = members[0]
        layer = layer_of(first.name)
        if layer in windowed and first.stage is not Stage.BP:
            members = (replace(first, conv=None),)
        whole = together.get(id(first)) != id(first)
        form = _form(step, first) if whole else Form.MASKED
        added = form is Form.WEIGHTS and first.stage is Stage.FF and layer in biases
        name = run_of(first.name) if len(members) > 1 else first.name
        backward = layer in back or (not back and layer != start)  # without any BP, only the first has none
        jobs.append(ProductJob(name, first.stage.value, members, form, added, backward, switches))
    updates = _updates(step, back, windowed)
    return (*jobs, *(each for job in updates for each in (_passes(job) if not switches.pregenerate else (job,))))


def _passes(job: UpdateJob) -> tuple[UpdateJob, ...]:
    """Return an update as one pass for the masters and one for each packed copy."""
    if not job.backward:
        return (replace(job, count=2 * job.count),)
    return replace(job, count=2 * job.count, backward=False), job


def job_estimate(job: Job, config: SatConfig) -> float:
    """Return about how many cycles the programs of a job take, in closed form: see `estimate`, `update_estimate`."""
    return runs_estimate(job.runs(config), config)


def runs_estimate(runs: Iterable[JobRun | UpdateRun], config: SatConfig) -> float:
    """Return about how many cycles programs take, one behind the other."""
    return sum(run.times * run.estimate(config) for run in runs)


def _together(step: Step) -> dict[int, object]:
    """Return by the id of a product what it has in common with those of its program: parts of one input gradient.

    Any other is alone, also each part of one whose weights a mask cuts.
    """
    runs: dict[str, list[Product]] = {}
    for product in step.products:
        if product.stage is Stage.BP and isinstance(product.conv, GradientPart) and not product.online:
            runs.setdefault(run_of(product.name), []).append(product)
    return {
        id(product): run if _is_whole(members) else id(product) for run, members in runs.items() for product in members
    }


def _is_whole(members: list[Product]) -> bool:
    """Whether products are all parts of one input gradient, each once, with all channels and one pattern."""
    conv = members[0].conv
    if not isinstance(conv, GradientPart):
        return False
    whole = all(p.n == conv.channels_in // conv.groups and p.count == conv.groups for p in members)
    return whole and [p.conv for p in members] == list(gradient_parts(conv)) and len({p.pattern for p in members}) == 1


def _windowed(step: Step) -> set[str]:
    """Return the layers whose windows the host lays out: the groups of their W_ff would run across taps."""
    return {
        layer_of(p.name)
        for p in step.products
        if p.stage is Stage.FF and p.conv is not None and p.pattern is not None and kinds.taps(p.conv) > 1
        if p.conv.channels_in // p.conv.groups % p.pattern.m
    }


def _form(step: Step, product: Product) -> Form:
    if product.online or product.stage is Stage.OTHER or layer_of(product.name) in step.weight_layers:
        return form_of(product)
    if product.sparsity is not None or product.pattern is not None:
        return Form.PACKED
    known = ATTENTION.get(product.name.rpartition(".")[2])
    return known or form_of(product, frozenset({run_of(product.name)}))


def _updates(step: Step, back: set[str], windowed: set[str]) -> Iterator[UpdateJob]:
    gradients = {layer_of(p.name): p for p in reversed(step.products) if p.stage is Stage.WU}
    decays = step.method in METHODS and METHODS[step.method].decay != 0 if step.decays is None else step.decays
    for update in step.updates:
        product = gradients.get(update.name)
        if product is None:
            continue  # a bias or a normalisation: the host's
        ff, bp = update.ff or DENSE, update.bp or DENSE
        backward, conv = update.name in back, product.conv
        rows = update.k
        by_host = update.name in windowed or (conv is not None and kinds.windows_by_host(conv))
        if conv is not None and (backward or not by_host):
            ff_of_taps = DENSE if update.name in windowed else ff
            rows = update.taps * kinds.padded_channels(conv, ff_of_taps, backward=backward)
        yield UpdateJob(update.name, rows, update.n, update.count, ff, bp, backward, decays, update.elements)
