"""What the choice of a mapping goes by: cycles of the queues of a product, the longest counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

from nmsat.dataflow.contract.isa import HALVES, LANES, ActMode, Opcode
from nmsat.dataflow.contract.timing import LOAD_BURST, LOAD_CHUNK, drain_cycles, flush_cycles_ws, window_cycles
from nmsat.dataflow.cycles.memory import memory_timing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nmsat.dataflow.contract.config import SatConfig
    from nmsat.dataflow.cycles.memory import MemoryTiming
    from nmsat.dataflow.program.product import Cut
    from nmsat.dataflow.program.sources import Fields, Load

SAMPLES: Final = 8
"""Tiles, and parts of a reduction, whose loads are looked at; the others are taken to be like them."""

T = TypeVar("T")


def estimate_cycles(cut: Cut) -> float:
    """Return about how many cycles a product takes: the busiest of load, compute and store, and a start.

    Its own time does not grow with the product: loads of at most `SAMPLES` tiles and parts are looked at.
    """
    config, mapping = cut.config, cut.mapping
    start = flush_cycles_ws(config, mapping.n) if mapping.ws else drain_cycles(config)
    return max(_loads(cut), _compute(cut), _store(cut)) + start


def _loads(cut: Cut) -> float:
    """Cycles of the load queue."""
    config, mapping, code = cut.config, cut.mapping, cut.code
    timing = memory_timing(config.memory, config.clock_mhz)
    parts, tiles, columns = _sample(cut.parts), _sample(cut.rows), _sample(range(0, code.n, cut.width))
    weights = [
        sum(_wgt(config, timing, f) for f in code.wgt.loads(config, mapping, column, _columns(cut, column), part))
        for part in parts
        for column in columns
    ]
    acts = [
        sum(_act(config, timing, load) for load in code.act.loads(config, mapping, tile, part))
        for part in parts
        for tile in tiles
    ]
    wgt = _mean(weights) * len(cut.parts) * cut.column_tiles
    act = _mean(acts) * len(cut.parts) * len(cut.rows)
    if not cut.rows_outer:
        resident = cut.act_words(cut.rows[0], parts[0]) * len(cut.rows) * len(cut.parts) <= config.act_depth
        act *= 1 if resident else cut.column_tiles
        kept = cut.pairs(parts[0]) * len(cut.parts) <= config.weight_depth
        wgt *= 1 if kept else len(cut.rows)
    return act + wgt


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
    """Cycles of the stores."""
    return float(cut.code.m * cut.column_tiles * max(cut.mapping.b, 3))


def _columns(cut: Cut, column: int) -> int:
    return min(cut.width, cut.code.n - column)


def _sample(items: Sequence[T]) -> list[T]:
    """Return at most `SAMPLES` of the items, evenly spread."""
    count = len(items)
    most = min(count, SAMPLES)
    return [items[i * count // most] for i in range(most)]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _reading(timing: MemoryTiming, beats: int, run: int) -> float:
    """Cycles of so many beats of memory, of which `run` at a time follow each other.

    A burst holds a place of the memory's queue for the whole latency, however short it is.
    """
    burst = min(run, LOAD_BURST)
    return beats * max(float(timing.beat_cycles), (timing.latency + burst) / (timing.outstanding * burst))


def _run(beats: int, step: int, most: int = LOAD_BURST) -> int:
    """Beats that follow each other where runs of `beats` are `step` apart, and at most `most` of each are read."""
    return LOAD_BURST if step == beats <= most else min(beats, most)


def _act(config: SatConfig, timing: MemoryTiming, load: Load) -> float:
    """Cycles of a STAGE or LOAD_ACT: of its reads or of its writes, whichever take longer."""
    opcode, f = load
    if opcode is Opcode.STAGE:
        return _reading(timing, f["outer"] * f["inner"], _run(f["inner"], f["outer_step"]))
    along_k = f["mode"] != ActMode.OS_COLUMNS
    steps, width = (f["rows"], f["k"]) if along_k else (f["k"], f["rows"])
    beats = -(-width // HALVES)
    run = _run(beats, f["x_step"], LOAD_CHUNK if along_k else LOAD_BURST)
    reads = steps * beats if f.get("staged") else _reading(timing, steps * beats, run)
    a, m = 1 << f["log2_a"], 2 << f["log2_m_less_1"]
    if f["mode"] == ActMode.OS_ROWS:
        tile = a * config.rows  # rows that do not exist are zeros, which take their place too
        return max(reads + (tile - f["rows"]) * beats, a * f["k"] / config.act_lanes)
    if f["mode"] == ActMode.OS_COLUMNS:
        return max(reads, steps * beats * min(HALVES, a * config.rows) / config.rows)
    return max(reads, steps * beats * m / config.act_lanes)


def _wgt(config: SatConfig, timing: MemoryTiming, f: Fields) -> float:
    """Cycles of a LOAD_WGT: its reads, or its writes with fillers."""
    dense = f.get("dense", 0)
    across, rows = (f["inner"], f["outer"]) if dense else (f["blocks"], f["outer"] * f["inner"])
    run = _run(f["inner"], f["outer_step"] if dense else f["inner"])
    wide = min(HALVES if dense else LANES, config.columns << 3 - f["log2_a"])
    writes = across * (rows + f.get("pad", 0)) * max(1.0, wide / config.columns)
    return max(_reading(timing, across * rows, run), writes)
