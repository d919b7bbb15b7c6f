"""Products that no step describes as programs of the machine: given ones, and the pieces of a recorded workload.

Every piece is a product of its own and reads its operands itself: levels of a cover read the activations again, blocks
and experts read only what they use, laid out for them. Where that is estimated to take longer than the whole product,
the whole product runs. A convolution that reads all of its windows reads them from the image; otherwise they lie in
memory one by one. Updates come last, one UPDATE for each weight matrix that learns.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from typing import TYPE_CHECKING

from nmsat.algorithms.core.sparsity import Gathered
from nmsat.algorithms.core.tape import Product, Stage
from nmsat.dataflow.network.gradient import GradientPart
from nmsat.dataflow.network.step import layer_of
from nmsat.dataflow.program import kinds
from nmsat.dataflow.program.jobs import ALL_ON, ATTENTION, ProductJob, UpdateJob, job_estimate
from nmsat.dataflow.program.lower import Form
from nmsat.dataflow.program.tensors import DENSE
from nmsat.dataflow.program.ways import How, whole

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

    from nmsat.algorithms.core.tape import ConvShape
    from nmsat.dataflow.contract.config import SatConfig
    from nmsat.dataflow.program.jobs import Job, Switches
    from nmsat.dataflow.program.ways import Lowered, Piece


@dataclass(frozen=True)
class LearntWeights:
    """Which layers multiply by weights, and which of them the machine updates.

    stored: names of layers whose W is no activation; updated: elements of those that learn by momentum SGD.
    """

    stored: Collection[str] = ()
    updated: Mapping[str, int] = field(default_factory=dict)


def base_name(product: Product) -> str:
    """Return the layer that a product belongs to: without phase, gradient or expert."""
    return layer_of(product.name).split("/", maxsplit=1)[0]


def lone_job(
    product: Product, *, stored: bool = True, backward: bool = True, cut: bool = False, switches: Switches = ALL_ON
) -> ProductJob:
    """Return a product as programs of the machine.

    stored: its second operand is weights; backward: its layer has an input gradient; cut: its weights are part of a
    matrix and were packed for it.
    """
    form, stage = Form.PACKED, product.stage
    conv = product.conv
    if isinstance(conv, GradientPart):
        form = Form.MASKED
    elif stage is Stage.WU:
        form = Form.WEIGHTS if product.pattern is None else Form.PACKED
    elif conv is not None and _windows_fit(product, conv):
        # the windows of dY are read as those of X are
        form, product = Form.WEIGHTS, replace(product, stage=Stage.FF)
    else:
        product = replace(product, conv=None)
        if product.pattern is None and not stored:
            form = ATTENTION.get(product.name.rpartition(".")[2], Form.PLAIN)
        elif stage is Stage.BP and not cut:
            form = Form.WEIGHTS
    return ProductJob(product.name, stage.value, (product,), form, backward=backward, switches=switches)


def piece_jobs(
    items: Sequence[Lowered], weights: LearntWeights, *, dense: bool = False, switches: Switches = ALL_ON
) -> tuple[Job, ...]:
    """Return lowered products in their order as programs, and behind them the updates of what learns.

    dense: the same work with nothing left out. Raises ValueError if `items` is empty.
    """
    if not items:
        raise ValueError("items is empty; lower the products of a tape first")
    back = {base_name(item.product) for item in items if item.product.stage is Stage.BP}
    jobs: list[Job] = []
    for item in items:
        layer = base_name(item.product)
        make = partial(lone_job, stored=layer in weights.stored, backward=layer in back, switches=switches)
        one = make(_product(item.product, whole(item.product)))
        jobs += [one] if dense else _settled(item, one, make)
    return (*jobs, *_updates(items, weights, back, dense=dense))


def _settled(item: Lowered, one: ProductJob, make: Callable[..., ProductJob]) -> list[ProductJob]:
    """Return the pieces of a lowered product, or all of it in one where that is estimated to be quicker.

    What was gathered stays so: the rest of it is not computed at all.
    """
    if item.how is How.DENSE:
        return [one]
    cut = item.how is not How.NATIVE
    pieces = [make(_product(item.product, piece), cut=cut) for piece in item.pieces]
    if isinstance(item.product.sparsity, Gathered) or not pieces:
        return pieces
    whole_of_it, *parts = (_estimated(_Question(item.config, job.facts, job)) for job in (one, *pieces))
    return [one] if whole_of_it < sum(parts) else pieces


@dataclass(frozen=True)
class _Question:
    """What a job is estimated to take: the same for all jobs of the same facts, of which a workload has many."""

    config: SatConfig
    facts: str
    job: ProductJob = field(compare=False)


@lru_cache(maxsize=1 << 14)
def _estimated(asked: _Question) -> float:
    return job_estimate(asked.job, asked.config)


def _product(product: Product, piece: Piece) -> Product:
    """Return a piece as a product; it keeps the convolution if it reads all of its windows."""
    conv = product.conv if (piece.m, piece.k, piece.count) == (product.m, product.k, product.count) else None
    return Product(product.name, product.stage, piece.m, piece.k, piece.n, piece.pattern, piece.count, conv)


def _windows_fit(product: Product, conv: ConvShape) -> bool:
    """Whether the machine reads the windows of a product from the image: groups of W do not run across taps."""
    channels = conv.channels_in // conv.groups
    if product.k != kinds.taps(conv) * channels or product.count != conv.groups:
        return False
    return kinds.taps(conv) == 1 or product.pattern is None or channels % product.pattern.m == 0


def _updates(
    items: Sequence[Lowered], weights: LearntWeights, back: Collection[str], *, dense: bool
) -> Iterator[UpdateJob]:
    patterns = {(base_name(item.product), item.product.stage): item.product.pattern for item in items}
    sizes: dict[str, Piece] = {}
    for item in items:
        if item.product.stage is Stage.FF:
            sizes.setdefault(base_name(item.product), whole(item.product))
    for name, elements in weights.updated.items():
        if name not in sizes:
            continue
        k, n = sizes[name].k, sizes[name].n
        count = elements // (k * n)
        if count * k * n != elements:  # only part of the matrix takes part in a product
            k, count = -(-elements // n), 1
        ff, bp = (None if dense else patterns.get((name, stage)) for stage in (Stage.FF, Stage.BP))
        yield UpdateJob(name, k, n, count, ff or DENSE, bp or DENSE, name in back, decays=False, elements=elements)


def given_jobs(products: Iterable[Product], switches: Switches = ALL_ON) -> tuple[ProductJob, ...]:
    """Return products by themselves as programs: their second operands are weights, nothing is updated."""
    products = tuple(products)
    back = {base_name(product) for product in products if product.stage is Stage.BP}
    return tuple(lone_job(product, backward=base_name(product) in back, switches=switches) for product in products)
