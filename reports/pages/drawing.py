"""Pictures of a report in four shapes: bars in panels, stacked bars, a matrix of numbers, dots by class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from nmsat.reports.pages.style import INK, SMALL, VERMILLION, new_figure, note

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BAR: Final = 20
"""Height of a row with a bar, units."""

HEAD: Final = 34
"""Height of a panel's title with the gap above it, units."""

FOOT: Final = 44
"""Height of an axis with its title, units."""

_THICK: Final = 0.62
_DARK: Final = 0.55  # share of a colour map's range from which on its numbers are white


@dataclass(frozen=True)
class Panel:
    """Bars under a title. bars: name -> length; bounds: name -> where its bound is marked; line: value and name of a
    line across all bars."""

    title: str
    bars: Mapping[str, float]
    bounds: Mapping[str, float]
    line: tuple[float, str] | None = None


def bar_panels(panels: Sequence[Panel], color: str, axis: str, form: str = "{:.2f}") -> Figure:
    """Draw panels of bars under one another on one axis, each bar with its number inside."""
    figure = new_figure(sum(BAR * len(panel.bars) + HEAD for panel in panels) + FOOT)
    heights = [len(panel.bars) + HEAD / BAR / 2 for panel in panels]
    column = figure.subplots(len(panels), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    for axes, panel in zip(column, panels, strict=True):
        _bars(axes, panel, color, form)
    most = max(max((*panel.bars.values(), *panel.bounds.values())) for panel in panels)
    lines = [panel.line[0] for panel in panels if panel.line]
    column[0].set_xlim(0, 1.06 * max([most, *lines]))
    column[-1].set_xlabel(axis)
    return figure


def _bars(axes: Axes, panel: Panel, color: str, form: str) -> None:
    places = range(len(panel.bars))
    axes.barh(places, list(panel.bars.values()), height=_THICK, color=color)
    for place, (name, value) in enumerate(panel.bars.items()):
        note(axes, form.format(value), (0, place), (5, 0), va="center", color="white")
        if name in panel.bounds:
            bound = panel.bounds[name]
            axes.plot((bound, bound), (place - 0.44, place + 0.44), color=INK, linewidth=1.6)
    title = panel.title
    if panel.line:
        axes.axvline(panel.line[0], color=INK, linewidth=1, linestyle=(0, (4, 3)))
        title += f"; dashed: {panel.line[1]}"
    axes.set_title(title)
    _rows(axes, list(panel.bars))


def stacked(
    rows: Mapping[str, Mapping[str, float]],
    colors: Mapping[str, str],
    axis: str,
    totals: Mapping[str, str],
    *,
    hatched: Sequence[str] = (),
) -> Figure:
    """Draw a bar for each row, of parts in colours; totals: text behind each bar; hatched: parts drawn so."""
    figure = new_figure(BAR * len(rows) + FOOT + 50)
    axes = figure.subplots()
    for place, parts in enumerate(rows.values()):
        left = 0.0
        for part, value in parts.items():
            hatch = "////" if part in hatched else None
            axes.barh(place, value, left=left, height=_THICK, color=colors[part], hatch=hatch, edgecolor="white", lw=0)
            left += value
    most = max(sum(parts.values()) for parts in rows.values())
    for place, name in enumerate(rows):
        axes.text(sum(rows[name].values()) + 0.015 * most, place, totals[name], va="center", fontsize=SMALL)
    axes.set_xlim(0, 1.2 * most)
    axes.set_xlabel(axis)
    _rows(axes, list(rows))
    handles = [
        axes.barh(0, 0, color=color, hatch="////" if part in hatched else None, edgecolor="white", lw=0, label=part)
        for part, color in colors.items()
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=2)
    return figure


def matrix(rows: Mapping[str, Mapping[str, float]], columns: Mapping[str, str], most: float | None = None) -> Figure:
    """Draw numbers in a grid, darker where they are larger, on one decimal; columns: key -> heading, upright above.

    most: the number that is darkest, the largest unless it is given; a number that rounds to 0 is a dot.
    """
    longest = max(map(len, columns.values()))
    figure = new_figure(BAR * len(rows) + 7 * longest + 24)
    axes = figure.subplots()
    grid = [[parts.get(key, 0.0) for key in columns] for parts in rows.values()]
    top = most or max(map(max, grid)) or 1.0
    edges = [[place - 0.5 for place in range(count + 1)] for count in (len(columns), len(rows))]
    axes.pcolormesh(*edges, grid, cmap="Blues", vmin=0, vmax=1.15 * top)
    axes.invert_yaxis()
    for y, line in enumerate(grid):
        for x, value in enumerate(line):
            text = f"{value:.1f}" if value >= 0.05 else "·"
            color = "white" if value > _DARK * 1.15 * top else "#1d1f21"
            axes.text(x, y, text, ha="center", va="center", fontsize=SMALL, color=color)
    axes.set_xticks(range(len(columns)), list(columns.values()), rotation=90)
    axes.set_yticks(range(len(rows)), list(rows))
    axes.tick_params(length=0, top=False, bottom=False, labeltop=True, labelbottom=False)
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)
    return figure


@dataclass(frozen=True)
class Dot:
    """A value in a row: filled where it was read or counted, a ring where it is less sure, a diamond for ours."""

    name: str
    value: float
    sure: bool
    ours: bool = False


def dot_panels(classes: Mapping[str, Sequence[Dot]], axis: str, form: str = "{:,.0f}") -> Figure:
    """Draw classes under one another, each on an axis of its own that begins at 0."""
    figure = new_figure(sum(BAR * len(dots) + HEAD + FOOT - 14 for dots in classes.values()) + 14)
    heights = [len(dots) + HEAD / BAR / 2 for dots in classes.values()]
    column = figure.subplots(len(classes), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axes, (title, dots) in zip(column, classes.items(), strict=True):
        most = max(dot.value for dot in dots)
        for place, dot in enumerate(dots):
            color = VERMILLION if dot.ours else INK
            face = color if dot.sure else "none"
            axes.plot((0, dot.value), (place, place), color=color, linewidth=1, alpha=0.5)
            marker = "D" if dot.ours else "o"
            axes.plot(dot.value, place, marker, color=color, markerfacecolor=face, markersize=6)
            text = form.format(dot.value).replace(",", "\N{THIN SPACE}")
            axes.annotate(text, (dot.value, place), (7, 0), textcoords="offset points", va="center", fontsize=SMALL)
        axes.set_xlim(0, 1.25 * most)
        axes.set_title(title)
        _rows(axes, [dot.name for dot in dots])
        axes.locator_params(axis="x", nbins=4)
    column[-1].set_xlabel(axis)
    return figure


def _rows(axes: Axes, names: Sequence[str]) -> None:
    """Name the rows of bars, the first on top."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")
