"""The pictures of the accuracy table that have curves: loss against speed-up, and how the masks settle."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any, Final

from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from nmsat.algorithms.methods import METHODS
from nmsat.reports.pages.label_places import Named, place_labels
from nmsat.reports.pages.study_parts import (
    INTERVAL,
    METHOD,
    PATTERN,
    Picture,
    bar,
    by_group,
    dot,
    panels,
    picture,
    points,
    stack,
)
from nmsat.reports.pages.style import DENSE_COLOR, INK, PALETTE, new_figure, style
from nmsat.reports.work.losses import ladder

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from matplotlib.axes import Axes

    from nmsat.reports.work.losses import Loss

SPEED: Final = "speed-up of a step on SAT, simulated"
"""What the speed-up of the table is, as an axis says it."""

_MARKERS: Final = ("o", "s", "^")  # of patterns of one N: M is 4, 8 or 16
_BAR_AT: Final = 0.02  # share of the axis at which the error bar stands
_KEPT: Final = PATTERN.partition(":")[0]


def speed_picture(losses: Sequence[Loss], rows: Sequence[dict[str, Any]]) -> Picture | None:
    """Return loss against speed-up: the methods that prune one, two, three products, at patterns of the paper's N.

    A panel for each network that has all of them; None if none has.
    """
    speedups = {(row["network"], row["method"], row["pattern"]): row["sat"]["speedup"] for row in rows}
    # a method without a program on the machine of the table has no speed-up
    priced = [x for x in losses if speedups.get((x.network, x.method, x.pattern)) is not None]
    steps = [step for step in ladder(list(METHODS)) if any(loss.method == step for loss in priced)]
    chosen = panels([loss for loss in priced if loss.method in steps and loss.pattern.startswith(f"{_KEPT}:")])
    chosen = {network: found for network, found in chosen.items() if {loss.method for loss in found} == set(steps)}
    if not chosen:
        return None
    patterns = sorted({loss.pattern for found in chosen.values() for loss in found}, key=by_group)

    def point(loss: Loss) -> tuple[float, float]:
        return speedups[loss.network, loss.method, loss.pattern], loss.mean

    with style():
        figure = new_figure(205 * len(chosen) + 75)
        named: list[Named] = []
        for axes, network, found in stack(figure, chosen, equal=True):
            for step, color in zip(steps, PALETTE, strict=False):
                line = sorted((loss for loss in found if loss.method == step), key=lambda x: by_group(x.pattern))
                named.append(_line(axes, line, point, patterns, color))
            named += _frame(axes, network, found)
        figure.axes[-1].set_xlabel(SPEED)
        marks = [dot(INK, pattern, _MARKERS[place]) for place, pattern in enumerate(patterns)]
        figure.legend(handles=[*marks, bar(f"median {INTERVAL}")], loc="outside upper left", ncols=2)
        place_labels(figure, named)
        parts = [
            f"{loss.method} {loss.pattern} on {loss.network} {points(loss.mean)} points at {point(loss)[0]:.2f} times"
            for found in chosen.values()
            for loss in found
        ]
        caption = (
            "Low and to the right is good. Methods that prune one, two and three of a layer's products, with the same "
            "SR-STE term."
        )
        words = f"Points lost and speed-up: {'; '.join(parts)}."
        return picture(figure, "speed", "Accuracy lost against speed-up", caption, words)


def mask_picture(masks: Sequence[dict[str, Any]]) -> Picture | None:
    """Return the share of forward masks that changes per update over the epochs of the paper's method.

    A line for each pattern of the paper's N, a panel for each network that learns for several epochs; None without any.
    """
    lines = [m for m in masks if m["method"] == METHOD and not m["variant"] and m["pattern"].startswith(f"{_KEPT}:")]
    lines = [m for m in lines if len(m["sad_ff"]) > 1 and any(m["sad_ff"])]
    if not lines:
        return None
    patterns = sorted({m["pattern"] for m in lines}, key=by_group)
    colors = dict(zip(patterns, PALETTE, strict=False))
    networks = dict.fromkeys(m["network"] for m in lines)
    shown = {name: [m for m in lines if m["network"] == name] for name in networks}
    with style():
        figure = new_figure(130 * len(shown) + 65)
        for axes, network, found in stack(figure, shown, equal=True):
            for item in found:
                shares = [100 * share for share in item["sad_ff"]]
                color, name = colors[item["pattern"]], f"mark-{network}-{item['pattern']}"
                axes.plot(range(1, len(shares) + 1), shares, "o-", color=color, markersize=4, gid=name)
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 3)))
            axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{share:g} %"))
            axes.yaxis.set_minor_formatter(NullFormatter())
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.grid(axis="y")
        figure.axes[-1].set_xlabel("epoch")
        figure.legend(handles=[dot(colors[p], p) for p in patterns], loc="outside upper left", ncols=len(patterns))
        parts = [f"{m['pattern']} on {m['network']} {m['sad_ff'][0]:.2%} and {m['sad_ff'][-1]:.3%}" for m in lines]
        words = f"Share of the elements in the first and in the last epoch: {'; '.join(parts)}."
        caption = f"Forward masks of {METHOD}, mean over an epoch, on a logarithmic axis."
        return picture(figure, "masks", "Mask elements that change per update", caption, words)


def _line(
    axes: Axes, line: Sequence[Loss], point: Callable[[Loss], tuple[float, float]], patterns: Sequence[str], color: str
) -> Named:
    """Draw one method: a mark for each pattern, joined in the order of ever fewer kept weights."""
    at = [point(loss) for loss in line]
    axes.plot(*zip(*at, strict=True), color=color, linewidth=1.5)
    for loss, place in zip(line, at, strict=True):
        marker = _MARKERS[patterns.index(loss.pattern)]
        name = f"mark-{loss.network}-{loss.method}-{loss.pattern}"
        axes.plot(*place, marker, color=color, markersize=6, gid=name)
    return Named(axes, line[0].method, at)


def _frame(axes: Axes, network: str, losses: Sequence[Loss]) -> list[Named]:
    """Draw dense training, its level, and one error bar: bars at points as close as these would hide each other."""
    axes.plot(1, 0, "o", color=DENSE_COLOR, markersize=6, gid=f"mark-{network}-dense")
    axes.axhline(0, color=DENSE_COLOR, linewidth=1)
    axes.set_ylabel("points lost")
    axes.margins(0.1)
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axes.grid()
    out = [Named(axes, "dense", [(1.0, 0.0)])]
    halves = [loss.half_width for loss in losses if loss.half_width is not None]
    if halves:
        half = statistics.median(halves)
        at_left = axes.get_yaxis_transform()
        axes.plot(
            (_BAR_AT, _BAR_AT), (-half, half), color=INK, linewidth=1.6, transform=at_left, gid=f"interval-{network}"
        )
    left, right = axes.get_xlim()
    at = left + _BAR_AT * (right - left)
    return [*out, Named(axes, "", [(left, 0.0), (right, 0.0)]), Named(axes, "", [(at, y) for y in axes.get_ylim()])]
