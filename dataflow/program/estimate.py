"""What the choice of a mapping goes by: cycles of the queues and of the busiest memory port, the longest counts.

Before the busiest of them starts, and behind its end, the first and the last command pass the others alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from nmsat.dataflow.contract.isa import HALVES, LANES, Opcode, Side
from nmsat.dataflow.contract.limits import QUEUE_DEPTH, STORE_GAP
from nmsat.dataflow.contract.registers import port_of
from nmsat.dataflow.contract.timing import (
    drain_cycles,
    epilogue_path,
    last_result_os,
    last_result_ws,
    load_cycles,
    seed_cycles,
    window_cycles,
)
from nmsat.dataflow.cycles.memory import memory_timing
from nmsat.dataflow.program.load_cost import burst_cycles, load_cost, port_cost, stage_start
from nmsat.dataflow.program.staging import Staging, stages_once
from nmsat.dataflow.program.tensors import row_beats

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from nmsat.dataflow.contract.config import SatConfig
    from nmsat.dataflow.program.product import Cut
    from nmsat.dataflow.program.sources import DepthRange, Load, RowTile

    LoadCost = Callable[[SatConfig, Load], float]
    Operands = tuple[float, float]

SAMPLES: Final = 8
"""Tiles, and parts of a reduction, whose loads are looked at; the others are taken to be like them."""

ENDS: Final = 3
"""Latencies of the memory that nothing hides: of the first instruction, of the first operand, of the last result."""

PARTS: Final = 64
"""Parts of a reduction that are looked at one behind the other; of more only samples: those are of operands as they
lie, which nothing is staged of."""

SPREAD: Final = (5**0.5 - 1) / 2
"""Samples lie at multiples of the golden ratio, so that they keep no step with images."""

TIE: Final = 0.005
"""Share of the cycles below which two estimates tell no difference."""

MANY: Final = 16
"""Row tiles from which on what is alone at both ends is nothing beside the rest."""

T = TypeVar("T")


class _Part(NamedTuple):
    """Cost of the loads of a part of a tile: of STAGE, of the others; beside: the next tile is staged beside them."""

    stages: float
    loads: float
    beside: bool


def estimate_cycles(cut: Cut) -> float:
    """Return about how many cycles a product takes: the busiest of load, compute, store and port, and what is alone.

    Its own time does not grow with the product: loads of at most `SAMPLES` tiles and parts are looked at.
    """
    config, mapping = cut.config, cut.mapping
    latency = memory_timing(config.memory, config.clock_mhz).latency
    loads, ports, compute, store = _loads(cut, load_cost), _loads(cut, port_cost), _compute(cut), _store(cut)
    written = _written(cut)
    port = _busiest(cut, ports, written)
    first, command = _first(cut), compute / (len(cut.rows) * cut.column_tiles * len(cut.parts))
    last = cut.rows[-1].rows * float(mapping.b)
    alone = (
        sum(loads) + command + last,
        first + compute + last,
        first + command + store,
        port + command,
        _queued(cut, loads[0], command) + last,
    )
    result = (last_result_ws if mapping.ws else last_result_os)(config, mapping.n)
    uneven = _uneven(cut, (loads, ports), (compute, store), written)
    # what the first command waits for is part of what is uneven
    return max(alone) + max(0.0, uneven - first) + result + epilogue_path() + ENDS * latency


def fastest(found: Sequence[Cut]) -> Cut:
    """Return the cut of the least estimate; of those within `TIE` of it, and of `MANY` row tiles, the tallest.

    Where memory sets the pace, short tiles wait for it more often than the closed form knows; where tiles are few, what
    tall ones leave alone at both ends counts.
    """
    estimates = [estimate_cycles(cut) for cut in found]
    least = min(estimates)
    best = found[estimates.index(least)]
    alike = [cut for cut, cycles in zip(found, estimates, strict=True) if cycles <= least * (1 + TIE)]
    return best if len(best.rows) < MANY else min((c for c in alike if len(c.rows) >= MANY), key=lambda c: len(c.rows))


def estimate_program(cuts: Sequence[Cut]) -> float:
    """Return about how many cycles a program of several products takes, which follow each other without a wait.

    Their queues work side by side across products; what nothing hides is there once.
    """
    if len(cuts) == 1:
        return estimate_cycles(cuts[0])
    kinds: dict[tuple[object, ...], list[Cut]] = {}
    for cut in cuts:
        kinds.setdefault(_shape(cut), []).append(cut)
    queues = [(len(alike), _queues(alike[0]), estimate_cycles(alike[0])) for alike in kinds.values()]
    alone = max(whole - max(one) for _, one, whole in queues)
    return max(sum(times * one[queue] for times, one, _ in queues) for queue in range(len(queues[0][1]))) + alone


def _shape(cut: Cut) -> tuple[object, ...]:
    """Return what tells a product from others that lie elsewhere: heads and groups are alike."""
    code = cut.code
    source = type(code.act), getattr(code.act, "taps", None), type(code.wgt), code.sink.epilogue.kind
    return (*source, code.m, code.k, code.n, cut.mapping, cut.width, len(cut.rows), len(cut.parts), cut.rows_outer)


def _queues(cut: Cut) -> tuple[float, float, float, float]:
    """Return the cycles of load, compute and store queue and of the memory port."""
    loads, port = _loads(cut, load_cost), _busiest(cut, _loads(cut, port_cost), _written(cut))
    return sum(loads), _compute(cut), _store(cut), port


def _busiest(cut: Cut, operands: Operands, written: Operands, columns: int = 1) -> float:
    """Return the cycles of the memory port with the most to do.

    operands: of A, of W; written: of results, of what is read beside them; each where its tensor lies. columns: all but
    A takes a share of so many.
    """
    ports, (act, wgt) = cut.config.ports, operands
    if ports == 1 and columns == 1:
        return act + wgt + sum(written)
    if ports == 1:
        return act + (wgt + sum(written)) / columns
    code, mapping, part = cut.code, cut.mapping, cut.parts[0]
    _, first = code.act.loads(cut.config, mapping, cut.rows[0], part)[0]
    second = code.wgt.loads(cut.config, mapping, 0, min(cut.width, code.n), part)[0]
    side = code.sink.epilogue.side
    regions = first["region"], second["region"], code.sink.tensor.region, 0 if side is None else side.region
    busy = [0.0] * ports
    for region, cycles in zip(regions, (act, *(x / columns for x in (wgt, *written))), strict=True):
        busy[port_of(region, ports)] += cycles
    return max(busy)


def _uneven(cut: Cut, operands: tuple[Operands, Operands], results: tuple[float, float], written: Operands) -> float:
    """Return what is lost because operand A, which stays in its buffers, is all loaded beside the first columns."""
    columns = cut.column_tiles
    if cut.rows_outer or columns == 1 or not _resident(cut):
        return 0.0
    (act, wgt), (act_port, wgt_port) = operands
    compute, store = results
    rest = max(wgt, compute, store, _busiest(cut, (0.0, wgt_port), written)) * (columns - 1) / columns
    begin = max(
        *(act + wgt / columns, compute / columns, store / columns),
        _busiest(cut, (act_port, wgt_port), written, columns),
    )
    return begin + rest - max(act + wgt, compute, store, _busiest(cut, (act_port, wgt_port), written))


def _queued(cut: Cut, loads: float, command: float) -> float:
    """Return the cycles of row tiles one behind the other, W staying: the load of the next one is not handed out before
    the last commands of this one, as many as a queue holds, are. loads: of A, of all tiles; command: of one command."""
    commands = cut.column_tiles * len(cut.parts)
    if not cut.rows_outer or commands <= QUEUE_DEPTH:
        return 0.0
    return loads + len(cut.rows) * (commands - QUEUE_DEPTH) * command


def _first(cut: Cut) -> float:
    """Return the cost of what the first command waits for."""
    config, mapping, code, part = cut.config, cut.mapping, cut.code, cut.parts[0]
    weights = code.wgt.loads(config, mapping, 0, min(cut.width, code.n), part)
    first = _part(cut, Staging(config.stage_depth), cut.rows[0], part, load_cost)
    return sum(load_cost(config, (Opcode.LOAD_WGT, fields)) for fields in weights) + first.stages + first.loads


def _loads(cut: Cut, cost: LoadCost) -> Operands:
    """Sums of the cost of all loads, of A and of W: cycles of the load queue, or of the memory port."""
    config, mapping, code = cut.config, cut.mapping, cut.code
    parts, columns = _sample(cut.parts), _sample(range(0, code.n, cut.width))
    weights = [
        sum(cost(config, (Opcode.LOAD_WGT, fields)) for fields in loads)
        for part in parts
        for column in columns
        for loads in (code.wgt.loads(config, mapping, column, min(cut.width, code.n - column), part),)
    ]
    wgt = _mean(weights) * len(cut.parts) * cut.column_tiles
    act = _mean([_tile(cut, tile, cost) for tile in _sample(range(len(cut.rows)))]) * len(cut.rows)
    act *= 1 if _resident(cut) else cut.column_tiles
    if not cut.rows_outer:
        kept = cut.pairs(parts[0]) * len(cut.parts) <= config.weight_depth
        wgt *= 1 if kept else len(cut.rows)
    return act, wgt


def _resident(cut: Cut) -> bool:
    """Whether A is still in its buffers when the next column tile needs it."""
    rows = 1 if cut.rows_outer else len(cut.rows)
    return cut.act_words(cut.rows[0], cut.parts[0]) * rows * len(cut.parts) <= cut.config.act_depth


def _tile(cut: Cut, number: int, cost: LoadCost) -> float:
    """Cost of the loads of a row tile behind those of the one before it; the last one is before the first.

    What a part of the reduction stages takes the place of what the part before it did, so all of them are looked at.
    """
    staging = Staging(cut.config.stage_depth)
    first = cut.code.act.loads(cut.config, cut.mapping, cut.rows[number], cut.parts[0])
    stages = any(opcode is Opcode.STAGE for opcode, _ in first)
    parts = cut.parts if stages and len(cut.parts) <= PARTS else _sample(cut.parts)
    found: list[_Part] = []
    for tile in (cut.rows[number - 1], cut.rows[number]):
        found = [_part(cut, staging, tile, part, cost) for part in parts]
    alone = cost is port_cost  # a STAGE takes the port's time, though not that of the loads
    total = sum(one.stages + one.loads if alone or not one.beside else max(one.stages, one.loads) for one in found)
    return total * len(cut.parts) / len(parts)


def _part(cut: Cut, staging: Staging, tile: RowTile, part: DepthRange, cost: LoadCost) -> _Part:
    wanted = cut.code.act.loads(cut.config, cut.mapping, tile, part)
    stages = loads = 0.0
    beside = False
    for opcode, fields in staging.loads(wanted):
        if opcode is Opcode.STAGE:
            stages += cost(cut.config, (opcode, fields)) + (stage_start(cut.config) if cost is load_cost else 0)
            runs = fields["outer"] + wanted[0][1]["outer"]
            beside = stages_once(wanted) and runs * fields["inner"] <= cut.config.stage_depth
        else:
            loads += cost(cut.config, (opcode, fields))
    return _Part(stages, loads, beside)


def _compute(cut: Cut) -> float:
    """Cycles of the array, from the first window to the end of the last."""
    config, mapping, parts = cut.config, cut.mapping, len(cut.parts)
    window = window_cycles(config, mapping.n, mapping.m, mapping.a)
    if mapping.ws:
        load, seeded = load_cycles(config, mapping.n), seed_cycles(config, mapping.n)
        lengths = [cut.windows(tile, cut.parts[0]) * window for tile in cut.rows]
        commands = sum(max(length, load) + max(length, load, seeded) * (parts - 1) for length in lengths)
        last, spaced = lengths[-1], max(lengths[-1], load, seeded if parts > 1 else 0)
    else:
        least = drain_cycles(config)
        one = [cut.windows(cut.rows[0], part) * window for part in cut.parts]
        commands = sum(max(length, least) for length in one) * len(cut.rows)
        last, spaced = one[-1], max(one[-1], least)
    return float(commands * cut.column_tiles - (spaced - last))  # nothing waits for the space behind the last


def _store(cut: Cut) -> float:
    """Cycles of the stores: of their chunks, of their bursts, and a gap behind each (machine/store.md)."""
    code, columns = cut.code, cut.config.columns
    wide = not code.sink.epilogue.to_half or code.sink.epilogue.kind is Side.TILE32
    present = min(cut.mapping.b, -(-min(cut.width, code.n) // columns))
    chunks = present * max(1, columns // LANES if wide else columns // HALVES)
    start = 2 * memory_timing(cut.config.memory, cut.config.clock_mhz).latency if code.sink.places() else 0
    return float((code.m * chunks + (STORE_GAP + start) * len(cut.rows)) * cut.column_tiles)


def _written(cut: Cut) -> Operands:
    """Cycles of a memory port for results, and for second operands, of the stores."""
    config, code, epilogue = cut.config, cut.code, cut.code.sink.epilogue
    timing = memory_timing(config.memory, config.clock_mhz)
    whole, rest = divmod(code.n, cut.width)

    def across(size: int) -> float:
        """Cycles of a row of the result, each tile's part a burst of whole beats."""
        bursts = [(whole, row_beats(cut.width, size)), (1, row_beats(rest, size) if rest else 0)]
        return sum(times * burst_cycles(timing, beats) for times, beats in bursts if beats)

    beside = 0.0
    if epilogue.kind in (Side.MASK, Side.TILE16):
        beside = code.m * across(2)
    elif epilogue.kind is Side.TILE32:
        beside = len(cut.rows) * across(4)  # a bias is one row, which each tile reads once
    return code.m * across(2 if epilogue.to_half else 4), beside


def _sample(items: Sequence[T]) -> list[T]:
    """Return at most `SAMPLES` of the items, spread over all of them."""
    count = len(items)
    if count <= SAMPLES:
        return list(items)
    return [items[int(count * (i * SPREAD % 1))] for i in range(SAMPLES)]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
