"""The estimate that mappings are chosen by, against what the machine takes."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import product

import pytest

from nmsat.algorithms.core.tape import ConvShape, Pattern, Stage
from nmsat.dataflow.contract.config import SatConfig, preset
from nmsat.dataflow.contract.isa import Opcode, Side
from nmsat.dataflow.contract.registers import Launch
from nmsat.dataflow.mapping.tiling import Mapping
from nmsat.dataflow.program.activations import RowsSource, WindowPace, WindowSource
from nmsat.dataflow.program.assembler import Assembler
from nmsat.dataflow.program.emit import assemble, choose
from nmsat.dataflow.program.estimate import MANY, TIE, estimate_cycles, fastest, least_cycles
from nmsat.dataflow.program.load_cost import load_cost, port_cost
from nmsat.dataflow.program.product import Cut, Epilogue, ProductCode, Sink, cuts
from nmsat.dataflow.program.sources import DepthRange, Even
from nmsat.dataflow.program.tensors import Layout
from nmsat.dataflow.program.weights import ForwardWeights
from nmsat.dataflow.program.windows import taps_of, window_of
from nmsat.sim.quick.gear import Quick
from nmsat.sim.quick.product import time_product
from nmsat.tb.machine.layers import OPEN, LayerProduct

VCU = preset("vcu1525")
SHALLOW = VCU.replace(act_depth=1024)
"""A machine in whose activation buffers 576 elements of 128 rows do not stay."""


def plain(m: int, k: int, n: int, pattern: Pattern | None = None, *, bias: bool = False) -> ProductCode:
    """Return a product of rows by packed weights."""
    layout = Layout()
    x, y = layout.rows("x", 0, m, k), layout.rows("y", 1, m, n)
    held = pattern or Pattern(4, 4)
    w = layout.weights("w", 2, k, n, held, held, backward=False)
    epilogue = Epilogue(kind=Side.TILE32, side=layout.rows("bias", 0, 1, n, 4)) if bias else Epilogue()
    return ProductCode("ff", m, k, n, RowsSource(x, m, k), ForwardWeights(w), Sink(y, epilogue), held)


def run(config: SatConfig, code: ProductCode) -> tuple[Cut, int]:
    """Return how a product is cut and what the machine takes."""
    out = Assembler(config)
    cut = assemble(out, code)
    instructions = out.finish().instructions
    launch = Launch((OPEN,) * 4, 0, 0, len(instructions))
    return cut, Quick(config).time_code(launch, instructions, limit=10**8).report.cycles


@pytest.mark.parametrize(
    ("m", "k", "n"),
    [
        pytest.param(512, 64, 256, id="many results, the port is busy with writes"),
        pytest.param(512, 128, 512, id="few chunks to a tile, stores overlap"),
        pytest.param(512, 256, 64, id="many operands, the port is busy with reads"),
        pytest.param(512, 512, 256, id="a long reduction, the array is busy"),
    ],
)
def test_twice_the_rows_take_as_many_more_cycles_as_estimated(m: int, k: int, n: int) -> None:
    """Without start and end; both are cut alike."""
    mapping = choose(VCU, plain(m, k, n, Pattern(2, 8))).mapping
    pairs = [run(VCU, replace(plain(rows, k, n, Pattern(2, 8)), mapping=mapping)) for rows in (m, 2 * m)]
    (few, exact_few), (many, exact_many) = pairs
    estimated, exact = estimate_cycles(many) - estimate_cycles(few), exact_many - exact_few
    assert abs(estimated / exact - 1) < 0.07, (estimated, exact)


@pytest.mark.parametrize(
    ("code", "config"),
    [
        pytest.param(plain(32, 512, 200), VCU, id="loads before anything else"),
        pytest.param(replace(plain(32, 512, 96), dataflow="ws"), VCU, id="sums that wait for those in front"),
        pytest.param(LayerProduct(Stage.WU, 16, (64, 128), batch=4).code(), VCU, id="a long reduction in parts"),
        pytest.param(LayerProduct(Stage.FF, 8, (64, 64), 3, pattern=Pattern(2, 8)).code(), VCU, id="windows"),
    ],
)
def test_start_and_end_are_part_of_it(code: ProductCode, config: SatConfig) -> None:
    cut, exact = run(config, code)
    assert abs(estimate_cycles(cut) / exact - 1) < 0.07, (estimate_cycles(cut), exact)


def test_the_cut_that_is_chosen_is_the_fastest() -> None:
    """Windows that do not stay in the buffers are staged anew for every column tile, each part of them once."""
    code = LayerProduct(Stage.FF, 2, (64, 256), 3, batch=32, pattern=Pattern(2, 8)).code()
    exact = {cut.mapping: run(SHALLOW, replace(code, mapping=cut.mapping))[1] for cut in cuts(SHALLOW, code)}
    chosen, cycles = run(SHALLOW, code)
    assert len(exact) > 2
    assert cycles == exact[chosen.mapping] <= 1.01 * min(exact.values()), exact


@pytest.mark.parametrize(
    "code",
    [
        pytest.param(plain(256, 1152, 128, Pattern(2, 8)), id="few tiles, what is alone counts"),
        pytest.param(plain(1024, 128, 512, Pattern(2, 8)), id="the port is busy, short tiles wait for it"),
        pytest.param(plain(1024, 4, 128, Pattern(2, 4)), id="bursts of one beat"),
    ],
)
def test_nothing_is_faster_than_what_is_chosen(code: ProductCode) -> None:
    gear = Quick(VCU)
    exact = {cut.mapping: time_product(gear, code, cut).cycles for cut in cuts(VCU, code)}
    assert exact[choose(VCU, code).mapping] <= 1.03 * min(exact.values()), exact


@pytest.mark.parametrize(
    ("code", "name", "a"),
    [
        pytest.param(plain(1024, 32, 32, Pattern(2, 4), bias=True), "os", 1, id="no chunks where there are no columns"),
        pytest.param(plain(1280, 384, 1536, Pattern(2, 16), bias=True), "ws", 1, id="the next rows are loaded late"),
    ],
)
def test_what_nobody_chooses_is_known_as_well(code: ProductCode, name: str, a: int) -> None:
    (cut,) = (cut for cut in cuts(VCU, code) if (cut.mapping.name, cut.mapping.a) == (name, a))
    assert estimate_cycles(cut) == pytest.approx(time_product(Quick(VCU), code, cut).cycles, rel=0.15)


def test_a_product_of_few_tiles_starts_soon() -> None:
    """Its reduction comes in parts: the array works while the second is loaded."""
    code = LayerProduct(Stage.WU, 16, (64, 128), batch=16).code()
    cut, cycles = run(VCU, code)
    assert len(cut.rows) * cut.column_tiles == 1
    assert len(cut.parts) > 8
    assert cycles < 1.15 * code.m * code.k * code.n / VCU.elements


def test_lines_that_the_tile_in_front_staged_count_as_there() -> None:
    """Two taps, one line apart: with the lines that are there, staging reads half of what reading each tap would."""
    layer = LayerProduct(Stage.FF, 32, (128, 64), 3, batch=1, pattern=Pattern(2, 8))
    source = layer.code().act
    assert isinstance(source, WindowSource)
    two = replace(source, taps=tuple(tap for tap in source.taps if tap.dx == 0)[:2])
    (mapping,) = (cut.mapping for cut in cuts(VCU, layer.code()) if cut.mapping.a == 2)
    tiles = two.tiles(VCU, mapping)
    part = cuts(VCU, replace(layer.code(), act=two, k=256))[0].parts[0]
    found = [loads[0][0].name for tile in tiles for loads in (two.loads(VCU, mapping, tile, part),)]
    assert found[1:] == ["STAGE"] * (len(tiles) - 1), found


@pytest.mark.parametrize(("m", "k", "n"), [(512, 64, 256), (512, 128, 512)])
def test_a_bias_is_read_once_by_every_tile(m: int, k: int, n: int) -> None:
    pairs = [run(VCU, plain(rows, k, n, Pattern(2, 8), bias=True)) for rows in (m, 2 * m)]
    estimated = estimate_cycles(pairs[1][0]) - estimate_cycles(pairs[0][0])
    assert abs(estimated / (pairs[1][1] - pairs[0][1]) - 1) < 0.07, (estimated, pairs)


def test_the_next_tile_is_staged_beside_the_loads_of_the_present_one() -> None:
    """64 channels: two lines of a tile take a fifth of the time of its loads, which is that of the array."""
    code = LayerProduct(Stage.FF, 64, (64, 64), 3, batch=2, pattern=Pattern(2, 8)).code()
    cut, cycles = run(VCU, code)
    assert cycles < 1.08 * code.m * code.k * code.n / 4 / VCU.elements
    assert abs(estimate_cycles(cut) / cycles - 1) < 0.02, (estimate_cycles(cut), cycles)


def _windows(kernel: int, step: int, channels: int, size: int = 14) -> WindowSource:
    """Return windows of images of size x size pixels, padded as networks do."""
    conv = ConvShape(3, size, size, channels, 16, (kernel, kernel), (step, step), (kernel // 2, kernel // 2))
    tensor = Layout().rows("x", 0, 3 * size * size, channels)
    return WindowSource(tensor, window_of(conv), taps_of(conv))


@pytest.mark.parametrize("lanes", [1, 2])
@pytest.mark.parametrize(("kernel", "step", "channels", "depth"), [
    (3, 1, 64, 1024), (3, 2, 48, 256), (1, 2, 80, 256), (5, 1, 16, 128), (7, 3, 32, 4096), (3, 1, 16, 64)
])  # fmt: skip
def test_loads_of_windows_take_what_each_of_them_takes(
    lanes: int, kernel: int, step: int, channels: int, depth: int
) -> None:
    """Looked at one by one, wherever the tile lies and whatever part of the reduction it is."""
    config = preset("small").replace(act_lanes=lanes, stage_depth=depth)
    source, mapping = _windows(kernel, step, channels), Mapping(ws=False, a=2, n=2, m=8)
    pace = WindowPace(source, config, mapping)
    parts = [DepthRange(0, channels), DepthRange(0, kernel * kernel * channels)]
    for tile, part in product(list(source.tiles(config, mapping)), parts):
        loads = source.loads(config, mapping, tile, part)
        told = [one.load for one in pace.loads(tile, part)]
        assert [load for load in told if load[0] is Opcode.STAGE] == [one for one in loads if one[0] is Opcode.STAGE]
        for cost, name in ((load_cost, "queue"), (port_cost, "port")):
            each = [getattr(one, name) for one in pace.loads(tile, part) for _ in range(one.times)]
            assert each == [cost(config, load) for load in loads]


def test_windows_are_staged_where_that_is_faster_and_else_are_not() -> None:
    mapping, config = Mapping(ws=False, a=2, n=2, m=8), preset("small").replace(stage_depth=1024)
    both = [_windows(3, 1, 64), _windows(3, 3, 64)]
    first = [source.loads(config, mapping, source.tiles(config, mapping)[3], DepthRange(0, 576))[0] for source in both]
    assert [opcode for opcode, _ in first] == [Opcode.STAGE, Opcode.LOAD_ACT]


@pytest.mark.parametrize("pattern", [None, Pattern(1, 4), Pattern(2, 8)])
@pytest.mark.parametrize(("m", "k", "n"), [(4096, 64, 256), (96, 576, 40), (100_000, 1024, 16), (7, 4096, 1000)])
def test_cuts_that_cannot_win_are_left_out_and_no_other(m: int, k: int, n: int, pattern: Pattern | None) -> None:
    for config in (VCU, preset("small"), VCU.replace(ports=2)):
        found = cuts(config, plain(m, k, n, pattern))
        estimates = [estimate_cycles(cut) for cut in found]
        assert all(least_cycles(cut) <= cycles for cut, cycles in zip(found, estimates, strict=True))
        best = found[estimates.index(min(estimates))]
        if len(best.rows) >= MANY:
            near = [c for c, cycles in zip(found, estimates, strict=True) if cycles <= min(estimates) * (1 + TIE)]
            best = min((c for c in near if len(c.rows) >= MANY), key=lambda c: len(c.rows))
        assert fastest(found) == best


def test_pieces_of_a_range_are_those_of_a_list() -> None:
    for total, each in ((10, 3), (9, 3), (2, 5), (1, 1)):
        listed = [DepthRange(first, min(each, total - first)) for first in range(0, total, each)]
        even = Even(total, each, DepthRange)
        assert list(even) == even[:] == listed
        assert [even[-1], even[0], len(even), even[::-2]] == [listed[-1], listed[0], len(listed), listed[::-2]]
        assert dict(Counter(part.size for part in listed)) == even.sizes
        with pytest.raises(IndexError):
            even[len(listed)]
