"""The pictures of the accuracy table, each of which says one thing: here what a method loses, as rows of dots."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from nmsat.reports.pages.study_curves import mask_picture, speed_picture
from nmsat.reports.pages.study_parts import INTERVAL, METHOD, PATTERN, Picture, bar, dot, panels, picture, points, stack
from nmsat.reports.pages.style import BLUE, DENSE_COLOR, GREEN, INK, SMALL, VERMILLION, new_figure, style
from nmsat.reports.work.losses import paired_losses, products_pruned

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from matplotlib.axes import Axes

    from nmsat.reports.work.losses import Loss

AXIS: Final = "accuracy lost against dense, points"

_COUNT_COLORS: Final = {1: BLUE, 2: VERMILLION, 3: GREEN}
_COUNTS: Final = {1: "one product pruned", 2: "two products", 3: "all three"}
_ROW: Final = 19  # height of a row, units
_HEAD: Final = 30  # and of a panel's name with its share of the gaps
_DASHES: Final[Any] = (0, (4, 3))


def draw(data: dict[str, Any]) -> dict[str, Picture]:
    """Return the pictures that the data of `reports.work.study.gather` allow, by what they show.

    networks: loss of the paper's method on every network; methods: all methods at the paper's pattern; patterns: the
    paper's method at all patterns; speed: loss against speed-up; masks: how the masks settle.
    """
    places = {(row["network"], row["method"], row["pattern"]): place for place, row in enumerate(data["rows"])}
    losses = sorted(paired_losses(data["runs"]), key=lambda loss: places[loss.network, loss.method, loss.pattern])
    made = {
        "networks": _networks([loss for loss in losses if (loss.method, loss.pattern) == (METHOD, PATTERN)], data),
        "methods": _methods(panels([loss for loss in losses if loss.pattern == PATTERN])),
        "patterns": _patterns(panels([loss for loss in losses if loss.method == METHOD])),
        "speed": speed_picture(losses, data["rows"]),
        "masks": mask_picture(data["masks"]),
    }
    return {name: found for name, found in made.items() if found is not None}


def _networks(losses: Sequence[Loss], data: dict[str, Any]) -> Picture | None:
    if not losses:
        return None
    with style():
        figure = new_figure(_ROW * len(losses) + 105)
        axes = figure.subplots()
        _rows(axes, [loss.network for loss in losses], losses, [VERMILLION] * len(losses))
        paper = data["paper_loss"]
        axes.axvline(paper, color=INK, linewidth=1, linestyle=_DASHES)
        line = Line2D([], [], color=INK, linewidth=1, linestyle=_DASHES, label=f"mean of the paper: {points(paper)}")
        figure.legend(handles=[*_key(losses), line], loc="outside upper left", ncols=1)
        title = f"Accuracy that {METHOD} {PATTERN} loses against dense training"
        caption = "Each run is compared with the dense run of the same seed; right of 0 is worse than dense."
        return picture(figure, "networks", title, caption, _in_words(losses, lambda loss: loss.network))


def _methods(shown: dict[str, list[Loss]]) -> Picture | None:
    if not shown:
        return None
    losses = [loss for rows in shown.values() for loss in rows]
    counts = sorted({len(products_pruned(loss.method)) for loss in losses})
    with style():
        figure = new_figure(_ROW * len(losses) + _HEAD * len(shown) + 110)
        for axes, _, rows in stack(figure, shown):
            colors = [_COUNT_COLORS[len(products_pruned(loss.method))] for loss in rows]
            _rows(axes, [loss.method for loss in rows], rows, colors)
        dots = [dot(_COUNT_COLORS[count], _COUNTS[count]) for count in counts]
        figure.legend(handles=[*_key(losses), *dots], loc="outside upper left", ncols=2)
        title = f"Accuracy that each method loses at {PATTERN}"
        caption = "Colour: how many of a layer's three products the method prunes."
        words = _in_words(losses, lambda loss: f"{loss.method} on {loss.network}")
        return picture(figure, "methods", title, caption, words)


def _patterns(shown: dict[str, list[Loss]]) -> Picture | None:
    if not shown:
        return None
    ordered = {network: sorted(rows, key=_fewest_last) for network, rows in shown.items()}
    losses = [loss for rows in ordered.values() for loss in rows]
    with style():
        figure = new_figure(_ROW * len(losses) + _HEAD * len(ordered) + 80)
        for axes, _, rows in stack(figure, ordered):
            labels = [f"{loss.pattern}, {100 * _kept(loss):.3g} % kept" for loss in rows]
            _rows(axes, labels, rows, [VERMILLION] * len(rows))
        figure.legend(handles=_key(losses), loc="outside upper left", ncols=1)
        title = f"Accuracy that {METHOD} loses at each pattern"
        caption = "Ever fewer weights are kept from row to row."
        words = _in_words(losses, lambda loss: f"{loss.pattern} on {loss.network}")
        return picture(figure, "patterns", title, caption, words)


def _rows(axes: Axes, labels: Sequence[str], losses: Sequence[Loss], colors: Sequence[str]) -> None:
    """Draw one row per loss: a dot at its mean, a line for its interval, its mean as a number at the right."""
    axes.axvline(0, color=DENSE_COLOR, linewidth=1)
    for place, (loss, color) in enumerate(zip(losses, colors, strict=True)):
        name = f"{loss.network}-{loss.method}-{loss.pattern}"
        half = loss.half_width
        if half is not None:
            ends = (loss.mean - half, loss.mean + half)
            axes.plot(ends, (place, place), color=color, linewidth=1.6, gid=f"interval-{name}")
        inside = "none" if half is None else color
        axes.plot(loss.mean, place, "o", color=color, markerfacecolor=inside, markersize=6, gid=f"mark-{name}")
        at_right = axes.get_yaxis_transform()
        axes.text(1.02, place, points(loss.mean), transform=at_right, va="center", fontsize=SMALL)
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axes.grid(axis="x")
    axes.set_xlabel(AXIS)
    axes.label_outer()


def _key(losses: Sequence[Loss]) -> list[Line2D]:
    """Say what dot and line of a row are."""
    many = sorted({len(loss.by_seed) for loss in losses if loss.half_width is not None})
    handles = []
    if many:
        seeds = " to ".join(str(count) for count in dict.fromkeys((many[0], many[-1])))
        handles += [dot(INK, f"mean of {seeds} seeds"), bar(INTERVAL)]
    bare = [loss for loss in losses if loss.half_width is None]
    reasons = ["one seed"] * any(len(loss.by_seed) == 1 for loss in bare)
    reasons += ["all seeds lose the same"] * any(len(loss.by_seed) > 1 for loss in bare)
    if reasons:
        label = " or ".join(reasons)
        handles.append(Line2D([], [], marker="o", linestyle="", color=INK, markerfacecolor="none", label=label))
    return handles


def _kept(loss: Loss) -> float:
    n, m = map(int, loss.pattern.split(":"))
    return n / m


def _fewest_last(loss: Loss) -> tuple[float, str]:
    return -_kept(loss), loss.pattern


def _in_words(losses: Sequence[Loss], label: Callable[[Loss], str]) -> str:
    halves = ["" if loss.half_width is None else f" ± {loss.half_width:.2f}" for loss in losses]
    parts = [f"{label(loss)} {points(loss.mean)}{half}" for loss, half in zip(losses, halves, strict=True)]
    return f"Points lost, mean and half of the {INTERVAL}: {'; '.join(parts)}."
