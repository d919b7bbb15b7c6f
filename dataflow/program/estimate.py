"""What the choice of a mapping goes by: cycles of the queues and of the memory port, the longest counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

from nmsat.dataflow.contract.isa import Opcode, Side
from nmsat.dataflow.contract.limits import STORE_GAP
from nmsat.dataflow.contract.timing import drain_cycles, flush_cycles_ws, window_cycles
from nmsat.dataflow.cycles.memory import memory_timing
from nmsat.dataflow.program.load_cost import load_cost, port_cost
from nmsat.dataflow.program.staging import Staging
from nmsat.dataflow.program.tensors import row_beats

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from nmsat.dataflow.contract.config import SatConfig
    from nmsat.dataflow.program.product import Cut
    from nmsat.dataflow.program.sources import DepthRange, Load

    LoadCost = Callable[[SatConfig, Load], float]

SAMPLES: Final = 8
"""Tiles, and parts of a reduction, whose loads are looked at; the others are taken to be like them."""

T = TypeVar("T")


def estimate_cycles(cut: Cut) -> float:
    """Return about how many cycles a product takes: those of the busiest of load, compute, store, port, and a start.

    Its own time does not grow with the product: loads of at most `SAMPLES` tiles and parts are looked at.
    """
    config, mapping = cut.config, cut.mapping
    start = flush_cycles_ws(config, mapping.n) if mapping.ws else drain_cycles(config)
    return max(_loads(cut, load_cost), _compute(cut), _store(cut), _port(cut)) + start


def _loads(cut: Cut, cost: LoadCost) -> float:
    """Sum of the cost of all loads: cycles of the load queue, or of the memory port."""
    config, mapping, code = cut.config, cut.mapping, cut.code
    parts, columns = _sample(cut.parts), _sample(range(0, code.n, cut.width))
    weights = [
        sum(cost(config, (Opcode.LOAD_WGT, fields)) for fields in loads)
        for part in parts
        for column in columns
        for loads in (code.wgt.loads(config, mapping, column, min(cut.width, code.n - column), part),)
    ]
    acts = [_tile(cut, tile, part, cost) for part in parts for tile in _sample(range(len(cut.rows)))]
    wgt = _mean(weights) * len(cut.parts) * cut.column_tiles
    act = _mean(acts) * len(cut.parts) * len(cut.rows)
    if not cut.rows_outer:
        resident = cut.act_words(cut.rows[0], parts[0]) * len(cut.rows) * len(cut.parts) <= config.act_depth
        act *= 1 if resident else cut.column_tiles
        kept = cut.pairs(parts[0]) * len(cut.parts) <= config.weight_depth
        wgt *= 1 if kept else len(cut.rows)
    return act + wgt


def _tile(cut: Cut, number: int, part: DepthRange, cost: LoadCost) -> float:
    """Cost of the loads of a row tile behind those of the one before it."""
    config, staging = cut.config, Staging(cut.config.stage_depth)
    loads: list[Load] = []
    for tile in cut.rows[max(0, number - 1) : number + 1]:
        loads = list(staging.loads(cut.code.act.loads(config, cut.mapping, tile, part)))
    return sum(cost(config, load) for load in loads)


def _compute(cut: Cut) -> float:
    """Cycles of the array."""
    mapping = cut.mapping
    window = window_cycles(cut.config, mapping.n, mapping.m, mapping.a)
    if mapping.ws:
        commands = sum(cut.windows(tile, cut.parts[0]) * window for tile in cut.rows) * len(cut.parts)
    else:
        least = drain_cycles(cut.config)
        one = sum(max(cut.windows(cut.rows[0], part) * window, least) for part in cut.parts)
        commands = one * len(cut.rows)
    return float(commands * cut.column_tiles)


def _store(cut: Cut) -> float:
    """Cycles of the stores: of their chunks, of their bursts, and a gap behind each (machine/store.md)."""
    return float((cut.code.m * max(cut.mapping.b, 3) + STORE_GAP * len(cut.rows)) * cut.column_tiles)


def _port(cut: Cut) -> float:
    """Cycles of the memory port: reads of the loads, writes and second operands of the stores."""
    config, code, epilogue = cut.config, cut.code, cut.code.sink.epilogue
    whole, rest = divmod(code.n, cut.width)

    def across(size: int) -> int:
        """Beats of a row of the result, each tile's part in whole beats."""
        return whole * row_beats(cut.width, size) + (row_beats(rest, size) if rest else 0)

    beats = code.m * across(2 if epilogue.to_half else 4)
    if epilogue.kind in (Side.MASK, Side.TILE16):
        beats += code.m * across(2)
    elif epilogue.kind is Side.TILE32:
        beats += code.m * across(4)  # a bias is one row, which is read anew for each row of the result
    return _loads(cut, port_cost) + beats * float(memory_timing(config.memory, config.clock_mhz).beat_cycles)


def _sample(items: Sequence[T]) -> list[T]:
    """Return at most `SAMPLES` of the items, evenly spread."""
    count = len(items)
    most = min(count, SAMPLES)
    return [items[i * count // most] for i in range(most)]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
