"""What the loads of a product take, from a sample of its tiles and parts: of the load queue, and of a memory port."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from nmsat.dataflow.contract.isa import Opcode
from nmsat.dataflow.program.activations import WindowPace, WindowSource
from nmsat.dataflow.program.load_cost import load_cost, port_cost, stage_start
from nmsat.dataflow.program.staging import Staging

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from nmsat.dataflow.program.product import Cut
    from nmsat.dataflow.program.sources import DepthRange, RowTile

    Operands = tuple[float, float]

SAMPLES: Final = 8
"""Tiles, and parts of a reduction, whose loads are looked at; the others are taken to be like them."""

PARTS: Final = 64
"""Parts of a reduction that are looked at one behind the other; of more only samples: those are of operands as they
lie, which nothing is staged of."""

STAGED_ONCE: Final = 2
"""Kinds of loads of a tile with one STAGE: it, and those behind it."""

SPREAD: Final = (5**0.5 - 1) / 2
"""Samples lie at multiples of the golden ratio, so that they keep no step with images."""

T = TypeVar("T")


class LoadCost(NamedTuple):
    """Cycles of loads: of the load queue, and those for which they keep the memory port busy."""

    queue: float
    port: float


class PartCost(NamedTuple):
    """Cost of the loads of a part of a tile: of STAGE, of the others; beside: the next tile is staged beside them."""

    stages: LoadCost
    loads: LoadCost
    beside: bool

    @property
    def queue(self) -> float:
        """Cycles of the load queue."""
        stages, loads = self.stages.queue, self.loads.queue
        return max(stages, loads) if self.beside else stages + loads

    @property
    def port(self) -> float:
        """Cycles of the memory port: a STAGE takes its time, though not that of the loads."""
        return self.stages.port + self.loads.port


def sampled_loads(cut: Cut) -> tuple[Operands, Operands]:
    """Sums of the cost of all loads, of A and of W: cycles of the load queue, and of the memory port."""
    weights, acts = _means(_all_weights(cut)), _means(_all_acts(cut))
    again = 1 if stays_loaded(cut) else cut.column_tiles
    kept = cut.rows_outer or cut.pairs(cut.parts[0]) * len(cut.parts) <= cut.config.weight_depth
    times = 1 if kept else len(cut.rows)
    tiles, columns, parts = len(cut.rows), cut.column_tiles, len(cut.parts)
    queue, port = (
        (act * tiles * again, wgt * parts * columns * times) for act, wgt in zip(acts, weights, strict=True)
    )
    return queue, port


def _all_weights(cut: Cut) -> list[LoadCost]:
    """Cost of the loads of W, each for a part and a column tile."""
    width, n = cut.width, cut.code.n
    known: dict[Hashable, LoadCost] = {}
    found = []
    for part in _sample(cut.parts):
        for column in _sample(range(0, n, width)):
            key, _ = cut.code.wgt.alike(cut.mapping, column, min(width, n - column), part)
            if key not in known:
                known[key] = weights_cost(cut, column, part)
            found.append(known[key])
    return found


def weights_cost(cut: Cut, column: int, part: DepthRange) -> LoadCost:
    """Cost of the loads of W for a column tile and a part of the reduction."""
    columns = min(cut.width, cut.code.n - column)
    queue = port = 0.0
    for fields in cut.code.wgt.loads(cut.config, cut.mapping, column, columns, part):
        load = (Opcode.LOAD_WGT, fields)
        queue += load_cost(cut.config, load)
        port += port_cost(cut.config, load)
    return LoadCost(queue, port)


def _all_acts(cut: Cut) -> list[LoadCost]:
    """Cost of the loads of A, each for a row tile and all parts of the reduction."""
    numbers, act = _sample(range(len(cut.rows))), cut.code.act
    if isinstance(act, WindowSource):
        pace = WindowPace(act, cut.config, cut.mapping)
        return [_tile(cut, pace, number) for number in numbers]
    known: dict[Hashable, PartCost] = {}
    parts, found = _sample(cut.parts), []
    for number in numbers:
        tile = cut.rows[number]
        keys = [act.pace(tile, part) for part in parts]
        for key, part in zip(keys, parts, strict=True):
            if key is None or key not in known:
                known[key] = _plain(cut, tile, part)
        found.append(_together([known[key] for key in keys], len(cut.parts)))
    return found


def stays_loaded(cut: Cut) -> bool:
    """Whether A is still in its buffers when the next column tile needs it."""
    rows = 1 if cut.rows_outer else len(cut.rows)
    return cut.act_words(cut.rows[0], cut.parts[0]) * rows * len(cut.parts) <= cut.config.act_depth


def _tile(cut: Cut, pace: WindowPace, number: int) -> LoadCost:
    """Cost of the loads of a tile of windows behind those of the one before it; the last one is before the first.

    What a part of the reduction stages takes the place of what the part before it did, so all of them are looked at.
    """
    staging, tile = Staging(cut.config.stage_depth), cut.rows[number]
    stages = any(one.load[0] is Opcode.STAGE for one in pace.loads(tile, cut.parts[0]))
    parts = list(cut.parts) if stages and len(cut.parts) <= PARTS else _sample(cut.parts)
    for part in parts:
        for one in pace.loads(cut.rows[number - 1], part):
            staging.taken(one.load)
    return _together([_staged(cut, pace, staging, tile, part) for part in parts], len(cut.parts))


def _together(found: Sequence[PartCost], parts: int) -> LoadCost:
    """Return the cost of all parts where some of them were looked at."""
    queue, port = sum(one.queue for one in found), sum(one.port for one in found)
    return LoadCost(queue * parts / len(found), port * parts / len(found))


def first_cost(cut: Cut, tile: RowTile, part: DepthRange) -> PartCost:
    """Cost of the loads of a part of a tile with nothing in front of it."""
    act = cut.code.act
    if isinstance(act, WindowSource):
        pace = WindowPace(act, cut.config, cut.mapping)
        return _staged(cut, pace, Staging(cut.config.stage_depth), tile, part)
    return _plain(cut, tile, part)


def _plain(cut: Cut, tile: RowTile, part: DepthRange) -> PartCost:
    """Cost of loads that stage nothing."""
    queue = port = 0.0
    for load in cut.code.act.loads(cut.config, cut.mapping, tile, part):
        queue += load_cost(cut.config, load)
        port += port_cost(cut.config, load)
    return PartCost(LoadCost(0.0, 0.0), LoadCost(queue, port), beside=False)


def _staged(cut: Cut, pace: WindowPace, staging: Staging, tile: RowTile, part: DepthRange) -> PartCost:
    """Cost of the loads of windows, by what stands in the staging buffer."""
    config, wanted = cut.config, pace.loads(tile, part)
    stages, loads, beside = [0.0, 0.0], [0.0, 0.0], False
    for one in wanted:
        if one.load[0] is not Opcode.STAGE:
            for _ in range(one.times):
                loads[0] += one.queue
                loads[1] += one.port
            continue
        left = staging.taken(one.load)
        if left is None:
            continue
        stages[0] += load_cost(config, left) + stage_start(config)
        stages[1] += port_cost(config, left)
        runs = left[1]["outer"] + one.load[1]["outer"]
        beside = len(wanted) == STAGED_ONCE and runs * left[1]["inner"] <= config.stage_depth
    return PartCost(LoadCost(*stages), LoadCost(*loads), beside)


def _sample(items: Sequence[T]) -> list[T]:
    """Return at most `SAMPLES` of the items, spread over all of them."""
    count = len(items)
    if count <= SAMPLES:
        return list(items)
    return [items[int(count * (i * SPREAD % 1))] for i in range(SAMPLES)]


def _means(values: Sequence[LoadCost]) -> LoadCost:
    return LoadCost(sum(v.queue for v in values) / len(values), sum(v.port for v in values) / len(values))
