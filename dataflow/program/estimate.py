"""What the choice of a mapping goes by: cycles of the queues and of the busiest memory port, the longest counts.

Before the busiest of them starts, and behind its end, the first and the last command pass the others alone.
"""

from __future__ import annotations

from functools import lru_cache
from math import inf
from typing import TYPE_CHECKING, Final

from nmsat.dataflow.contract.isa import HALVES, LANES, Side
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
from nmsat.dataflow.program.load_cost import burst_cycles
from nmsat.dataflow.program.sampled_loads import first_cost, sampled_loads, stays_loaded, weights_cost
from nmsat.dataflow.program.sources import DepthRange, RowTile
from nmsat.dataflow.program.tensors import row_beats

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nmsat.dataflow.program.product import Cut

    Operands = tuple[float, float]

ENDS: Final = 3
"""Latencies of the memory that nothing hides: of the first instruction, of the first operand, of the last result."""

TIE: Final = 0.005
"""Share of the cycles below which two estimates tell no difference."""

MANY: Final = 16
"""Row tiles from which on what is alone at both ends is nothing beside the rest."""


@lru_cache(maxsize=64)
def estimate_cycles(cut: Cut) -> float:
    """Return about how many cycles a product takes: the busiest of load, compute, store and port, and what is alone.

    Its own time does not grow with the product: loads of at most `SAMPLES` tiles and parts are looked at.
    """
    (loads, ports), compute, store = sampled_loads(cut), _compute(cut), _store(cut)
    written = _written(cut)
    port = _busiest(cut, ports, written)
    first, command, last = _first(cut), _command(cut, compute), _last(cut)
    alone = (
        sum(loads) + command + last,
        first + compute + last,
        first + command + store,
        port + command,
        _queued(cut, loads[0], command) + last,
    )
    uneven = _uneven(cut, (loads, ports), (compute, store), written)
    # what the first command waits for is part of what is uneven
    return _ended(cut, max(alone) + max(0.0, uneven - first))


def least_cycles(cut: Cut) -> float:
    """Return what `estimate_cycles` is at least: of array and stores alone, whatever the loads take."""
    compute = _compute(cut)
    return _ended(cut, max(compute + _last(cut), _command(cut, compute) + _store(cut)))


def _ended(cut: Cut, cycles: float) -> float:
    """Return cycles and what comes behind them."""
    config, mapping = cut.config, cut.mapping
    result = (last_result_ws if mapping.ws else last_result_os)(config, mapping.n)
    return cycles + result + epilogue_path() + ENDS * memory_timing(config).latency


def _command(cut: Cut, compute: float) -> float:
    """Return the cycles of the array for a command."""
    return compute / (len(cut.rows) * cut.column_tiles * len(cut.parts))


def _last(cut: Cut) -> float:
    """Return the cycles of the stores behind the last command."""
    return cut.rows[-1].rows * float(cut.mapping.b)


def fastest(found: Sequence[Cut]) -> Cut:
    """Return the cut of the least estimate; of those within `TIE` of it, and of `MANY` row tiles, the tallest.

    Where memory sets the pace, short tiles wait for it more often than the closed form knows; where tiles are few, what
    tall ones leave alone at both ends counts.
    """
    bounds = [least_cycles(cut) for cut in found]
    least, estimates = inf, [inf] * len(found)
    for index in sorted(range(len(found)), key=bounds.__getitem__):
        if bounds[index] > least * (1 + TIE):
            break  # neither the least nor within TIE of it, as all that follow
        estimates[index] = estimate_cycles(found[index])
        least = min(least, estimates[index])
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
    loads, ports = sampled_loads(cut)
    return sum(loads), _compute(cut), _store(cut), _busiest(cut, ports, _written(cut))


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
    code, side = cut.code, cut.code.sink.epilogue.side
    (first,), (second,) = code.act.places(), code.wgt.places()
    regions = first.region, second.region, code.sink.tensor.region, 0 if side is None else side.region
    busy = [0.0] * ports
    for region, cycles in zip(regions, (act, *(x / columns for x in (wgt, *written))), strict=True):
        busy[port_of(region, ports)] += cycles
    return max(busy)


def _uneven(cut: Cut, operands: tuple[Operands, Operands], results: tuple[float, float], written: Operands) -> float:
    """Return what is lost because operand A, which stays in its buffers, is all loaded beside the first columns."""
    columns = cut.column_tiles
    if cut.rows_outer or columns == 1 or not stays_loaded(cut):
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
    weights = weights_cost(cut, 0, cut.parts[0])
    first = first_cost(cut, cut.rows[0], cut.parts[0])
    return weights.queue + first.stages.queue + first.loads.queue


def _compute(cut: Cut) -> float:
    """Cycles of the array, from the first window to the end of the last."""
    config, mapping, parts = cut.config, cut.mapping, len(cut.parts)
    window = window_cycles(config, mapping.n, mapping.m, mapping.a)
    if mapping.ws:
        load, seeded = load_cycles(config, mapping.n), seed_cycles(config, mapping.n)
        commands = 0
        for rows, times in cut.heights.items():
            length = cut.windows(RowTile(0, rows), cut.parts[0]) * window
            commands += times * (max(length, load) + max(length, load, seeded) * (parts - 1))
        last = cut.windows(cut.rows[-1], cut.parts[0]) * window
        spaced = max(last, load, seeded if parts > 1 else 0)
    else:
        least = drain_cycles(config)
        tile, commands = cut.rows[0], 0
        for size, times in cut.parts.sizes.items():
            commands += times * max(cut.windows(tile, DepthRange(0, size)) * window, least) * len(cut.rows)
        last = cut.windows(tile, cut.parts[-1]) * window
        spaced = max(last, least)
    return float(commands * cut.column_tiles - (spaced - last))  # nothing waits for the space behind the last


def _store(cut: Cut) -> float:
    """Cycles of the stores: of their chunks, of their bursts, and a gap behind each (machine/store.md)."""
    code, columns = cut.code, cut.config.columns
    wide = not code.sink.epilogue.to_half or code.sink.epilogue.kind is Side.TILE32
    present = min(cut.mapping.b, -(-min(cut.width, code.n) // columns))
    chunks = present * max(1, columns // LANES if wide else columns // HALVES)
    start = 2 * memory_timing(cut.config).latency if code.sink.places() else 0
    return float((code.m * chunks + (STORE_GAP + start) * len(cut.rows)) * cut.column_tiles)


def _written(cut: Cut) -> Operands:
    """Cycles of a memory port for results, and for second operands, of the stores."""
    config, code, epilogue = cut.config, cut.code, cut.code.sink.epilogue
    timing = memory_timing(config)
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
