"""One product of a step with its operands placed, as products of the machine (`dataflow.program.kinds`)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from nmsat.algorithms.core.tape import Stage
from nmsat.algorithms.core.windows import output_size
from nmsat.dataflow.contract.isa import HALVES, Side
from nmsat.dataflow.network.gradient import GradientPart
from nmsat.dataflow.program import kinds
from nmsat.dataflow.program.activations import ColumnsSource
from nmsat.dataflow.program.constants import place_identity
from nmsat.dataflow.program.product import Epilogue, ProductCode, Sink
from nmsat.dataflow.program.tensors import DENSE, Layout, Rows, Weights, row_beats
from nmsat.dataflow.program.weights import ForwardWeights
from nmsat.dataflow.program.windows import taps_of, window_of

if TYPE_CHECKING:
    from nmsat.algorithms.core.tape import ConvShape, Product
    from nmsat.dataflow.contract.config import SatConfig

INPUTS, WEIGHTS, RESULTS = 0, 1, 2
"""Regions of the operands and the result."""


class Form(StrEnum):
    """How the two operands of a product lie in memory."""

    WEIGHTS = "weights"  # A as it lies or its windows, W packed beside its masters; which side is read says the stage
    PACKED = "packed"  # the second operand is packed by the host: it was pruned within the step
    MASKED = "masked"  # a part of an input gradient whose weights a mask cuts: the host packs those that are read
    PLAIN = "plain"  # A B of two activations as they lie
    TURNED = "turned"  # A B^T
    TRANSPOSED = "transposed"  # A^T B


def form_of(product: Product, activations: frozenset[str] = frozenset()) -> Form:
    """Return how the operands of a product lie. activations: names of the products Y = A B of two activations.

    Their gradients are called `.da` = dY B^T and `.db` = A^T dY (`dataflow.network.products.matmul_products`).
    """
    name = product.name.removesuffix(".da").removesuffix(".db")
    if name not in activations:
        return Form.PACKED if product.online or product.stage is Stage.OTHER else Form.WEIGHTS
    if product.name == name:
        return Form.PLAIN
    return Form.TURNED if product.name.endswith(".da") else Form.TRANSPOSED


@dataclass(frozen=True)
class Placed:
    """One of the `count` products that a product stands for: its codes in order, its operands and its result.

    turning: room and identity of a transposed second operand. The result is zeros where no gradient reaches, and the
    codes do not write there.
    """

    layout: Layout
    codes: tuple[ProductCode, ...]
    a: Rows
    b: Rows | Weights
    y: Rows
    bias: Rows | None = None
    turning: kinds.Turning | None = None

    @property
    def weights(self) -> Weights:
        """The second operand where it is packed; TypeError if it lies as it is."""
        if not isinstance(self.b, Weights):
            raise TypeError(f"the second operand is {self.b!r}; it must be packed")
        return self.b

    @property
    def rows(self) -> Rows:
        """The second operand where it lies as it is; TypeError if it is packed."""
        if not isinstance(self.b, Rows):
            raise TypeError(f"the second operand is {self.b!r}; it must be rows")
        return self.b


def place_product(
    config: SatConfig, product: Product, form: Form, *, index: int = 0, bias: bool = False, backward: bool = True
) -> Placed:
    """Return product `index` of `product.count` with its operands placed in memory.

    bias: a row is added to the result of FF; backward: the layer has an input gradient, so that its weights are laid
    out for one too. Without one it is the first, whose windows the host may lay out (`kinds.windows_by_host`). Raises
    ValueError for a product that the layout cannot hold.
    """
    if form is Form.PACKED:
        return _packed(product)
    if form is Form.MASKED:
        return _masked(product)
    if form is not Form.WEIGHTS:
        return _activations(config, product, form, index)
    if not backward and product.conv is not None and kinds.windows_by_host(product.conv):
        product = replace(product, conv=None)
    if product.stage is Stage.WU:
        return _weight_gradient(product, index, backward=backward)
    if product.stage is Stage.BP:
        return _input_gradient(product, index)
    return _forward(product, index, bias=bias, backward=backward)


def channel_group(
    layout: Layout, name: str, region: int, sizes: tuple[int, int], padded: int, group: tuple[int, int]
) -> Rows:
    """Place an image tensor whose groups of channels each start on a whole beat; return one of the groups.

    sizes: pixels, channels of a group; padded: channels that are read; group: (which, how many).
    """
    (rows, columns), (which, count) = sizes, group
    beats = row_beats(max(padded, columns))
    whole = layout.rows(name, region, rows, beats * count * HALVES)
    view = whole.part((0, rows), (which * beats * HALVES, beats * HALVES))
    return Rows(name, region, view.at, view.beats, rows, columns, 2, whole.step, whole.at)


def _forward(product: Product, index: int, *, bias: bool, backward: bool) -> Placed:
    layout, conv, ff = Layout(), product.conv, product.pattern or DENSE
    m, n = product.m, product.n
    group = (index, product.count)
    added = layout.rows("bias", WEIGHTS, 1, n, 4) if bias else None
    epilogue = Epilogue(kind=Side.TILE32, side=added) if added else Epilogue()
    if conv is None:
        x = layout.rows("x", INPUTS, m, product.k)
        y = layout.rows("y", RESULTS, m, n)
        w = layout.weights("w", WEIGHTS, product.k, n, ff, DENSE, backward=False)
    else:
        channels = kinds.padded_channels(conv, ff, backward=backward)
        pixels = conv.batch * conv.height * conv.width
        x = channel_group(layout, "x", INPUTS, (pixels, conv.channels_in // conv.groups), channels, group)
        y = channel_group(layout, "y", RESULTS, (m, n), n, group)
        w = layout.weights("w", WEIGHTS, kinds.taps(conv) * channels, n, ff, DENSE, backward=False)
    code = kinds.forward(product.name, conv, x, w, y, epilogue)
    return Placed(layout, (code,), x, w, y, added)


def _input_gradient(product: Product, index: int) -> Placed:
    """Return dX; of a convolution all its parts, whichever part the product is."""
    layout, conv, bp = Layout(), product.conv, product.pattern or DENSE
    group = (index, product.count)
    if conv is None:
        dy, dx = layout.rows("dy", INPUTS, product.m, product.k), layout.rows("dx", RESULTS, product.m, product.n)
        w = layout.weights("w", WEIGHTS, product.n, product.k, DENSE, bp, backward=True)
    else:
        if not isinstance(conv, GradientPart):
            raise ValueError(f"product {product.name!r} has no part of the input that it is the gradient of")
        channels, outputs = kinds.padded_channels(conv, DENSE, backward=True), conv.channels_out // conv.groups
        pixels, out_pixels = conv.batch * conv.height * conv.width, _outputs(conv)
        padded = -(-outputs // bp.m) * bp.m
        dy = channel_group(layout, "dy", INPUTS, (out_pixels, outputs), padded, group)
        inputs = conv.channels_in // conv.groups
        dx = channel_group(layout, "dx", RESULTS, (pixels, inputs), inputs, group)
        w = layout.weights("w", WEIGHTS, kinds.taps(conv) * channels, outputs, DENSE, bp, backward=True)
    codes = tuple(kinds.input_gradient(product.name, conv, dy, w, dx, Epilogue()))
    return Placed(layout, codes, dy, w, dx)


def _weight_gradient(product: Product, index: int, *, backward: bool) -> Placed:
    layout, conv = Layout(), product.conv
    group, n = (index, product.count), product.n
    if conv is None:
        x, rows = layout.rows("x", INPUTS, product.k, product.m), product.m
    else:
        channels = kinds.padded_channels(conv, DENSE, backward=backward)
        pixels, rows = conv.batch * conv.height * conv.width, kinds.taps(conv) * channels
        x = channel_group(layout, "x", INPUTS, (pixels, conv.channels_in // conv.groups), channels, group)
    dy = channel_group(layout, "dy", INPUTS, (product.k, n), n, group)
    w = layout.weights("w", WEIGHTS, rows, n, DENSE, DENSE, backward=False)
    return Placed(layout, (kinds.weight_gradient(product.name, conv, x, dy, w),), x, dy, w.gradient)


def _activations(config: SatConfig, product: Product, form: Form, index: int) -> Placed:
    """Return one of the products of an attention: heads one behind the other."""
    layout, m, k, n = Layout(), product.m, product.k, product.n

    def head(name: str, region: int, rows: int, columns: int) -> Rows:
        whole = layout.rows(name, region, rows * product.count, columns)
        return whole.part((index * rows, rows), (0, columns))

    turned, transposed = form is Form.TURNED, form is Form.TRANSPOSED
    a = head("a", INPUTS, *((k, m) if transposed else (m, k)))
    b = head("b", INPUTS, *((n, k) if turned else (k, n)))
    y = head("y", RESULTS, m, n)
    turning = None
    if turned:
        identity = place_identity(config, layout, "identity", WEIGHTS, n)
        turning = kinds.Turning(head("turned", RESULTS, k, n), identity)
    codes = kinds.activation_product(product.name, kinds.Matrix(a, transposed), kinds.Matrix(b, turned), y, turning)
    return Placed(layout, tuple(codes), a, b, y, turning=turning)


def _packed(product: Product) -> Placed:
    """Return a product whose second operand the host prunes and packs, the first windows of X transposed in WU."""
    layout, conv, pattern = Layout(), product.conv, product.pattern or DENSE
    m, k, n = product.m, product.k, product.n
    if product.stage is not Stage.WU:
        x, y = layout.rows("x", INPUTS, m, k), layout.rows("y", RESULTS, m, n)
        w = layout.weights("w", WEIGHTS, k, n, pattern, DENSE, backward=False)
        return Placed(layout, (kinds.forward(product.name, None, x, w, y, Epilogue()),), x, w, y)
    w = layout.weights("dy", WEIGHTS, k, n, pattern, DENSE, backward=False)
    if conv is None:
        x, rows = layout.rows("x", INPUTS, k, m), m
        act = ColumnsSource(x, k)
    else:
        channels = kinds.padded_channels(conv, DENSE, backward=False)
        pixels, rows = conv.batch * conv.height * conv.width, kinds.taps(conv) * channels
        x = channel_group(layout, "x", INPUTS, (pixels, conv.channels_in // conv.groups), channels, (0, product.count))
        act = ColumnsSource(x.padded(channels), k, window_of(conv), taps_of(conv))
    y = layout.rows("dw", RESULTS, rows, n)
    code = ProductCode(product.name, rows, k, n, act, ForwardWeights(w), Sink(y, Epilogue(watch=True)), pattern)
    return Placed(layout, (code,), x, w, y)


def _masked(product: Product) -> Placed:
    """Return one part of dX of a convolution, for the input channels whose weights have one pattern."""
    layout, conv, pattern = Layout(), product.conv, product.pattern or DENSE
    if not isinstance(conv, GradientPart):
        raise ValueError(f"product {product.name!r} has no part of the input that it is the gradient of")
    outputs, pixels = conv.channels_out // conv.groups, conv.batch * conv.height * conv.width
    padded = -(-outputs // pattern.m) * pattern.m
    dy = channel_group(layout, "dy", INPUTS, (_outputs(conv), outputs), padded, (0, conv.groups))
    dx = channel_group(layout, "dx", RESULTS, (pixels, product.n), product.n, (0, conv.groups))
    w = layout.weights("w", WEIGHTS, len(conv.taps) * padded, product.n, pattern, DENSE, backward=False)
    return Placed(layout, (kinds.masked_gradient(product.name, conv, dy, w, dx),), dy, w, dx)


def _outputs(conv: ConvShape) -> int:
    height, width = output_size(conv)
    return conv.batch * height * width
