"""The drawings of README and docs: words for those who do not see them, text that can be read, pictures that exist."""

from __future__ import annotations

import re
from itertools import combinations
from pathlib import Path
from typing import Final
from xml.etree import ElementTree

import pytest

from nmsat.reports.pages.style import PALETTE
from tests.pages.picture import pixels_on_phone, size_of, texts, words

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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_pictures_of_a_page_exist_and_have_words(page: Path) -> None:
    for path in pictures_of(page):
        assert path.exists()
        title, _ = words(path.read_text(encoding="utf-8"))
        assert len(title) > 10
    for image in re.findall(r"<img\b[^>]*>", page.read_text(encoding="utf-8")):
        assert re.search(r'\balt="[^"]{20,}"', image)
