"""About how many cycles a load takes by itself: its reads or its writes, whichever take longer (machine/load.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from nmsat.dataflow.contract.codes import group_size, rectangle_rows
from nmsat.dataflow.contract.isa import HALVES, LANES, ActMode, Instruction, Opcode
from nmsat.dataflow.contract.limits import LOAD_BURST, LOAD_CHUNK
from nmsat.dataflow.contract.timing import reads_pairs
from nmsat.dataflow.cycles.memory import memory_timing

if TYPE_CHECKING:
    from nmsat.dataflow.contract.config import SatConfig
    from nmsat.dataflow.cycles.memory import MemoryTiming
    from nmsat.dataflow.program.sources import Fields, Load


NEXT_LOAD: Final = 3
"""Cycles from the last beat that a load looks at until the first of the load behind it, beyond one."""

STAGE_TURN: Final = 16
"""Cycles of a STAGE beside those of its beats and the latency: until its first burst is asked for, and until it is
done."""


def stage_start(config: SatConfig) -> float:
    """Return the cycles of a STAGE that no beat of it takes."""
    return memory_timing(config).latency + STAGE_TURN


def load_cost(config: SatConfig, load: Load) -> float:
    """Return the cycles of an instruction of the load queue."""
    timing = memory_timing(config)
    opcode, fields = load
    if opcode is Opcode.STAGE:
        return _reading(timing, fields["outer"] * fields["inner"], _run(fields["inner"], fields["outer_step"]))
    if opcode is Opcode.LOAD_WGT:
        return _wgt(config, timing, fields)
    return _act(config, timing, fields)


def port_cost(config: SatConfig, load: Load) -> float:
    """Return the cycles for which an instruction of the load queue keeps the memory port busy."""
    opcode, f = load
    if opcode is Opcode.STAGE:
        beats = f["outer"] * f["inner"]
    elif opcode is Opcode.LOAD_WGT:
        beats = f["blocks"] * f["outer"] * f["inner"]
    else:
        steps, width = (f["rows"], f["k"]) if f["mode"] != ActMode.OS_COLUMNS else (f["k"], f["rows"])
        beats = 0 if f.get("staged") else steps * -(-width // HALVES)
    cycles = memory_timing(config).beat_cycles
    return beats * cycles.numerator / cycles.denominator


def burst_cycles(timing: MemoryTiming, beats: int) -> float:
    """Return the cycles of a burst of so many beats among others like it.

    A burst holds a place of the memory's queue for the whole latency, however short it is.
    """
    hold = beats * timing.beat
    return max(hold, (timing.latency + hold) / timing.outstanding)


def _reading(timing: MemoryTiming, beats: int, run: int) -> float:
    """Cycles of so many beats of memory, of which `run` at a time follow each other."""
    burst = min(run, LOAD_BURST)
    return beats * burst_cycles(timing, burst) / burst


def _run(beats: int, step: int, most: int = LOAD_BURST) -> int:
    """Beats that follow each other where runs of `beats` are `step` apart, and at most `most` of each are read."""
    return LOAD_BURST if step == beats <= most else min(beats, most)


def _act(config: SatConfig, timing: MemoryTiming, f: Fields) -> float:
    along_k = f["mode"] != ActMode.OS_COLUMNS
    steps, width = (f["rows"], f["k"]) if along_k else (f["k"], f["rows"])
    beats = -(-width // HALVES)
    run = _run(beats, f["x_step"], LOAD_CHUNK if along_k else LOAD_BURST)
    staged = f.get("staged")
    at_once = 2 if staged and reads_pairs(config, Instruction(Opcode.LOAD_ACT, f)) else 1
    reads = steps * beats / at_once if staged else _reading(timing, steps * beats, run)
    a, m = rectangle_rows(f), group_size(f)
    if f["mode"] == ActMode.OS_ROWS:
        tile = a * config.rows  # rows that do not exist are zeros, which take their place too
        return max(reads + (tile - f["rows"]) * beats / at_once + NEXT_LOAD, a * f["k"] / config.act_lanes)
    if f["mode"] == ActMode.OS_COLUMNS:
        return max(reads + NEXT_LOAD, steps * beats * min(HALVES, a * config.rows) / config.rows)
    return max(reads + NEXT_LOAD, steps * beats * m / config.act_lanes)


def _wgt(config: SatConfig, timing: MemoryTiming, f: Fields) -> float:
    dense = f.get("dense", 0)
    across, rows = (f["inner"], f["outer"]) if dense else (f["blocks"], f["outer"] * f["inner"])
    run = _run(f["inner"], f["outer_step"] if dense else f["inner"])
    wide = min(HALVES if dense else LANES, config.columns << 3 - f["log2_a"])
    writes = across * (rows + f.get("pad", 0)) * max(1.0, wide / config.columns)
    return max(_reading(timing, across * rows, run), writes)
