"""reports: sums, pictures and the page, from made-up records and from a short run of the real thing."""

from __future__ import annotations

import dataclasses
import json
import re
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import numpy as np
import pytest

from nmsat.algorithms.core.nm import pack, prune
from nmsat.algorithms.core.tape import Pattern, Product, Stage
from nmsat.algorithms.training.train import DEMO
from nmsat.dataflow.contract.config import PRODUCT_STAGES, preset
from nmsat.dataflow.cycles.array import product_duration
from nmsat.dataflow.mapping.choose import best_tiling
from nmsat.dataflow.mapping.tiling import Mapping, Tiling
from nmsat.reports.pages import demo_page as page
from nmsat.reports.pages.style import STAGE_COLORS
from nmsat.reports.work.demo import CUT_CYCLES, cut
from nmsat.reports.work.records import (
    LEAST_VALUES,
    Timeline,
    summary,
    total,
)
from nmsat.reports.work.timeline import busy_elements, step_timeline
from nmsat.sim.array.fast import simulate_product
from nmsat.sim.array.stce import Stce
from nmsat.sim.array.stepped import place_operands, run_stepped
from tests.pages.records import made_up

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from nmsat.algorithms.core.packed import Packed
    from tests.conftest import Outcome

SVG = "{http://www.w3.org/2000/svg}"


def test_sums_over_stages_and_step() -> None:
    record = made_up()
    assert [item.stage for item in record.stages] == ["ff", "bp", "wu"]
    assert sum(item.cycles for item in record.stages) == record.total.cycles == 45600
    assert record.total.speedup == pytest.approx(5 * 16500 / 45600)
    assert record.total.bound == pytest.approx(5 / (3 / 4 + 2))
    assert record.total.speedup < record.total.bound
    assert total("none", record.products[:1]).ideal == record.products[0].ideal == 64**3 / 4 / 16


def test_products_are_listed_layer_by_layer() -> None:
    assert [(p.layer, p.stage) for p in made_up().by_layer] == [
        ("conv<1>", "ff"),
        ("conv<1>", "wu"),
        ("fc", "ff"),
        ("fc", "bp"),
        ("fc", "wu"),
    ]


def test_one_difference_spoils_the_record() -> None:
    assert made_up().match
    assert not made_up("row 1, column 2").match
    assert not dataclasses.replace(made_up(), checks=()).match
    late = dataclasses.replace(made_up().checks[0], cycles_rtl=301)
    assert not late.match


def test_summary_is_json_with_the_numbers_of_the_record() -> None:
    values = json.loads(json.dumps(summary(made_up()), allow_nan=False))
    assert (values["accuracy_dense"], values["accuracy_sparse"]) == (0.9, 0.875)
    assert values["match"] is True
    assert values["cycles"] == 45600
    assert values["source"] == "array alone"
    assert values["rtl"] == {
        "source": "array's RTL",
        "whole": 0,
        "part": 2,
        "values": 128,
        "different": 0,
        "text": "0 whole, 2 in part, 128 values",
    }
    assert len(values["products"]) == 5
    assert values["products"][0]["utilization"] == pytest.approx(64**3 / 4 / 4200 / 16)


def test_page_stands_alone_and_says_what_was_found() -> None:
    record = made_up("row 1, <column> 2")
    text = page.render(record, page.draw(record))
    assert not re.findall(r'(?:src|href)="(?!#)', text)
    assert "@import" not in text
    assert "<script" not in text
    assert "conv&lt;1&gt;" in text
    assert "row 1, &lt;column&gt; 2" in text
    assert "conv<1>" not in text
    for number in (
        "87.5 %",
        "90.0 %",
        "NOT equal",
        "1 DIFFERENT; equal: 0 whole, 1 in part, 64 values",
        "1.81×",
        "1.82×",
        "45\N{NARROW NO-BREAK SPACE}600",
    ):
        assert number in text
    assert text.count("<svg") == 5


def test_ids_of_pictures_do_not_meet_on_the_page() -> None:
    pictures = page.draw(made_up())
    for name, svg in pictures.items():
        root = ElementTree.fromstring(svg)
        assert root.tag == f"{SVG}svg"
        identifiers = {node.get("id") for node in root.iter() if node.get("id")}
        assert identifiers
        assert all(str(identifier).startswith(f"{name}-") for identifier in identifiers)
        targets = set(re.findall(r'url\(#([^)]*)\)|xlink:href="#([^"]*)"', svg))
        assert {a or b for a, b in targets} <= identifiers


def test_pictures_follow_the_theme_in_a_page_and_are_on_white_in_a_file() -> None:
    files = page.page_files(made_up())
    assert set(files) == set(page.PAGE_FILES)
    assert set(files) == {"report.html", "accuracy.svg", "cycles.svg", "loss.svg", "timeline.svg", "zoom.svg"}
    alone = files["cycles.svg"]
    assert "currentColor" not in alone
    assert ElementTree.fromstring(alone)[2].get("fill") == "#ffffff"
    assert "currentColor" in files["report.html"]


DEMO_SHAPES = {
    "conv1 ff": (2048, 9, 16, None),
    "conv2 ff": (2048, 144, 32, "2:8"),
    "fc2 ff": (32, 64, 10, None),
    "conv3 wu": (288, 512, 32, None),
    "conv2 wu": (144, 2048, 32, None),
    "conv1 wu": (9, 2048, 16, None),
    "a row": (1, 4096, 300, None),
    "a column": (300, 4096, 1, "2:4"),
    "few": (7, 8192, 9, None),
    "one": (1, 20000, 1, None),
}
"""Products of the demo's step (weight gradients were once cut to one value, at the same cycles), and narrow shapes."""


@pytest.mark.parametrize("config", ["tiny", "small", "vcu1525"])
@pytest.mark.parametrize("name", DEMO_SHAPES)
def test_a_part_of_a_product_has_at_least_64_values(name: str, config: str) -> None:
    m, k, n, pattern = DEMO_SHAPES[name]
    zeros = np.zeros((m, k), np.float16), np.zeros((k, n), np.float16)
    product = Product(name, Stage.WU, m, k, n, Pattern.parse(pattern or "dense"), a=zeros[0], w=zeros[1])
    tiling = cut(preset(config), product, CUT_CYCLES).tiling
    values = tiling.m * tiling.n
    assert tiling.k == k
    assert values >= min(LEAST_VALUES, m * n)
    if (config, product.name[-2:]) == ("tiny", "wu"):
        assert product_duration(tiling).total == product_duration(dataclasses.replace(tiling, m=1, n=1)).total


def test_pictures_are_the_same_every_time() -> None:
    assert page.draw(made_up()) == page.draw(made_up())


def test_chart_bars_are_as_long_as_their_cycles() -> None:
    root = ElementTree.fromstring(page.draw(made_up())["cycles"])
    widths = []
    for path in root.iter(f"{SVG}path"):
        numbers = [float(value) for value in re.findall(r"-?\d+\.?\d*", path.get("d", ""))]
        if f"fill: {STAGE_COLORS['ff']}" in path.get("style", "") and path.get("clip-path"):
            widths.append(max(numbers[::2]) - min(numbers[::2]))
    short, long = sorted(widths)
    assert long / short == pytest.approx(4300 / 4200, rel=1e-3)


def test_timeline_needs_matching_edges() -> None:
    with pytest.raises(ValueError, match="edges has 2 entries; it must have one more than busy"):
        Timeline("x", (0, 1), (0.5, 0.5), ())


def test_timeline_holds_all_multiply_adds_of_the_step() -> None:
    config = preset("tiny")
    products = [
        Product("a", Stage.FF, 40, 72, 24, Pattern(2, 8)),
        Product("b", Stage.WU, 9, 50, 7),
        Product("a", Stage.BP, 24, 8, 24, Pattern(1, 4)),
    ]
    results = [simulate_product(best_tiling(config, p.m, p.k, p.n, p.pattern)) for p in products]
    timeline = step_timeline("x", products, results)
    done = sum(b * (e - s) for b, s, e in zip(timeline.busy, timeline.edges, timeline.edges[1:], strict=False))
    assert done * config.elements == pytest.approx(sum(result.macs for result in results))
    assert timeline.edges[-1] == sum(result.cycles for result in results)
    assert [span.stop - span.start for span in timeline.spans] == [result.cycles for result in results]


@pytest.mark.parametrize(
    ("mapping", "slices"),
    [
        (Mapping(False, 2, 2, 8), ()),
        (Mapping(False, 1, 4, 4), (2,)),
        (Mapping(True, 4, 2, 4), ()),
        (Mapping(True, 1, 1, 16), (1, 3)),
    ],
)
def test_busy_elements_are_those_of_the_stepped_simulator(mapping: Mapping, slices: tuple[int, ...]) -> None:
    config = preset("tiny").replace(row_slices=slices, column_slices=slices)
    tiling = Tiling(config, mapping, 9, 40, 20)
    rng = np.random.default_rng(5)
    w = prune(rng.standard_normal((40, 20)).astype(np.float16), mapping.n, mapping.m, axis=0)
    a = rng.standard_normal((9, 40)).astype(np.float16)
    packed = pack(w, mapping.n, mapping.m, axis=0)
    _, trace = run_stepped(a, packed, tiling)
    assert busy_elements(trace.starts, tiling, trace.cycles).tolist() == observed(a, packed, tiling)[: trace.cycles]


def observed(a: np.ndarray, packed: Packed, tiling: Tiling) -> list[int]:
    """Return the elements busy in each cycle from the first window's start, watched in the registers."""
    placed = place_operands(a, packed, tiling)
    engine = Stce(tiling.config)
    pending, busy, first = list(placed.commands), [], None
    for _ in range(5000):
        if engine.head.token is not None and first is None:
            first = engine.cycle
        busy.append(engine.elements.busy())
        if engine.tick(pending[0] if pending else None)[0]:
            pending.pop(0)
    assert first is not None
    # The product register shows a multiply-add PRODUCT_STAGES cycles after the step.
    return busy[first + PRODUCT_STAGES :]


@pytest.mark.rtl
def test_short_demo_agrees_with_the_rtl() -> None:
    from nmsat.reports.work.demo import run_demo

    record = run_demo(preset("tiny"), Pattern(2, 8), 3, DEMO.replace(epochs=1, batch=8))
    assert record.match
    assert {(check.stage, check.pattern) for check in record.checks} >= {("ff", "2:8"), ("bp", "2:8"), ("wu", "dense")}
    assert len(record.checks) == len(record.products) == 14
    assert 1.5 < record.total.speedup < record.total.bound
    files = page.page_files(record)
    assert set(files) == set(page.PAGE_FILES)
    words = record.covered.text
    assert words == "5 whole, 9 in part, 14,000 values"
    assert words in files["report.html"]
    assert summary(record)["rtl"]["text"] == words
    assert all(check.whole or check.values >= LEAST_VALUES for check in record.checks)


@pytest.mark.long
def test_demo_keeps_its_accuracy(call: Callable[[str], Outcome], tmp_path: Path) -> None:
    outcome = call(f"demo --out {tmp_path / 'demo'} --json")
    values = json.loads(outcome.out)
    assert outcome.code == 0
    assert values["match"] is True
    assert values["accuracy_sparse"] > values["accuracy_dense"] - 0.02
    assert values["accuracy_dense"] > 0.97
    stored = json.loads((tmp_path / "demo" / "summary.json").read_text())
    assert stored == {key: value for key, value in values.items() if key != "folder"}
