"""Small transport problems and their exact answers by trying all supports."""

from __future__ import annotations

from itertools import combinations, product
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from nmsat.algorithms.workloads.methods.transport import primal, project_simplex

if TYPE_CHECKING:
    from numpy.typing import NDArray

Choices: TypeAlias = Literal["pairs", "groups", "halves"]
"""Supports of a column: any 2 entries, 1 of each 4, or 1 of each 2."""


def supports(rows: int, choices: Choices) -> list[NDArray[np.bool_]]:
    """Return every support of a column of that many rows."""
    if choices == "pairs":
        sets = list(combinations(range(rows), min(2, rows)))
    else:
        step = 4 if choices == "groups" else 2
        sets = list(product(*[range(start, min(start + step, rows)) for start in range(0, rows, step)]))
    return [np.isin(np.arange(rows), chosen) for chosen in sets]


def best_projection(x: NDArray, choices: Choices) -> NDArray[np.float64]:
    """Return the nearest point of the sparse simplex to each column of x, by trying all supports."""
    out = np.zeros_like(x)
    for column in range(x.shape[1]):
        one = x[:, column : column + 1]
        options = [project_simplex(one, keep[:, None]) for keep in supports(x.shape[0], choices)]
        out[:, column] = min(options, key=lambda y: float(((y - one) ** 2).sum()))[:, 0]
    return out


def brute_force(cost: NDArray, a: NDArray, b: NDArray, gamma: float, choices: Choices) -> float:
    """Return the least primal value over all supports; each is a convex quadratic program."""
    best = np.inf
    for chosen in product(supports(cost.shape[0], choices), repeat=cost.shape[1]):
        plan = quadratic_transport(cost, a, b, gamma, np.stack(chosen, axis=1))
        if plan is not None:
            best = min(best, primal(plan, cost, gamma))
    return float(best)


def quadratic_transport(
    cost: NDArray, a: NDArray, b: NDArray, gamma: float, keep: NDArray[np.bool_]
) -> NDArray[np.float64] | None:
    """Return the plan on a support with the least <T, C> + gamma / 2 |T|^2, None if there is none.

    Active sets: entries at 0 are tried in all combinations, the others solve a linear system; small problems only.
    """
    places = np.argwhere(keep)
    m, n = cost.shape
    rows = np.zeros((m + n, len(places)))
    rows[places[:, 0], np.arange(len(places))] = 1
    rows[m + places[:, 1], np.arange(len(places))] = 1
    wanted, price = np.concatenate([a, b]), cost[keep]
    best: NDArray[np.float64] | None = None
    least = np.inf
    for size in range(len(places), 0, -1):
        for inside in combinations(range(len(places)), size):
            part = rows[:, inside]
            system = np.block([[gamma * np.eye(size), part.T], [part, np.zeros((m + n, m + n))]])
            target = np.concatenate([-price[list(inside)], wanted])
            answer = np.linalg.lstsq(system, target, rcond=None)[0]
            t = answer[:size]
            if np.abs(part @ t - wanted).max() > 1e-9 or t.min() < -1e-12:
                continue
            plan = np.zeros((m, n))
            plan[tuple(places[list(inside)].T)] = np.maximum(t, 0)
            value = primal(plan, cost, gamma)
            if value < least:
                best, least = plan, value
    return best


def gaussians(bins: int = 32) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return cost, a Gaussian and a mixture of two on a line, squared distances over their largest."""
    grid = np.linspace(0, 1, bins)
    a = np.exp(-((grid - 0.3) ** 2) / 0.01)
    b = np.exp(-((grid - 0.3) ** 2) / 0.005) + 0.6 * np.exp(-((grid - 0.75) ** 2) / 0.005)
    cost = np.subtract.outer(grid, grid) ** 2
    return cost / cost.max(), a / a.sum(), b / b.sum()


def skewed_scores(tokens: int, count: int, seed: int = 0) -> NDArray[np.float64]:
    """Return router scores in 0..1 of clustered tokens most of which prefer the same experts."""
    rng = np.random.default_rng(seed)
    logits = rng.standard_normal((tokens, count)) + np.linspace(2.5, 0, count)
    e = np.exp(logits)
    return e / e.sum(axis=1, keepdims=True)
