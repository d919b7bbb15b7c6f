"""Cycle counts that schedule, simulator and circuit share (docs/machine/array.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nmsat.dataflow.contract.config import INTERLEAVE
from nmsat.dataflow.contract.isa import HALVES, ActMode
from nmsat.dataflow.contract.limits import DRAIN_DELAY, SEED_GAP, SETTLE, TOKEN_TO_STEP

if TYPE_CHECKING:
    from nmsat.dataflow.contract.codes import Fields
    from nmsat.dataflow.contract.config import SatConfig


def takes_pairs(config: SatConfig) -> bool:
    """Whether the machine reads two beats of its staging buffer per cycle: one would not fill all array rows."""
    return config.act_lanes == 2 and config.rows > 1


def reads_pairs(config: SatConfig, f: Fields) -> Any:
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


def seed_cycles(config: SatConfig, n: int) -> int:
    """Least distance between the first windows of two WS commands, the second seeded with the sums of the first."""
    return (INTERLEAVE * n + 1) * config.rows + SEED_GAP + len(config.row_slices)


def flush_cycles_os(config: SatConfig, n: int) -> int:
    """Cycles after the start of an OS window until nothing of it moves in the array any more."""
    return INTERLEAVE * n + 9 * config.rows + config.columns + _slices(config) + SETTLE


def flush_cycles_ws(config: SatConfig, n: int) -> int:
    """Cycles after the start of a WS window until nothing of it moves in the array any more."""
    return (INTERLEAVE * n + 1) * config.rows + config.columns + _slices(config) + SETTLE + 16 * INTERLEAVE


def last_result_os(config: SatConfig, n: int) -> int:
    """Cycles from the token of an OS command's last window to its last result at the last column's output."""
    last_row = TOKEN_TO_STEP + INTERLEAVE * (n - 1) + DRAIN_DELAY + 9 * (config.rows - 1) + len(config.row_slices)
    return last_row + INTERLEAVE + 1 + last_column(config)


def last_result_ws(config: SatConfig, n: int) -> int:
    """Cycles from the token of a WS command's last window to its last result at the last column's output."""
    last_row = TOKEN_TO_STEP + INTERLEAVE * (n - 1) + DRAIN_DELAY + (INTERLEAVE * n + 1) * (config.rows - 1)
    return last_row + len(config.row_slices) + INTERLEAVE + 1 + last_column(config)


def last_column(config: SatConfig) -> int:
    """Cycles by which the last column is later than the first."""
    return config.columns - 1 + len(config.column_slices)


def _slices(config: SatConfig) -> int:
    return 2 * len(config.row_slices) + len(config.column_slices)
