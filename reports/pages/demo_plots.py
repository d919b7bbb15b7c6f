"""The pictures of a report, as SVG text.

Text and axes are drawn in `currentColor`, so a picture inside a page follows the page's light or dark theme;
`standalone` gives the same picture on white for a file of its own.
"""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Any, Final

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator

from nmsat.reports.work.records import STAGES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from nmsat.reports.work.records import ProductRun, Timeline, TrainingRun, Zoom

STAGE_COLORS: Final = {"ff": "#4a8fd0", "bp": "#d9812e", "wu": "#3fa17a"}
"""Colour of each stage, readable on light and dark and with red-green blindness."""

STAGE_NAMES: Final = {"ff": "forward (FF)", "bp": "backward (BP)", "wu": "weight gradient (WU)"}

INK: Final = "#010203"
"""Stands for currentColor until the SVG is written."""

DENSE_COLOR: Final = "#9a9a9a"
"""Colour of dense training."""

_LABEL_WIDTH: Final = 0.06  # share of the axis from which a product has room for its name
_GROUPED: Final = FuncFormatter(lambda value, _: f"{value:,.0f}".replace(",", "\N{THIN SPACE}"))
STYLE: Final[dict[Any, Any]] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "nmsat",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
    "legend.frameon": False,
    "grid.color": DENSE_COLOR,
    "grid.alpha": 0.35,
    "grid.linewidth": 0.6,
}
"""Settings of matplotlib that all pictures share."""


def loss_curves(runs: Sequence[TrainingRun], window: int = 15) -> str:
    """Return loss against step (mean of `window` steps over the raw curve), and accuracy after each epoch."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8.2, 3.2), layout="constrained")
        loss, accuracy = figure.subplots(1, 2, width_ratios=(3, 2))
        for run, color in zip(runs, (DENSE_COLOR, STAGE_COLORS["bp"]), strict=False):
            loss.plot(range(1, len(run.losses) + 1), run.losses, color=color, linewidth=0.6, alpha=0.4)
            smooth = _running_mean(run.losses, window)
            loss.plot(range(window, window + len(smooth)), smooth, color=color, linewidth=1.8, label=run.label)
            epochs = range(1, len(run.accuracies) + 1)
            accuracy.plot(
                epochs, [100 * value for value in run.accuracies], "o-", color=color, label=run.label, markersize=4
            )
        loss.set(xlabel="step", ylabel="training loss", ylim=(0, None), xlim=(0, None))
        accuracy.set(xlabel="epoch", ylabel="test accuracy, %", xticks=range(1, len(runs[0].accuracies) + 1))
        for axes in (loss, accuracy):
            axes.grid(axis="y")
            axes.legend()
        return svg_text(figure, "loss")


def cycles_chart(products: Sequence[ProductRun]) -> str:
    """Return cycles of each product, dense and as trained, with a mark at the ideal of the kept multiply-adds."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8.2, 0.42 * len(products) + 1.1), layout="constrained")
        axes = figure.subplots()
        for place, product in enumerate(products):
            axes.barh(place - 0.19, product.cycles_dense, 0.34, color=DENSE_COLOR, alpha=0.55)
            axes.barh(place + 0.19, product.cycles, 0.34, color=STAGE_COLORS[product.stage])
            axes.plot([product.ideal] * 2, [place + 0.0, place + 0.38], color=INK, linewidth=1.6, solid_capstyle="butt")
            gain = f"{product.cycles_dense / product.cycles:.2f}×"
            _note(axes, gain, max(product.cycles, product.cycles_dense), place, (4, 0), ha="left", va="center")
        axes.set_yticks(range(len(products)), [f"{product.layer}  {product.stage.upper()}" for product in products])
        axes.invert_yaxis()
        axes.set_xlabel("cycles")
        axes.xaxis.set_major_formatter(_GROUPED)
        axes.grid(axis="x")
        axes.margins(x=0.08, y=0.01)
        axes.set_axisbelow(True)
        handles = [
            Patch(color=DENSE_COLOR, alpha=0.55, label="dense"),
            *(Patch(color=STAGE_COLORS[stage], label=STAGE_NAMES[stage]) for stage in STAGES),
            axes.plot([], [], color=INK, linewidth=1.6, label="bound: kept multiply-adds / elements")[0],
        ]
        figure.legend(handles=handles, loc="outside upper left", ncols=3)
        return svg_text(figure, "cycles")


def timeline_chart(timelines: Sequence[Timeline]) -> str:
    """Return the use of the array over a step, one row per timeline on a common axis of cycles."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8.2, 1.35 * len(timelines) + 1.0), layout="constrained")
        rows = figure.subplots(len(timelines), 1, sharex=True, squeeze=False)[:, 0]
        for axes, timeline in zip(rows, timelines, strict=True):
            _draw_timeline(axes, timeline)
        rows[-1].set_xlabel("cycle")
        rows[-1].xaxis.set_major_formatter(_GROUPED)
        handles = [Patch(color=STAGE_COLORS[stage], label=STAGE_NAMES[stage]) for stage in STAGES]
        figure.legend(handles=handles, loc="outside upper left", ncols=3)
        return svg_text(figure, "timeline")


def zoom_chart(zoom: Zoom) -> str:
    """Return the elements that multiply in each cycle of one product."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8.2, 1.9), layout="constrained")
        axes = figure.subplots()
        edges = range(len(zoom.busy) + 1)
        axes.stairs(zoom.busy, edges, fill=True, color=STAGE_COLORS[zoom.stage], linewidth=0)
        axes.set(xlabel="cycle", ylabel="elements multiplying", ylim=(0, zoom.elements))
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.xaxis.set_major_formatter(_GROUPED)
        axes.margins(x=0)
        return svg_text(figure, "zoom")


def standalone(svg: str) -> str:
    """Return a picture for a file of its own: dark ink on white."""
    inked = svg.replace("currentColor", "#222222")
    return re.sub(r"(<svg[^>]*>)", r'\1<rect width="100%" height="100%" fill="#ffffff"/>', inked, count=1)


def _draw_timeline(axes: Axes, timeline: Timeline) -> None:
    edges = timeline.edges
    for span in timeline.spans:
        first, last = edges.index(span.start), edges.index(span.stop)
        color = STAGE_COLORS[span.stage]
        axes.stairs(timeline.busy[first:last], edges[first : last + 1], fill=True, color=color, linewidth=0)
    starts = [span.start for span in timeline.spans]
    axes.vlines(starts, 0, 1, color=INK, linewidth=0.4, alpha=0.5)
    for span in timeline.spans:
        if span.stop - span.start > _LABEL_WIDTH * edges[-1]:
            _note(axes, span.layer, (span.start + span.stop) / 2, 1.0, (0, 2), ha="center", va="bottom")
    axes.set(ylim=(0, 1), yticks=(0, 0.5, 1), ylabel=timeline.label)
    axes.set_yticklabels(["0", "50", "100 %"])
    axes.margins(x=0)


def _note(axes: Axes, text: str, x: float, y: float, offset: tuple[int, int], *, ha: str, va: str) -> None:
    axes.annotate(text, (x, y), offset, textcoords="offset points", ha=ha, va=va, fontsize=8.5)


def _running_mean(values: Sequence[float], window: int) -> list[float]:
    sums = [0.0]
    for value in values:
        sums.append(sums[-1] + value)
    return [(sums[i + window] - sums[i]) / window for i in range(len(values) - window + 1)]


def svg_text(figure: Figure, name: str) -> str:
    """Return the figure as SVG text with ids of its own, without a date, transparent, in currentColor."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r"url\(#", f"url(#{name}-", text)
    return re.sub(r'xlink:href="#', f'xlink:href="#{name}-', text)
