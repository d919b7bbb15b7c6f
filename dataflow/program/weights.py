"""Operand W of a product: LOAD_WGT of a tile (docs/machine/load.md)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nmsat.dataflow.contract.codes import codes
from nmsat.dataflow.contract.isa import HALVES, LANES

if TYPE_CHECKING:
    from nmsat.dataflow.contract.config import SatConfig
    from nmsat.dataflow.mapping.tiling import Mapping
    from nmsat.dataflow.program.sources import Alike, DepthRange, Fields
    from nmsat.dataflow.program.tensors import Place, Rows, Weights


@dataclass(frozen=True)
class ForwardWeights:
    """W_ff [k, n], packed along k."""

    weights: Weights

    @property
    def unit(self) -> int:
        return self.weights.ff.m

    def places(self) -> tuple[Place, ...]:
        return (self.weights.ff_place,)

    def loads(self, config: SatConfig, mapping: Mapping, column: int, columns: int, part: DepthRange) -> list[Fields]:
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

    def alike(self, mapping: Mapping, column: int, columns: int, part: DepthRange) -> Alike:
        w = self.weights
        blocks = column // LANES * w.groups + part.first // w.ff.m
        return (column % LANES, columns, part.size), blocks * w.ff.n


@dataclass(frozen=True)
class BackwardWeights:
    """W_bp [taps x n, k]: for each tap its rows of W^T, packed along n; output stationary.

    A part of the reduction is whole taps, or whole blocks of n of a single one. With several taps each is filled up to
    whole groups.

    taps: kernel taps in the order of the reduction; channels: rows of W per tap.
    """

    weights: Weights
    taps: tuple[int, ...]
    channels: int

    @property
    def unit(self) -> int:
        return HALVES if len(self.taps) == 1 else self.depth

    @property
    def depth(self) -> int:
        """Elements along the reduction of a tap."""
        w = self.weights
        return w.n if len(self.taps) == 1 else -(-w.n // w.bp.m) * w.bp.m

    def places(self) -> tuple[Place, ...]:
        return () if self.weights.bp_place is None else (self.weights.bp_place,)

    def loads(self, config: SatConfig, mapping: Mapping, column: int, columns: int, part: DepthRange) -> list[Fields]:
        w = self.weights
        if mapping.ws:
            raise ValueError("W_bp is read output stationary")
        if w.bp_place is None:
            raise ValueError(f"weights {w.name!r} have no backward copy")
        if self.channels < w.k and self.channels % LANES:
            raise ValueError(f"W_bp of {w.name!r} has {self.channels} channels; taps need whole blocks of {LANES}")
        depth = self.depth
        taps, first, size = self.taps[part.first // depth : -(-(part.first + part.size) // depth)], 0, w.n
        if len(self.taps) == 1:
            taps, first, size = self.taps, part.first // LANES, part.size
        elif part.first % depth or part.size % depth:
            raise ValueError(f"{part!r} of W_bp of {w.name!r} is not whole taps of {depth}")
        full, last = size // LANES, size % LANES
        place, run = w.bp_place, w.run(0)
        common = {**_columns(config, mapping, column, columns, LANES), "region": place.region}
        out = []
        for p, tap in enumerate(taps):
            block = (tap * self.channels + column) // LANES
            slot = p * -(-w.n // w.bp.m) * w.bp.n * mapping.b
            if full:
                at = place.at + first * w.row_blocks * run + block * run
                shape = {"outer": full, "outer_step": w.row_blocks * run, "inner": run, "block_step": run}
                out.append({**common, **shape, "at": at, "base": slot})
            if last:
                rest = w.run(first + full)
                at = place.at + (first + full) * w.row_blocks * run + block * rest
                shape = {"inner": rest, "block_step": rest}
                out.append({**common, **shape, "at": at, "base": slot + full * run * mapping.b})
        return out

    def alike(self, mapping: Mapping, column: int, columns: int, part: DepthRange) -> Alike:
        """Blocks that are not whole lie apart by less: only the same columns are alike."""
        return (column, columns, part.first, part.size), 0


@dataclass(frozen=True)
class DenseSource:
    """A dense operand [k, n] as it lies, row by row (dY in WU)."""

    tensor: Rows
    k: int

    @property
    def unit(self) -> int:
        return 1

    def places(self) -> tuple[Place, ...]:
        return (self.tensor,)

    def loads(self, config: SatConfig, mapping: Mapping, column: int, columns: int, part: DepthRange) -> list[Fields]:
        m, first, rows = mapping.m, part.first, part.size
        whole = config.rows * m if mapping.ws else -(-rows // m) * m
        fields = {
            "dense": 1,
            **codes(m=m),
            "region": self.tensor.region,
            "at": self.tensor.at + first * self.tensor.step + column // HALVES,
            "outer": rows,
            "outer_step": self.tensor.step,
            "pad": whole - rows,
        }
        across = _columns(config, mapping, column, columns, HALVES)
        return [{**across, "inner": across["blocks"], "blocks": 1, **fields}]

    def alike(self, mapping: Mapping, column: int, columns: int, part: DepthRange) -> Alike:
        return (column % HALVES, columns, part.size), part.first * self.tensor.step + column // HALVES


def _columns(config: SatConfig, mapping: Mapping, column: int, columns: int, wide: int) -> Fields:
    """Return what all LOAD_WGT of a column tile share."""
    tile = mapping.b * config.columns
    blocks = -(-columns // wide) if tile >= wide else 1
    lane = 0 if tile >= wide else column % wide
    return {
        **codes(a=mapping.a),
        "base": 0,
        "lane": lane,
        "blocks": blocks,
        "outer": 1,
        "inner_step": 1,
    }
