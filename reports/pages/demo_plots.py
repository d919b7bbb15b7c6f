"""The pictures of a demo's report, as SVG text for its page."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Final

from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from nmsat.reports.pages.style import (
    DENSE_COLOR,
    GROUPED,
    INK,
    STAGE_COLORS,
    STAGE_NAMES,
    VERMILLION,
    WIDTH,
    new_figure,
    note,
    style,
    svg_text,
)
from nmsat.reports.work.records import STAGES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from nmsat.reports.work.records import ProductRun, StageTotal, Timeline, TrainingRun, Zoom

_RUN_COLORS: Final = (DENSE_COLOR, VERMILLION)
_LETTER: Final = 7.5  # units that a letter of a product's name takes at most
_ROW: Final = 21  # height of a product's row, units


def loss_curves(runs: Sequence[TrainingRun], window: int = 15) -> str:
    """Return the training loss against the step: a mean of `window` steps over the raw curve, one line a run."""
    with style():
        figure = new_figure(230)
        axes = figure.subplots()
        for run, color in zip(runs, _RUN_COLORS, strict=True):
            axes.plot(range(1, len(run.losses) + 1), run.losses, color=color, linewidth=0.6, alpha=0.4)
            smooth = _running_mean(run.losses, window)
            axes.plot(range(window, window + len(smooth)), smooth, color=color, linewidth=2, label=run.label)
        axes.set(title="training loss", xlabel="step", ylim=(0, None), xlim=(0, None))
        axes.grid(axis="y")
        axes.legend()
        ends = ", ".join(f"{run.label} {run.losses[-1]:.3f}" for run in runs)
        words = f"Lines of the loss over {len(runs[0].losses)} steps. Loss of the last step: {ends}."
        return svg_text(figure, "loss", "Training loss of both runs", words)


def accuracy_curves(runs: Sequence[TrainingRun]) -> str:
    """Return the test accuracy after each epoch, one line a run."""
    with style():
        figure = new_figure(230)
        axes = figure.subplots()
        for run, color in zip(runs, _RUN_COLORS, strict=True):
            shares = [100 * value for value in run.accuracies]
            axes.plot(range(1, len(shares) + 1), shares, "o-", color=color, linewidth=2, markersize=4, label=run.label)
        axes.set(title="test accuracy, %", xlabel="epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(axis="y")
        axes.legend(loc="lower right")
        ends = ", ".join(f"{run.label} {run.accuracy:.1%}" for run in runs)
        words = f"Lines of the accuracy over {len(runs[0].accuracies)} epochs. At the end: {ends}."
        return svg_text(figure, "accuracy", "Test accuracy of both runs", words)


def cycles_chart(products: Sequence[ProductRun], step: StageTotal) -> str:
    """Return the cycles of each product as a bar inside the bar of its dense cycles, with a mark at its bound."""
    with style():
        figure = new_figure(_ROW * len(products) + 110)
        axes = figure.subplots()
        for place, product in enumerate(products):
            axes.barh(place, product.cycles_dense, 0.78, color=DENSE_COLOR, alpha=0.4)
            axes.barh(place, product.cycles, 0.44, color=STAGE_COLORS[product.stage])
            axes.plot([product.ideal] * 2, [place - 0.39, place + 0.39], color=INK, linewidth=1.6)
            gain = f"{product.cycles_dense / product.cycles:.2f}×"
            note(axes, gain, (max(product.cycles, product.cycles_dense), place), (4, 0), ha="left", va="center")
        axes.set_yticks(range(len(products)), [f"{product.layer} {product.stage.upper()}" for product in products])
        axes.invert_yaxis()
        axes.set_xlabel("cycles of the array")
        axes.xaxis.set_major_formatter(GROUPED)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.grid(axis="x")
        axes.margins(x=0.16, y=0.01)
        bound = Line2D([], [], color=INK, linewidth=1.6, label="bound")
        handles = [Patch(color=DENSE_COLOR, alpha=0.4, label="dense"), bound]
        _legend(figure, [*_stages(), *handles])
        words = (
            f"{len(products)} rows, a product each: a grey bar of its dense cycles and in it a coloured bar of its "
            f"cycles as trained. The table below has the numbers. The whole step takes {step.cycles:,} cycles instead "
            f"of {step.cycles_dense:,}, {step.speedup:.2f} times fewer."
        )
        return svg_text(figure, "cycles", "Cycles of each product, dense and as trained", words)


def timeline_chart(timelines: Sequence[Timeline]) -> str:
    """Return the use of the array over a step, one row per timeline on a common axis of cycles."""
    with style():
        figure = new_figure(110 * len(timelines) + 75)
        rows = figure.subplots(len(timelines), 1, sharex=True, squeeze=False)[:, 0]
        longest = max(timeline.edges[-1] for timeline in timelines)
        for axes, timeline in zip(rows, timelines, strict=True):
            _draw_timeline(axes, timeline, longest)
        rows[-1].set_xlabel("cycle")
        rows[-1].xaxis.set_major_formatter(GROUPED)
        rows[-1].xaxis.set_major_locator(MaxNLocator(4))
        _legend(figure, _stages())
        ends = " and ".join(f"{timeline.edges[-1]:,} cycles {timeline.label}" for timeline in timelines)
        words = f"The share of elements that multiply, product after product. The step takes {ends}."
        return svg_text(figure, "timeline", "Use of the array over the step", words)


def zoom_chart(zoom: Zoom) -> str:
    """Return the elements that multiply in each cycle of one product."""
    with style():
        figure = new_figure(170)
        axes = figure.subplots()
        busy, edges = _steps(zoom.busy)
        axes.stairs(busy, edges, fill=True, color=STAGE_COLORS[zoom.stage], linewidth=0)
        axes.set(title="elements that multiply", xlabel="cycle", ylim=(0, zoom.elements))
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.xaxis.set_major_formatter(GROUPED)
        axes.margins(x=0)
        full = sum(count == zoom.elements for count in zoom.busy)
        words = f"Over {len(zoom.busy):,} cycles. All {zoom.elements} elements multiply in {full:,} of them."
        return svg_text(figure, "zoom", f"The array in {zoom.layer} {zoom.stage.upper()}, cycle by cycle", words)


def _draw_timeline(axes: Axes, timeline: Timeline, longest: int) -> None:
    edges = timeline.edges
    for span in timeline.spans:
        first, last = edges.index(span.start), edges.index(span.stop)
        color = STAGE_COLORS[span.stage]
        axes.stairs(timeline.busy[first:last], edges[first : last + 1], fill=True, color=color, linewidth=0)
        if _LETTER * len(span.layer) < WIDTH * 0.85 * (span.stop - span.start) / longest:
            note(axes, span.layer, ((span.start + span.stop) / 2, 1.0), (0, 2), ha="center", va="bottom")
    axes.vlines([span.start for span in timeline.spans], 0, 1, color=INK, linewidth=0.4, alpha=0.5)
    axes.set(ylim=(0, 1), yticks=(0, 0.5, 1))
    axes.set_yticklabels(["0", "50", "100 %"])
    axes.set_title(timeline.label, pad=20)
    axes.margins(x=0)


def _stages() -> list[Patch]:
    return [Patch(color=STAGE_COLORS[stage], label=STAGE_NAMES[stage]) for stage in STAGES]


def _legend(figure: Figure, handles: Sequence[Patch | Line2D]) -> None:
    figure.legend(handles=handles, loc="outside upper left", ncols=2)


def _steps(busy: Sequence[int]) -> tuple[list[int], list[int]]:
    """Return the counts without repetition and the cycles at which each begins and the last ends."""
    counts, edges = [], [0]
    for count, cycles in groupby(busy):
        counts.append(count)
        edges.append(edges[-1] + len(list(cycles)))
    return counts, edges


def _running_mean(values: Sequence[float], window: int) -> list[float]:
    sums = [0.0]
    for value in values:
        sums.append(sums[-1] + value)
    return [(sums[i + window] - sums[i]) / window for i in range(len(values) - window + 1)]
