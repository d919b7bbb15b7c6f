"""Machine programs against NumPy: every kind of operand, tile and result, instructions carried out one by one."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from nmsat.algorithms.core.nm import pack
from nmsat.algorithms.core.numeric import ordered_dot, ordered_dot_packed, to_half
from nmsat.algorithms.core.tape import ConvShape, Pattern
from nmsat.algorithms.core.windows import backward_matrix, backward_taps, forward_windows, output_size, windows
from nmsat.dataflow.contract.config import SatConfig, preset
from nmsat.dataflow.contract.isa import Opcode, Side
from nmsat.dataflow.contract.registers import Launch, Region
from nmsat.dataflow.program.activations import ColumnsSource, RowsSource, WindowSource
from nmsat.dataflow.program.assembler import Assembler
from nmsat.dataflow.program.emit import assemble
from nmsat.dataflow.program.listing import disassemble, listing, read_listing
from nmsat.dataflow.program.product import Epilogue, Phase, ProductCode, Sink, cuts
from nmsat.dataflow.program.tensors import DENSE, Image, Layout
from nmsat.dataflow.program.weights import BackwardWeights, DenseSource, ForwardWeights
from nmsat.dataflow.program.wellformed import check_well_formed
from nmsat.dataflow.program.windows import Images, Tap, Window, taps_of, window_of
from nmsat.sim.values import State, execute
from nmsat.tb.machine.jobs import random_job

TWO_LANES = SatConfig(name="lanes", rows=4, columns=8, act_lanes=2)
CONFIGS = [preset("tiny"), preset("small"), TWO_LANES]


def halves(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float16)


def run(config: SatConfig, codes: list[ProductCode], image: Image) -> State:
    out = Assembler(config)
    for code in codes:
        assemble(out, code)
    state = State(config, image.regions)
    for instruction in out.finish().instructions:
        assert type(instruction).decode(instruction.encode()).encode() == instruction.encode()
        execute(instruction, state)
    return state


def forward_case(config: SatConfig, rng: np.random.Generator, shape: tuple[int, int, int], pattern: Pattern, **fixed):
    m, k, n = shape
    layout = Layout()
    x, y = layout.rows("x", 0, m, k), layout.rows("y", 1, m, n)
    w = layout.weights("w", 0, k, n, pattern, pattern, backward=True)
    image = Image(layout.beats)
    a, values = halves(rng, m, k), halves(rng, k, n)
    image.write_rows(x, a)
    packed = pack(values, pattern.n, pattern.m)
    image.write_copies(w, packed, pack(values, pattern.n, pattern.m, axis=1))
    sink = Sink(y, Epilogue(relu=True))
    code = ProductCode("ff", m, k, n, RowsSource(x, m, k), ForwardWeights(w), sink, pattern, **fixed)
    return code, image, y, to_half(np.maximum(ordered_dot_packed(a, packed), 0))


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.name)
@pytest.mark.parametrize("pattern", [DENSE, Pattern(2, 8), Pattern(1, 4), Pattern(2, 2)], ids=str)
def test_rows_times_forward_copy(config: SatConfig, pattern: Pattern) -> None:
    rng = np.random.default_rng(1)
    for shape in [(5, 16, 3), (33, 70, 40), (70, 64, 17)]:
        code, _, _, _ = forward_case(config, rng, shape, pattern)
        for cut in cuts(config, code):
            code, image, y, expected = forward_case(config, rng, shape, pattern, mapping=cut.mapping)
            run(config, [code], image)
            assert np.array_equal(image.read_rows(y), expected), cut.mapping


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.name)
def test_transposed_times_dense(config: SatConfig) -> None:
    """dW = X^T dY: both operands as they lie."""
    rng = np.random.default_rng(2)
    for rows, m, n in [(7, 40, 10), (64, 16, 70), (33, 64, 33)]:
        layout = Layout()
        x, dy = layout.rows("x", 0, rows, m), layout.rows("dy", 0, rows, n)
        dw = layout.rows("dw", 1, m, n, 4)
        image = Image(layout.beats)
        a, b = halves(rng, rows, m), halves(rng, rows, n)
        image.write_rows(x, a)
        image.write_rows(dy, b)
        sink = Sink(dw, Epilogue(to_half=False))
        for cut in cuts(config, ProductCode("wu", m, rows, n, ColumnsSource(x, rows), DenseSource(dy, rows), sink)):
            code = ProductCode("wu", m, rows, n, cut.code.act, cut.code.wgt, sink, None, None, cut.mapping)
            run(config, [code], image)
            assert np.array_equal(image.read_rows(dw), ordered_dot(np.ascontiguousarray(a.T), b)), cut.mapping


@pytest.mark.parametrize("config", [preset("tiny"), TWO_LANES.replace(act_depth=256)], ids=lambda c: c.name)
def test_a_long_reduction_takes_several_commands(config: SatConfig) -> None:
    rng = np.random.default_rng(5)
    rows, m, n = 1500, 40, 20
    layout = Layout()
    x, dy, dw = layout.rows("x", 0, rows, m), layout.rows("dy", 0, rows, n), layout.rows("dw", 1, m, n, 4)
    image = Image(layout.beats)
    a, b = halves(rng, rows, m), halves(rng, rows, n)
    image.write_rows(x, a)
    image.write_rows(dy, b)
    sink = Sink(dw, Epilogue(to_half=False))
    code = ProductCode("wu", m, rows, n, ColumnsSource(x, rows), DenseSource(dy, rows), sink, dataflow="os")
    for cut in cuts(config, code):
        assert len(cut.parts) > 1
        run(config, [dataclasses.replace(code, mapping=cut.mapping)], image)
        assert np.array_equal(image.read_rows(dw), ordered_dot(np.ascontiguousarray(a.T), b)), cut.mapping


def test_parts_of_a_reduction_are_alike_and_leave_half_a_buffer() -> None:
    """vcu1525: 25,088 rows of a weight gradient; 4608 = 9 taps of 512 of a convolution, which are cut between taps.

    Where a tile meets several columns, its parts are of one size: in places of other sizes those of the next tile do
    not fit beside them.
    """
    config = preset("vcu1525")
    layout = Layout()
    x, dy, dw = layout.rows("x", 0, 25088, 64), layout.rows("dy", 0, 25088, 512), layout.rows("dw", 1, 64, 512)
    wu = ProductCode("wu", 64, 25088, 512, ColumnsSource(x, 25088), DenseSource(dy, 25088), Sink(dw), dataflow="os")
    for cut in cuts(config, wu):
        sizes = [part.size for part in cut.parts]
        assert max(sizes) - min(sizes) < 32 * len(sizes)
    x, y = layout.rows("x", 0, 2 * 49, 512), layout.rows("y", 1, 2 * 49, 512)
    w = layout.weights("w", 0, 4608, 512, DENSE, DENSE, backward=True)
    conv = ConvShape(2, 7, 7, 512, 512, (3, 3), (1, 1), (1, 1))
    act = WindowSource(x, window_of(conv), taps_of(conv))
    ff = ProductCode("ff", 98, 4608, 512, act, ForwardWeights(w), Sink(y), DENSE)
    for cut in [*cuts(config, wu), *cuts(config, ff)]:
        assert max(cut.act_words(cut.rows[0], part) for part in cut.parts) <= config.act_depth // 2
        assert max(cut.pairs(part) for part in cut.parts) <= config.weight_depth // 2
    assert [part.size // 512 for part in cuts(config, dataclasses.replace(ff, dataflow="os"))[1].parts] == [3, 3, 3]
    one = dataclasses.replace(ff, n=64, dataflow="os")
    alone = next(cut for cut in cuts(config, one) if cut.column_tiles == 1 and cut.mapping.a == 2)
    assert [part.size // 512 for part in alone.parts] == [5, 4]


@pytest.mark.parametrize("pattern", [DENSE, Pattern(2, 8)], ids=str)
def test_a_long_backward_copy_takes_several_commands(pattern: Pattern) -> None:
    rng = np.random.default_rng(7)
    config, m, k, n = TWO_LANES.replace(act_depth=128), 11, 40, 200
    layout = Layout()
    dy, dx = layout.rows("dy", 0, m, n), layout.rows("dx", 1, m, k)
    w = layout.weights("w", 0, k, n, pattern, pattern, backward=True)
    image = Image(layout.beats)
    g, values = halves(rng, m, n), halves(rng, k, n)
    packed = pack(values, pattern.n, pattern.m, axis=1)
    image.write_rows(dy, g)
    image.write_copies(w, pack(values, pattern.n, pattern.m), packed)
    code = ProductCode("bp", m, n, k, RowsSource(dy, m, n), BackwardWeights(w, (0,), k), Sink(dx), pattern)
    expected = to_half(ordered_dot_packed(g, packed))
    found = cuts(config, code)
    assert any(len(cut.parts) > 1 for cut in found)
    for cut in found:
        run(config, [dataclasses.replace(code, mapping=cut.mapping)], image)
        assert np.array_equal(image.read_rows(dx), expected), cut.mapping


@pytest.mark.parametrize("config", [*CONFIGS, TWO_LANES.replace(name="short", act_depth=128)], ids=lambda c: c.name)
@pytest.mark.parametrize("stride", [1, 2])
def test_convolution_forward_backward_update(config: SatConfig, stride: int) -> None:
    """The three products of a 3x3 convolution with padding, W_ff and W_bp 2:8, stride phases in BP."""
    rng = np.random.default_rng(3)
    c_in, c_out, pattern = 16, 24, Pattern(2, 8)
    conv = ConvShape(2, 5, 6, c_in, c_out, (3, 3), (stride, stride), (1, 1), (1, 1))
    ho, wo = output_size(conv)
    layout = Layout()
    pixels, out_pixels = 2 * 5 * 6, 2 * ho * wo
    x, y = layout.rows("x", 0, pixels, c_in), layout.rows("y", 1, out_pixels, c_out)
    dy, dx = layout.rows("dy", 0, out_pixels, c_out), layout.rows("dx", 1, pixels, c_in)
    dw = layout.rows("dw", 1, 9 * c_in, c_out)
    w = layout.weights("w", 0, 9 * c_in, c_out, pattern, pattern, backward=True)
    image = Image(layout.beats)
    xs, dys, ws = halves(rng, 2, 5, 6, c_in), halves(rng, 2, ho, wo, c_out), halves(rng, 9 * c_in, c_out)
    image.write_rows(x, xs.reshape(pixels, c_in))
    image.write_rows(dy, dys.reshape(out_pixels, c_out))
    image.write_copies(w, pack(ws, 2, 8), pack(ws, 2, 8, axis=1))
    images, out_images = Images(2, 5, 6), Images(2, ho, wo)
    window = Window(images, (ho, wo), (stride, stride))
    taps = tuple(Tap(r - 1, s - 1) for r in range(3) for s in range(3))
    k = 9 * c_in
    codes = [
        ProductCode("ff", out_pixels, k, c_out, WindowSource(x, window, taps), ForwardWeights(w), Sink(y), pattern),
        ProductCode(
            "wu",
            k,
            out_pixels,
            c_out,
            ColumnsSource(x, out_pixels, window, taps),
            DenseSource(dy, out_pixels),
            Sink(dw),
        ),
    ]
    expected_dx = np.zeros_like(xs)
    kept = np.asarray(pack(ws, 2, 8, axis=1).unpack().T)
    for p, rows in enumerate(backward_taps(conv, 0)):
        for q, columns in enumerate(backward_taps(conv, 1)):
            size = (rows.length, columns.length)
            side = windows(dys, rows.offsets, columns.offsets, size)
            matrix = backward_matrix(kept, conv, rows, columns)
            product = to_half(ordered_dot_packed(side, pack(matrix, 2, 8)))
            expected_dx[:, p::stride, q::stride] = product.reshape(2, *size, c_in)
            act = WindowSource(
                dy, Window(out_images, size, (1, 1)), tuple(Tap(r, s) for r in rows.offsets for s in columns.offsets)
            )
            wgt = BackwardWeights(w, tuple(r * 3 + s for r in rows.taps for s in columns.taps), c_in)
            sink = Sink(dx, Epilogue(kind=Side.MASK, side=x), Phase(images, (p, q), (stride, stride)))
            name = f"bp{p}{q}"
            codes.append(ProductCode(name, side.shape[0], side.shape[1], c_in, act, wgt, sink, pattern))
    run(config, codes, image)
    im2col = forward_windows(xs, conv)
    assert np.array_equal(image.read_rows(y), to_half(ordered_dot_packed(im2col, pack(ws, 2, 8))))
    flat = dys.reshape(out_pixels, c_out)
    assert np.array_equal(image.read_rows(dw), to_half(ordered_dot(np.ascontiguousarray(im2col.T), flat)))
    expected = np.where(xs > 0, expected_dx, np.float16(0)).reshape(pixels, c_in)
    assert np.array_equal(image.read_rows(dx), expected)


@pytest.mark.parametrize("config", [preset("tiny").replace(stage_depth=64), TWO_LANES], ids=lambda c: c.name)
def test_every_line_is_staged_once(config: SatConfig) -> None:
    """Tiles that follow each other share lines; they come round in the staging buffer, also where that is small.

    Those of the next tile are staged beside the loads of the present one where there is room.
    """
    rng = np.random.default_rng(8)
    conv = ConvShape(2, 18, 8, 64, 8, (3, 3), (1, 1), (1, 1))
    pixels, k, pattern = 2 * 18 * 8, 9 * 64, Pattern(2, 8)
    layout = Layout()
    x, y = layout.rows("x", 0, pixels, 64), layout.rows("y", 1, pixels, 8)
    w = layout.weights("w", 0, k, 8, pattern, pattern, backward=False)
    image = Image(layout.beats)
    xs, ws = halves(rng, 2, 18, 8, 64), halves(rng, k, 8)
    image.write_rows(x, xs.reshape(pixels, 64))
    image.write_copies(w, pack(ws, 2, 8), None)
    act = WindowSource(x, window_of(conv), taps_of(conv))
    code = ProductCode("ff", pixels, k, 8, act, ForwardWeights(w), Sink(y), pattern, dataflow="os")
    expected = to_half(ordered_dot_packed(forward_windows(xs, conv), pack(ws, 2, 8)))
    once = beside = 0
    for cut in cuts(config, code):
        out = Assembler(config)
        assemble(out, dataclasses.replace(code, mapping=cut.mapping))
        stages = [node.fields for node in out.nodes if node.opcode is Opcode.STAGE]
        once += sum(fields["outer"] * fields["inner"] for fields in stages) == 2 * pixels
        beside += any(node.fields.get("beside") for node in out.nodes)
        code_of = out.finish().instructions
        regions = tuple(Region(number << 24, 1 << 16, True) for number in range(3))
        check_well_formed(config, code_of, Launch(regions, 2, 0, len(code_of)))
        run(config, [dataclasses.replace(code, mapping=cut.mapping)], image)
        assert np.array_equal(image.read_rows(y), expected), cut.mapping
    assert (once and beside) or config.stage_depth == 64


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.name)
def test_bias_and_residual(config: SatConfig) -> None:
    rng = np.random.default_rng(4)
    code, image, y, _ = forward_case(config, rng, (20, 32, 70), Pattern(2, 4))
    layout = Layout([beats.size // 64 for beats in image.regions])
    bias, old = layout.rows("bias", 0, 1, 70, 4), layout.rows("old", 0, 20, 70)
    wide = Image(layout.beats)
    for region, held in zip(wide.regions, image.regions, strict=True):
        region[: held.size] = held
    b, r = rng.standard_normal((1, 70)).astype(np.float32), halves(rng, 20, 70)
    wide.write_rows(bias, b)
    wide.write_rows(old, r)
    plain = ProductCode("plain", 20, 32, 70, code.act, code.wgt, Sink(y), code.pattern)
    run(config, [plain], wide)
    x = wide.read_rows(y).astype(np.float32)
    assert np.isfinite(x).all()
    for side, kind, added in ((bias, Side.TILE32, b), (old, Side.TILE16, r.astype(np.float32))):
        half = ProductCode("s", 20, 32, 70, code.act, code.wgt, Sink(y, Epilogue(kind=kind, side=side)), code.pattern)
        run(config, [half], wide)
        exact = ordered_dot_packed(*_operands(wide, code))
        assert np.array_equal(wide.read_rows(y), to_half(exact + added))


def test_a_second_operand_is_read_beside_stores_unless_one_of_them_writes_it() -> None:
    config = preset("tiny")
    code, _, y, _ = forward_case(config, np.random.default_rng(4), (40, 32, 70), Pattern(2, 4))
    layout = Layout([1 << 20] * 4)
    old, sums = layout.rows("old", 0, 40, 70), layout.rows("sums", 1, 40, 70)
    out = Assembler(config)
    for name, side, sink in (("none", None, y), ("old", old, sums), ("stored", y, sums)):
        kind = Side.NONE if side is None else Side.TILE16
        assemble(out, dataclasses.replace(code, name=name, sink=Sink(sink, Epilogue(kind=kind, side=side))))
    stores = [i for i in out.finish().instructions if i.opcode is Opcode.STORE]
    third = len(stores) // 3
    assert third > 1
    assert [i["beside"] for i in stores] == [0] * third + [1] * third + [0] * third
    assert out.stored(y.part((0, 40), (32, 32)))  # a part of what a store writes
    assert not out.stored(old.part((0, 40), (32, 32)))


def _operands(image: Image, code: ProductCode):
    assert isinstance(code.act, RowsSource)
    assert isinstance(code.wgt, ForwardWeights)
    a = image.read_rows(code.act.tensor)
    w = code.wgt.weights
    words = image.regions[0].view(np.uint32).reshape(-1, 16)[w.ff_place.at : w.ff_place.at + w.ff_place.beats]
    blocks = words.reshape(w.blocks, w.groups, w.ff.n, 16).transpose(1, 2, 0, 3).reshape(w.groups, w.ff.n, -1)
    dense = np.zeros((w.groups * w.ff.m, w.n), np.float16)
    for g, s, c in np.ndindex(w.groups, w.ff.n, w.n):
        if not blocks[g, s, c] >> 20 & 1:
            dense[g * w.ff.m + (blocks[g, s, c] >> 16 & 15), c] = np.uint16(blocks[g, s, c] & 0xFFFF).view(np.float16)
    return a, pack(dense[: w.k], w.ff.n, w.ff.m)


def test_listing_reads_back() -> None:
    config = preset("tiny")
    for seed in range(20):
        code = random_job(config, seed).code
        text = listing(code.instructions, code.labels)
        again = read_listing(text)
        assert again.encode() == code.encode()
        assert again.labels == code.labels
        decoded = disassemble(code.encode())
        assert listing(decoded) == listing(code.instructions)
    with pytest.raises(ValueError, match="line 2 is 'jump a=1': opcode is 'jump'"):
        read_listing("end\njump a=1\n")
    with pytest.raises(ValueError, match="bits set that must be 0"):
        disassemble((1 << 500 | int(Opcode.END)).to_bytes(64, "little"))
    with pytest.raises(ValueError, match="multiple of 64"):
        disassemble(b"x")
