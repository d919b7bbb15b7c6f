"""How operands of a product are read: LOAD_ACT and LOAD_WGT instructions of a tile (docs/machine.md, loader)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from algorithms.windows import output_size
from dataflow.isa import HALVES, LANES, OFFSET_BITS, ActMode, Opcode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from algorithms.tape import ConvShape
    from dataflow.config import SatConfig
    from dataflow.machine.tensors import Place, Rows, Weights
    from dataflow.tiling import Mapping

Fields = dict[str, int]
"""Fields of an instruction; `base` of a load counts from the start of the block that is loaded."""

Load = tuple[Opcode, Fields]
"""An instruction of the load queue."""

_OFFSETS = (1 << OFFSET_BITS) - 1


@dataclass(frozen=True)
class Images:
    """Pixels of a tensor: images of height x width pixels, each a row of the tensor."""

    count: int
    height: int
    width: int

    @property
    def pixels(self) -> int:
        """All pixels."""
        return self.count * self.height * self.width


@dataclass(frozen=True)
class Tap:
    """Where a window reads: input line and column of the window of output pixel (0, 0)."""

    dy: int
    dx: int


@dataclass(frozen=True)
class Window:
    """Windows of an image: `size` output pixels per image, `step` input pixels apart (lines, columns)."""

    images: Images
    size: tuple[int, int]
    step: tuple[int, int]

    def span(self, taps: Sequence[Tap], first: int, rows: int) -> tuple[int, int]:
        """Return [first, last) of the lines, counted through all images, that windows of these output pixels read."""
        height, width = self.size
        tall = self.images.height
        lines = []
        for pixel, edge in ((first, min), (first + rows - 1, max)):
            image, place = divmod(pixel, height * width)
            line = place // width * self.step[0] + edge(tap.dy for tap in taps)
            lines.append(image * tall + min(max(line, 0), tall - 1))
        return lines[0], lines[1] + 1

    def fields(self, at: int, pixel: int, tap: Tap, first: int) -> Fields:
        """Return the walk of a LOAD_ACT from output pixel `first` on.

        at: offset of the first pixel of the first image; pixel: beats from pixel to pixel.
        """
        height, width = self.size
        image, place = divmod(first, height * width)
        y0, x0 = divmod(place, width)
        line, picture = self.images.width * pixel, self.images.height * self.images.width * pixel
        x_step, y_step = self.step[1] * pixel, self.step[0] * line
        image_at = at + image * picture + tap.dy * line + tap.dx * pixel
        line_at = image_at + y0 * y_step
        return {
            "windowed": 1,
            "at": (line_at + x0 * x_step) & _OFFSETS,
            "line_at": line_at & _OFFSETS,
            "image_at": image_at & _OFFSETS,
            "x_step": x_step,
            "y_step": y_step,
            "image_step": picture,
            "width": width,
            "height": height,
            "x0": x0,
            "y0": y0,
            "ix0": x0 * self.step[1] + tap.dx,
            "iy0": y0 * self.step[0] + tap.dy,
            "ix_line": tap.dx,
            "iy_image": tap.dy,
            "ix_step": self.step[1],
            "iy_step": self.step[0],
            "in_width": self.images.width,
            "in_height": self.images.height,
        }


def window_of(conv: ConvShape) -> Window:
    """Return the windows of a convolution's input."""
    return Window(Images(conv.batch, conv.height, conv.width), output_size(conv), conv.stride)


def taps_of(conv: ConvShape) -> tuple[Tap, ...]:
    """Return the taps of a convolution, line by line of its kernel."""
    return tuple(
        Tap(p * conv.dilation[0] - conv.padding[0], q * conv.dilation[1] - conv.padding[1])
        for p in range(conv.kernel[0])
        for q in range(conv.kernel[1])
    )


@dataclass(frozen=True)
class RowTile:
    """Rows of Y that a tile covers: the first and how many."""

    first: int
    rows: int


@dataclass(frozen=True)
class Part:
    """Part of a reduction, which one command covers: its first element, how many."""

    first: int
    size: int


class ActSource(Protocol):
    """Operand A of a product. divisible: one command may read part of the reduction."""

    @property
    def divisible(self) -> bool: ...

    def places(self) -> tuple[Place, ...]:
        """Return the tensors read."""
        ...

    def tiles(self, config: SatConfig, mapping: Mapping) -> list[RowTile]:
        """Return the row tiles of Y; ValueError if the mapping does not suit."""
        ...

    def loads(self, config: SatConfig, mapping: Mapping, tile: RowTile, part: Part) -> list[Load]:
        """Return the STAGE and LOAD_ACT of a tile for part of the reduction; ValueError if it cannot be parted."""
        ...


class WgtSource(Protocol):
    """Operand W of a product. divisible: as in `ActSource`."""

    @property
    def divisible(self) -> bool: ...

    def places(self) -> tuple[Place, ...]:
        """Return the tensors read."""
        ...

    def loads(self, config: SatConfig, mapping: Mapping, column: int, columns: int, part: Part) -> list[Fields]:
        """Return the LOAD_WGT of the tile columns from `column` on for part of the reduction."""
        ...


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


def _pieces(total: int, most: int) -> list[tuple[int, int]]:
    """Return (first, number) of `total` beats in pieces of at most `most`."""
    return [(first, min(most, total - first)) for first in range(0, total, most)]


def _place(tensor: Rows, at: int) -> Fields:
    """Return the walk over rows of a tensor that follow each other."""
    return {"region": tensor.region, "at": at, "x_step": tensor.step}


def _shape(mapping: Mapping) -> Fields:
    return {"log2_m_less_1": mapping.m.bit_length() - 2, "log2_a": mapping.a.bit_length() - 1}
