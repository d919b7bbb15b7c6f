"""Cycle counts that schedule, simulator and circuit share (docs/array.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from dataflow.config import INTERLEAVE

if TYPE_CHECKING:
    from dataflow.config import SatConfig

SEED_GAP: Final = 3
"""Cycles beyond R (8 N + 1) until a kept sum can seed the next command."""

SETTLE: Final = 32
"""Margin of a flush: pipeline of an element, drain delay, links of the edges."""


def window_cycles(config: SatConfig, n: int, m: int, a: int) -> int:
    """Length W of a window: its 8 N steps or the beats of its a M activations, whichever take longer."""
    return max(INTERLEAVE * n, a * m // config.act_lanes)


def flush_cycles_os(config: SatConfig, n: int) -> int:
    """Cycles after the start of an OS window until nothing of it moves in the array any more."""
    return INTERLEAVE * n + 9 * config.rows + config.columns + _slices(config) + SETTLE


def flush_cycles_ws(config: SatConfig, n: int) -> int:
    """Cycles after the start of a WS window until nothing of it moves in the array any more."""
    return (INTERLEAVE * n + 1) * config.rows + config.columns + _slices(config) + SETTLE + 16 * INTERLEAVE


def _slices(config: SatConfig) -> int:
    return 2 * len(config.row_slices) + len(config.column_slices)
