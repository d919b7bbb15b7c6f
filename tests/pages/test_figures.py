"""The drawings of README and docs: words for those who do not see them, text that can be read, pictures that exist."""

from __future__ import annotations

import re
from itertools import combinations
from pathlib import Path
from typing import Final
from xml.etree import ElementTree

import pytest

from nmsat.reports.pages.style import PALETTE
from tests.ci_scripts import script
from tests.pages.picture import pixels_on_phone, size_of, texts, words
from tests.source import imported, modules

ROOT: Final = Path(__file__).resolve().parent.parent.parent
FIGURES: Final = sorted((ROOT / "docs" / "figures").glob("*.svg"))
PAGES: Final = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md")), *sorted(ROOT.glob("reports/tables/*.md"))]
README_WIDTH: Final = 830
"""Pixels that a site for code gives a picture of the README on a desktop."""

GREYS: Final = ("#1d1f21", "#44494d", "#5b6064", "#8a8f93", "#d9dbd7", "#e3e6e8", "#f4f6f7", "#ffffff")
TEXT_COLORS: Final = ("#a84800", "#00694d")
"""Darker forms of the palette's colours, in which small text can be read on white."""


def pictures_of(page: Path) -> list[Path]:
    """Return the pictures that a page of Markdown shows, but the badge that the Git host draws."""
    text = page.read_text(encoding="utf-8")
    links = re.findall(r"!\[[^]]+\]\(([^)]+)\)", text)
    links += re.findall(r'<(?:img|source)\b[^>]*\b(?:src|srcset)="([^"]+)"', text)
    return [(page.parent / link).resolve() for link in links if "://" not in link and "/actions/" not in link]


@pytest.mark.parametrize("path", FIGURES, ids=lambda path: path.stem)
def test_a_figure_has_words(path: Path) -> None:
    title, description = words(path.read_text(encoding="utf-8"))
    assert len(title) > 20
    assert len(description) > 2 * len(title)


@pytest.mark.parametrize("path", FIGURES, ids=lambda path: path.stem)
def test_text_of_a_figure_can_be_read(path: Path) -> None:
    svg = path.read_text(encoding="utf-8")
    width, height = size_of(svg)
    root = ElementTree.fromstring(svg)
    assert (root.get("width"), root.get("height")) == (f"{width:g}", f"{height:g}")
    if path.stem.endswith("_narrow"):
        assert pixels_on_phone(svg) >= 11
    else:
        assert min(text.size for text in texts(svg)) * README_WIDTH / width >= 11
    shown = texts(svg)
    assert [text for text in shown if text.box[0] < 0 or text.box[1] < 0] == []
    assert [text for text in shown if text.box[2] > width or text.box[3] > height] == []
    assert [(one.text, other.text) for one, other in combinations(shown, 2) if one.meets(other)] == []


@pytest.mark.parametrize("path", FIGURES, ids=lambda path: path.stem)
def test_a_figure_has_the_colours_of_the_plots(path: Path) -> None:
    used = set(re.findall(r'(?:fill|stroke)="(#[0-9a-f]+)"', path.read_text(encoding="utf-8")))
    assert used <= {*PALETTE, *GREYS, *TEXT_COLORS}


@pytest.mark.parametrize("path", FIGURES, ids=lambda path: path.stem)
def test_a_figure_has_a_form_for_wide_and_for_narrow_screens(path: Path) -> None:
    wide = path.with_stem(path.stem.removesuffix("_narrow"))
    narrow = wide.with_stem(f"{wide.stem}_narrow")
    assert wide in FIGURES
    assert narrow in FIGURES
    assert words(wide.read_text(encoding="utf-8")) == words(narrow.read_text(encoding="utf-8"))
    assert any({wide, narrow} <= set(pictures_of(page)) for page in PAGES)


def test_figures_are_what_their_command_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = script("figures", monkeypatch).figures()
    assert {path.name for path in FIGURES} == set(drawn)
    for path in FIGURES:
        assert path.read_text(encoding="utf-8") == drawn[path.name], "make figures"


def test_rooms_stand_above_those_that_they_import(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the caption of the architecture says; in reports the boxes lie in a row."""
    _, tree = script("figures", monkeypatch).draw("architecture.svg.j2")
    seen = 0
    for module, path in modules().items():
        here = tuple(module.split(".")[:2])
        for name in imported(path, module):
            there = tuple(name.split(".")[:2])
            if here == there or here[0] != there[0] or not {here, there} <= tree.places.keys():
                continue
            (x, y), (other_x, other_y) = tree.places[here], tree.places[there]
            assert (other_x > x) if here[0] == "reports" else (other_y > y), (module, name)
            seen += 1
    assert seen > 500


@pytest.mark.parametrize(
    ("folder", "names", "told"),
    [("dataflow", "schedule", "dataflow/schedule is shown; dataflow has contract, cycles"), ("sim", "load x", "sim/x")],
)
def test_a_room_that_is_not_there_is_not_drawn(
    folder: str, names: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match=f"^{told}"):
        script("figures", monkeypatch).Tree().room(folder, names, 0, 0, 10)


def test_bars_of_the_overview_are_those_of_the_readme(monkeypatch: pytest.MonkeyPatch) -> None:
    figures = script("figures", monkeypatch)
    dense, sparse = figures.demo_cycles("x\nff  30  10  3.00x\nbp  20  5  4.00x\nwu  50  50  1.00x\n")
    assert (dense, sparse) == ({"ff": 30, "bp": 20, "wu": 50}, {"ff": 10, "bp": 5, "wu": 50})
    widths = [float(width) for width in re.findall(r'width="([\d.]+)"', figures.bars(sparse, 7, 2.0))]
    assert widths == [20.0, 10.0, 100.0]
    with pytest.raises(ValueError, match=r"README\.md prints the demo's cycles of \[\]"):
        figures.demo_cycles("nothing")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_pictures_of_a_page_exist_and_have_words(page: Path) -> None:
    for path in pictures_of(page):
        assert path.exists()
        title, _ = words(path.read_text(encoding="utf-8"))
        assert len(title) > 10
    for image in re.findall(r"<img\b[^>]*>", page.read_text(encoding="utf-8")):
        assert re.search(r'\balt="[^"]{20,}"', image)
