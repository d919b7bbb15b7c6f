"""The demo's page: can be read on a phone, on paper and by screen readers."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from itertools import combinations
from typing import TYPE_CHECKING, Final

import pytest

from nmsat.reports.pages import demo_page as page
from nmsat.reports.pages.page_tables import Cell, Table
from nmsat.reports.work.records import Check, ProductRun, Span, Timeline
from tests.pages.picture import CONTENT, pixels_on_phone, size_of, texts, words
from tests.pages.records import made_up

if TYPE_CHECKING:
    from nmsat.reports.work.records import DemoRecord

PICTURES: Final = ("loss", "accuracy", "cycles", "timeline", "zoom")
VOID: Final = ("meta", "link", "br", "img")


@dataclass
class Node:
    """An element of a page."""

    tag: str
    attributes: dict[str, str]
    children: list[Node] = field(default_factory=list)
    text: str = ""

    def all(self, *tags: str) -> list[Node]:
        found: list[Node] = [self] if self.tag in tags else []
        for child in self.children:
            found += child.all(*tags)
        return found

    def words(self) -> str:
        return " ".join((self.text + " ".join(child.words() for child in self.children)).split())


class Reader(HTMLParser):
    """Reads a page into nodes and fails where a tag is not closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.root = Node("", {})
        self._open = [self.root]
        self.feed(text)
        self.close()
        assert self._open == [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        node = Node(tag, {name: value or "" for name, value in attrs})
        self._open[-1].children.append(node)
        if tag not in VOID:
            self._open.append(node)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._open[-1].children.append(Node(tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop().tag == tag

    def handle_data(self, data: str) -> None:
        self._open[-1].text += data


def of_the_demo() -> DemoRecord:
    """Return a record with the products of the demo's network, in the order of a step."""
    sizes = {"conv1": 20_541, "conv2": 589_885, "conv3": 294_973, "fc1": 16_445, "fc2": 1_597}
    order = [(layer, "ff") for layer in sizes] + [(layer, stage) for layer in reversed(sizes) for stage in ("wu", "bp")]
    products, checks, timelines = [], [], []
    for layer, stage in order:
        sparse = stage != "wu" and layer not in ("conv1", "fc2")
        cycles = sizes[layer] // 4 if sparse else sizes[layer]
        pattern = "2:8" if sparse else "dense"
        products.append(
            ProductRun(layer, stage, 2048, 288, 16, pattern, 16, 15 * cycles, cycles, sizes[layer], {"finish": 45})
        )
        checks.append(Check(layer, stage, 32, 288, 16, pattern, False, 2365, 2365, 512, None))
    for label in ("dense", "BDWP 2:8"):
        edges, busy, spans = [0], [], []
        for item in products:
            cycles = item.cycles_dense if label == "dense" else item.cycles
            spans.append(Span(item.layer, item.stage, edges[-1], edges[-1] + cycles))
            edges.append(edges[-1] + cycles)
            busy.append(0.9)
        timelines.append(Timeline(label, tuple(edges), tuple(busy), tuple(spans)))
    return replace(made_up(), products=tuple(products), timelines=tuple(timelines), checks=tuple(checks))


@pytest.fixture(scope="module")
def record() -> DemoRecord:
    return of_the_demo()


@pytest.fixture(scope="module")
def plots(record: DemoRecord) -> dict[str, str]:
    return page.draw(record)


@pytest.fixture(scope="module")
def root(record: DemoRecord, plots: dict[str, str]) -> Node:
    return Reader(page.render(record, plots)).root


@pytest.fixture(scope="module")
def css(root: Node) -> str:
    (style,) = (node for node in root.all("head")[0].all("style"))
    return re.sub(r"/\*.*?\*/", "", style.text, flags=re.DOTALL)


def rules(css: str, medium: str = "") -> list[tuple[str, dict[str, str]]]:
    """Return (selectors, declarations) of the rules of one medium; '' for those outside of any."""
    if medium:
        parts = [part for part in css.split("@media")[1:] if part.strip().startswith(medium)]
        css = "\n".join(part.partition("{")[2] for part in parts)
    else:
        css = re.sub(r"@media[^{]*\{(?:[^{}]*\{[^{}]*\})*[^{}]*\}", "", css)
    found = re.findall(r"([^{}]+)\{([^{}]*)\}", css)
    return [
        (" ".join(selector.split()), dict(re.findall(r"([\w-]+):\s*([^;]+)", declarations)))
        for selector, declarations in found
    ]


def test_a_page_is_all_of_its_files(record: DemoRecord) -> None:
    assert tuple(page.page_files(record)) == page.PAGE_FILES


def test_a_phone_shows_the_page_at_its_own_width(root: Node) -> None:
    (viewport,) = (node for node in root.all("meta") if node.attributes.get("name") == "viewport")
    assert viewport.attributes["content"] == "width=device-width, initial-scale=1"
    assert root.all("html")[0].attributes["lang"] == "en"


def test_nothing_is_wider_than_a_phone(root: Node, css: str) -> None:
    outside = rules(css) + rules(css, "screen and (max-width")
    assert len(outside) > 30
    for selector, declarations in outside:
        for name in ("width", "min-width", "flex-basis", "columns", "grid-template-columns"):
            text = re.sub(r"min\(100%,[^)]*\)", "", declarations.get(name, ""))
            for number, unit in re.findall(r"([\d.]+)(px|rem|em|pt)", text):
                assert float(number) * (1 if unit == "px" else 17) <= CONTENT / 2, selector
    margins = [value for selector, found in rules(css) if selector == "body" for value in found["padding"].split()]
    assert margins == ["1.75rem", "16px", "3rem"]
    for svg in root.all("svg"):
        assert "width" not in svg.attributes
        assert "style" not in svg.attributes
    picture = dict(rules(css))["figure svg"]
    assert (picture["width"], picture["height"]) == ("100%", "auto")


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_can_be_read_on_a_phone(plots: dict[str, str], name: str) -> None:
    width, height = size_of(plots[name])
    assert pixels_on_phone(plots[name]) >= 11
    shown = texts(plots[name])
    assert [text for text in shown if text.box[0] < 0 or text.box[1] < 0] == []
    assert [text for text in shown if text.box[2] > width or text.box[3] > height] == []
    assert [(one.text, other.text) for one, other in combinations(shown, 2) if one.meets(other)] == []


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_have_words(plots: dict[str, str], name: str) -> None:
    _, description = words(plots[name])
    assert re.search(r"\d", description)


def test_every_picture_stands_in_a_figure_with_a_caption(root: Node) -> None:
    figures = root.all("figure")
    assert len(figures) == len(root.all("svg")) == len(PICTURES)
    for figure in figures:
        assert [node.tag for node in figure.children] == ["svg", "figcaption"]
        assert len(figure.children[1].words()) > 30


def test_tables_say_what_they_are_and_which_cells_are_headings(root: Node) -> None:
    tables = root.all("table")
    assert len(tables) == 4
    for table in tables:
        assert table.children[0].tag == "caption"
        assert table.children[0].words()
        head, body = table.all("thead")[0], table.all("tbody")[0]
        assert {node.attributes["scope"] for node in head.all("th")} == {"col"}
        for row in body.all("tr"):
            assert [node.tag for node in row.children] == ["th"] + ["td"] * (len(head.all("th")) - 1)
            assert row.children[0].attributes["scope"] == "row"
        for tag, role in (("table", "table"), ("tr", "row"), ("td", "cell"), ("thead", "rowgroup")):
            assert {node.attributes["role"] for node in table.all(tag)} == {role}


def test_the_column_that_matters_comes_first(root: Node) -> None:
    leads = []
    for table in root.all("table"):
        heads = table.all("thead")[0].all("th")
        leads.append([head.words() for head in heads if "more" not in head.attributes.get("class", "")])
        labels = [head.words() for head in heads[1:]]
        for row in table.all("tbody")[0].all("tr"):
            cells = row.all("td")
            assert [cell.attributes["data-label"] for cell in cells] == labels
            assert ["more" in cell.attributes.get("class", "") for cell in cells] == [
                "more" in head.attributes.get("class", "") for head in heads[1:]
            ]
    assert leads == [
        ["run", "test accuracy", "last loss"],
        ["stage", "speed-up", "cycles"],
        ["product", "speed-up", "cycles"],
        ["product", "result", "values compared"],
    ]


def test_a_phone_shows_the_other_columns_below_with_their_headings(css: str) -> None:
    narrow = dict(rules(css, "screen and (max-width"))
    assert narrow["tr"]["flex-wrap"] == "wrap"
    assert narrow["td.more::before"]["content"].startswith("attr(data-label)")
    first, other = float(narrow["th:first-child"]["flex-basis"][:-1]), float(narrow["th, td"]["flex"].split()[-1][:-1])
    assert first + 2 * other == 100


def test_paper_breaks_tables_between_rows_and_never_pictures(css: str) -> None:
    whole = [selector for selector, found in rules(css, "print") if found.get("break-inside") == "avoid"]
    kept = {name.strip() for selector in whole for name in selector.split(",")}
    assert {"figure", "tr"} <= kept
    assert not kept & {"table", "tbody", "body", "main", ".plots"}
    repeated = dict(rules(css, "print"))["thead"]
    assert repeated["display"] == "table-header-group"


def test_dark_screens_have_colours_of_their_own_and_paper_has_not(css: str) -> None:
    assert "@media screen and (prefers-color-scheme: dark)" in css
    dark, light = dict(rules(css, "screen and (prefers"))[":root"], dict(rules(css))[":root"]
    assert set(dark) == {name for name in light if name.startswith("--")}


def test_the_page_says_where_its_figures_come_from(root: Node) -> None:
    sources = [node.words() for node in root.all("dt")]
    assert sources == [source for source, _ in page.SOURCES]
    assert len(root.all("dd")) == len(sources)


def test_a_record_with_many_layers_stays_readable(record: DemoRecord) -> None:
    items = [
        replace(item, layer=f"encoder{number}.attention", cycles=item.cycles + number)
        for number in range(4)
        for item in record.products
    ]
    svg = page.draw(replace(record, products=tuple(items)))["cycles"]
    shown = texts(svg)
    assert size_of(svg)[0] == 360
    assert [(one.text, other.text) for one, other in combinations(shown, 2) if one.meets(other)] == []
    assert min(text.box[0] for text in shown) >= 0
    assert max(text.box[2] for text in shown) <= 360


def test_a_table_needs_a_cell_for_each_column() -> None:
    with pytest.raises(ValueError, match="row 'a' has 1 cells; the table has 2 columns"):
        Table("caption", ("one", "two"), 1, ((Cell("a"),),))
