"""Every product of every network and workload is instructions of the machine; docs/machine/programs.md has the rest."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from nmsat.algorithms.core.tape import ConvShape, Pattern, Product, Stage
from nmsat.algorithms.core.vocabulary import PAPER_NETWORKS, TRAINED_NETWORKS
from nmsat.algorithms.workloads.engine.registry import record, workloads
from nmsat.dataflow.contract.config import PRESETS, SatConfig, preset
from nmsat.dataflow.network.layers import ConvLayer, MatMulLayer
from nmsat.dataflow.network.models import load_model
from nmsat.dataflow.network.readers.recorded import recorded_step
from nmsat.dataflow.network.step import training_products
from nmsat.dataflow.program.assembler import Assembler
from nmsat.dataflow.program.emit import emit_command
from nmsat.dataflow.program.lower import Form, form_of, place_product
from nmsat.dataflow.program.product import cuts
from nmsat.dataflow.program.ways import lower

if TYPE_CHECKING:
    from collections.abc import Iterator

CONFIGS = tuple(PRESETS.values())
PATTERNS = (Pattern(2, 4), Pattern(2, 8), Pattern(2, 16), Pattern(1, 8))
PAGE = Path(__file__).parents[2] / "docs" / "machine" / "programs.md"
ATTENTION = {"scores": Form.TURNED, "dshare": Form.TURNED, "dv": Form.TRANSPOSED, "dk": Form.TRANSPOSED}
ATTENTION |= {"mix": Form.PLAIN, "dq": Form.PLAIN}
"""Products of `algorithms.layers.attention` -> how their operands lie."""


def express(config: SatConfig, product: Product, form: Form) -> int:
    """Assemble first and last tiles of every cut of a product; return the instructions, all of them legal."""
    made = 0
    for code in place_product(config, product, form).codes:
        for cut in cuts(config, code):
            columns = range(0, code.n, cut.width)
            out = Assembler(config)
            ends = {
                (tile, column, part)
                for tile in _ends(cut.rows)
                for column in _ends(columns)
                for part in _ends(cut.parts)
            }
            for tile, column, part in sorted(ends, key=lambda end: (end[0].first, end[1], end[2].first)):
                emit_command(out, cut, tile, (column, min(cut.width, code.n - column)), part)
            made += len(out.nodes)
    return made


def _ends(items):
    return (items[0], items[-1])


@cache
def paper_step(network: str, method: str, pattern: Pattern | None) -> tuple[tuple[Product, Form], ...]:
    layers = load_model(network, 2)
    names = frozenset(layer.name for layer in layers if isinstance(layer, MatMulLayer))
    step = training_products(layers, method, pattern)
    return tuple((product, form_of(product, names)) for product in step.products)


def trained_step(network: str, pattern: Pattern | None, *, ends: bool) -> Iterator[tuple[Product, Form]]:
    method = "dense" if pattern is None else "bdwp"
    for product in recorded_step(network, method, pattern, 4, first_and_last_dense=not ends).products:
        yield product, ATTENTION.get(product.name.rpartition(".")[2], form_of(product))


def distinct(found) -> list[tuple[Product, Form]]:
    """Return the products that differ in more than their name."""
    seen = {(form, *product.facts()[1:]): (product, form) for product, form in found}
    return list(seen.values())


def not_on(config: SatConfig, product: Product, form: Form) -> bool:
    """Whether the table of the page says that this product is none of this machine."""
    if form is not Form.PACKED or product.stage is not Stage.WU or product.pattern is None:
        return False
    return 2 * product.pattern.m > config.rows * config.act_lanes and product.m > config.rows


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.name)
def test_the_networks_of_the_paper(config: SatConfig) -> None:
    """Dense and 2:8; all patterns and methods in the long test."""
    found = [item for name in ("resnet50", "vit") for item in paper_step(name, "bdwp", Pattern(2, 8))]
    for product, form in distinct(found)[::3]:
        assert express(config, product, form)


@pytest.mark.long
@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.name)
@pytest.mark.parametrize("network", PAPER_NETWORKS)
def test_every_product_of_the_networks_of_the_paper(network: str, config: SatConfig) -> None:
    found = list(paper_step(network, "dense", None))
    for pattern in PATTERNS:
        for method in ("bdwp", "sdgp", "bdwp+mvue"):
            found += paper_step(network, method, pattern)
    for product, form in distinct(found):
        if not_on(config, product, form):
            with pytest.raises(ValueError, match="those of a transposed operand must be whole beats"):
                express(config, product, form)
        else:
            assert express(config, product, form), product


@pytest.mark.long
@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.name)
@pytest.mark.parametrize("network", TRAINED_NETWORKS)
def test_every_product_of_the_networks_that_train(network: str, config: SatConfig) -> None:
    found = [
        item for pattern in (None, Pattern(2, 4), Pattern(2, 8)) for item in trained_step(network, pattern, ends=False)
    ]
    for product, form in distinct(found):
        assert express(config, product, form), product


@pytest.mark.long
@pytest.mark.parametrize("name", workloads())
def test_every_part_of_the_workloads(name: str) -> None:
    for variant in workloads()[name].variants:
        tape = record(name, "small", variant).tape
        for config in CONFIGS:
            parts = [part for product in tape.products for part in lower(product, config).pieces]
            shapes = {(part.m, part.k, part.n, part.pattern) for part in parts}
            for m, k, n, pattern in shapes:
                assert express(config, Product(name, Stage.OTHER, m, k, n, pattern), Form.PACKED)


def conv(**changes: object) -> ConvLayer:
    sizes = {"batch": 1, "height": 40, "width": 40, "channels_in": 32, "channels_out": 32, "kernel": (3, 3)}
    return ConvLayer(name="c", shape=ConvShape(**{**sizes, **changes}))


REFUSED = {
    "groups that run across taps": ("tiny", conv(channels_in=3), "bdwp", Stage.FF, "groups of W_ff run across taps"),
    "strides above 15": ("tiny", conv(kernel=(16, 16), stride=(16, 16)), "dense", Stage.FF, "'i[xy]_step'"),
    "images wider than 4095": ("tiny", conv(width=5000), "dense", Stage.FF, "'width'"),
    "dY packed along the batch, small arrays": ("small", conv(), "mvue", Stage.WU, "transposed operand must be whole"),
}
"""Row of the page -> a case of it: configuration, layer, method, stage, what the refusal says."""


def refusals() -> list[str]:
    table = PAGE.read_text(encoding="utf-8").split("## What is no program")[1].split("##")[0]
    return re.findall(r"^\| ([^|]+?) \|", table, re.MULTILINE)[1:]


def test_the_page_lists_what_is_refused() -> None:
    assert refusals() == list(REFUSED)


@pytest.mark.parametrize("row", REFUSED)
def test_what_the_page_lists_is_refused(row: str) -> None:
    name, layer, method, stage, message = REFUSED[row]
    step = training_products([layer], method, Pattern(2, 8), first_and_last_dense=False)
    product = next(product for product in step.products if product.stage is stage)
    with pytest.raises(ValueError, match=message):
        express(preset(name), product, form_of(product))
