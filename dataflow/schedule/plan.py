"""Offline scheduling with memory: mapping, rectangle, loop order and pieces of every product of a step."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from nmsat.algorithms.core.ranges import check_flag
from nmsat.algorithms.core.tape import Product
from nmsat.dataflow.contract.timing import drain_cycles, window_cycles
from nmsat.dataflow.mapping.tiling import MAX_WINDOWS, Tiling, legal_mappings
from nmsat.dataflow.schedule.pipeline import Piped, piped_cycles
from nmsat.dataflow.schedule.traffic import Operands, Order

if TYPE_CHECKING:
    from nmsat.algorithms.core.tape import Product
    from nmsat.dataflow.contract.config import SatConfig
    from nmsat.dataflow.mapping.tiling import Mapping
    from nmsat.dataflow.schedule.traffic import Traffic


@dataclass(frozen=True)
class Switches:
    """What the scheduler and the machine may use; all on is the machine as built, the rest are ablations.

    dataflow: 'os' or 'ws' for all products (None: chosen for each); a product that it cannot take runs the other way.
    rectangle: a of the rectangle a x b for all products (None: chosen). pregenerate: packed copies are made with the
    update, else in front of their use. prefetch: memory works beside the array, else in turn with it.
    """

    dataflow: str | None = None
    rectangle: int | None = None
    pregenerate: bool = True
    prefetch: bool = True

    def __post_init__(self) -> None:
        if self.dataflow not in (None, "os", "ws"):
            raise ValueError(f"dataflow is {self.dataflow!r}; it must be 'os', 'ws' or None")
        if self.rectangle not in (None, 1, 2, 4, 8) or isinstance(self.rectangle, bool | float):
            raise ValueError(f"rectangle is {self.rectangle!r}; it must be 1, 2, 4, 8 or None")
        check_flag("pregenerate", self.pregenerate)
        check_flag("prefetch", self.prefetch)

    @property
    def search(self) -> Switches:
        """The switches that the choice of a schedule depends on."""
        return Switches(self.dataflow, self.rectangle)


TOLERANCE: Final = 1 / 2048
"""Schedules whose cycles differ by less than this share count as equally quick."""

ALL_ON: Final = Switches()
"""The machine as built."""


@dataclass(frozen=True)
class _Shape:
    """A product without its name: products of equal shape get equal schedules."""

    product: Product
    key: tuple[object, ...]

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Shape) and self.key == other.key


def schedule_product(config: SatConfig, product: Product, *, weights: bool, switches: Switches = ALL_ON) -> Piped:
    """Return the schedule of a product with the fewest cycles, and among equals the one that moves the fewest bytes.

    Every legal mapping is tried with both loop orders, and pieces as large as the buffers or as small as the commands,
    unless its cycles on chip alone exceed the best found. Schedules within `TOLERANCE` of each other count as equal.
    weights: see `dataflow.schedule.traffic.Operands`. Raises ValueError when the switches leave no mapping.
    """
    key = (product.stage, product.m, product.k, product.n, product.pattern, product.count, product.conv, weights)
    return _schedule(config, _Shape(product, key), weights, switches.search)


@lru_cache(maxsize=65536)
def _schedule(config: SatConfig, shape: _Shape, weights: bool, switches: Switches) -> Piped:
    product = shape.product
    operands = Operands(product, weights=weights)
    best: Piped | None = None
    least = 0
    for bound, mapping in _candidates(config, product, switches):
        if best is not None and bound > least * (1 + TOLERANCE):
            break
        tiling = Tiling(config, mapping, product.m, product.k, product.n, product.count)
        by_order = operands.by_order(tiling)
        for order in _orders(tiling):
            traffic = by_order(order)
            if best is not None and traffic.bytes >= best.traffic.bytes and bound >= least * (1 - TOLERANCE):
                continue  # no fewer bytes, and not clearly quicker whatever the memory does
            if best is not None and tiling.duration.total > least * (1 + TOLERANCE):
                break
            piped, cycles = _best_cut(tiling, order, traffic)
            quicker = best is None or cycles < least * (1 - TOLERANCE)
            if quicker or (best and cycles <= least * (1 + TOLERANCE) and traffic.bytes < best.traffic.bytes):
                best, least = piped, min(cycles, least or cycles)
    if best is None and switches.dataflow is not None:
        return _schedule(config, shape, weights, replace(switches, dataflow=None))
    if best is None:
        raise ValueError(
            f"no mapping of {product.m} x {product.k} x {product.n} with pattern {product.pattern or 'dense'} on "
            f"{config.name!r} with {switches}; allow the other dataflow or another rectangle"
        )
    return best


def _candidates(config: SatConfig, product: Product, switches: Switches) -> list[tuple[int, Mapping]]:
    """Return the legal mappings with a bound of their cycles, the lowest first."""
    found = []
    for mapping in legal_mappings(config, product.pattern):
        if switches.dataflow not in (None, mapping.name) or switches.rectangle not in (None, mapping.a):
            continue
        if not mapping.ws and -(-product.k // mapping.m) > MAX_WINDOWS:
            continue
        found.append((_bound(config, mapping, product), mapping))
    return sorted(found, key=lambda pair: pair[0])


def _bound(config: SatConfig, mapping: Mapping, product: Product) -> int:
    """Cycles that a product takes at least: its windows, in OS also its drains."""
    window = window_cycles(config, mapping.slots, mapping.m, mapping.a)
    groups = -(-product.k // mapping.m)
    columns = -(-product.n // (mapping.b * config.columns)) * product.count
    if mapping.ws:
        return -(-groups * mapping.parts // config.rows) * columns * -(-product.m // mapping.a) * window
    return -(-product.m // (mapping.a * config.rows)) * columns * max(groups * window, drain_cycles(config))


def _orders(tiling: Tiling) -> tuple[Order, ...]:
    return (Order.COLUMNS, Order.ROWS) if tiling.column_tiles > 1 and tiling.row_tiles > 1 else (Order.COLUMNS,)


def _best_cut(tiling: Tiling, order: Order, traffic: Traffic) -> tuple[Piped, int]:
    """Return the better of pieces as small as a command and as large as the buffers, and its cycles."""
    most = tiling.commands * tiling.windows
    small, large = min(most, max(traffic.refills, tiling.commands)), min(most, traffic.refills)
    piped = Piped(tiling, order, traffic, small)
    cycles = piped_cycles(piped)
    if large == small or cycles <= piped.duration.total * (1 + TOLERANCE):
        return piped, cycles
    coarse = Piped(tiling, order, traffic, large)
    other = piped_cycles(coarse)
    return (coarse, other) if other < cycles else (piped, cycles)


def forget() -> None:
    """Drop all cached schedules; for measurements."""
    _schedule.cache_clear()
