"""What the choice of a mapping goes by: cycles of the queues of a product, the longest counts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nmsat.dataflow.contract.isa import HALVES, ActMode, Opcode
from nmsat.dataflow.contract.timing import drain_cycles, flush_cycles_ws, window_cycles
from nmsat.dataflow.cycles.memory import memory_timing

if TYPE_CHECKING:
    from nmsat.dataflow.contract.config import SatConfig
    from nmsat.dataflow.program.product import Cut
    from nmsat.dataflow.program.sources import Fields, Load


def estimate_cycles(cut: Cut) -> float:
    """Return about how many cycles a product takes: the busiest of load, compute and store, and a start."""
    config, mapping, code = cut.config, cut.mapping, cut.code
    timing = memory_timing(config.memory, config.clock_mhz)
    # A burst of one beat holds a place of the memory's queue for the whole latency.
    single = max(1.0, (timing.latency + 1) / timing.outstanding)
    columns = range(0, code.n, cut.width)
    act = wgt = compute = 0.0
    parts = cut.parts
    for part in parts:
        for column in columns:
            fields = code.wgt.loads(config, mapping, column, min(cut.width, code.n - column), part)
            wgt += sum(_wgt(config, f) for f in fields)
        for tile in cut.rows:
            act += sum(_act(config, f, single) for f in code.act.loads(config, mapping, tile, part))
    for tile in cut.rows:
        window = window_cycles(config, mapping.n, mapping.m, mapping.a)
        for part in parts:
            command = cut.windows(tile, part) * window
            compute += len(columns) * max(command, 0 if mapping.ws else drain_cycles(config))
    if not cut.rows_outer:
        resident = cut.act_words(cut.rows[0], parts[0]) * len(cut.rows) * len(parts) <= config.act_depth
        act *= 1 if resident else len(columns)
        kept = cut.pairs(parts[0]) * len(parts) <= config.weight_depth
        wgt *= 1 if kept else len(cut.rows)
    store = sum(tile.rows for tile in cut.rows) * len(columns) * max(mapping.b, 3)
    start = flush_cycles_ws(config, mapping.n) if mapping.ws else drain_cycles(config)
    return max(act + wgt, compute, store) + start


def _act(config: SatConfig, load: Load, single: float) -> float:
    opcode, f = load
    if opcode is Opcode.STAGE:
        return f["outer"] * f["inner"] * (1.0 if f["inner"] > 2 or f["inner"] == f["outer_step"] else single)
    single = 1.0 if f.get("staged") else single
    beats = -(-f["k"] // HALVES)
    a, m = 1 << f["log2_a"], 2 << f["log2_m_less_1"]
    if f["mode"] == ActMode.OS_ROWS:
        used = min(HALVES, f["k"]) / config.act_lanes
        return beats * a * max(config.rows * single, used)
    if f["mode"] == ActMode.OS_COLUMNS:
        return f["k"] * -(-f["rows"] // HALVES) * max(single, min(HALVES, a * config.rows) / config.rows)
    return f["rows"] * beats * max(single, m / config.act_lanes)


def _wgt(config: SatConfig, f: Fields) -> float:
    wide = 32 if f.get("dense") else 16
    beats = f["outer"] * f["inner"] + f.get("pad", 0)
    return f["blocks"] * beats * max(1.0, wide / config.columns)
