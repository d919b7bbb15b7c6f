"""The program of a recorded workload: its lowered pieces with their memory traffic, as `dataflow.schedule.program` runs
them.

Every piece is a product of its own and reads its operands itself: levels of a cover read the activations again, blocks
and experts read only what they use. Where that takes longer than the whole product, the whole product runs. Learnt
weights are stored in the order of the tiles; the update behind the last use of a layer writes the packed copies that
its products read.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from nmsat.algorithms.core.sparsity import Gathered
from nmsat.algorithms.core.tape import Product, Stage
from nmsat.dataflow.network.step import depends, layer_of
from nmsat.dataflow.program.ways import whole
from nmsat.dataflow.schedule.pipeline import piped_cycles
from nmsat.dataflow.schedule.plan import schedule_product
from nmsat.dataflow.schedule.program import ProductRun, Program, UpdateRun
from nmsat.dataflow.schedule.step_program import STATE_BYTES
from nmsat.dataflow.schedule.traffic import WORD, packed_bytes

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from nmsat.dataflow.contract.config import SatConfig
    from nmsat.dataflow.program.ways import Lowered, Piece
    from nmsat.dataflow.schedule.program import Instruction


Copy: TypeAlias = tuple[str, str]
"""Product and stage that read a copy of a layer's weights."""


@dataclass(frozen=True)
class Weights:
    """Which layers multiply by weights, and which of them the update engine updates.

    stored: names of layers whose W is no activation; updated: elements of those that learn by momentum SGD.
    """

    stored: Collection[str] = ()
    updated: Mapping[str, int] = field(default_factory=dict)


def lowered_program(items: Sequence[Lowered], weights: Weights, *, dense: bool = False) -> Program:
    """Return the program of lowered products in their order, updates behind the last backward product of their layer.

    dense: the same work with nothing left out. Raises ValueError if `items` is empty or a piece has no schedule.
    """
    if not items:
        raise ValueError("items is empty; lower the products of a tape first")
    return Program(items[0].config, tuple(_instructions(items, weights, dense)))


def settled_pieces(item: Lowered, *, stored: bool) -> tuple[Piece, ...]:
    """Return the pieces of a lowered product, or all of it in one where that takes fewer cycles with memory.

    stored: whether W holds weights. What was gathered stays so: the rest of it is not computed at all.
    """
    if isinstance(item.product.sparsity, Gathered) or not item.pieces:
        return item.pieces
    one = (whole(item.product),)
    return one if _alone(item, one, stored) < _alone(item, item.pieces, stored) else item.pieces


def _alone(item: Lowered, pieces: Iterable[Piece], stored: bool) -> int:
    """Cycles of pieces with memory, one after the other and none ahead of its turn."""
    products = [_product(item.product, piece) for piece in pieces]
    return sum(piped_cycles(schedule_product(item.config, product, weights=stored)) for product in products)


def base_name(product: Product) -> str:
    """Return the layer that a product belongs to: without phase, gradient or expert."""
    return layer_of(product.name).split("/", maxsplit=1)[0]


def _instructions(items: Sequence[Lowered], weights: Weights, dense: bool) -> Iterator[Instruction]:
    config, previous = items[0].config, None
    last = {base_name(item.product): i for i, item in enumerate(items) if item.product.stage is not Stage.FF}
    copies: dict[str, dict[Copy, int]] = {}
    for i, item in enumerate(items):
        layer = base_name(item.product)
        stored = item.product.stage is not Stage.WU and layer in weights.stored
        pieces = (whole(item.product),) if dense else settled_pieces(item, stored=stored)
        if stored:
            _count_copies(copies.setdefault(layer, {}), item.product, pieces)
        for index, piece in enumerate(pieces):
            product = _product(item.product, piece)
            waits = index == 0 and depends(product, previous)
            yield _run(config, product, waits, stored)
            previous = product
        if last.get(layer) == i and layer in weights.updated:
            yield _update(config, layer, weights.updated[layer], sum(copies.get(layer, {}).values()))


def _product(product: Product, piece: Piece) -> Product:
    """Return a piece as a product; it keeps the convolution if it reads all of its windows."""
    conv = product.conv if (piece.m, piece.k) == (product.m, product.k) else None
    return Product(product.name, product.stage, piece.m, piece.k, piece.n, piece.pattern, piece.count, conv)


def _run(config: SatConfig, product: Product, waits: bool, stored: bool) -> ProductRun:
    piped = schedule_product(config, product, weights=stored)
    traffic = piped.traffic
    return ProductRun(
        name=product.name,
        stage=product.stage,
        mapping=piped.tiling.mapping,
        m=product.m,
        k=product.k,
        n=product.n,
        count=product.count,
        order=piped.order,
        slots=piped.slots,
        a=traffic.a,
        w=traffic.w,
        y=traffic.y,
        depends=waits,
        weights=stored,
    )


def _count_copies(copies: dict[Copy, int], product: Product, pieces: Sequence[Piece]) -> None:
    """Note the copy of W that pieces read, in bytes; what is read dense is one copy, of which a phase reads some."""
    shared = all(piece.pattern is None for piece in pieces)
    which = ("", "") if shared else (product.name, product.stage)
    copies[which] = max(copies.get(which, 0), sum(_packed(piece) for piece in pieces))


def _packed(piece: Piece) -> int:
    if piece.pattern is None:
        return piece.k * piece.n * piece.count * WORD
    return packed_bytes(piece.k, piece.n, piece.pattern.n, piece.pattern.m) * piece.count


def _update(config: SatConfig, layer: str, elements: int, copies: int) -> UpdateRun:
    lanes = min(config.wuve_lanes, config.sore_lanes)
    return UpdateRun(name=layer, beats=-(-elements // lanes), bytes=elements * STATE_BYTES + copies)
