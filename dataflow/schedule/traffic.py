"""Bytes that a product moves between external memory and the array's buffers, by operand (docs/timing.md).

The operand buffers are double banked: half of `act_depth` and of `weight_depth` holds what runs, the other half fills.
What fits a half stays there while the inner loop runs over it; what does not is read again, in pieces.

- Activations of a convolution are read as NHWC rows into a staging buffer, from which the windows are expanded on chip:
  a pass over all tiles reads each row it needs once, halo included, if the rows of two successive tiles fit
  (`STAGING_BYTES`); otherwise each tap is read for itself.
- Packed weights take 2 bytes per value and 4 bits per index; dense operands 2 bytes.
- Results and weight gradients leave as binary16, 2 bytes. Partial sums stay on chip.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from nmsat.algorithms.core.tape import Stage
from nmsat.algorithms.core.windows import output_size
from nmsat.dataflow.contract.config import INTERLEAVE
from nmsat.dataflow.cycles.memory import BEAT_BYTES, TensorStream
from nmsat.dataflow.network.gradient import GradientPart

if TYPE_CHECKING:
    from collections.abc import Callable

    from nmsat.algorithms.core.tape import ConvShape, Product
    from nmsat.dataflow.mapping.tiling import Tiling

WORD: Final = 2
"""Bytes of a binary16 value."""

SUM_BYTES: Final = 4
"""Bytes of a binary32 sum."""

PAIR_BITS: Final = 21
"""A packed pair in a column's weight buffer: binary16 value, 4-bit index, filler."""

STAGING_BYTES: Final = 1 << 18
"""Bytes of one half of the staging buffer between memory and the row buffers."""

CONTIGUOUS: Final = 1 << 40
"""Run length of an operand that is stored in the order in which it is read."""


class Order(StrEnum):
    """The outer loop of a product: over tiles along N, W stays; or over tiles along M, A stays."""

    COLUMNS = "columns"
    ROWS = "rows"


@dataclass(frozen=True)
class Passes:
    """How often a product reads all of A and all of W."""

    a: int
    w: int


@dataclass(frozen=True)
class Traffic:
    """All that one product (all `count` copies) moves: operands A and W in, results Y out.

    refills: how many halves of the operand buffers its operands fill; the least number of pieces.
    """

    a: TensorStream
    w: TensorStream
    y: TensorStream
    refills: int

    @property
    def bytes(self) -> int:
        """All bytes."""
        return self.a.bytes + self.w.bytes + self.y.bytes


def passes(tiling: Tiling, order: Order) -> Passes:
    """Return how often A and W are read in a loop order, by what fits the halves of the buffers."""
    act, weight = tiling.config.act_depth // 2, tiling.config.weight_depth // 2
    beats, pairs = tiling.beats * tiling.depth_tiles, tiling.pairs * tiling.depth_tiles
    if order is Order.COLUMNS:
        a = 1 if beats * tiling.row_tiles <= act else tiling.column_tiles
        return Passes(a, 1 if pairs <= weight else tiling.row_tiles)
    w = 1 if pairs * tiling.column_tiles <= weight else tiling.row_tiles
    return Passes(1 if beats <= act else tiling.column_tiles, w)


def product_traffic(product: Product, tiling: Tiling, order: Order, *, weights: bool) -> Traffic:
    """Return what a product moves; see `Operands`."""
    return Operands(product, weights=weights).traffic(tiling, order)


class Operands:
    """The operands of a product as they stand in memory.

    weights: whether W holds learnt weights, which the update stores in the order of the tiles; otherwise W is an
    activation or gradient, read column tile by column tile in runs of its row.
    """

    def __init__(self, product: Product, *, weights: bool) -> None:
        self.product = product
        self.weights = weights
        self.window = None if product.conv is None else _window(product.conv)
        self.transposed = _transposed(product)

    def traffic(self, tiling: Tiling, order: Order) -> Traffic:
        """Return what the product moves under a schedule."""
        return self.by_order(tiling)(order)

    def by_order(self, tiling: Tiling) -> Callable[[Order], Traffic]:
        """Return `traffic` of one tiling as a function of the loop order, which shares what does not depend on it."""
        product, config = self.product, tiling.config
        a, w = self._activations(tiling), self._weights(tiling)
        y = TensorStream(product.m * product.n * product.count * WORD, self._result_run(tiling))
        act = tiling.beats * tiling.row_tiles * tiling.depth_tiles * product.count
        weight = tiling.pairs * tiling.depth_tiles * tiling.column_tiles * product.count

        def traffic(order: Order) -> Traffic:
            times = passes(tiling, order)
            fills = _ceil(act * times.a, config.act_depth // 2), _ceil(weight * times.w, config.weight_depth // 2)
            return Traffic(
                a=TensorStream(a.bytes * times.a, a.run),
                w=TensorStream(w.bytes * times.w, w.run),
                y=y,
                refills=max(fills),
            )

        return traffic

    def _activations(self, tiling: Tiling) -> TensorStream:
        """One pass over A."""
        product, window = self.product, self.window
        plain = product.m * product.k * product.count * WORD
        if product.stage is Stage.WU:
            return self._gathered(tiling)
        if product.conv is None or window is None or self.transposed:
            if tiling.depth_tiles == 1:
                return TensorStream(plain, CONTIGUOUS)
            return TensorStream(plain, min(tiling.config.rows * tiling.mapping.m, product.k) * WORD)
        unique = window.pixels * window.channels * product.count * WORD
        ws_stream = tiling.mapping.ws and tiling.depth_tiles == 1
        together = tiling.mapping.a * INTERLEAVE if ws_stream else tiling.tile_rows
        staged = _rows_per_tile(product.conv, together) * window.width * window.channels * WORD
        if 2 * staged > STAGING_BYTES:
            return TensorStream(plain, window.channels * WORD)
        return TensorStream(min(plain, unique), window.run)

    def _gathered(self, tiling: Tiling) -> TensorStream:
        """One pass over A = X^T of a weight gradient: each row tile reads the channels and taps that it covers."""
        product, window = self.product, self.window
        positions = product.k
        tile = min(tiling.tile_rows, product.m)
        if window is None:
            return TensorStream(min(product.m, tile * tiling.row_tiles) * positions * product.count * WORD, tile * WORD)
        used = min(tile, window.channels)
        gathered = tile * positions * WORD  # each tap for itself: one run per pixel
        whole = used * window.pixels * WORD  # all pixels once, the taps from the staging buffer
        long = used == window.channels and window.dense_columns
        beats = _ceil(used * WORD, BEAT_BYTES) * BEAT_BYTES * (gathered // (used * WORD))
        if whole <= gathered or (long and whole <= beats):
            size, run = whole, window.row_run if long else used * WORD
        else:
            size, run = gathered, used * WORD
        return TensorStream(size * tiling.row_tiles * product.count, run)

    def _weights(self, tiling: Tiling) -> TensorStream:
        """One pass over W."""
        product, mapping = self.product, tiling.mapping
        keep, group = (mapping.n, mapping.m) if product.pattern else (1, 1)
        size = packed_bytes(product.k, product.n, keep, group)
        if self.transposed and self.window is not None:
            unique = packed_bytes(self.window.channels, self.window.pixels, keep, group)
            return TensorStream(min(unique, size) * product.count, CONTIGUOUS)
        if self.weights or keep != group:
            return TensorStream(size * product.count, CONTIGUOUS)
        return TensorStream(size * product.count, min(product.n, mapping.b * tiling.config.columns) * WORD)

    def _result_run(self, tiling: Tiling) -> int:
        product = self.product
        if self.transposed:
            return min(product.m, tiling.tile_rows) * WORD
        if tiling.column_tiles == 1 and not isinstance(product.conv, GradientPart):
            return CONTIGUOUS
        return min(product.n, tiling.mapping.b * tiling.config.columns) * WORD


def packed_bytes(k: int, n: int, keep: int, group: int) -> int:
    """Bytes of w[k, n] packed as N of M: 20 bits per pair, the last group padded; plain binary16 when N == M."""
    if keep == group:
        return k * n * WORD
    return _ceil(_ceil(k, group) * keep * n * 20, 8)


def _transposed(product: Product) -> bool:
    """Whether BP computes dX^T because dY is the sparse operand (SDGP)."""
    part = product.conv
    return isinstance(part, GradientPart) and product.stage is Stage.BP and product.m != part.positions


@dataclass(frozen=True)
class _Window:
    """What a convolution's A operand reads of its NHWC tensor: how many pixels, of how many channels, how contiguous.

    run: contiguous bytes when all pixels are read; row_run: the same within one row of pixels.
    """

    pixels: int
    width: int
    channels: int
    dense_columns: bool
    row_run: int
    run: int


@lru_cache(maxsize=4096)
def _window(shape: ConvShape) -> _Window:
    rows, columns, width, channels = _places(shape)
    dense = _dense(columns)
    row_run = (len(columns) if dense else 1) * channels * WORD
    whole = dense and len(columns) == width and _dense(rows) and shape.groups == 1
    pixels = len(rows) * len(columns) * shape.batch
    return _Window(pixels, width, channels, dense, row_run, CONTIGUOUS if whole else row_run)


def _places(shape: ConvShape) -> tuple[list[int], list[int], int, int]:
    """Return (rows read, columns read, width of the tensor, channels of a group)."""
    height, width = output_size(shape)
    read: list[list[int]] = []
    if isinstance(shape, GradientPart):
        for side, size in ((shape.vertical, height), (shape.horizontal, width)):
            places = {o + j for o in side.offsets for j in range(side.positions)}
            read.append(sorted(p for p in places if 0 <= p < size))
        return read[0], read[1], width, shape.channels_out // shape.groups
    for axis, (out, size) in enumerate(((height, shape.height), (width, shape.width))):
        step, pad, gap = shape.stride[axis], shape.padding[axis], shape.dilation[axis]
        places = {o * step + t * gap - pad for o in range(out) for t in range(shape.kernel[axis])}
        read.append(sorted(p for p in places if 0 <= p < size))
    return read[0], read[1], shape.width, shape.channels_in // shape.groups


@lru_cache(maxsize=16384)
def _rows_per_tile(shape: ConvShape, positions: int) -> int:
    """Rows of the tensor that the windows of so many successive positions touch at most, in the images they cover."""
    height, width = output_size(shape)
    if isinstance(shape, GradientPart):
        width, height = shape.horizontal.positions, shape.vertical.positions
        step, span = 1, max(shape.vertical.offsets) - min(shape.vertical.offsets) + 1
    else:
        step, span = shape.stride[0], (shape.kernel[0] - 1) * shape.dilation[0] + 1
    lines = _ceil(positions, width) + 1
    images = _ceil(lines, height) if lines > height else 1
    return min(lines, height) * step * images + (span - step) * images


def _dense(places: list[int]) -> bool:
    return places[-1] - places[0] + 1 == len(places)


def _ceil(a: int, b: int) -> int:
    return -(-a // b)


@dataclass(frozen=True)
class OperandBytes:
    """Bytes of one product by operand at one level: A and W read, Y written (on chip also sums that come back)."""

    a: int = 0
    w: int = 0
    y: int = 0

    @property
    def total(self) -> int:
        """All bytes."""
        return self.a + self.w + self.y


def buffer_bytes(tiling: Tiling) -> OperandBytes:
    """Return what a product moves between the buffers and the array.

    A beat is 2 bytes per row and lane, a pair 21 bits per column, a result 4 bytes. Sums that a WS command keeps are
    written and read again as seeds.
    """
    config, commands = tiling.config, tiling.commands
    results = INTERLEAVE * (tiling.blocks if tiling.mapping.ws else config.rows) * config.columns
    kept = commands - commands // tiling.depth_tiles
    return OperandBytes(
        a=commands * tiling.beats * config.rows * config.act_lanes * WORD,
        w=_ceil(commands * tiling.pairs * config.columns * PAIR_BITS, 8),
        y=(commands + kept) * results * SUM_BYTES,
    )
