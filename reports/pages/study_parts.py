"""What the pictures of the accuracy table have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from matplotlib.lines import Line2D

from nmsat.reports.pages.style import INK, standalone, svg_text
from nmsat.reports.work.losses import CONFIDENCE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from nmsat.reports.work.losses import Loss

METHOD: Final = "bdwp"
PATTERN: Final = "2:8"
"""Method and pattern of the paper, which the table is about."""

INTERVAL: Final = f"{100 * CONFIDENCE:.0f} % confidence interval"
"""What every error bar is."""

_FEW: Final = 3  # losses from which a network is worth a panel of its own


@dataclass(frozen=True)
class Picture:
    """A picture of the page: its file's name, title and caption, and the SVG text of the file."""

    file: str
    title: str
    caption: str
    svg: str


def picture(figure: Figure, name: str, title: str, caption: str, words: str) -> Picture:
    """Return the figure as a picture; words: what it shows, for those who do not see it."""
    return Picture(f"accuracy_{name}.svg", title, caption, standalone(svg_text(figure, name, title, words)))


def panels(losses: Sequence[Loss]) -> dict[str, list[Loss]]:
    """Return the losses of each network that has enough of them for a panel."""
    found: dict[str, list[Loss]] = {}
    for loss in losses:
        found.setdefault(loss.network, []).append(loss)
    return {network: rows for network, rows in found.items() if len(rows) >= _FEW}


def stack(figure: Figure, shown: dict[str, list[Any]], *, equal: bool = False) -> list[tuple[Axes, str, list[Any]]]:
    """Return axes under one another, one per network under its name, as high as it has rows (or equal)."""
    heights = [1 if equal else len(rows) for rows in shown.values()]
    column = figure.subplots(len(shown), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    out = [(axes, network, rows) for axes, (network, rows) in zip(column, shown.items(), strict=True)]
    for axes, network, _ in out:
        axes.set_title(network, fontweight="bold")
    return out


def dot(color: str, label: str, marker: str = "o") -> Line2D:
    """Return the entry of a legend for marks."""
    return Line2D([], [], marker=marker, linestyle="", color=color, markersize=6, label=label)


def bar(label: str) -> Line2D:
    """Return the entry of a legend for error bars."""
    return Line2D([], [], color=INK, linewidth=1.6, label=label)


def points(value: float) -> str:
    """Return percent points with two decimals and a proper minus sign."""
    return f"{round(value, 2) + 0:.2f}".replace("-", "\N{MINUS SIGN}")  # adding 0 turns -0.0 into 0.0


def by_group(pattern: str) -> int:
    """Return M of 'N:M': patterns of one N in the order of ever fewer kept weights."""
    return int(pattern.partition(":")[2])
