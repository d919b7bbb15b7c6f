"""The stepped gear: one product through the array, register by register."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nmsat.dataflow.mapping.place import activation_beats, place_results, results_per_column, weight_pairs
from nmsat.sim.array.stce import Stce, Trace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nmsat.algorithms.core.packed import Packed
    from nmsat.dataflow.contract.isa import Compute
    from nmsat.dataflow.mapping.tiling import Tiling


@dataclass(frozen=True)
class PlacedOperands:
    """Operands of a whole product in the buffers of the array, and the commands that use them.

    act: float16[R, beats, lanes]; value float16[C, pairs], index uint8[C, pairs], filler bool[C, pairs].
    """

    act: np.ndarray
    value: np.ndarray
    index: np.ndarray
    filler: np.ndarray
    commands: tuple[Compute, ...]


def place_operands(a: np.ndarray, packed: Packed, tiling: Tiling) -> PlacedOperands:
    """Lay the operands out, each distinct block once.

    a: float16[m, k]; packed: W over k in the mapping's group. Raises ValueError when a buffer is too small.
    """
    acts: dict[tuple[int, int], int] = {}
    weights: dict[tuple[int, int], int] = {}
    beats, pairs, commands = [], [], []
    for tile in tiling.tiles():
        if tile.act_block not in acts:
            acts[tile.act_block] = len(acts) * tiling.beats
            beats.append(activation_beats(a, tile))
        if tile.wgt_block not in weights:
            weights[tile.wgt_block] = len(weights) * tiling.pairs
            pairs.append(weight_pairs(packed, tile))
        commands.append((tile, acts[tile.act_block], weights[tile.wgt_block]))
    _check_fit("activation", "act_depth", len(acts) * tiling.beats, tiling.config.act_depth)
    _check_fit("weight", "weight_depth", len(weights) * tiling.pairs, tiling.config.weight_depth)
    return PlacedOperands(
        act=np.concatenate(beats, axis=1),
        value=np.concatenate([p.value for p in pairs], axis=1),
        index=np.concatenate([p.index for p in pairs], axis=1),
        filler=np.concatenate([p.filler for p in pairs], axis=1),
        commands=tuple(tile.command(act, wgt) for tile, act, wgt in commands),
    )


def run_stepped(
    a: np.ndarray, packed: Packed, tiling: Tiling, gaps: Sequence[int] | None = None, engine: Stce | None = None
) -> tuple[np.ndarray, Trace]:
    """Return Y (float32[m, n]) and the trace of the whole product.

    gaps: idle cycles before each command; engine: a fresh array of the tiling's configuration, for one that looks on.
    """
    placed = place_operands(a, packed, tiling)
    engine = engine or Stce(tiling.config)
    for r, row in enumerate(engine.rows):
        row.buffer[: placed.act.shape[1]] = placed.act[r]
    used = placed.value.shape[1]
    columns = engine.columns
    columns.values[:, :used], columns.indices[:, :used] = placed.value, placed.index
    columns.fillers[:, :used] = placed.filler
    trace = engine.run(placed.commands, results_per_column(tiling), gaps=gaps)
    values = np.array(trace.out_value, np.uint32).view(np.float32)
    return place_results(tiling, values), trace


def _check_fit(what: str, field: str, demand: int, limit: int) -> None:
    if demand > limit:
        raise ValueError(
            f"{what} buffers need {demand!r} entries; {field} is {limit!r}. Use a smaller product or a larger {field}"
        )
