"""plot_style: colours that can be told apart, text that fits a phone, the same SVG every time, words for the blind."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import combinations
from typing import Final
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pytest

from nmsat.reports.pages.style import (
    DENSE_COLOR,
    INK,
    PALETTE,
    SMALL,
    TEXT,
    new_figure,
    note,
    standalone,
    style,
    svg_text,
)
from tests.pages.picture import pixels_on_phone, size_of, texts, words

EYES: Final = {
    "usual": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
"""What an eye sees of linear red, green and blue (Machado, Oliveira and Fernandes, 2009, severity 1)."""

WHITE: Final = "#ffffff"
DARK: Final = "#17191b"


def linear(color: str) -> np.ndarray:
    """Return linear red, green and blue of '#rrggbb'."""
    values = np.array([int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)])
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    """Return CIE L*a*b* (D65) of linear red, green and blue."""
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    x, y, z = np.cbrt(np.maximum(to_xyz @ np.clip(rgb, 0, 1), 0.0089 * 0.1) / to_xyz.sum(axis=1))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def contrast(first: str, second: str) -> float:
    """Return the contrast of WCAG 2 between two colours."""
    low, high = sorted(float(linear(color) @ (0.2126, 0.7152, 0.0722)) for color in (first, second))
    return (high + 0.05) / (low + 0.05)


def drawn() -> str:
    """Return a small picture with lines, marks, a legend and an annotation."""
    with style():
        figure = new_figure(150)
        axes = figure.subplots()
        axes.plot([0, 1, 2], [1.0, 0.3, 0.5], "o-", label="a <line>")
        axes.set(title="title", xlabel="x", ylabel="y")
        axes.legend()
        note(axes, "here", (1, 0.3), (0, 6), ha="center")
        return svg_text(figure, "small", "Title & more", "What <it> shows.")


@pytest.mark.parametrize("eyes", EYES)
def test_colours_are_told_apart_by_all_eyes(eyes: str) -> None:
    seen = {color: lab(np.array(EYES[eyes]) @ linear(color)) for color in (*PALETTE, DENSE_COLOR)}
    for first, second in combinations(seen, 2):
        assert np.linalg.norm(seen[first] - seen[second]) > 15, (first, second)


@pytest.mark.parametrize("paper", [WHITE, DARK])
def test_colours_stand_out_on_both_papers(paper: str) -> None:
    for color in (*PALETTE, DENSE_COLOR):
        assert contrast(color, paper) >= 3.0, color


def test_text_is_eleven_pixels_on_a_phone() -> None:
    svg = drawn()
    assert pixels_on_phone(svg) >= 11
    assert {text.size for text in texts(svg)} == {TEXT, SMALL}
    assert size_of(svg) == (360, 150)


def test_title_and_description_are_there_and_escaped() -> None:
    assert words(drawn()) == ("Title & more", "What <it> shows.")
    assert words(standalone(drawn())) == words(drawn())


def test_a_picture_for_a_page_has_no_size_and_no_ink_of_its_own() -> None:
    inside, alone = (ElementTree.fromstring(svg) for svg in (drawn(), standalone(drawn())))
    assert (inside.get("width"), inside.get("height")) == (None, None)
    assert (alone.get("width"), alone.get("height")) == ("360", "150")
    assert "currentColor" in drawn()
    assert "currentColor" not in standalone(drawn())
    assert INK not in drawn()


def test_the_same_text_whatever_the_users_settings() -> None:
    with mpl.rc_context({"font.size": 30, "svg.hashsalt": None, "lines.linewidth": 9, "axes.grid": True}):
        changed = drawn()
    assert changed == drawn()


def test_the_same_text_in_another_process() -> None:
    code = "from tests.pages.test_plot_style import drawn; print(drawn(), end='')"
    environment = {**os.environ, "PYTHONHASHSEED": "77", "TZ": "Asia/Tokyo", "SOURCE_DATE_EPOCH": "1"}
    other = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True)
    assert other.stdout == drawn()


def test_no_date_and_no_version_in_the_text() -> None:
    for word in ("metadata", "Matplotlib", mpl.__version__, "http://purl.org"):
        assert word not in drawn()
