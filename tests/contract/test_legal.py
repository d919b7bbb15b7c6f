"""Every instruction that the assembler makes is legal: random layers at every preset, all products, all mappings."""

from __future__ import annotations

import contextlib
import dataclasses
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pytest

from nmsat.algorithms.core.numeric import ordered_dot, to_half
from nmsat.algorithms.core.tape import ConvShape, Pattern, Product, Stage
from nmsat.algorithms.core.windows import backward_taps, forward_windows, output_size
from nmsat.dataflow.contract.config import PRESETS, SatConfig, preset
from nmsat.dataflow.contract.isa import OFFSET_MASK, ErrorCode, Instruction, Opcode
from nmsat.dataflow.contract.legal import error_code
from nmsat.dataflow.contract.registers import Launch, Region
from nmsat.dataflow.network.layers import ConvLayer
from nmsat.dataflow.network.step import training_products
from nmsat.dataflow.program.activations import ColumnsSource, RowsSource, WindowSource
from nmsat.dataflow.program.assembler import Assembler
from nmsat.dataflow.program.emit import assemble
from nmsat.dataflow.program.lower import Form, place_product
from nmsat.dataflow.program.product import Epilogue, Phase, ProductCode, Sink, cuts
from nmsat.dataflow.program.tensors import DENSE, Image, Layout
from nmsat.dataflow.program.weights import BackwardWeights, DenseSource, ForwardWeights
from nmsat.dataflow.program.wellformed import check_well_formed
from nmsat.dataflow.program.windows import Images, Tap, Window, taps_of, window_of
from nmsat.sim.values import State, execute

if TYPE_CHECKING:
    from collections.abc import Iterator

CONFIGS = [*PRESETS.values(), SatConfig(name="lanes", rows=4, columns=8, act_lanes=2)]
OPEN = tuple(Region(i << 41, OFFSET_MASK, True) for i in range(4))
"""Regions that hold everything; the program lies in the last."""
PATTERNS = (DENSE, Pattern(2, 4), Pattern(2, 8), Pattern(1, 8), Pattern(2, 16))


def one(rng: np.random.Generator, *values: int) -> int:
    return int(rng.choice(values))


def layer(rng: np.random.Generator) -> Iterator[ProductCode]:
    """Yield the products of a convolution: forward, backward by stride phase, weight gradient."""
    kernel = one(rng, 1, 3, 3, 5)
    channels = one(rng, 16, 32, 64, 64, 128, 256), one(rng, 10, 16, 64, 100, 128)
    size = one(rng, 4, 7, 9, 14)
    step, edge = one(rng, 1, 1, 2), one(rng, 0, kernel // 2)
    conv = ConvShape(one(rng, 1, 2, 3), max(size, kernel), max(size, kernel), *channels, (kernel, kernel), (step, step))
    conv = dataclasses.replace(conv, padding=(edge, edge))
    pattern = PATTERNS[int(rng.integers(len(PATTERNS)))]
    layout = Layout()
    out = output_size(conv)
    inputs, outputs = conv.batch * conv.height * conv.width, conv.batch * out[0] * out[1]
    k, n = kernel * kernel * channels[0], channels[1]
    x, dx = layout.rows("x", 2, inputs, channels[0]), layout.rows("dx", 2, inputs, channels[0])
    y, dy = layout.rows("y", 2, outputs, n), layout.rows("dy", 2, outputs, n)
    w = layout.weights("w", 1, k, n, pattern, pattern, backward=True)
    window, taps = window_of(conv), taps_of(conv)
    yield ProductCode("ff", outputs, k, n, WindowSource(x, window, taps), ForwardWeights(w), Sink(y), pattern)
    act = ColumnsSource(x, outputs, window, taps)
    yield ProductCode("wu", k, outputs, n, act, DenseSource(dy, outputs), Sink(w.gradient, Epilogue(watch=True)))
    for rows in backward_taps(conv, 0):
        for columns in backward_taps(conv, 1):
            if rows.taps and columns.taps:
                part = (rows.length, columns.length)
                met = tuple(Tap(p, q) for p in rows.offsets for q in columns.offsets)
                from_dy = WindowSource(dy, Window(Images(conv.batch, *out), part, (1, 1)), met)
                used = tuple(p * kernel + q for p in rows.taps for q in columns.taps)
                images = Images(conv.batch, conv.height, conv.width)
                sink = Sink(dx, Epilogue(), Phase(images, (rows.phase, columns.phase), conv.stride))
                shape = (conv.batch * part[0] * part[1], len(met) * n, channels[0])
                yield ProductCode("bp", *shape, from_dy, BackwardWeights(w, used, channels[0]), sink, pattern)


def linear(rng: np.random.Generator) -> Iterator[ProductCode]:
    """Yield the products of a fully connected layer."""
    m, k, n = one(rng, 1, 30, 197), one(rng, 20, 64, 512, 1536), one(rng, 10, 64, 200)
    pattern = PATTERNS[int(rng.integers(len(PATTERNS)))]
    layout = Layout()
    x, y = layout.rows("x", 2, m, k), layout.rows("y", 2, m, n)
    w = layout.weights("w", 1, k, n, pattern, pattern, backward=True)
    yield ProductCode("ff", m, k, n, RowsSource(x, m, k), ForwardWeights(w), Sink(y), pattern)
    yield ProductCode("bp", m, n, k, RowsSource(y, m, n), BackwardWeights(w, (0,), k), Sink(x), pattern)
    yield ProductCode("wu", k, m, n, ColumnsSource(x, m), DenseSource(y, m), Sink(w.gradient))


def odd(config: SatConfig, rng: np.random.Generator) -> Iterator[ProductCode]:
    """Yield the products of a convolution: groups, dilation, long strides, few channels, as `lower` places them."""
    kernel, stride, dilation = ((one(rng, 1, 2, 3), one(rng, 1, 3)) for _ in range(3))
    groups = one(rng, 1, 1, 2, 4)
    channels = groups * one(rng, 1, 3, 4, 20, 64), groups * one(rng, 1, 8, 10, 64)
    size = (one(rng, 7, 10, 13), one(rng, 7, 11))
    conv = ConvShape(one(rng, 1, 2), *size, *channels, kernel, stride, (1, one(rng, 0, 1)), dilation, groups)
    pattern = PATTERNS[int(rng.integers(len(PATTERNS)))]
    step = training_products([ConvLayer(name="odd", shape=conv)], "bdwp", pattern, first_and_last_dense=False)
    for product in step.products:
        with contextlib.suppress(ValueError):  # groups that run across taps
            yield from place_product(config, product, Form.WEIGHTS, index=groups - 1, bias=True).codes


def attention(config: SatConfig, rng: np.random.Generator) -> Iterator[ProductCode]:
    """Yield products of two activations, either transposed."""
    for form in (Form.PLAIN, Form.TURNED, Form.TRANSPOSED):
        m, k, n = one(rng, 1, 20, 64, 65), one(rng, 12, 64, 197), one(rng, 16, 64, 300)
        product = Product("attention", Stage.FF, m, k, n, count=2)
        yield from place_product(config, product, form, index=1).codes


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.name)
@pytest.mark.parametrize("seed", range(12))
def test_random_layers_assemble_to_legal_and_well_formed_programs(config: SatConfig, seed: int) -> None:
    rng = np.random.default_rng([14, seed])
    made = 0
    kinds = (layer, layer, linear, partial(odd, config), partial(odd, config), partial(attention, config))
    for code in kinds[seed % 6](rng):
        try:
            found = cuts(config, code)
        except ValueError as error:
            assert "does not run on" in str(error)
            continue
        cut = found[int(rng.integers(len(found)))]
        out = Assembler(config)
        assemble(out, dataclasses.replace(code, mapping=cut.mapping))
        instructions = out.finish().instructions
        for instruction in instructions:
            assert error_code(instruction.encode(), config) is ErrorCode.NONE, instruction
            made += 1
        check_well_formed(config, instructions, Launch(OPEN, 3, 0, len(instructions)))
    assert made


@pytest.mark.parametrize(("rows", "ahead", "legal"), [(32, 0, True), (16, 1, False), (1, 0, True), (33, 0, False)])
def test_columns_mode_may_end_with_the_buffer(rows: int, ahead: int, legal: bool) -> None:
    """tiny, a = 8, M = 2: 32 rows of the tile are all rounds of the array rows, whichever of them are in use."""
    config = preset("tiny")
    base = config.act_depth - 8 * 16 + ahead
    word = Instruction(Opcode.LOAD_ACT, {"mode": 1, "log2_a": 3, "rows": rows, "k": 16, "base": base}).encode()
    assert (error_code(word, config) is ErrorCode.NONE) == legal


def test_an_illegal_instruction_is_refused_when_it_is_made() -> None:
    out = Assembler(preset("tiny"))
    out.emit(Opcode.STAGE, {"outer": 1, "inner": 1}, "first")
    with pytest.raises(ValueError, match=r"conv.ff, instruction 1: STAGE breaks: beats <= stage_depth"):
        out.emit(Opcode.STAGE, {"outer": 2, "inner": 512}, "conv.ff")
    message = r"conv.ff, instruction 1: field .base. of STAGE instruction is 65536; it must be from 0 to 65535"
    with pytest.raises(ValueError, match=message):
        out.emit(Opcode.STAGE, {"outer": 1, "inner": 1, "base": 1 << 16}, "conv.ff")
    assert len(out.nodes) == 1


def test_two_taps_in_one_tile_end_where_the_buffer_ends() -> None:
    """The weight gradient of a 3x3 convolution of 64 channels at vcu1525: a tile of 128 rows holds two taps."""
    config, rng = preset("vcu1525"), np.random.default_rng(3)
    conv = ConvShape(2, 6, 6, 64, 64, (3, 3), (1, 1), (1, 1))
    layout = Layout()
    x, dy, dw = (layout.rows(name, 1, rows, 64) for name, rows in (("x", 72), ("dy", 72), ("dw", 576)))
    image = Image(layout.beats)
    xs, dys = (rng.standard_normal((2, 6, 6, 64)).astype(np.float16) for _ in range(2))
    image.write_rows(x, xs.reshape(72, 64))
    image.write_rows(dy, dys.reshape(72, 64))
    act, wgt = ColumnsSource(x, 72, window_of(conv), taps_of(conv)), DenseSource(dy, 72)
    code = ProductCode("wu", 576, 72, 64, act, wgt, Sink(dw))
    expected = to_half(ordered_dot(np.ascontiguousarray(forward_windows(xs, conv).T), dys.reshape(72, 64)))
    for cut in cuts(config, code):
        out = Assembler(config)
        out.act.take(object(), config.act_depth - cut.act_words(cut.rows[0], cut.parts[0]))
        assemble(out, dataclasses.replace(code, mapping=cut.mapping))
        state = State(config, image.regions)
        words = [instruction.encode() for instruction in out.finish().instructions]
        assert all(error_code(word, config) is ErrorCode.NONE for word in words)
        for word in words:
            execute(Instruction.decode(word), state)
        assert np.array_equal(image.read_rows(dw), expected), cut.mapping
