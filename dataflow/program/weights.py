"""Operand W of a product: LOAD_WGT of a tile (docs/machine.md, loader)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nmsat.dataflow.contract.isa import HALVES, LANES
from nmsat.dataflow.program.sources import Part

if TYPE_CHECKING:
    from nmsat.dataflow.contract.config import SatConfig
    from nmsat.dataflow.mapping.tiling import Mapping
    from nmsat.dataflow.program.sources import Fields
    from nmsat.dataflow.program.tensors import Place, Rows, Weights


@dataclass(frozen=True)
class ForwardWeights:
    """W_ff [k, n], packed along k."""

    weights: Weights

    @property
    def divisible(self) -> bool:
        return True

    def places(self) -> tuple[Place, ...]:
        return (self.weights.ff_place,)

    def loads(self, config: SatConfig, mapping: Mapping, column: int, columns: int, part: Part) -> list[Fields]:
        w, slots = self.weights, self.weights.ff.n
        first, groups = part.first // w.ff.m, -(-part.size // w.ff.m)
        fields = {
            "region": w.ff_place.region,
            "at": w.ff_place.at + (column // LANES * w.groups + first) * slots,
            "inner": groups * slots,
            "pad": (config.rows - groups) * slots if mapping.ws else 0,
            "block_step": w.groups * slots,
        }
        return [{**_columns(config, mapping, column, columns, LANES), **fields}]


@dataclass(frozen=True)
class BackwardWeights:
    """W_bp [taps x n, k]: for each tap its rows of W^T, packed along n; output stationary.

    taps: kernel taps in the order of the reduction; channels: columns of Y (rows of W per tap).
    """

    weights: Weights
    taps: tuple[int, ...]
    channels: int

    @property
    def divisible(self) -> bool:
        return False

    def places(self) -> tuple[Place, ...]:
        return () if self.weights.bp_place is None else (self.weights.bp_place,)

    def loads(self, config: SatConfig, mapping: Mapping, column: int, columns: int, part: Part) -> list[Fields]:
        w = self.weights
        if mapping.ws or part != Part(0, len(self.taps) * w.n):
            raise ValueError("W_bp is read output stationary and whole")
        if w.bp_place is None:
            raise ValueError(f"weights {w.name!r} have no backward copy")
        if len(self.taps) > 1 and (self.channels % LANES or w.n % w.bp.m):
            raise ValueError(f"W_bp of {w.name!r} needs channels in blocks of {LANES} and n in groups of {w.bp.m}")
        place, full, last = w.bp_place, w.n // LANES, w.n % LANES
        across = _columns(config, mapping, column, columns, LANES)
        out = []
        for p, tap in enumerate(self.taps):
            block = (tap * self.channels + column) // LANES
            slot = p * -(-w.n // w.bp.m) * w.bp.n * mapping.b
            run = w.run(0) if full else 0
            common = {**across, "region": place.region}
            if full:
                at = place.at + block * run
                shape = {"outer": full, "outer_step": w.row_blocks * run, "inner": run, "block_step": run}
                out.append({**common, **shape, "at": at, "base": slot})
            if last:
                rest = w.run(full)
                at = place.at + full * w.row_blocks * run + block * rest
                shape = {"inner": rest, "block_step": rest}
                out.append({**common, **shape, "at": at, "base": slot + full * run * mapping.b})
        return out


@dataclass(frozen=True)
class DenseSource:
    """A dense operand [k, n] as it lies, row by row (dY in WU)."""

    tensor: Rows
    k: int

    @property
    def divisible(self) -> bool:
        return True

    def places(self) -> tuple[Place, ...]:
        return (self.tensor,)

    def loads(self, config: SatConfig, mapping: Mapping, column: int, columns: int, part: Part) -> list[Fields]:
        m, first, rows = mapping.m, part.first, part.size
        whole = config.rows * m if mapping.ws else -(-rows // m) * m
        fields = {
            "dense": 1,
            "log2_m_less_1": m.bit_length() - 2,
            "region": self.tensor.region,
            "at": self.tensor.at + first * self.tensor.step + column // HALVES,
            "inner": rows,
            "inner_step": self.tensor.step,
            "pad": whole - rows,
            "block_step": 1,
        }
        return [{**_columns(config, mapping, column, columns, HALVES), **fields}]


def _columns(config: SatConfig, mapping: Mapping, column: int, columns: int, wide: int) -> Fields:
    """Return what all LOAD_WGT of a column tile share."""
    tile = mapping.b * config.columns
    blocks = -(-columns // wide) if tile >= wide else 1
    lane = 0 if tile >= wide else column % wide
    return {
        "log2_a": mapping.a.bit_length() - 1,
        "base": 0,
        "lane": lane,
        "blocks": blocks,
        "outer": 1,
        "inner_step": 1,
    }
