"""Operand A of a product: STAGE and LOAD_ACT of a tile (docs/machine.md, loader)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nmsat.dataflow.contract.isa import HALVES, OFFSET_BITS, ActMode, Opcode
from nmsat.dataflow.program.sources import Part, RowTile

if TYPE_CHECKING:
    from nmsat.dataflow.contract.config import SatConfig
    from nmsat.dataflow.mapping.tiling import Mapping
    from nmsat.dataflow.program.sources import Fields, Load
    from nmsat.dataflow.program.tensors import Place, Rows
    from nmsat.dataflow.program.windows import Tap, Window

_OFFSETS = (1 << OFFSET_BITS) - 1


def cut(total: int, each: int) -> list[RowTile]:
    """Return [0, total) in tiles of `each` rows."""
    return [RowTile(first, min(each, total - first)) for first in range(0, total, each)]


def ws_rows(config: SatConfig, mapping: Mapping, rows: int) -> int:
    """Return the rows of a WS command: half the buffers, so that two are in them, cut evenly."""
    blocks = min(config.sum_depth // 16, config.act_depth * config.act_lanes // (2 * mapping.a * mapping.m))
    most = max(1, blocks) * mapping.a
    each = -(-rows // -(-rows // most))
    return -(-each // mapping.a) * mapping.a


@dataclass(frozen=True)
class RowsSource:
    """A[m, k], row by row: k along the beats."""

    tensor: Rows
    m: int
    k: int

    @property
    def divisible(self) -> bool:
        return True

    def places(self) -> tuple[Place, ...]:
        return (self.tensor,)

    def tiles(self, config: SatConfig, mapping: Mapping) -> list[RowTile]:
        if not mapping.ws:
            return cut(self.m, mapping.a * config.rows)
        if config.rows * mapping.m % HALVES and -(-self.k // mapping.m) > config.rows:
            raise ValueError(f"an array load along K is {config.rows * mapping.m} numbers; it must be whole beats")
        return cut(self.m, ws_rows(config, mapping, self.m))

    def loads(self, config: SatConfig, mapping: Mapping, tile: RowTile, part: Part) -> list[Load]:
        """Rows are staged as many beats of each at a time as the staging buffer takes, and read from there."""
        k = part.size
        at = self.tensor.at + tile.first * self.tensor.step + part.first // HALVES
        common = {
            **_shape(mapping),
            "mode": ActMode.WS_ROWS if mapping.ws else ActMode.OS_ROWS,
            "rows": tile.rows,
        }
        if tile.rows > config.stage_depth or mapping.ws:
            # in WS a beat is written in M cycles anyway
            return [(Opcode.LOAD_ACT, {**common, **_place(self.tensor, at), "k": k, "base": 0})]
        out: list[Load] = []
        for q, beats in _pieces(-(-k // HALVES), config.stage_depth // tile.rows):
            run = {"outer": tile.rows, "inner": beats, "outer_step": self.tensor.step, "base": 0}
            out.append((Opcode.STAGE, {"region": self.tensor.region, "at": at + q, **run}))
            own = {"k": min(k - q * HALVES, beats * HALVES), "base": q * HALVES * mapping.a // config.act_lanes}
            out.append((Opcode.LOAD_ACT, {**common, "staged": 1, "x_step": beats, **own}))
        return out


@dataclass(frozen=True)
class WindowSource:
    """A[pixels, taps x channels]: windows of an image, channels innermost; output stationary."""

    tensor: Rows
    window: Window
    taps: tuple[Tap, ...]

    @property
    def divisible(self) -> bool:
        return False

    def places(self) -> tuple[Place, ...]:
        return (self.tensor,)

    def tiles(self, config: SatConfig, mapping: Mapping) -> list[RowTile]:
        if mapping.ws:
            raise ValueError("windows of an image run output stationary")
        if len(self.taps) > 1 and self.tensor.columns % mapping.m:
            raise ValueError(f"{self.tensor.columns} channels do not fill groups of {mapping.m}")
        rows = self.window.images.count * self.window.size[0] * self.window.size[1]
        return cut(rows, mapping.a * config.rows)

    def loads(self, config: SatConfig, mapping: Mapping, tile: RowTile, part: Part) -> list[Load]:
        """The lines that the windows touch are staged, as many beats of each pixel at a time as there is room for."""
        if part != Part(0, len(self.taps) * self.tensor.columns):
            raise ValueError(f"windows of {len(self.taps)} x {self.tensor.columns} numbers do not fit one command")
        tensor, images = self.tensor, self.window.images
        channels = tensor.columns
        common = {**_shape(mapping), "mode": ActMode.OS_ROWS, "rows": tile.rows}
        first, last = self.window.span(self.taps, tile.first, tile.rows)
        pixels = (last - first) * images.width
        if pixels > config.stage_depth:
            return [
                (Opcode.LOAD_ACT, {**common, **walk, "region": tensor.region, "k": channels, "base": base})
                for p, tap in enumerate(self.taps)
                for walk in (self.window.fields(tensor.at, tensor.step, tap, tile.first),)
                for base in (p * channels * mapping.a // config.act_lanes,)
            ]
        out: list[Load] = []
        for q, beats in _pieces(tensor.step, config.stage_depth // pixels):
            run = {"outer": pixels, "inner": beats, "outer_step": tensor.step, "base": 0}
            out.append(
                (
                    Opcode.STAGE,
                    {"region": tensor.region, "at": tensor.at + first * images.width * tensor.step + q, **run},
                )
            )
            k = min(channels - q * HALVES, beats * HALVES)
            for p, tap in enumerate(self.taps):
                walk = self.window.fields(-first * images.width * beats, beats, tap, tile.first)
                base = (p * channels + q * HALVES) * mapping.a // config.act_lanes
                out.append((Opcode.LOAD_ACT, {**common, **walk, "staged": 1, "k": k, "base": base}))
        return out


@dataclass(frozen=True)
class ColumnsSource:
    """A = X^T [taps x channels, k]: rows of Y along the beats, reduction over the pixels of X; output stationary.

    window, taps: None and () for a plain matrix; a tap is a part of Y's rows of its own.
    """

    tensor: Rows
    k: int
    window: Window | None = None
    taps: tuple[Tap, ...] = ()

    @property
    def divisible(self) -> bool:
        return True

    def places(self) -> tuple[Place, ...]:
        return (self.tensor,)

    def tiles(self, config: SatConfig, mapping: Mapping) -> list[RowTile]:
        each, channels = mapping.a * config.rows, self.tensor.columns
        if mapping.ws:
            raise ValueError("a transposed operand runs output stationary")
        if each % HALVES and channels > each:
            raise ValueError(f"a tile has {each} rows; those of a transposed operand must be whole beats")
        parts = max(1, len(self.taps))
        if self._joins(config, mapping):
            return cut(parts * channels, each)
        return [RowTile(p * channels + tile.first, tile.rows) for p in range(parts) for tile in cut(channels, each)]

    def _joins(self, config: SatConfig, mapping: Mapping) -> bool:
        """Whether a tile may hold rows of several taps: they must meet on whole beats and rounds of array rows."""
        each, channels = mapping.a * config.rows, self.tensor.columns
        return not (each % HALVES or channels % HALVES or channels % config.rows)

    def loads(self, config: SatConfig, mapping: Mapping, tile: RowTile, part: Part) -> list[Load]:
        channels = self.tensor.columns
        out: list[Load] = []
        at = tile.first
        while at < tile.first + tile.rows:
            tap, channel = divmod(at, channels)
            rows = min(channels - channel, tile.first + tile.rows - at)
            walk = _place(self.tensor, self.tensor.at + part.first * self.tensor.step)
            if self.window is not None:
                walk |= self.window.fields(self.tensor.at, self.tensor.step, self.taps[tap], part.first)
            for name in ("at", "line_at", "image_at"):
                walk[name] = (walk.get(name, 0) + channel // HALVES) & _OFFSETS
            base = (at - tile.first) // config.rows * mapping.m // config.act_lanes
            common = {**_shape(mapping), "mode": ActMode.OS_COLUMNS, "rows": rows, "k": part.size, "base": base}
            out.append((Opcode.LOAD_ACT, {**common, **walk}))
            at += rows
        return out


def _pieces(total: int, most: int) -> list[tuple[int, int]]:
    """Return (first, number) of `total` beats in pieces of at most `most`."""
    return [(first, min(most, total - first)) for first in range(0, total, most)]


def _place(tensor: Rows, at: int) -> Fields:
    """Return the walk over rows of a tensor that follow each other."""
    return {"region": tensor.region, "at": at, "x_step": tensor.step}


def _shape(mapping: Mapping) -> Fields:
    return {"log2_m_less_1": mapping.m.bit_length() - 2, "log2_a": mapping.a.bit_length() - 1}
