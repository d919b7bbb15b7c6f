"""Operand A of a product: STAGE and LOAD_ACT of a tile (docs/machine/load.md)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from nmsat.dataflow.contract.codes import codes
from nmsat.dataflow.contract.isa import HALVES, OFFSET_MASK, ActMode, Opcode
from nmsat.dataflow.program.load_cost import load_cost, port_cost
from nmsat.dataflow.program.sources import Even, RowTile

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

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

    def pace(self, tile: RowTile, part: DepthRange) -> tuple[int, ...]:
        return tile.rows, part.size


class WindowReads(NamedTuple):
    """What a command reads of each window: taps, which span lines low to high of it, and numbers of each of their
    pixels from a beat on."""

    taps: tuple[Tap, ...]
    low: int
    high: int
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

    def loads(self, config: SatConfig, mapping: Mapping, tile: RowTile, part: DepthRange) -> list[Load]:
        """From the staging buffer, or from memory where that takes clearly less time (windows that hardly overlap)."""
        run = self.run(part)
        make = self.staged if WindowPace(self, config, mapping).stages(tile, run) else self.direct
        return make(config, mapping, tile, run, run.taps)

    def pace(self, tile: RowTile, part: DepthRange) -> None:
        """What a tile takes depends on the one in front of it: see `WindowPace`."""

    def run(self, part: DepthRange) -> WindowReads:
        """Return what part of the reduction reads of each window; ValueError if it is not whole taps."""
        channels = self.tensor.columns
        if len(self.taps) == 1:
            (tap,) = self.taps
            return WindowReads(self.taps, tap.dy, tap.dy, part.size, part.first // HALVES)
        if part.first % channels or part.size % channels:
            raise ValueError(f"{part!r} of windows of {len(self.taps)} x {channels} numbers is not whole taps")
        taps = self.taps[part.first // channels : (part.first + part.size) // channels]
        return WindowReads(taps, min(tap.dy for tap in taps), max(tap.dy for tap in taps), channels, 0)

    def alike(self, tile: RowTile, part: DepthRange) -> Alike:
        """The same pixels of another image."""
        image, place = divmod(tile.first, self.window.size[0] * self.window.size[1])
        pixels = image * self.window.images.height * self.window.images.width
        return (place, tile.rows, part.first, part.size, pixels & 1), pixels * self.tensor.step

    def found(self, tile: RowTile, run: WindowReads) -> int:
        """Return how many pixels that a tile stages are there from the tile in front of it."""
        if not tile.first:
            return 0
        first, _ = self.window.span(run.low, run.high, tile.first, tile.rows)
        _, behind = self.window.span(run.low, run.high, tile.first - 1, 1)
        return max(0, behind - first) * self.window.images.width

    def direct(
        self, config: SatConfig, mapping: Mapping, tile: RowTile, run: WindowReads, taps: Iterable[Tap]
    ) -> list[Load]:
        """Return the loads from memory, once for every tap. taps: those of the run, or the first of them."""
        tensor, channels = self.tensor, run.channels
        shape = {**_shape(mapping), "mode": ActMode.OS_ROWS, "rows": tile.rows, "k": channels}
        out: list[Load] = []
        for p, tap in enumerate(taps):
            walk = self.window.fields(tensor.at + run.beat, tensor.step, tap, tile.first)
            base = p * channels * mapping.a // config.act_lanes
            out.append((Opcode.LOAD_ACT, {**shape, **walk, "region": tensor.region, "base": base}))
        return out

    def staged(
        self, config: SatConfig, mapping: Mapping, tile: RowTile, run: WindowReads, taps: Sequence[Tap]
    ) -> list[Load]:
        """The same by way of the staging buffer; none if it is too small.

        The lines that the windows touch are staged, as many beats of each pixel at a time as there is room for, each
        pixel at the place that its number in the tensor gives it, so that the next tile finds it (`Staging`).
        """
        channels = run.channels
        first, pixels = self.lines(tile, run)
        shape = {**_shape(mapping), "mode": ActMode.OS_ROWS, "rows": tile.rows, "staged": 1}
        out: list[Load] = []
        for q, beats in staged_pieces(config, pixels, run):
            out.append(self.stage(config, first, pixels, run, (q, beats)))
            k = min(channels - q * HALVES, beats * HALVES)
            for p, tap in enumerate(taps):
                walk = self.window.fields(0, beats, tap, tile.first)
                base = (p * channels + q * HALVES) * mapping.a // config.act_lanes
                out.append((Opcode.LOAD_ACT, {**shape, **walk, "k": k, "base": base}))
        return out

    def lines(self, tile: RowTile, run: WindowReads) -> tuple[int, int]:
        """Return the first pixel of the lines that the windows of a tile touch, and how many pixels these have."""
        width = self.window.images.width
        first, last = self.window.span(run.low, run.high, tile.first, tile.rows)
        return first * width, (last - first) * width

    def stage(self, config: SatConfig, first: int, pixels: int, run: WindowReads, piece: tuple[int, int]) -> Load:
        """Return the STAGE of pixels from the first on. piece: first beat of each that it takes, and how many."""
        q, beats = piece
        at = self.tensor.at + first * self.tensor.step + run.beat + q
        base = first * beats % config.stage_depth
        runs = {"outer": pixels, "inner": beats, "outer_step": self.tensor.step, "base": base}
        return Opcode.STAGE, {"region": self.tensor.region, "at": at, **runs}


def staged_pieces(config: SatConfig, pixels: int, run: WindowReads) -> list[tuple[int, int]]:
    """Return (first beat, beats) of a pixel that are staged at a time; none if the buffer is too small."""
    if pixels > config.stage_depth:
        return []
    most = config.stage_depth // pixels
    return _pieces(-(-run.channels // HALVES), most & ~1 or most)  # even, so that they are read in pairs


class Paced(NamedTuple):
    """A load of windows, or the first of as many that take equally long: cycles of the load queue, of the port."""

    load: Load
    queue: float
    port: float
    times: int


class WindowPace:
    """What loads of windows take, by a configuration and a mapping. Each kind of load is looked at once.

    All taps take equally long, wherever a tile lies: their places differ by whole pixels, and these are pieces of even
    numbers of beats, or odd all of them. Only what is staged depends on the place.
    """

    def __init__(self, source: WindowSource, config: SatConfig, mapping: Mapping) -> None:
        self._source, self._config, self._mapping = source, config, mapping
        self._direct: dict[tuple[int, int, int], Paced] = {}
        self._staged: dict[tuple[int, int, int, int], list[tuple[tuple[int, int], Paced, Paced]]] = {}
        self._runs: dict[DepthRange, WindowReads] = {}
        self._found: dict[tuple[int, int, int], list[Paced]] = {}

    def loads(self, tile: RowTile, part: DepthRange) -> list[Paced]:
        """Return the loads of a tile; of those of all taps the first, and as if it were that of another tile."""
        at = tile.first, part.first, part.size
        if at not in self._found:
            self._found[at] = self._loads(tile, part)
        return self._found[at]

    def _loads(self, tile: RowTile, part: DepthRange) -> list[Paced]:
        run = self._runs.get(part)
        if run is None:
            run = self._runs[part] = self._source.run(part)
        if not self.stages(tile, run):
            return [self._from_memory(tile, run)]
        first, pixels = self._source.lines(tile, run)
        out = []
        for piece, stage, act in self._by_staging(tile, run, pixels):
            out.append(stage._replace(load=self._source.stage(self._config, first, pixels, run, piece)))
            out.append(act)
        return out

    def stages(self, tile: RowTile, run: WindowReads) -> bool:
        """Whether the windows are read by way of the staging buffer."""
        _, pixels = self._source.lines(tile, run)
        pieces = self._by_staging(tile, run, pixels)
        if not pieces:
            return False
        found = self._source.found(tile, run) if len(pieces) == 1 else 0
        cycles = 0.0
        for _, stage, act in pieces:
            if found < pixels:
                opcode, fields = stage.load
                less = (opcode, {**fields, "outer": pixels - found})
                cycles += load_cost(self._config, less) if found else stage.queue
            for _ in range(act.times):
                cycles += act.queue
        direct, one = 0.0, self._from_memory(tile, run)
        for _ in range(one.times):
            direct += one.queue
        return direct >= DIRECT * cycles

    def _from_memory(self, tile: RowTile, run: WindowReads) -> Paced:
        key = tile.rows, len(run.taps), run.channels
        if key not in self._direct:
            (load,) = self._source.direct(self._config, self._mapping, tile, run, run.taps[:1])
            self._direct[key] = self._paced(load, len(run.taps))
        return self._direct[key]

    def _by_staging(self, tile: RowTile, run: WindowReads, pixels: int) -> list[tuple[tuple[int, int], Paced, Paced]]:
        """Return piece, STAGE and LOAD_ACT of all pieces."""
        key = tile.rows, len(run.taps), run.channels, pixels
        if key not in self._staged:
            loads = self._source.staged(self._config, self._mapping, tile, run, run.taps[:1])
            pieces = staged_pieces(self._config, pixels, run)
            self._staged[key] = [
                (piece, self._paced(stage, 1), self._paced(act, len(run.taps)))
                for piece, stage, act in zip(pieces, loads[::2], loads[1::2], strict=True)
            ]
        return self._staged[key]

    def _paced(self, load: Load, times: int) -> Paced:
        return Paced(load, load_cost(self._config, load), port_cost(self._config, load), times)


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

    def pace(self, tile: RowTile, part: DepthRange) -> tuple[int, ...]:
        return tile.first, tile.rows, part.size


def _pieces(total: int, most: int) -> list[tuple[int, int]]:
    """Return (first, number) of `total` beats in pieces of at most `most`."""
    return [(first, min(most, total - first)) for first in range(0, total, most)]


def _place(tensor: Rows, at: int) -> Fields:
    """Return the walk over rows of a tensor that follow each other."""
    return {"region": tensor.region, "at": at, "x_step": tensor.step}


def _shape(mapping: Mapping) -> Fields:
    return codes(m=mapping.m, a=mapping.a)
