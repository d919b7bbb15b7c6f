"""Every kind of product of a step on the machine against NumPy, operands where `dataflow.program.lower` puts them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from nmsat.algorithms.core.nm import pack
from nmsat.algorithms.core.numeric import ordered_dot, ordered_dot_packed, to_half
from nmsat.algorithms.core.tape import ConvShape, Pattern, Product, Stage
from nmsat.algorithms.core.windows import backward_matrix, backward_taps, forward_windows, output_size, windows
from nmsat.dataflow.contract.config import SatConfig, preset
from nmsat.dataflow.contract.isa import Opcode, Queue
from nmsat.dataflow.contract.legal import check_transposes
from nmsat.dataflow.contract.registers import Launch, Region
from nmsat.dataflow.network.gradient import gradient_parts
from nmsat.dataflow.network.layers import ConvLayer, LinearLayer
from nmsat.dataflow.network.products import forward_products, input_gradient_products, weight_gradient_products
from nmsat.dataflow.program import kinds
from nmsat.dataflow.program.assembler import LINKS, Assembler
from nmsat.dataflow.program.constants import write_identity
from nmsat.dataflow.program.emit import assemble
from nmsat.dataflow.program.lower import Form, Placed, place_product
from nmsat.dataflow.program.tensors import DENSE, Image, Layout, Rows
from nmsat.reports.work.program import gradient_program
from nmsat.sim.sat import Sat
from nmsat.sim.values import State, execute
from nmsat.tb.machine.jobs import random_job

if TYPE_CHECKING:
    from nmsat.algorithms.core.packed import Packed
    from nmsat.dataflow.contract.isa import Instruction
    from nmsat.dataflow.program.product import ProductCode

TWO_LANES = SatConfig(name="lanes", rows=4, columns=8, act_lanes=2)
CONFIGS = [preset("tiny"), preset("small"), TWO_LANES]
CONVOLUTIONS = {
    "3 channels": ConvShape(2, 6, 5, 3, 8, (3, 3), (1, 1), (1, 1)),
    "1x1, stride 2": ConvShape(2, 7, 6, 16, 8, (1, 1), (2, 2)),
    "2x2, stride 3": ConvShape(2, 8, 9, 16, 8, (2, 2), (3, 3)),
    "1x3, stride 2 and 1": ConvShape(1, 5, 6, 20, 12, (1, 3), (2, 1), (0, 1)),
    "dilation 2": ConvShape(2, 7, 8, 16, 8, (3, 3), (1, 1), (2, 2), (2, 2)),
    "dilation 3, stride 2": ConvShape(1, 9, 8, 8, 16, (2, 2), (2, 2), (1, 1), (3, 3)),
    "groups of 4": ConvShape(2, 5, 5, 12, 24, (3, 3), (1, 1), (1, 1), (1, 1), 3),
    "each channel": ConvShape(1, 5, 4, 4, 4, (3, 3), (2, 2), (1, 1), (1, 1), 4),
    "groups of 32": ConvShape(1, 4, 4, 64, 64, (3, 3), (2, 2), (1, 1), (1, 1), 2),
    "10 outputs": ConvShape(2, 4, 5, 16, 10, (3, 3), (1, 1), (1, 1)),
    "no padding": ConvShape(2, 6, 6, 40, 8, (3, 3), (2, 2)),
}


def halves(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float16)


def run(config: SatConfig, placed: Placed, *fills: tuple[Rows, np.ndarray]) -> np.ndarray:
    """Assemble and carry out the codes of a product in a memory whose results are stale; return the result."""
    return carry_out(config, placed, lambda image: [image.write_rows(*fill) for fill in fills])


def carry_out(config: SatConfig, placed: Placed, fill, stale: float | np.ndarray = np.nan) -> np.ndarray:
    """The same with any `fill` of the memory. stale: what stands in the place of the result, or of each of its rows."""
    image = Image(placed.layout.beats)
    image.write_rows(placed.y, np.zeros((placed.y.rows, placed.y.columns)) + stale)
    fill(image)
    out = Assembler(config)
    for code in placed.codes:
        assemble(out, code)
    state = State(config, image.regions)
    for instruction in out.finish().instructions:
        execute(instruction, state)
    return image.read_rows(placed.y)


def tapped(w: np.ndarray, conv: ConvShape, rows: int) -> np.ndarray:
    """Return W [taps x channels, n] with zeros behind the channels of each tap, `rows` in all."""
    taps = kinds.taps(conv)
    out = np.zeros((taps, rows // taps, w.shape[1]), w.dtype)
    out[:, : len(w) // taps] = w.reshape(taps, -1, w.shape[1])
    return out.reshape(rows, -1)


def channels(x: np.ndarray, index: int, count: int) -> np.ndarray:
    """Return the pixels of a group of channels, as rows."""
    each = x.shape[-1] // count
    return np.ascontiguousarray(x[..., index * each : (index + 1) * each])


def one_group(conv: ConvShape) -> ConvShape:
    groups = conv.groups
    return replace(conv, channels_in=conv.channels_in // groups, channels_out=conv.channels_out // groups, groups=1)


def input_reference(conv: ConvShape, dy: np.ndarray, w: np.ndarray, pattern: Pattern) -> np.ndarray:
    """Return dX of one group, phase by phase, as `algorithms.layers.products.Conv2d` computes it."""
    dx = np.zeros((conv.batch, conv.height, conv.width, conv.channels_in), np.float16)
    kept = pack(w, pattern.n, pattern.m, axis=1).unpack().T
    for p, rows in enumerate(backward_taps(conv, 0)):
        for q, columns in enumerate(backward_taps(conv, 1)):
            if not rows.taps or not columns.taps:
                continue
            size = (rows.length, columns.length)
            side = windows(dy, rows.offsets, columns.offsets, size)
            matrix = np.ascontiguousarray(backward_matrix(np.ascontiguousarray(kept), conv, rows, columns))
            product = to_half(ordered_dot(side, matrix)).reshape(conv.batch, *size, -1)
            dx[:, p :: conv.stride[0], q :: conv.stride[1]] = product
    return dx


def reached(conv: ConvShape) -> np.ndarray:
    """Return for each pixel of the input whether a window reads it."""
    axes = zip((conv.height, conv.width), output_size(conv), range(2), strict=True)
    found = []
    for length, outputs, v in axes:
        one = np.zeros(length, bool)
        for o in range(outputs):
            places = [o * conv.stride[v] + t * conv.dilation[v] - conv.padding[v] for t in range(conv.kernel[v])]
            one[[place for place in places if 0 <= place < length]] = True
        found.append(one)
    return np.tile(np.outer(*found).ravel(), conv.batch)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.name)
@pytest.mark.parametrize("name", CONVOLUTIONS)
@pytest.mark.parametrize("pattern", [None, Pattern(2, 4)], ids=str)
def test_forward_of_convolutions(config: SatConfig, name: str, pattern: Pattern | None) -> None:
    rng, conv = np.random.default_rng(1), CONVOLUTIONS[name]
    layer = ConvLayer(name="c", shape=conv)
    x, b = halves(rng, conv.batch, conv.height, conv.width, conv.channels_in), rng.standard_normal((1, 64))
    (product,) = forward_products(layer, pattern)
    w = halves(rng, product.k, product.n)
    index, one, held = product.count - 1, one_group(conv), product.pattern or DENSE
    try:
        placed = place_product(config, product, Form.WEIGHTS, index=index, bias=True)
    except ValueError as error:
        assert "groups of W_ff run across taps" in str(error)
        assert one.channels_in % 4
        assert product.pattern is not None
        assert conv.kernel[0] * conv.kernel[1] > 1
        return
    bias = b[:, : product.n].astype(np.float16).astype(np.float32)

    def fill(image: Image) -> None:
        image.write_rows(placed.a, channels(x, index, conv.groups).reshape(-1, one.channels_in))
        image.write_copies(placed.weights, pack(tapped(w, conv, placed.weights.k), held.n, held.m), None)
        assert placed.bias is not None
        image.write_rows(placed.bias, bias)

    im2col = forward_windows(channels(x, index, conv.groups), one)
    expected = to_half(ordered_dot_packed(im2col, pack(w, held.n, held.m)) + bias)
    assert np.array_equal(carry_out(config, placed, fill), expected)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.name)
@pytest.mark.parametrize("name", CONVOLUTIONS)
@pytest.mark.parametrize("pattern", [None, Pattern(2, 8)], ids=str)
def test_input_gradient_of_convolutions(config: SatConfig, name: str, pattern: Pattern | None) -> None:
    """Where no gradient reaches stay the zeros that memory starts with; all other results are written."""
    rng, conv = np.random.default_rng(2), CONVOLUTIONS[name]
    layer, one = ConvLayer(name="c", shape=conv), one_group(conv)
    product = input_gradient_products(layer, pattern)[0]
    held, index = product.pattern or DENSE, product.count - 1
    placed = place_product(config, product, Form.WEIGHTS, index=index)
    w = halves(rng, kinds.taps(conv) * one.channels_in, one.channels_out)
    dy = halves(rng, conv.batch, *output_size(conv), conv.channels_out)

    def fill(image: Image) -> None:
        image.write_rows(placed.a, channels(dy, index, conv.groups).reshape(-1, one.channels_out))
        padded = tapped(w, conv, placed.weights.k)
        image.write_copies(placed.weights, pack(padded, 4, 4), pack(padded, held.n, held.m, axis=1))

    expected = input_reference(one, channels(dy, index, conv.groups), w, held)
    stale = np.where(reached(one), np.nan, 0.0)[:, None]
    assert np.array_equal(carry_out(config, placed, fill, stale), expected.reshape(-1, one.channels_in))


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.name)
@pytest.mark.parametrize("name", ["2x2, stride 3", "10 outputs", "dilation 2"])
def test_a_masked_part_of_an_input_gradient(config: SatConfig, name: str) -> None:
    """Ten input channels whose weights have one pattern, each part of the input by its own taps, packed for it."""
    rng, conv, pattern, n = np.random.default_rng(9), CONVOLUTIONS[name], Pattern(3, 16), 10
    outputs, step = conv.channels_out, conv.stride
    dy = halves(rng, conv.batch, *output_size(conv), outputs)
    for part in gradient_parts(conv):
        taps = len(part.taps)
        product = Product("c", Stage.BP, part.positions, taps * 16, n, pattern, 1, part)
        placed = place_product(config, product, Form.MASKED)
        w = tapped(halves(rng, taps * outputs, n), replace(conv, kernel=(taps, 1)), placed.weights.k)
        packed = pack(w, pattern.n, pattern.m)

        def fill(image: Image, placed: Placed = placed, packed: Packed = packed) -> None:
            image.write_rows(placed.a, dy.reshape(-1, outputs))
            image.write_copies(placed.weights, packed, None)

        size = (part.vertical.positions, part.horizontal.positions)
        side = windows(dy, part.vertical.offsets, part.horizontal.offsets, size).reshape(-1, taps, outputs)
        wide = np.zeros((len(side), taps, placed.weights.k // taps), np.float16)
        wide[:, :, :outputs] = side
        found = carry_out(config, placed, fill, 0.0).reshape(conv.batch, conv.height, conv.width, n)
        mine = found[:, part.vertical.first :: step[0], part.horizontal.first :: step[1]][:, : size[0], : size[1]]
        expected = to_half(ordered_dot_packed(wide.reshape(len(side), -1), packed))
        assert np.array_equal(mine, expected.reshape(mine.shape))
        assert np.count_nonzero(found) == np.count_nonzero(mine)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.name)
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_weight_gradient_of_convolutions(config: SatConfig, name: str) -> None:
    rng, conv = np.random.default_rng(3), CONVOLUTIONS[name]
    one = one_group(conv)
    (product,) = weight_gradient_products(ConvLayer(name="c", shape=conv))
    index = product.count - 1
    placed = place_product(config, product, Form.WEIGHTS, index=index)
    x = halves(rng, conv.batch, conv.height, conv.width, conv.channels_in)
    dy = halves(rng, product.k, conv.channels_out)
    mine, gradient = channels(x, index, conv.groups), channels(dy, index, conv.groups)
    found = run(config, placed, (placed.a, mine.reshape(-1, one.channels_in)), (placed.rows, gradient))
    im2col = np.ascontiguousarray(forward_windows(mine, one).T)
    assert np.array_equal(found, tapped(to_half(ordered_dot(im2col, gradient)), conv, placed.y.rows))


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.name)
@pytest.mark.parametrize("pattern", [None, Pattern(2, 4)], ids=str)
def test_the_host_lays_out_the_windows_of_a_first_layer(config: SatConfig, pattern: Pattern | None) -> None:
    """A row of 27 numbers for each window: a beat, as a pixel of 3 channels takes one; groups run across its taps."""
    rng, conv = np.random.default_rng(7), CONVOLUTIONS["3 channels"]
    layer = ConvLayer(name="c", shape=conv)
    x, dy = halves(rng, conv.batch, conv.height, conv.width, 3), halves(rng, 60, 8)
    w, held, im2col = halves(rng, 27, 8), pattern or DENSE, forward_windows(x, conv)
    placed = place_product(config, forward_products(layer, pattern)[0], Form.WEIGHTS, backward=False)
    assert placed.a.beats == 60

    def fill(image: Image) -> None:
        image.write_rows(placed.a, im2col)
        image.write_copies(placed.weights, pack(w, held.n, held.m), None)

    packed = pack(w, held.n, held.m)
    assert np.array_equal(carry_out(config, placed, fill), to_half(ordered_dot_packed(im2col, packed)))
    placed = place_product(config, weight_gradient_products(layer)[0], Form.WEIGHTS, backward=False)
    found = run(config, placed, (placed.a, im2col), (placed.rows, dy))
    assert np.array_equal(found, to_half(ordered_dot(np.ascontiguousarray(im2col.T), dy)))


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.name)
@pytest.mark.parametrize("pattern", [None, Pattern(2, 8)], ids=str)
def test_gradients_of_a_linear_layer(config: SatConfig, pattern: Pattern | None) -> None:
    rng, layer = np.random.default_rng(4), LinearLayer(name="l", rows=21, features_in=50, features_out=26)
    held = pattern or DENSE
    w, x, dy = halves(rng, 50, 26), halves(rng, 21, 50), halves(rng, 21, 26)
    placed = place_product(config, input_gradient_products(layer, pattern)[0], Form.WEIGHTS)

    def fill(image: Image) -> None:
        image.write_rows(placed.a, dy)
        image.write_copies(placed.weights, pack(w, 4, 4), pack(w, held.n, held.m, axis=1))

    packed = pack(w, held.n, held.m, axis=1)
    assert np.array_equal(carry_out(config, placed, fill), to_half(ordered_dot_packed(dy, packed)))
    placed = place_product(config, weight_gradient_products(layer)[0], Form.WEIGHTS)
    found = run(config, placed, (placed.a, x), (placed.rows, dy))
    assert np.array_equal(found, to_half(ordered_dot(np.ascontiguousarray(x.T), dy)))


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.name)
@pytest.mark.parametrize("form", [Form.PLAIN, Form.TURNED, Form.TRANSPOSED])
@pytest.mark.parametrize("shape", [(9, 12, 9), (40, 33, 70), (17, 64, 300)])
def test_products_of_two_activations(config: SatConfig, form: Form, shape: tuple[int, int, int]) -> None:
    """An infinity and a NaN in the operand that is turned stay where they are."""
    rng = np.random.default_rng(5)
    m, k, n = shape
    product = Product("attention", Stage.FF, m, k, n, count=3)
    placed = place_product(config, product, form, index=2)
    a, b = halves(rng, m, k), halves(rng, k, n)
    b[0, 0], b[-1, n // 2] = np.inf, np.nan
    laid = (a.T if form is Form.TRANSPOSED else a, b.T if form is Form.TURNED else b)

    def fill(image: Image) -> None:
        image.write_rows(placed.a, laid[0])
        image.write_rows(placed.rows, laid[1])
        if placed.turning is not None:
            write_identity(image, placed.turning.identity)

    expected = to_half(ordered_dot(a, b))
    assert np.array_equal(carry_out(config, placed, fill).view(np.uint16), expected.view(np.uint16))


def test_heads_are_turned_before_the_first_product() -> None:
    """Each head has a room of its own; the products need not wait for the turn in front of them, which is quicker."""
    config, rng = preset("tiny"), np.random.default_rng(8)
    product = Product("scores", Stage.FF, 9, 12, 9, count=4)
    heads = [
        place_product(config, replace(product, name=f"scores{i}"), Form.TURNED, index=i) for i in range(product.count)
    ]
    ordered = kinds.turned_first(head.codes for head in heads)
    assert [code.name for code in ordered] == [f"scores{i}{part}" for part in ("/turn", "") for i in range(4)]
    a, b, image = halves(rng, 4, 9, 12), halves(rng, 4, 9, 12), Image(heads[0].layout.beats)
    for i, head in enumerate(heads):
        image.write_rows(head.a, a[i])
        image.write_rows(head.rows, b[i])
    assert heads[0].turning is not None
    write_identity(image, heads[0].turning.identity)
    code, apart = assembled(config, ordered), assembled(config, [c for head in heads for c in head.codes])
    state = State(config, image.regions)
    for instruction in code:
        execute(instruction, state)
    for i, head in enumerate(heads):
        assert np.array_equal(image.read_rows(head.y), to_half(ordered_dot(a[i], np.ascontiguousarray(b[i].T))))
    assert cycles(config, code) < 0.7 * cycles(config, apart)


def assembled(config: SatConfig, codes: list[ProductCode]) -> tuple[Instruction, ...]:
    out = Assembler(config)
    for code in codes:
        assemble(out, code)
    return out.finish().instructions


def cycles(config: SatConfig, instructions: tuple[Instruction, ...]) -> int:
    """Return the cycles of a program, by the exact gear."""
    words = [instruction.encode() for instruction in instructions]
    regions = (*(Region(number << 40, 1 << 20, True) for number in range(3)), Region(3 << 40, len(words), False))
    return Sat(config).time(Launch(regions, 3, 0, len(words)), words).cycles


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.name)
def test_gradients_pruned_within_the_step(config: SatConfig) -> None:
    """SDGP packs dY along the outputs, MVUE along the rows: both are the second operand."""
    rng, pattern = np.random.default_rng(6), Pattern(1, 2)
    conv = ConvShape(1, 5, 6, 16, 8, (3, 3), (1, 1), (1, 1))
    layer = ConvLayer(name="c", shape=conv)
    product = replace(weight_gradient_products(layer, pattern)[0], online=True)
    placed = place_product(config, product, Form.PACKED)
    x, dy = halves(rng, 1, 5, 6, 16), halves(rng, product.k, 8)
    packed = pack(dy, 1, 2)

    def fill(image: Image) -> None:
        image.write_rows(placed.a, x.reshape(-1, 16))
        image.write_copies(placed.weights, packed, None)

    im2col = np.ascontiguousarray(forward_windows(x, conv).T)
    assert np.array_equal(carry_out(config, placed, fill), to_half(ordered_dot_packed(im2col, packed)))
    product = replace(input_gradient_products(layer, None, pattern)[0], online=True)
    placed = place_product(config, product, Form.PACKED)
    a, w = halves(rng, product.m, product.k), halves(rng, product.k, product.n)
    packed = pack(w, 1, 2)

    def other(image: Image) -> None:
        image.write_rows(placed.a, a)
        image.write_copies(placed.weights, packed, None)

    assert np.array_equal(carry_out(config, placed, other), to_half(ordered_dot_packed(a, packed)))


def test_two_products_of_one_name_are_refused() -> None:
    """The buffers know operands by the name of their product: the second would take those of the first."""
    config = preset("tiny")
    placed = place_product(config, Product("twin", Stage.FF, 4, 8, 4), Form.PLAIN)
    out = Assembler(config)
    assemble(out, placed.codes[0])
    with pytest.raises(ValueError, match="has a product 'twin' already; names must differ"):
        assemble(out, placed.codes[0])


def test_parts_of_a_tensor_wait_for_each_other() -> None:
    """A product that reads one head of what another wrote whole waits for it."""
    config, layout = preset("tiny"), Layout()
    x, y, z = layout.rows("x", 0, 4, 32), layout.rows("y", 1, 4, 64), layout.rows("z", 1, 4, 4)
    w, v = layout.rows("w", 0, 32, 64), layout.rows("v", 0, 32, 4)
    out = Assembler(config)
    for code in kinds.activation_product("first", kinds.Matrix(x), kinds.Matrix(w), y):
        assemble(out, code)
    (second,) = kinds.activation_product("second", kinds.Matrix(y.part((0, 4), (32, 32))), kinds.Matrix(v), z)
    assemble(out, second)
    load = next(node for node in out.nodes if node.label == "second" and node.opcode is Opcode.LOAD_ACT)
    assert load.wait >> LINKS[Queue.STORE, Queue.LOAD] & 1
    with pytest.raises(ValueError, match="starts at column 16; it must be a multiple of 32"):
        y.part((0, 4), (16, 16))


@pytest.mark.parametrize("rows", [1, 2, 4, 8, 16, 32])
@pytest.mark.parametrize("lanes", [1, 2])
def test_a_machine_that_cannot_transpose_is_named_before_work(rows: int, lanes: int) -> None:
    """`check_transposes` refuses those and only those on which no mapping of a transposed operand runs."""
    config = SatConfig(name="mine", rows=rows, columns=2, act_lanes=lanes)
    shape = (64, 16, 8)
    try:
        gradient_program(config, shape, None, 1)
    except ValueError as error:
        assert "whole beats" in str(error)
        for refused in (check_transposes, kinds.identity_pattern):
            with pytest.raises(ValueError, match=f"rows {rows}; to transpose.*: set rows=4"):
                refused(config)
    else:
        check_transposes(config)
        assert kinds.identity_pattern(config).m >= 2
        assert random_job(config, 777).code.instructions
