"""The pictures of the accuracy table: accuracy against SAT cycles per step, and how much the masks move."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter

from nmsat.reports.pages.demo_plots import DENSE_COLOR, INK, STYLE, standalone, svg_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

METHOD_COLORS: Final = {
    "dense": DENSE_COLOR,
    "ste": "#7fb8e6",
    "sr-ste": "#2f6fb3",
    "sdgp": "#b59a2a",
    "sdwp": "#8a6fc0",
    "bdwp": "#d9812e",
    "bi-mask": "#3fa17a",
    "transposable": "#97ccb0",
    "mvue": "#c76fa0",
    "bdwp+mvue": "#a8324a",
}
"""Colour of each method; forward-only blue, both passes orange and green, the third product red."""

PATTERN_MARKERS: Final = {"dense": "*", "4:8": "o", "2:4": "s", "2:8": "D", "1:8": "^", "2:16": "v"}
"""Marker of each pattern."""

_PANELS: Final = 4  # to a row


def pareto_chart(rows: Sequence[dict[str, Any]]) -> str:
    """Return accuracy against SAT cycles per step as a standalone SVG: a panel per network, a mark per row.

    rows: as in `reports.work.study.gather`. Bars are the spread over seeds; the line joins what no other row beats in
    both.
    """
    networks = list(dict.fromkeys(row["network"] for row in rows))
    lines = -(-(len(networks) + 1) // _PANELS)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(3.1 * _PANELS, 2.9 * lines), layout="constrained")
        panels = figure.subplots(lines, _PANELS, squeeze=False).ravel()
        for axes, network in zip(panels, networks, strict=False):
            _pareto_panel(axes, network, [row for row in rows if row["network"] == network])
        for axes in panels[len(networks) :]:
            axes.set_axis_off()
        methods = [name for name in METHOD_COLORS if any(row["method"] == name for row in rows)]
        marks = [name for name in PATTERN_MARKERS if any(row["pattern"] == name for row in rows)]
        panels[len(networks)].legend(handles=_legend(methods, marks), ncols=2, loc="center", columnspacing=1.2)
        return standalone(svg_text(figure, "pareto"))


def front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the points (cycles, accuracy) that no other beats: fewer cycles and at least the accuracy; by cycles."""
    out: list[tuple[float, float]] = []
    for cycles, accuracy in sorted(points, key=lambda point: (point[0], -point[1])):
        if not out or accuracy > out[-1][1]:
            out.append((cycles, accuracy))
    return out


def mask_chart(masks: Sequence[dict[str, Any]], networks: Sequence[str]) -> str:
    """Return the share of forward masks that changes per update over the epochs of BDWP runs, a panel per network."""
    shades = {"4:8": "#f2c79f", "2:4": "#e8a668", "2:8": "#d9812e", "1:8": "#a85c16", "2:16": "#6e3a09"}
    others = {"decay=0.0": ("2:8, no SR-STE term", "--"), "prune_from=master": ("2:8, pruned from the master", ":")}
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4.1 * len(networks), 3.1), layout="constrained")
        panels = figure.subplots(1, len(networks), squeeze=False)[0]
        for axes, network in zip(panels, networks, strict=True):
            for item in masks:
                if (item["network"], item["method"]) != (network, "bdwp"):
                    continue
                epochs, shares = range(1, len(item["sad_ff"]) + 1), item["sad_ff"]
                if not item["variant"]:
                    color = shades[item["pattern"]]
                    axes.plot(epochs, shares, "o-", color=color, markersize=4, label=item["pattern"])
                elif item["variant"] in others:
                    label, style = others[item["variant"]]
                    axes.plot(epochs, shares, style, color=INK, linewidth=1.2, label=label)
            axes.set(title=network, xlabel="epoch", yscale="log")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=2))
            axes.grid(axis="y")
        panels[0].set_ylabel("mask elements changed per update")
        panels[0].legend(fontsize=8.5)
        return standalone(svg_text(figure, "masks"))


def _pareto_panel(axes: Axes, network: str, rows: Sequence[dict[str, Any]]) -> None:
    points = [(row["sat"]["cycles"] / 1e3, 100 * row["accuracy"]) for row in rows]
    axes.plot(*zip(*front(points), strict=True), color=INK, linewidth=0.9, alpha=0.45, drawstyle="steps-post", zorder=1)
    for row, (cycles, accuracy) in zip(rows, points, strict=True):
        axes.errorbar(
            cycles,
            accuracy,
            yerr=100 * row["spread"],
            fmt=PATTERN_MARKERS[row["pattern"]],
            color=METHOD_COLORS[row["method"]],
            markersize=9 if row["pattern"] == "dense" else 5.5,
            elinewidth=0.7,
            alpha=0.9,
            zorder=3 if row["method"] in ("dense", "bdwp") else 2,
        )
    axes.set(title=network, xlabel="SAT cycles per step, thousands", xlim=(0, 1.06 * max(points)[0]))
    axes.set_ylabel("accuracy, %")
    axes.grid()


def _legend(methods: Sequence[str], patterns: Sequence[str]) -> list[Line2D]:
    colors = [
        Line2D([], [], marker="o", linestyle="", color=METHOD_COLORS[name], label=name, markersize=6)
        for name in methods
    ]
    marks = [
        Line2D([], [], marker=PATTERN_MARKERS[name], linestyle="", color=INK, label=name, markersize=6)
        for name in patterns
    ]
    return [*colors, *marks, Line2D([], [], color=INK, alpha=0.45, label="front")]
