"""Convolutions of ONNX as layers: in one, two and three dimensions, transposed, deformable and quantized.

A convolution in three dimensions, or one at places that data decide, is a matrix product over windows that the host
lays out (Im2Col); one whose depth is 1 is a plain one over more images. A transposed convolution is the product
Y[B*H*W, C_out*taps] = X[B*H*W, C_in] W whose results the host adds up where windows overlap (Col2Im): N:M runs along
C_in in the forward pass and along C_out and taps in the backward pass.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any, Final

from nmsat.algorithms.core.tape import ConvShape
from nmsat.algorithms.core.windows import output_size
from nmsat.dataflow.network.layers import WORD_BYTES, ConvLayer, HostLayer, Layer, LinearLayer, host_layer
from nmsat.dataflow.network.readers.onnx_ask import attributes
from nmsat.dataflow.network.readers.onnx_products import requantize

if TYPE_CHECKING:
    from collections.abc import Mapping

    from onnx import NodeProto

    from nmsat.dataflow.network.readers.onnx_state import ReaderState

AUTO_PADS: Final = ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER")
"""Ways of padding of Conv."""


def conv(reader: ReaderState, node: NodeProto, weight: int = 1, bias: int = 2) -> tuple[Layer, ...]:
    """Return Conv; weight, bias: its inputs that hold them, bias -1 for none."""
    root = reader.need_weight(node, node.input[weight])
    x, w = reader.shape(node, node.input[0]), reader.shape(node, node.input[weight])
    groups = attributes(node).get("group", 1)
    if not 3 <= len(x) <= 5 or len(w) != len(x):
        raise reader.error(node, f"has input {x} and weights {w}; convolutions of 1 to 3 dimensions are supported")
    if x[1] != w[1] * groups:
        raise reader.error(node, f"has {x[1]} input channels; weights {w} in {groups} groups need {w[1] * groups}")
    constant = reader.bias(node, bias) if bias >= 0 else ""
    if len(x) == 5 and not _is_flat(node, w):
        return _windows(reader, node, root, constant, groups, w)
    return _plain(reader, node, root, constant, _without_depth(node, x, w))


def quantized_conv(reader: ReaderState, node: NodeProto) -> tuple[Layer, ...]:
    """Return QLinearConv; scaling and rounding of its results are host work."""
    layers = conv(reader, node, 3, 8)
    return (*layers, requantize(reader, node, layers[-1].name))


def integer_conv(reader: ReaderState, node: NodeProto) -> tuple[Layer, ...]:
    """Return ConvInteger."""
    return conv(reader, node, 1, -1)


def deform_conv(reader: ReaderState, node: NodeProto) -> tuple[Layer, ...]:
    """Return DeformConv: the host gathers the places that the offsets say, the array multiplies."""
    root = reader.need_weight(node, node.input[1])
    w = reader.shape(node, node.input[1])
    return _windows(reader, node, root, reader.bias(node, 3), attributes(node).get("group", 1), w)


def conv_transpose(reader: ReaderState, node: NodeProto) -> tuple[Layer, ...]:
    """Return ConvTranspose: a product for each position of the input, results added up by the host."""
    root = reader.need_weight(node, node.input[1])
    x, w = reader.shape(node, node.input[0]), reader.shape(node, node.input[1])
    groups = attributes(node).get("group", 1)
    if x[1] != w[0] or w[0] % groups:
        raise reader.error(node, f"has {x[1]} input channels; weights {w} in {groups} groups need {w[0]}")
    constant = reader.bias(node, 2)
    name = reader.name(node)
    rows, columns = x[0] * prod(x[2:]), prod(w[1:])
    layer = LinearLayer(
        name=name,
        rows=rows,
        features_in=w[0] // groups,
        features_out=columns,
        count=groups,
        input_gradient=node.input[0] in reader.graded,
        weight=root,
        stored="transposed convolution",
    )
    output = prod(reader.shape(node, node.output[0]))
    values = rows * columns * groups
    moved = (values + output) * WORD_BYTES
    fold = HostLayer(name=f"{name}.col2im", kind="Col2Im", ff_operations=values, ff_bytes=moved, bp_bytes=moved)
    if not constant:
        return (layer, fold)
    # The bias belongs to places of the result, not to columns of the product.
    add = host_layer("Add", f"{name}.bias", output, parameters=w[1] * groups)
    return (layer, fold, add)


def _plain(
    reader: ReaderState,
    node: NodeProto,
    root: str,
    bias: str,
    sizes: tuple[dict[str, Any], tuple[int, ...], tuple[int, ...]],
) -> tuple[Layer, ...]:
    given, x, w = sizes
    shape, extra = _conv_shape(reader, node, given, x, w)
    try:
        layer = ConvLayer(
            name=reader.name(node),
            shape=shape,
            bias=bool(bias),
            bias_name=bias,
            input_gradient=node.input[0] in reader.graded,
            weight=root,
        )
    except ValueError as error:
        raise reader.error(node, f"is no convolution: {error}") from error
    height, width = output_size(shape)
    inferred = reader.shape(node, node.output[0])
    if prod(inferred) != shape.batch * shape.channels_out * height * width or inferred[-1] != width:
        raise reader.error(
            node, f"has output {inferred}, but its attributes give {(shape.batch, shape.channels_out, height, width)}"
        )
    if not extra:
        return (layer,)
    elements = shape.batch * shape.height * shape.width * shape.channels_in
    return (reader.graded_host(host_layer("Pad", f"{layer.name}.pad", elements), node.input), layer)


def _windows(
    reader: ReaderState, node: NodeProto, root: str, bias: str, groups: int, w: tuple[int, ...]
) -> tuple[Layer, ...]:
    """Return a convolution as a product over windows that the host lays out."""
    output = reader.shape(node, node.output[0])
    rows, reduction = output[0] * prod(output[2:]), prod(w[1:])
    name = reader.name(node)
    layer = LinearLayer(
        name=name,
        rows=rows,
        features_in=reduction,
        features_out=w[0] // groups,
        count=groups,
        bias=bool(bias),
        bias_name=bias,
        input_gradient=node.input[0] in reader.graded,
        weight=root,
        stored="convolution",
    )
    lay = host_layer("Im2Col", f"{name}.im2col", rows * reduction * groups)
    return (reader.graded_host(lay, node.input[:1]), layer)


def _is_flat(node: NodeProto, w: tuple[int, ...]) -> bool:
    """Tell a convolution in three dimensions that does nothing along the first of them."""
    given = attributes(node)
    pads = given.get("pads", (0,) * 6)
    return w[2] == 1 and given.get("strides", (1, 1, 1))[0] == 1 and pads[0] == pads[3] == 0


def _without_depth(
    node: NodeProto, x: tuple[int, ...], w: tuple[int, ...]
) -> tuple[dict[str, Any], tuple[int, ...], tuple[int, ...]]:
    """Return attributes, input and weights with a depth that nothing reaches across taken into the batch."""
    given = attributes(node)
    if len(x) != 5:
        return given, x, w
    for name in ("strides", "dilations", "kernel_shape"):
        if name in given:
            given[name] = tuple(given[name])[1:]
    if "pads" in given:
        given["pads"] = (*given["pads"][1:3], *given["pads"][4:6])
    return given, (x[0] * x[2], x[1], *x[3:]), (*w[:2], *w[3:])


def _conv_shape(
    reader: ReaderState, node: NodeProto, given: Mapping[str, Any], x: tuple[int, ...], w: tuple[int, ...]
) -> tuple[ConvShape, bool]:
    """Return the convolution, 1-D ones as height 1, and whether its input must be stored with extra zeros.

    A ConvShape pads both sides alike; what one side has more is part of height and width.
    """
    groups = given.get("group", 1)
    spatial = len(x) - 2
    kernel = tuple(w[2:])
    stride = tuple(given.get("strides", (1,) * spatial))
    dilation = tuple(given.get("dilations", (1,) * spatial))
    mode = given.get("auto_pad", b"NOTSET").decode()
    if mode not in AUTO_PADS:
        raise reader.error(node, f"has auto_pad {mode!r}; known: {', '.join(AUTO_PADS)}")
    if not len(stride) == len(dilation) == spatial or min(*stride, *dilation) < 1:
        raise reader.error(node, f"has strides {stride} and dilations {dilation} for {spatial} dimensions")
    pads = _pads(mode, given, x[2:], kernel, stride, dilation)
    sizes = tuple(size + abs(begin - end) for size, (begin, end) in zip(x[2:], pads, strict=True))

    def both(values: tuple[int, ...], flat: int) -> tuple[int, int]:
        return (values[0], values[1]) if spatial == 2 else (flat, values[0])

    height, width = both(sizes, 1)
    shape = ConvShape(
        batch=x[0],
        height=height,
        width=width,
        channels_in=x[1],
        channels_out=w[0],
        kernel=both(kernel, 1),
        stride=both(stride, 1),
        padding=both(tuple(min(pad) for pad in pads), 0),
        dilation=both(dilation, 1),
        groups=groups,
    )
    return shape, sizes != tuple(x[2:])


def _pads(
    mode: str,
    given: Mapping[str, Any],
    sizes: tuple[int, ...],
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
) -> list[tuple[int, int]]:
    """Return (begin, end) padding per spatial axis, auto_pad resolved as the ONNX specification of Conv says."""
    if mode == "NOTSET":
        pads = given.get("pads", (0,) * (2 * len(sizes)))
        return list(zip(pads[: len(sizes)], pads[len(sizes) :], strict=True))
    if mode == "VALID":
        return [(0, 0)] * len(sizes)
    out = []
    for size, k, s, d in zip(sizes, kernel, stride, dilation, strict=True):
        total = max((-(-size // s) - 1) * s + d * (k - 1) + 1 - size, 0)
        small, large = total // 2, total - total // 2
        out.append((small, large) if mode == "SAME_UPPER" else (large, small))
    return out
