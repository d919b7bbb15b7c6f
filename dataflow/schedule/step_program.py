"""From the products of a step to its program: schedules, order, updates, pruning."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from nmsat.algorithms.core.tape import Stage
from nmsat.dataflow.network.step import depends, layer_of
from nmsat.dataflow.schedule.plan import ALL_ON, schedule_product
from nmsat.dataflow.schedule.program import ProductRun, Program, PruneRun, UpdateRun
from nmsat.dataflow.schedule.traffic import WORD, packed_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nmsat.algorithms.core.tape import Pattern, Product
    from nmsat.dataflow.contract.config import SatConfig
    from nmsat.dataflow.network.step import Prune, Step, Update
    from nmsat.dataflow.schedule.plan import Switches
    from nmsat.dataflow.schedule.program import Instruction

STATE_BYTES = 18
"""Bytes that the update moves per weight beside the copies: weight and momentum, binary32, in and out; gradient in."""


def step_program(step: Step, config: SatConfig, switches: Switches = ALL_ON) -> Program:
    """Return the program of one training step: products in order, updates right behind their weight gradients.

    Tensors without a product (biases, normalisation) are updated at the end. Raises ValueError when the switches leave
    no schedule for a product.
    """
    return Program(config, tuple(_Builder(step, config, switches).instructions()))


def update_bytes(update: Update, *, pregenerate: bool = True) -> int:
    """Bytes of the update of a tensor: its state, and the copies that later products read.

    A copy is packed where the method prunes it; FF and BP share one binary16 copy where both are dense. Without
    pre-generation only the binary16 copy is made.
    """
    ff, bp = (update.ff, update.bp) if pregenerate else (None, None)
    copies = sum(_copy_bytes(update, pattern, along_k=along) for pattern, along in ((ff, True), (bp, False)) if pattern)
    dense = update.elements * WORD if ff is None or bp is None else 0
    return update.elements * STATE_BYTES + copies + dense


def _copy_bytes(update: Update, pattern: Pattern, *, along_k: bool) -> int:
    if along_k:
        return update.count * packed_bytes(update.k, update.n, pattern.n, pattern.m)
    return update.count * packed_bytes(update.n, update.k, pattern.n, pattern.m)


def _update_beats(rows: int, columns: int, lanes: int) -> int:
    """Cycles of a pass over rows x columns, `lanes` columns at a time; a narrow tensor is laid out flat."""
    if columns < lanes:
        return -(-rows * columns // lanes)
    return rows * -(-columns // lanes)


class _Builder:
    """Puts one step together."""

    def __init__(self, step: Step, config: SatConfig, switches: Switches) -> None:
        self._step = step
        self._config = config
        self._switches = switches
        self._updates = {name: update for update in step.updates for name in (update.name, *update.shared)}
        self._weights = step.weight_layers
        self._prunes: dict[tuple[str, Stage], list[Prune]] = defaultdict(list)
        for prune in step.prunes:
            self._prunes[prune.name, prune.stage].append(prune)

    def instructions(self) -> Iterator[Instruction]:
        """Yield the program."""
        pending = {update.name: update for update in self._step.updates}
        previous: Product | None = None
        products = self._ordered()
        backward = [(i, layer_of(p.name)) for i, p in enumerate(products) if p.stage is not Stage.FF]
        last = {layer: i for i, layer in backward}
        first = {layer: i for i, layer in reversed(backward)}
        for i, product in enumerate(products):
            layer = layer_of(product.name)
            yield from self._online(product)
            if first.get(layer) == i:
                yield from self._gradients(layer)
            needs = bool(self._online_pattern(product)) or (layer, product.stage) in self._prunes
            yield self._product(product, depends(product, previous), needs)
            previous = product
            if last.get(layer) == i and layer in pending:
                yield self._update(pending.pop(layer))
        for update in pending.values():
            yield self._update(update)

    def _ordered(self) -> list[Product]:
        """Return the products; where dY is pruned for BP, the weight gradient comes first and hides the pruning."""
        out: list[Product] = []
        for product in self._step.products:
            layer = layer_of(product.name)
            if product.stage is Stage.WU and (layer, Stage.BP) in self._prunes:
                first = next(
                    (i for i, p in enumerate(out) if p.stage is Stage.BP and layer_of(p.name) == layer), len(out)
                )
                out.insert(first, product)
            else:
                out.append(product)
        return out

    def _product(self, product: Product, needs_previous: bool, prune_first: bool) -> ProductRun:
        weights = product.stage in (Stage.FF, Stage.BP) and layer_of(product.name) in self._weights
        piped = schedule_product(self._config, product, weights=weights, switches=self._switches)
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
            a=piped.traffic.a,
            w=piped.traffic.w,
            y=piped.traffic.y,
            depends=needs_previous,
            prune_first=prune_first,
            weights=weights,
        )

    def _update(self, update: Update) -> UpdateRun:
        lanes = min(self._config.wuve_lanes, self._config.sore_lanes)
        beats = update.count * _update_beats(update.k, update.n, lanes)
        size = update_bytes(update, pregenerate=self._switches.pregenerate)
        return UpdateRun(name=update.name, beats=beats, bytes=size)

    def _online_pattern(self, product: Product) -> Pattern | None:
        """The pattern of weights that have to be pruned in front of this product, without pre-generation."""
        update = self._updates.get(layer_of(product.name))
        if self._switches.pregenerate or update is None or product.pattern is None:
            return None
        return {Stage.FF: update.ff, Stage.BP: update.bp}.get(product.stage)

    def _online(self, product: Product) -> Iterator[PruneRun]:
        pattern = self._online_pattern(product)
        if pattern is None:
            return
        beats = product.count * _update_beats(product.k, product.n, self._config.sore_lanes)
        dense = product.k * product.n * product.count * WORD
        packed = product.count * packed_bytes(product.k, product.n, pattern.n, pattern.m)
        yield PruneRun(name=product.name, beats=beats, bytes=dense + packed)

    def _gradients(self, layer: str) -> Iterator[PruneRun]:
        """Yield the pruning of dY, in front of the first backward product of its layer."""
        for stage in (Stage.BP, Stage.WU):
            for prune in self._prunes.get((layer, stage), []):
                packed = packed_bytes(prune.length, prune.vectors, prune.pattern.n, prune.pattern.m)
                beats = -(-prune.elements // self._config.sore_lanes)
                yield PruneRun(name=f"{layer}.dy", beats=beats, bytes=prune.elements * WORD + packed)
