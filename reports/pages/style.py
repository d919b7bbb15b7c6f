"""How every picture looks, and how it becomes SVG text: the same bytes each time, with words for those who do not see.

A picture is drawn for a narrow column: `WIDTH` units wide, one unit a CSS pixel, no text below `SMALL`. So it can be
read on a phone as it is; a wide page sets several side by side. Ink is `currentColor`, so a picture inside a page
follows the page's light or dark theme; `standalone` gives the same picture on white for a file of its own.
"""

from __future__ import annotations

import io
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final
from xml.sax.saxutils import escape

import matplotlib.style
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matplotlib.axes import Axes

PAGE_MARGIN: Final = 16
"""Margin of a page on either side of a phone's screen, CSS pixels; that of a report and of most sites for code."""

WIDTH: Final = 360
"""Width of a picture in its own units; on a phone of 390 CSS pixels it has 390 - 2 PAGE_MARGIN."""

TEXT: Final = 12
"""Size of text, units."""

SMALL: Final = 11.5
"""Size of the smallest text, units; on a phone it must stay at 11 pixels."""

BLUE: Final = "#0072b2"
VERMILLION: Final = "#d55e00"
GREEN: Final = "#009e73"
PALETTE: Final = (BLUE, VERMILLION, GREEN)
"""Colours of Okabe and Ito (2008), told apart with any kind of colour blindness; those that stand out on white and on
the dark page. Their order is that in which a picture takes them."""

DENSE_COLOR: Final = "#666666"
"""Colour of dense training: what everything is compared with."""

STAGE_COLORS: Final = {"ff": BLUE, "bp": VERMILLION, "wu": GREEN}
"""Colour of each stage of a training step."""

STAGE_NAMES: Final = {"ff": "forward (FF)", "bp": "backward (BP)", "wu": "weight gradient (WU)"}

INK: Final = "#010203"
"""Stands for currentColor until the SVG is written."""

FONTS: Final = "system-ui, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"
"""Fonts of the SVG text. It is laid out in DejaVu Sans, the widest of them, so that text fits in all."""

GROUPED: Final = FuncFormatter(lambda value, _: f"{value:,.0f}".replace(",", "\N{THIN SPACE}"))
"""Numbers of an axis, grouped in thousands."""

STYLE: Final[dict[str, Any]] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "nmsat",
    "font.family": "DejaVu Sans",
    "font.size": TEXT,
    **dict.fromkeys(("xtick.labelsize", "ytick.labelsize", "legend.fontsize"), SMALL),
    **dict.fromkeys(("axes.labelsize", "axes.titlesize"), TEXT),
    "axes.titlelocation": "left",
    "axes.titlepad": 8,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
    "legend.frameon": False,
    "legend.borderpad": 0.1,
    "legend.borderaxespad": 0.1,
    "legend.handlelength": 1.4,
    "legend.columnspacing": 1.2,
    "figure.constrained_layout.h_pad": 3 / 72,
    "figure.constrained_layout.w_pad": 2 / 72,
    "grid.color": DENSE_COLOR,
    "grid.alpha": 0.35,
    "grid.linewidth": 0.6,
}
"""Settings of matplotlib over its own defaults; a user's matplotlibrc changes no picture."""

_UNIT: Final = 72  # units to matplotlib's inch


@contextmanager
def style() -> Iterator[None]:
    """Draw and write in the style of this module."""
    with matplotlib.style.context(["default", STYLE]):
        yield


def new_figure(height: float) -> Figure:
    """Return an empty figure, `height` units high."""
    return Figure(figsize=(WIDTH / _UNIT, height / _UNIT), layout="constrained")


def note(axes: Axes, text: str, at: tuple[float, float], offset: tuple[float, float] = (0, 0), **options: Any) -> None:
    """Write small text beside a point of the axes; offset: in units, options: of matplotlib's annotate."""
    axes.annotate(text, at, offset, textcoords="offset points", fontsize=SMALL, **options)


def svg_text(figure: Figure, name: str, title: str, description: str) -> str:
    """Return the figure as SVG text for a page, read to the blind as an image with a title and a description.

    name: put before every id, so that pictures on one page do not meet. Neither date nor version is in the text, and
    numbers are rounded to hundredths of a unit, below what anyone sees and above what machines differ in.
    """
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r"url\(#", f"url(#{name}-", text)
    text = re.sub(r'xlink:href="#', f'xlink:href="#{name}-', text)
    text = re.sub(r'font-family: [^;"]*', f"font-family: {FONTS}", text)
    text = re.sub(r'\b(d|x|y|width|height|transform|points)="([^"]*)"', _rounded, text)
    text = re.sub(r"[ \t]*\n[ \t]*", "\n", text)
    return _with_words(text, name, title, description)


def standalone(svg: str) -> str:
    """Return a picture for a file of its own: dark ink on white, of its own size unless the page gives another."""
    inked = svg.replace("currentColor", "#222222")
    box = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', inked)
    assert box is not None
    inked = inked.replace("<svg ", f'<svg width="{box[1]}" height="{box[2]}" ', 1)
    return inked.replace("</desc>", '</desc>\n<rect width="100%" height="100%" fill="#ffffff"/>', 1)


def _with_words(text: str, name: str, title: str, description: str) -> str:
    """Name the picture by title and description, and leave its size to the page."""
    words = f'<title id="{name}-title">{escape(title)}</title>\n<desc id="{name}-desc">{escape(description)}</desc>'
    head, _, rest = text.partition(">")
    head = re.sub(r' (width|height)="[^"]*"', "", head)
    return f'{head} role="img" aria-labelledby="{name}-title {name}-desc">\n{words}{rest}'


def _rounded(match: re.Match[str]) -> str:
    numbers = re.sub(r"-?\d+\.\d+", lambda number: f"{round(float(number[0]), 2) + 0:g}", match[2])
    return f'{match[1]}="{numbers}"'
