"""The products of a training step as products of the machine, each kind once: operands in place, code out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Final, TypeVar

from nmsat.algorithms.core.tape import Pattern
from nmsat.algorithms.core.windows import output_size
from nmsat.dataflow.contract.isa import HALVES, LANES
from nmsat.dataflow.contract.legal import check_transposes
from nmsat.dataflow.network.gradient import axis_segments
from nmsat.dataflow.program.activations import ColumnsSource, RowsSource, WindowSource
from nmsat.dataflow.program.product import Epilogue, Phase, ProductCode, Sink
from nmsat.dataflow.program.weights import BackwardWeights, DenseSource, ForwardWeights
from nmsat.dataflow.program.windows import Images, Tap, Window, taps_of, window_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from nmsat.algorithms.core.tape import ConvShape
    from nmsat.dataflow.contract.config import SatConfig
    from nmsat.dataflow.network.gradient import GradientPart, Segment
    from nmsat.dataflow.program.tensors import Rows, Weights

T = TypeVar("T")

TRANSPOSED_ROWS: Final = 256
"""Rows that are transposed at a time: the size of the identity."""

MAX_IDENTITY: Final = 8
"""Largest group of the identity."""


def taps(conv: ConvShape | None) -> int:
    """Return the kernel places of a convolution, 1 for a plain product."""
    return 1 if conv is None else prod(conv.kernel)


def windows_by_host(conv: ConvShape) -> bool:
    """Whether the host lays out the windows of a first layer, a row for each: its channels do not fill a beat.

    A pixel of the input takes a beat of its own as well, so the rows are about as many beats, and no tap wastes one.
    """
    return taps(conv) > 1 and conv.groups == 1 and conv.channels_in < HALVES


def padded_channels(conv: ConvShape, ff: Pattern, *, backward: bool) -> int:
    """Return the rows of W that a tap of one group takes in memory: whole groups of W_ff, whole blocks of W_bp.

    The rows behind the channels are zeros and stay zeros. Raises ValueError where a group of a sparse W_ff would run
    across taps.
    """
    channels = conv.channels_in // conv.groups
    if taps(conv) == 1:
        return channels
    if ff.n < ff.m and channels % ff.m:
        raise ValueError(f"{channels} channels and groups of {ff.m}: groups of W_ff run across taps, rows of X do not")
    unit = LANES if backward else ff.m
    return -(-channels // unit) * unit


def forward(name: str, conv: ConvShape | None, x: Rows, w: Weights, y: Rows, epilogue: Epilogue) -> ProductCode:
    """Return Y = X W, windows of X if `conv` is given."""
    sink = Sink(y, epilogue)
    if conv is None:
        return ProductCode(name, y.rows, w.k, w.n, RowsSource(x, y.rows, w.k), ForwardWeights(w), sink, w.ff)
    act = WindowSource(x.padded(w.k // taps(conv)), window_of(conv), taps_of(conv))
    return ProductCode(name, y.rows, w.k, w.n, act, ForwardWeights(w), sink, w.ff)


def input_gradient(
    name: str, conv: ConvShape | None, dy: Rows, w: Weights, dx: Rows, epilogue: Epilogue
) -> Iterator[ProductCode]:
    """Yield dX = dY W^T, a product for each part of a convolution.

    Nothing is written where no gradient reaches: the place of dX is zeros from the start, and stays so.
    """
    if conv is None:
        act, wgt = RowsSource(dy, dy.rows, w.n), BackwardWeights(w, (0,), w.k)
        yield ProductCode(name, dx.rows, w.n, dx.columns, act, wgt, Sink(dx, epilogue), w.bp)
        return
    parts = [(rows, columns) for rows in axis_segments(conv, 0) for columns in axis_segments(conv, 1)]
    for index, (rows, columns) in enumerate(parts):
        part = name if len(parts) == 1 else f"{name}/phase{index}"
        yield _part(part, conv, (rows, columns), dy, w, Sink(dx, epilogue))


def masked_gradient(name: str, part: GradientPart, dy: Rows, w: Weights, dx: Rows) -> ProductCode:
    """Return one part of dX by weights that were packed for it: groups along C_out within the taps that it uses."""
    return _part(name, part, (part.vertical, part.horizontal), dy, w, Sink(dx), packed=True)


def _part(
    name: str,
    conv: ConvShape,
    part: tuple[Segment, Segment],
    dy: Rows,
    w: Weights,
    sink: Sink,
    *,
    packed: bool = False,
) -> ProductCode:
    rows, columns = part
    size = (rows.positions, columns.positions)
    places = tuple(Tap(p, q) for p in rows.offsets for q in columns.offsets)
    kernel = tuple(p * conv.kernel[1] + q for p in rows.taps for q in columns.taps)
    backward = BackwardWeights(w, kernel, w.k // taps(conv))
    wgt, depth = (ForwardWeights(w), w.k // len(places)) if packed else (backward, backward.depth)
    act = WindowSource(dy.padded(depth), Window(Images(conv.batch, *output_size(conv)), size, (1, 1)), places)
    images = Images(conv.batch, conv.height, conv.width)
    phase = Phase(images, (rows.first, columns.first), (rows.step, columns.step), size)
    m, k = conv.batch * prod(size), len(places) * depth
    pattern = w.ff if packed else w.bp
    return ProductCode(name, m, k, sink.tensor.columns, act, wgt, replace(sink, phase=phase), pattern)


def weight_gradient(name: str, conv: ConvShape | None, x: Rows, dy: Rows, w: Weights) -> ProductCode:
    """Return dW = X^T dY into the gradient of W; an infinite or NaN one suppresses the updates that follow."""
    if conv is None:
        act = ColumnsSource(x, dy.rows)
    else:
        act = ColumnsSource(x.padded(w.k // taps(conv)), dy.rows, window_of(conv), taps_of(conv))
    return ProductCode(name, w.k, dy.rows, w.n, act, DenseSource(dy, dy.rows), Sink(w.gradient, Epilogue(watch=True)))


def bias_gradient(name: str, ones: Rows, dy: Rows, gradient: Rows) -> ProductCode:
    """Return the sums of the columns of dY. ones: a row of as many ones as dY has rows."""
    act = RowsSource(ones, 1, dy.rows)
    sink = Sink(gradient, Epilogue(watch=True))
    return ProductCode(name, 1, dy.rows, dy.columns, act, DenseSource(dy, dy.rows), sink)


@dataclass(frozen=True)
class Matrix:
    """An operand of a product of two activations. transposed: it lies with the axes the other way round."""

    tensor: Rows
    transposed: bool = False


@dataclass(frozen=True)
class Turning:
    """What it takes to transpose: room for the transposed operand, and an identity packed as `identity_pattern` says.

    What the identity lacks are fillers, so it multiplies with nothing but its ones.
    """

    room: Rows
    identity: Weights


def activation_product(
    name: str, a: Matrix, b: Matrix, y: Rows, turning: Turning | None = None
) -> Iterator[ProductCode]:
    """Yield Y = A B of two activations; a transposed B is turned first, by a product with the identity.

    Raises ValueError if B is transposed and `turning` is None.
    """
    second = b.tensor
    if b.transposed:
        if turning is None:
            raise ValueError(f"product {name!r} has a transposed second operand and no room to turn it")
        yield from transpose(f"{name}/turn", b.tensor, turning)
        second = turning.room
    k = second.rows
    act = ColumnsSource(a.tensor, k) if a.transposed else RowsSource(a.tensor, a.tensor.rows, k)
    sink = Sink(y, Epilogue(to_half=y.bytes == 2))
    yield ProductCode(name, y.rows, k, second.columns, act, DenseSource(second, k), sink)


def turned_first(products: Iterable[Iterable[T]]) -> list[T]:
    """Return the codes (or their cuts) of several products of two activations: what turns operands first.

    A product that reads what has just been turned would wait for the store in front of it, with nothing beside. Each
    must have a room of its own.
    """
    codes = [list(product) for product in products]
    turns = [code for product in codes for code in product[:-1]]
    return turns + [product[-1] for product in codes]


def identity_pattern(config: SatConfig) -> Pattern:
    """Return 1:M, the largest M up to 8 for which a tile of the transposed operand is whole beats.

    A larger one allows tiles of few rows only, and short reductions wait for the drain of each tile anyway. Raises
    ValueError for a machine that has none (`check_transposes`).
    """
    check_transposes(config)
    a = max(1, HALVES // config.rows)
    return Pattern(1, min(MAX_IDENTITY, config.act_bank // a))


def transpose(name: str, source: Rows, turning: Turning) -> Iterator[ProductCode]:
    """Yield the products that write the transposed of a matrix: with an identity, some rows of it at a time.

    A result is the only element that it meets, so its bits stay (+0 for -0, which no product tells apart).
    """
    for index, first in enumerate(range(0, source.rows, TRANSPOSED_ROWS)):
        rows = min(TRANSPOSED_ROWS, source.rows - first)
        part = source.part((first, rows), (0, source.columns))
        sink = Sink(turning.room.part((0, source.columns), (first, rows)))
        act, wgt = ColumnsSource(part, rows), ForwardWeights(turning.identity)
        label = name if source.rows <= TRANSPOSED_ROWS else f"{name}{index}"
        yield ProductCode(label, source.columns, rows, rows, act, wgt, sink, turning.identity.ff)
