"""Accuracy lost against dense training, seed by seed, with confidence intervals."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any, Final

from scipy.special import stdtrit

from nmsat.algorithms.core.tape import Pattern, Stage
from nmsat.algorithms.methods import make_method
from nmsat.algorithms.training.recipes import changes, parse_name, task

if TYPE_CHECKING:
    from collections.abc import Sequence

CONFIDENCE: Final = 0.95
"""Of the intervals: in this share of repetitions of a study such an interval holds the true mean."""


EQUAL: Final = 1e-9
"""Percent points within which losses are equal: what the rounding of their differences leaves, far below one label."""


@dataclass(frozen=True)
class Loss:
    """Loss of accuracy of a method at a pattern on a network, percent points; negative is better than dense.

    network: with its data, as `algorithms.training.recipes.task` names them; by_seed: accuracy of the dense run minus
    that of this method's run with the same seed, ascending seeds; seeds: those.
    """

    network: str
    method: str
    pattern: str
    by_seed: tuple[float, ...]
    seeds: tuple[int, ...] = ()

    @property
    def mean(self) -> float:
        """Mean over the seeds."""
        return statistics.fmean(self.by_seed)

    @property
    def half_width(self) -> float | None:
        """Half the width of the confidence interval of the mean (Student's t, paired by seed); None as there."""
        return half_width(self.by_seed)


def half_width(values: Sequence[float], confidence: float = CONFIDENCE) -> float | None:
    """Return half the width of the confidence interval of the mean (Student's t); None where the values give none.

    Fewer than two do not, and neither do equal ones: accuracies are whole numbers of labels, so that their spread is
    not 0 but below what a label resolves, and how far below nobody can tell.
    """
    count = len(values)
    if count < 2 or max(values) - min(values) <= EQUAL:
        return None
    return float(stdtrit(count - 1, (1 + confidence) / 2)) * statistics.stdev(values) / count**0.5


def told_width(half: float | None) -> float | None:
    """Return half a width as it may be told: data of earlier versions have 0, rounded, where the values give none."""
    return None if half is None or half <= EQUAL else half


def paired_losses(runs: Sequence[dict[str, Any]]) -> list[Loss]:
    """Return the losses of all runs that follow their network's recipe and have a dense run of the same seed.

    runs: as in `reports.work.study.gather`: `name` and `accuracy` (0..1) of each. Runs of a network that were all made
    in the arithmetic `fast` count as well: pairs are of one arithmetic, and the page says which.
    """
    configs = [(parse_name(run["name"]), run) for run in runs]
    in_contract = {task(config) for config, _ in configs if config.arithmetic == "contract"}
    dense: dict[tuple[str, int], float] = {}
    others: dict[tuple[str, str, str], dict[int, float]] = {}
    for config, run in configs:
        if changes(config).keys() - (set() if task(config) in in_contract else {"arithmetic"}):
            continue
        if products_pruned(config.method):
            key = (task(config), config.method, config.pattern)
            others.setdefault(key, {})[config.seed] = run["accuracy"]
        else:
            dense[task(config), config.seed] = run["accuracy"]
    found = []
    for (network, method, pattern), by_seed in others.items():
        seeds = tuple(seed for seed in sorted(by_seed) if (network, seed) in dense)
        if seeds:
            losses = tuple(100 * (dense[network, seed] - by_seed[seed]) for seed in seeds)
            found.append(Loss(network, method, pattern, losses, seeds))
    return found


@dataclass(frozen=True)
class Resolved:
    """What the runs of a network at a pattern can tell apart.

    seeds: most pairs of any method; half: median half width of the intervals of the losses, percent points: a loss of
    less does not show, None if none has an interval; worse, better: methods whose interval lies above, below 0; open:
    those whose interval holds 0, and those without one, whose seeds all lose the same;
    pairs: (better, worse) methods that differ, their losses compared seed by seed, with the confidence shared out among
    all `compared` pairs (Bonferroni).
    """

    network: str
    pattern: str
    seeds: int
    half: float | None
    worse: tuple[str, ...]
    better: tuple[str, ...]
    open: tuple[str, ...]
    pairs: tuple[tuple[str, str], ...]
    compared: int


def resolved(losses: Sequence[Loss]) -> list[Resolved]:
    """Return what the losses of each network and pattern can tell apart; losses of a single seed tell nothing."""
    groups: dict[tuple[str, str], list[Loss]] = {}
    for loss in losses:
        if len(loss.by_seed) > 1:
            groups.setdefault((loss.network, loss.pattern), []).append(loss)
    return [_resolved(network, pattern, found) for (network, pattern), found in groups.items()]


def _resolved(network: str, pattern: str, losses: Sequence[Loss]) -> Resolved:
    halves = {loss.method: half for loss in losses if (half := loss.half_width) is not None}
    told = [loss for loss in losses if loss.method in halves]
    worse = tuple(loss.method for loss in told if loss.mean > halves[loss.method])
    better = tuple(loss.method for loss in told if loss.mean < -halves[loss.method])
    both = list(combinations(losses, 2))
    confidence = 1 - (1 - CONFIDENCE) / max(1, len(both))
    return Resolved(
        network,
        pattern,
        seeds=max(len(loss.by_seed) for loss in losses),
        half=statistics.median(halves.values()) if halves else None,
        worse=worse,
        better=better,
        open=tuple(loss.method for loss in losses if loss.method not in worse + better),
        pairs=tuple(pair for one, other in both if (pair := _told_apart(one, other, confidence)) is not None),
        compared=len(both),
    )


def _told_apart(one: Loss, other: Loss, confidence: float) -> tuple[str, str] | None:
    """Return (better, worse) of two methods, None if their seeds do not tell."""
    first, second = (dict(zip(loss.seeds, loss.by_seed, strict=True)) for loss in (one, other))
    differences = [first[seed] - second[seed] for seed in sorted(first.keys() & second.keys())]
    half = half_width(differences, confidence)
    if half is None or abs(statistics.fmean(differences)) <= half:
        return None
    return (other.method, one.method) if statistics.fmean(differences) > 0 else (one.method, other.method)


def beside(losses: Sequence[Loss], value: float) -> str:
    """Return 'more', 'less' or 'open': on which side of a value the mean of equal-weighted networks lies.

    losses: of one method and pattern on some networks; the interval is that of `average`.
    """
    mean, half = average(losses)
    if half is None or abs(mean - value) <= half:
        return "open"
    return "more" if mean > value else "less"


def average(losses: Sequence[Loss]) -> tuple[float, float | None]:
    """Return the average of some losses, and half the width of its interval.

    Networks are averaged within each seed first: runs of one seed draw alike, and their losses are not independent.
    None for the width if they have fewer than two seeds in common, or as `half_width` says.
    """
    by_seed = [dict(zip(loss.seeds or range(len(loss.by_seed)), loss.by_seed, strict=True)) for loss in losses]
    common = sorted(set.intersection(*(set(found) for found in by_seed)))
    if len(common) < 2:
        return statistics.fmean(loss.mean for loss in losses), None
    values = [statistics.fmean(found[seed] for found in by_seed) for seed in common]
    return statistics.fmean(values), half_width(values)


def products_pruned(method: str) -> tuple[Stage, ...]:
    """Return the products of a layer that a method prunes, in the order FF, BP, WU; none for dense training."""
    made = make_method(method, Pattern(2, 8))
    return tuple(stage for stage in (Stage.FF, Stage.BP, Stage.WU) if made.group(stage) > 1)


def ladder(methods: Sequence[str]) -> list[str]:
    """Return methods that prune one, two and three products and differ in nothing else, as far as there are such.

    They are the first of each number of products among the methods with the SR-STE term whose products contain those of
    the step below.
    """
    steps: list[str] = []
    for count in (1, 2, 3):
        below = set(products_pruned(steps[-1])) if steps else set()
        for method in methods:
            products = products_pruned(method)
            if len(products) == count and below <= set(products) and make_method(method, Pattern(2, 8)).decay:
                steps.append(method)
                break
    return steps
