"""Cycle counts that schedule, simulator and circuit share (docs/machine/array.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nmsat.dataflow.contract.config import INTERLEAVE
from nmsat.dataflow.contract.isa import HALVES, ActMode
from nmsat.dataflow.contract.limits import (
    ADD_STAGES,
    DRAIN_DELAY,
    MULTIPLY_STAGES,
    ROUND_STAGES,
    ROW_DRAIN,
    SEED_GAP,
    SETTLE,
    TOKEN_TO_STEP,
    WS_SETTLE,
)

if TYPE_CHECKING:
    from nmsat.dataflow.contract.codes import FieldSource
    from nmsat.dataflow.contract.config import SatConfig


def takes_pairs(config: SatConfig) -> bool:
    """Whether the machine reads two beats of its staging buffer per cycle: one would not fill all array rows."""
    return config.act_lanes == 2 and config.rows > 1


def reads_pairs(config: SatConfig, f: FieldSource) -> Any:
    """Return whether a LOAD_ACT is read in pairs of beats: staged rows of even numbers of beats at even places.

    f: its fields; like the rules of `dataflow.contract.legal`, the same text works on numbers and on signals.
    """
    if not takes_pairs(config):
        return 0
    odd = f["at"] | f["line_at"] | f["image_at"] | f["x_step"] | f["y_step"] | f["image_step"]
    beats = (f["k"] + (HALVES - 1)) >> (HALVES.bit_length() - 1)
    return f["staged"] & (f["mode"] == int(ActMode.OS_ROWS)) & (((odd | beats) & 1) == 0)


def window_cycles(config: SatConfig, n: int, m: int, a: int) -> int:
    """Length W of a window: its 8 N steps or the beats of its a M activations, whichever take longer."""
    return max(INTERLEAVE * n, a * m // config.act_lanes)


def drain_cycles(config: SatConfig) -> int:
    """Least distance between the last windows of two OS commands: 8 results of R rows leave through one link."""
    return INTERLEAVE * config.rows


def load_cycles(config: SatConfig, n: int) -> int:
    """Cycles the weight links carry the pairs of one WS command."""
    return INTERLEAVE * n * config.rows


def row_hand_on(n: int) -> int:
    """Cycles from a row's WS window until the row below has it: its 8 N steps, and one to hand it on."""
    return INTERLEAVE * n + 1


def seed_cycles(config: SatConfig, n: int) -> int:
    """Least distance between the first windows of two WS commands, the second seeded with the sums of the first."""
    return row_hand_on(n) * config.rows + SEED_GAP + len(config.row_slices)


def flush_cycles_os(config: SatConfig, n: int) -> int:
    """Cycles after the start of an OS window until nothing of it moves in the array any more."""
    return INTERLEAVE * n + ROW_DRAIN * config.rows + config.columns + _slices(config) + SETTLE


def flush_cycles_ws(config: SatConfig, n: int) -> int:
    """Cycles after the start of a WS window until nothing of it moves in the array any more."""
    return row_hand_on(n) * config.rows + config.columns + _slices(config) + SETTLE + WS_SETTLE


def last_result_os(config: SatConfig, n: int) -> int:
    """Cycles from the token of an OS command's last window to its last result at the last column's output."""
    last_row = _first_result(n) + ROW_DRAIN * (config.rows - 1) + len(config.row_slices)
    return last_row + INTERLEAVE + 1 + last_column(config)  # its 8 results, one cycle behind their reads


def last_result_ws(config: SatConfig, n: int) -> int:
    """Cycles from the token of a WS command's last window to its last result at the last column's output."""
    last_row = _first_result(n) + row_hand_on(n) * (config.rows - 1)
    return last_row + len(config.row_slices) + INTERLEAVE + 1 + last_column(config)  # likewise


def epilogue_path(add_stages: int = ADD_STAGES, round_stages: int = ROUND_STAGES) -> int:
    """Cycles of a lane of the epilogue: two sums, the rounding, the choice of what passes."""
    return 2 * add_stages + round_stages + 1


def wuve_path(
    multiply_stages: int = MULTIPLY_STAGES, add_stages: int = ADD_STAGES, round_stages: int = ROUND_STAGES
) -> int:
    """Cycles of a lane of WUVE: two products and four sums, each product's operands normalised, and the rounding."""
    return 2 * (1 + multiply_stages) + 4 * add_stages + round_stages


def queue_depth(path: int) -> int:
    """Places behind a data path of so many cycles: the least power of two that keeps it busy in every cycle."""
    return 1 << (path + 1).bit_length()


def last_column(config: SatConfig) -> int:
    """Cycles by which the last column is later than the first."""
    return config.columns - 1 + len(config.column_slices)


def _first_result(n: int) -> int:
    """Cycles from the token of a window to the first read of row 0's drain memory, in the last slot of 8 steps."""
    return TOKEN_TO_STEP + INTERLEAVE * (n - 1) + DRAIN_DELAY


def _slices(config: SatConfig) -> int:
    return 2 * len(config.row_slices) + len(config.column_slices)
