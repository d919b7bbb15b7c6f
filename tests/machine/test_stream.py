"""A program told by forms against the assembled one: symbol by symbol the same, and none outside of its regions."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from nmsat.algorithms.core.tape import ConvShape, Pattern
from nmsat.dataflow.contract.config import preset
from nmsat.dataflow.contract.isa import Opcode
from nmsat.dataflow.contract.registers import Launch, Region
from nmsat.dataflow.network.layers import ConvLayer
from nmsat.dataflow.network.step import training_products
from nmsat.dataflow.program.assembler import Assembler
from nmsat.dataflow.program.emit import assemble
from nmsat.dataflow.program.lower import form_of, place_product
from nmsat.dataflow.program.product import ProductCode, Sink, cuts
from nmsat.dataflow.program.stream import stream
from nmsat.sim.quick.gear import Quick
from nmsat.sim.quick.read import read_stream
from nmsat.tb.machine.jobs import random_products
from nmsat.tb.machine.layers import OPEN

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nmsat.dataflow.contract.config import SatConfig
    from nmsat.dataflow.contract.isa import Instruction
    from nmsat.dataflow.program.product import Cut

TINY, SMALL, LARGE = preset("tiny"), preset("small"), preset("vcu1525")
TWO_LANES = TINY.replace(name="two-lanes", columns=8, act_lanes=2)
SHALLOW = SMALL.replace(name="shallow", act_depth=256, weight_depth=512, stage_depth=64, sum_depth=256)
"""Buffers that wrap after few tiles, reductions in several parts."""


def both_orders(config: SatConfig, code: ProductCode) -> Iterator[Cut]:
    """Yield all cuts of a product, one by one with the other loop outside."""
    for number, cut in enumerate(cuts(config, code)):
        cut.__dict__["rows_outer"] = bool(number % 2) != cut.rows_outer
        yield cut


def assembled(config: SatConfig, cut: Cut) -> tuple[Instruction, ...]:
    out = Assembler(config)
    assemble(out, cut.code, cut)
    return out.finish().instructions


def check(gear: Quick, cut: Cut) -> float:
    """Compare the symbols of a cut; return instructions / forms, 0 where the program must be assembled."""
    config = gear.sat.config
    program = stream(config, cut)
    if program is None:
        return 0
    instructions = assembled(config, cut)
    settings = Launch((OPEN,) * 4, 0, 0, len(instructions))
    expected, found = gear.symbols.program(instructions, settings), read_stream(gear.symbols, program, settings)
    assert expected is not None
    assert found is not None
    what = f"{cut.code.name} {cut.mapping} rows outside: {cut.rows_outer}"
    assert len(found) == len(expected), what
    for at, (one, other) in enumerate(zip(found, expected, strict=True)):
        assert one is other, f"{what}, instruction {at}: {one} for {instructions[at]}"
    return len(program) / len(program.forms)


@pytest.mark.parametrize("config", [TINY, SMALL, TWO_LANES, SHALLOW], ids=lambda config: config.name)
def test_random_products_have_the_symbols_of_their_programs(config: SatConfig) -> None:
    gear = Quick(config)
    told = [
        check(gear, cut)
        for seed in range(5000, 5006)
        for code in random_products(config, seed)
        for cut in both_orders(config, replace(code, mapping=None))
    ]
    assert min(told) > 0
    assert max(told) > 2


@pytest.mark.long
@pytest.mark.parametrize("config", [TINY, SMALL, TWO_LANES, SHALLOW, LARGE], ids=lambda config: config.name)
def test_a_thousand_random_products(config: SatConfig) -> None:
    gear = Quick(config)
    for seed in range(6000, 6400):
        for code in random_products(config, seed):
            for cut in both_orders(config, replace(code, mapping=None)):
                assert check(gear, cut) > 0


@pytest.mark.parametrize("pattern", [None, Pattern(2, 8)], ids=str)
@pytest.mark.parametrize(
    "conv",
    [
        ConvShape(4, 7, 7, 16, 32, (3, 3), (1, 1), (1, 1), (1, 1)),
        ConvShape(5, 9, 8, 32, 16, (3, 3), (2, 2), (1, 1), (1, 1)),
        ConvShape(6, 8, 8, 32, 48, (1, 1), (2, 2), (0, 0), (1, 1)),
    ],
    ids=["odd image", "stride", "zeros"],
)
def test_layers_have_the_symbols_of_their_programs(conv: ConvShape, pattern: Pattern | None) -> None:
    """Images whose pixels are odd in number, places in pages that move from image to image, zeros between."""
    config = SMALL if pattern else SHALLOW
    gear = Quick(config)
    layers = [ConvLayer(name="a", shape=conv), ConvLayer(name="b", shape=conv)]
    method = "bdwp" if pattern else "dense"
    told = [
        check(gear, cut)
        for product in training_products(layers, method, pattern).products
        for code in place_product(config, product, form_of(product)).codes
        for cut in both_orders(config, code)
    ]
    assert min(told) > 0
    assert max(told) > 3


def test_an_access_outside_is_seen_wherever_it_is() -> None:
    gear = Quick(SMALL)
    seen = 0
    for seed in range(7000, 7010):
        for code in random_products(SMALL, seed):
            (cut,) = cuts(SMALL, code)
            instructions, program = assembled(SMALL, cut), stream(SMALL, cut)
            assert program is not None
            for size in np.random.default_rng(seed).integers(1, 600, 12).tolist():
                regions = tuple(Region(0, size, number != size % 4) for number in range(4))
                settings = Launch(regions, 0, 0, len(instructions))
                expected = gear.symbols.program(instructions, settings)
                assert (read_stream(gear.symbols, program, settings) is None) == (expected is None)
                seen += expected is not None
    assert seen > 10


def test_what_is_read_and_written_is_assembled() -> None:
    (code,) = random_products(SMALL, 5000)[:1]
    for cut in cuts(SMALL, code):
        read = code.act.places()[0]
        inside = replace(cut, code=replace(code, sink=Sink(replace(code.sink.tensor, region=read.region, at=read.at))))
        assert stream(SMALL, inside) is None
        assert stream(SMALL, cut) is not None


def test_a_stream_ends() -> None:
    (code,) = random_products(TINY, 5001)[:1]
    program = stream(TINY, cuts(TINY, code)[0])
    assert program is not None
    assert program.instruction(len(program) - 1).opcode is Opcode.END
