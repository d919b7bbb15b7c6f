"""Accuracy lost against dense training, seed by seed, with confidence intervals."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from scipy.special import stdtrit

from nmsat.algorithms.core.tape import Pattern, Stage
from nmsat.algorithms.methods import make_method
from nmsat.algorithms.training.recipes import changes, parse_name

if TYPE_CHECKING:
    from collections.abc import Sequence

CONFIDENCE: Final = 0.95
"""Of the intervals: in this share of repetitions of a study such an interval holds the true mean."""


@dataclass(frozen=True)
class Loss:
    """Loss of accuracy of a method at a pattern on a network, percent points; negative is better than dense.

    by_seed: accuracy of the dense run minus that of this method's run with the same seed, ascending seeds.
    """

    network: str
    method: str
    pattern: str
    by_seed: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean over the seeds."""
        return statistics.fmean(self.by_seed)

    @property
    def half_width(self) -> float | None:
        """Half the width of the confidence interval of the mean (Student's t, paired by seed); None for one seed."""
        count = len(self.by_seed)
        if count < 2:
            return None
        quantile = float(stdtrit(count - 1, (1 + CONFIDENCE) / 2))
        return quantile * statistics.stdev(self.by_seed) / count**0.5


def paired_losses(runs: Sequence[dict[str, Any]]) -> list[Loss]:
    """Return the losses of all runs that follow their network's recipe and have a dense run of the same seed.

    runs: as in `reports.work.study.gather`: `name` and `accuracy` (0..1) of each. Runs of a network that were all made
    in the arithmetic `fast` count as well: pairs are of one arithmetic, and the page says which.
    """
    configs = [(parse_name(run["name"]), run) for run in runs]
    in_contract = {config.network for config, _ in configs if config.arithmetic == "contract"}
    dense: dict[tuple[str, int], float] = {}
    others: dict[tuple[str, str, str], dict[int, float]] = {}
    for config, run in configs:
        if changes(config).keys() - (set() if config.network in in_contract else {"arithmetic"}):
            continue
        if products_pruned(config.method):
            key = (config.network, config.method, config.pattern)
            others.setdefault(key, {})[config.seed] = run["accuracy"]
        else:
            dense[config.network, config.seed] = run["accuracy"]
    found = []
    for (network, method, pattern), by_seed in others.items():
        pairs = [(dense[network, s], accuracy) for s, accuracy in sorted(by_seed.items()) if (network, s) in dense]
        if pairs:
            losses = tuple(100 * (before - after) for before, after in pairs)
            found.append(Loss(network, method, pattern, losses))
    return found


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
