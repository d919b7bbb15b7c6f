"""What tests read out of an SVG picture: its texts and where they stand, marks, error bars."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final
from xml.etree import ElementTree

from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath

if TYPE_CHECKING:
    from collections.abc import Iterator

SVG: Final = "{http://www.w3.org/2000/svg}"
CONTENT: Final = 390 - 2 * 16
"""Pixels that a phone of 390 pixels leaves a picture between margins of 16."""


@dataclass(frozen=True)
class Text:
    """A line of text: size and box (left, top, right, bottom) in units of the picture."""

    text: str
    size: float
    box: tuple[float, float, float, float]

    def meets(self, other: Text) -> bool:
        """Whether both boxes share area."""
        (a, b, c, d), (e, f, g, h) = self.box, other.box
        return a < g and e < c and b < h and f < d


def size_of(svg: str) -> tuple[float, float]:
    """Return width and height of a picture in its own units."""
    box = [float(value) for value in ElementTree.fromstring(svg).get("viewBox", "").split()]
    assert box[:2] == [0, 0]
    return box[2], box[3]


def texts(svg: str) -> list[Text]:
    """Return the lines of text, measured in DejaVu Sans, the widest of the fonts that a picture asks for."""
    return list(_texts(ElementTree.fromstring(svg), {}))


def pixels_on_phone(svg: str) -> float:
    """Return the size of the smallest text on a phone, pixels."""
    return min(text.size for text in texts(svg)) * min(CONTENT / size_of(svg)[0], 1.0)


def named(svg: str, kind: str) -> set[str]:
    """Return the ids, without the picture's name, of the groups of a kind: 'mark' or 'interval'."""
    found = re.findall(rf'<g id="[a-z]+-({kind}-[^"]*)"', svg)
    assert len(found) == len(set(found))
    return set(found)


def words(svg: str) -> tuple[str, str]:
    """Return title and description, after a look that the root names them and calls itself an image."""
    root = ElementTree.fromstring(svg)
    assert root.get("role") == "img"
    title, description = root[0], root[1]
    assert (title.tag, description.tag) == (f"{SVG}title", f"{SVG}desc")
    assert root.get("aria-labelledby", "").split() == [title.get("id"), description.get("id")]
    assert title.text
    assert description.text
    return title.text, description.text


def _texts(node: ElementTree.Element, above: dict[str, str], origin: tuple[float, float] = (0, 0)) -> Iterator[Text]:
    style = {
        **above,
        **{key: node.get(key, "") for key in ("font-size", "font-weight", "text-anchor") if node.get(key)},
    }
    style |= dict(pair.strip().split(": ", 1) for pair in node.get("style", "").split(";") if ": " in pair)
    moved = re.search(r"translate\((-?[\d.]+)[ ,]+(-?[\d.]+)", node.get("transform", ""))
    if moved is not None:
        origin = (origin[0] + float(moved[1]), origin[1] + float(moved[2]))
    if node.tag == f"{SVG}text":
        yield from _lines(node, style, origin)
    for child in node:
        yield from _texts(child, style, origin)


def _lines(node: ElementTree.Element, style: dict[str, str], origin: tuple[float, float]) -> Iterator[Text]:
    """Return the text itself, or its tspans, each of which is a line below the one before."""
    turned = re.search(r"rotate\((-?[\d.]+)", node.get("transform", ""))
    angle = 0.0 if turned is None else float(turned[1])
    x, y = origin[0] + float(node.get("x", 0)), origin[1] + float(node.get("y", 0))
    if (node.text or "").strip():
        yield _measured((node.text or "").strip(), style, x, y, angle)
    for line in node:
        assert line.tag == f"{SVG}tspan"
        y += float(line.get("dy", 0))
        yield _measured((line.text or "").strip(), style, origin[0] + float(line.get("x", 0)), y, angle)


def _measured(text: str, style: dict[str, str], x: float, y: float, angle: float) -> Text:
    size = float(style["font-size"].removesuffix("px"))
    width = _width(text, style.get("font-weight", "") in ("bold", "600", "700")) * size
    left = {"middle": -width / 2, "end": -width}.get(style.get("text-anchor", ""), 0.0)
    if angle % 180 == 0:
        return Text(text, size, (x + left, y - 0.75 * size, x + left + width, y + 0.1 * size))
    assert angle == -90, "the tests know upright text only"
    return Text(text, size, (x - 0.75 * size, y - left - width, x + 0.1 * size, y - left))


@lru_cache(maxsize=1024)
def _width(text: str, bold: bool) -> float:
    """Return the width of a text of size 1."""
    properties = FontProperties(family=["DejaVu Sans"], weight="bold" if bold else "normal")
    return TextPath((0, 0), text, size=100, prop=properties).get_extents().x1 / 100
