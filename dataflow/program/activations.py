"""Operand A of a product: STAGE and LOAD_ACT of a tile (docs/machine/load.md)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from nmsat.dataflow.contract.codes import codes
from nmsat.dataflow.contract.isa import HALVES, OFFSET_MASK, ActMode, Opcode
from nmsat.dataflow.program.load_cost import load_cost
from nmsat.dataflow.program.sources import Even, RowTile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from nmsat.dataflow.contract.config import SatConfig
    from nmsat.dataflow.mapping.tiling import Mapping
    from nmsat.dataflow.program.sources import Alike, DepthRange, Fields, Load
    from nmsat.dataflow.program.tensors import Place, Rows
    from nmsat.dataflow.program.windows import Tap, Window


DIRECT: Final = 0.9
"""Windows are read from memory, once per tap, where that takes less than this share of the time by way of staging:
the port, which stores and other loads use too, has more to carry."""


def cut(total: int, each: int) -> Even[RowTile]:
    """Return [0, total) in tiles of `each` rows."""
    return Even(total, each, RowTile)


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
    def unit(self) -> int:
        return HALVES

    def places(self) -> tuple[Place, ...]:
        return (self.tensor,)

    def tiles(self, config: SatConfig, mapping: Mapping) -> Sequence[RowTile]:
        if not mapping.ws:
            return cut(self.m, mapping.a * config.rows)
        if config.rows * mapping.m % HALVES and -(-self.k // mapping.m) > config.rows:
            raise ValueError(f"an array load along K is {config.rows * mapping.m} numbers; it must be whole beats")
        return cut(self.m, ws_rows(config, mapping, self.m))

    def loads(self, config: SatConfig, mapping: Mapping, tile: RowTile, part: DepthRange) -> list[Load]:
        """Each row is read once, so the staging buffer has nothing to save."""
        at = self.tensor.at + tile.first * self.tensor.step + part.first // HALVES
        mode = ActMode.WS_ROWS if mapping.ws else ActMode.OS_ROWS
        shape = {**_shape(mapping), "mode": mode, "rows": tile.rows, "k": part.size, "base": 0}
        return [(Opcode.LOAD_ACT, {**shape, **_place(self.tensor, at)})]

    def alike(self, tile: RowTile, part: DepthRange) -> Alike:
        return (tile.rows, part.size), tile.first * self.tensor.step + part.first // HALVES

    stages: Final = False

    def distinct(self, config: SatConfig, mapping: Mapping, tile: RowTile, part: DepthRange) -> list[tuple[Load, int]]:
        return [(load, 1) for load in self.loads(config, mapping, tile, part)]

    def pace(self, tile: RowTile, part: DepthRange) -> tuple[int, ...]:
        return tile.rows, part.size


class _Run(NamedTuple):
    """What a command reads of each window: taps, and numbers of each of their pixels from a beat on."""

    taps: tuple[Tap, ...]
    channels: int
    beat: int


@dataclass(frozen=True)
class WindowSource:
    """A[pixels, taps x channels]: windows of an image, channels innermost; output stationary."""

    tensor: Rows
    window: Window
    taps: tuple[Tap, ...]

    @property
    def unit(self) -> int:
        return HALVES if len(self.taps) == 1 else self.tensor.columns

    def places(self) -> tuple[Place, ...]:
        return (self.tensor,)

    def tiles(self, config: SatConfig, mapping: Mapping) -> Sequence[RowTile]:
        if mapping.ws:
            raise ValueError("windows of an image run output stationary")
        if len(self.taps) > 1 and self.tensor.columns % mapping.m:
            raise ValueError(f"{self.tensor.columns} channels do not fill groups of {mapping.m}")
        rows = self.window.images.count * self.window.size[0] * self.window.size[1]
        return cut(rows, mapping.a * config.rows)

    stages: Final = True

    def loads(self, config: SatConfig, mapping: Mapping, tile: RowTile, part: DepthRange) -> list[Load]:
        """From the staging buffer, or from memory where that takes clearly less time (windows that hardly overlap)."""
        make, run = self._chosen(config, mapping, tile, part)
        return make(config, mapping, tile, run, run.taps)

    def distinct(self, config: SatConfig, mapping: Mapping, tile: RowTile, part: DepthRange) -> list[tuple[Load, int]]:
        """All taps take equally long: their places differ by whole pixels."""
        make, run = self._chosen(config, mapping, tile, part)
        return _repeated(make(config, mapping, tile, run, run.taps[:1]), len(run.taps))

    def pace(self, tile: RowTile, part: DepthRange) -> tuple[int, ...]:
        raise TypeError(f"windows are staged; what {tile!r} takes for {part!r} depends on the tile in front")

    def _chosen(
        self, config: SatConfig, mapping: Mapping, tile: RowTile, part: DepthRange
    ) -> tuple[Callable[[SatConfig, Mapping, RowTile, _Run, Sequence[Tap]], list[Load]], _Run]:
        """Return how the loads are made, and what of each window they read."""
        run = self._run(part)
        taps, one = len(run.taps), run.taps[:1]
        staged = self._staged(config, mapping, tile, run, one)
        if not staged:
            return self._direct, run
        found = self._found(tile, run.taps) if len(staged) == 2 else 0  # one STAGE
        direct = _repeated(self._direct(config, mapping, tile, run, one), taps)
        costs = [_cost(config, loads) for loads in (direct, _repeated(_behind(staged, found), taps))]
        return self._direct if costs[0] < DIRECT * costs[1] else self._staged, run

    def _run(self, part: DepthRange) -> _Run:
        channels = self.tensor.columns
        if len(self.taps) == 1:
            return _Run(self.taps, part.size, part.first // HALVES)
        if part.first % channels or part.size % channels:
            raise ValueError(f"{part!r} of windows of {len(self.taps)} x {channels} numbers is not whole taps")
        return _Run(self.taps[part.first // channels : (part.first + part.size) // channels], channels, 0)

    def alike(self, tile: RowTile, part: DepthRange) -> Alike:
        """The same pixels of another image."""
        image, place = divmod(tile.first, self.window.size[0] * self.window.size[1])
        pixels = image * self.window.images.height * self.window.images.width
        return (place, tile.rows, part.first, part.size, pixels & 1), pixels * self.tensor.step

    def _found(self, tile: RowTile, taps: tuple[Tap, ...]) -> int:
        """Return how many pixels that a tile stages are there from the tile in front of it."""
        if not tile.first:
            return 0
        first, _ = self.window.span(taps, tile.first, tile.rows)
        _, behind = self.window.span(taps, tile.first - 1, 1)
        return max(0, behind - first) * self.window.images.width

    def _direct(
        self, config: SatConfig, mapping: Mapping, tile: RowTile, run: _Run, said: Sequence[Tap]
    ) -> list[Load]:
        """Return the loads from memory, once for every tap. said: the taps from the first on whose loads are wanted."""
        tensor, channels = self.tensor, run.channels
        shape = {**_shape(mapping), "mode": ActMode.OS_ROWS, "rows": tile.rows, "k": channels}
        out: list[Load] = []
        for p, tap in enumerate(said):
            walk = self.window.fields(tensor.at + run.beat, tensor.step, tap, tile.first)
            base = p * channels * mapping.a // config.act_lanes
            out.append((Opcode.LOAD_ACT, {**shape, **walk, "region": tensor.region, "base": base}))
        return out

    def _staged(
        self, config: SatConfig, mapping: Mapping, tile: RowTile, run: _Run, said: Sequence[Tap]
    ) -> list[Load]:
        """The same by way of the staging buffer; none if it is too small.

        The lines that the windows touch are staged, as many beats of each pixel at a time as there is room for, each
        pixel at the place that its number in the tensor gives it, so that the next tile finds it (`Staging`).
        """
        tensor, width, channels = self.tensor, self.window.images.width, run.channels
        first, last = self.window.span(run.taps, tile.first, tile.rows)
        pixels = (last - first) * width
        shape = {**_shape(mapping), "mode": ActMode.OS_ROWS, "rows": tile.rows, "staged": 1}
        out: list[Load] = []
        if pixels > config.stage_depth:
            return out
        most = config.stage_depth // pixels
        for q, beats in _pieces(-(-channels // HALVES), most & ~1 or most):  # even, so that they are read in pairs
            at = tensor.at + first * width * tensor.step + run.beat + q
            base = first * width * beats % config.stage_depth
            runs = {"outer": pixels, "inner": beats, "outer_step": tensor.step, "base": base}
            out.append((Opcode.STAGE, {"region": tensor.region, "at": at, **runs}))
            k = min(channels - q * HALVES, beats * HALVES)
            for p, tap in enumerate(said):
                walk = self.window.fields(0, beats, tap, tile.first)
                base = (p * channels + q * HALVES) * mapping.a // config.act_lanes
                out.append((Opcode.LOAD_ACT, {**shape, **walk, "k": k, "base": base}))
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
    def unit(self) -> int:
        return HALVES

    def places(self) -> tuple[Place, ...]:
        return (self.tensor,)

    def tiles(self, config: SatConfig, mapping: Mapping) -> Sequence[RowTile]:
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

    def loads(self, config: SatConfig, mapping: Mapping, tile: RowTile, part: DepthRange) -> list[Load]:
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
                walk[name] = (walk.get(name, 0) + channel // HALVES) & OFFSET_MASK
            base = (at - tile.first) // config.rows * mapping.m // config.act_lanes
            common = {**_shape(mapping), "mode": ActMode.OS_COLUMNS, "rows": rows, "k": part.size, "base": base}
            out.append((Opcode.LOAD_ACT, {**common, **walk}))
            at += rows
        return out

    def alike(self, tile: RowTile, part: DepthRange) -> Alike:
        """The same rows of Y; their windows from the same pixel of another image on."""
        key = (tile.first, tile.rows, part.size)
        if self.window is None:
            return key, part.first * self.tensor.step
        image, place = divmod(part.first, self.window.size[0] * self.window.size[1])
        pixels = image * self.window.images.height * self.window.images.width
        return (*key, place), pixels * self.tensor.step

    stages: Final = False

    def distinct(self, config: SatConfig, mapping: Mapping, tile: RowTile, part: DepthRange) -> list[tuple[Load, int]]:
        return [(load, 1) for load in self.loads(config, mapping, tile, part)]

    def pace(self, tile: RowTile, part: DepthRange) -> tuple[int, ...]:
        return tile.first, tile.rows, part.size


def _repeated(loads: Iterable[Load], taps: int) -> list[tuple[Load, int]]:
    """Return loads of the first tap with how many there are: a STAGE is one."""
    return [(load, 1 if load[0] is Opcode.STAGE else taps) for load in loads]


def _cost(config: SatConfig, loads: Iterable[tuple[Load, int]]) -> float:
    """Return the cycles of the load queue, added one load after the other."""
    total = 0.0
    for load, times in loads:
        one = load_cost(config, load)
        for _ in range(times):
            total += one
    return total


def _behind(loads: list[Load], found: int) -> list[Load]:
    """Return the loads of a tile without the first `found` runs of their STAGE."""
    (opcode, fields), *rest = loads
    left = fields["outer"] - found
    return [(opcode, {**fields, "outer": left}), *rest] if left > 0 else rest


def _pieces(total: int, most: int) -> list[tuple[int, int]]:
    """Return (first, number) of `total` beats in pieces of at most `most`."""
    return [(first, min(most, total - first)) for first in range(0, total, most)]


def _place(tensor: Rows, at: int) -> Fields:
    """Return the walk over rows of a tensor that follow each other."""
    return {"region": tensor.region, "at": at, "x_step": tensor.step}


def _shape(mapping: Mapping) -> Fields:
    return codes(m=mapping.m, a=mapping.a)
