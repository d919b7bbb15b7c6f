"""Optimal transport with quadratic regularisation and at most k non-zeros per column of the plan.

Source: T. Liu, J. Puigcerver, M. Blondel, "Sparsity-Constrained Optimal Transport", ICLR 2023, arXiv 2209.15466. Cost
C[m, n], marginals a and b, plan T[m, n] with columns t_j in the simplex of size b_j and with at most k non-zeros:

    semi-dual   max over alpha of   alpha . a - sum_j b_j max_y [ y . (alpha - c_j) - gamma b_j / 2 |y|^2 ]
    solution    y_j = projection of (alpha - c_j) / (gamma b_j) onto the k-sparse simplex,  t_j = b_j y_j

Its gradient is a - T 1. The constraint is not convex: the semi-dual bounds the constrained problem from below and
reaches it where the plan it gives has the row sums a. Where two supports tie the semi-dual has a kink, at which L-BFGS
can stop early (with k = 1 it is all kinks, a linear program); cutting planes then go on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nmsat.algorithms.workloads.engine.transformer import top_groups, top_k

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    from numpy.typing import NDArray

    from nmsat.algorithms.core.tape import Pattern

    Support: TypeAlias = Callable[[NDArray], NDArray[np.bool_]]


@dataclass(frozen=True, eq=False)
class Plan:
    """T[m, n], the potentials alpha[m], and the value of the semi-dual there."""

    plan: NDArray[np.float64]
    alpha: NDArray[np.float64]
    value: float


def cardinality(k: int) -> Support:
    """Return the support of the paper: the k largest entries of each column of x[m, n]."""
    return lambda x: top_k(x.T, k).T


def grouped(pattern: Pattern) -> Support:
    """Return the support of our variant: the N largest of each M consecutive entries of a column."""
    return lambda x: top_groups(x.T, pattern.n, pattern.m).T


def project_simplex(x: NDArray, keep: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the projection of each column of x[m, n] onto the simplex, entries outside `keep` fixed at 0.

    Sort and threshold (Held, Wolfe, Crowder 1974): y = max(x - tau, 0) with the tau that makes the column sum 1.
    """
    inside = np.where(keep, x, -np.inf)
    ordered = -np.sort(-inside, axis=0)
    with np.errstate(invalid="ignore"):
        sums = np.cumsum(ordered, axis=0) - 1
    count = np.arange(1, x.shape[0] + 1)[:, None]
    with np.errstate(invalid="ignore"):
        inside_hull = np.isfinite(ordered) & (ordered * count > sums)
    last = x.shape[0] - 1 - inside_hull[::-1].argmax(axis=0)
    tau = sums[last, np.arange(x.shape[1])] / (last + 1)
    return np.where(keep, np.maximum(x - tau, 0), 0)


def project_sparse(x: NDArray, support: Support) -> NDArray[np.float64]:
    """Return the projection of each column onto the simplex with at most k non-zeros (or n of each m).

    Exact: for a fixed support the larger entries are the better ones, so the best support holds the largest.
    """
    return project_simplex(x, support(x))


def semidual(
    alpha: NDArray, cost: NDArray, a: NDArray, b: NDArray, gamma: float, support: Support
) -> tuple[float, NDArray[np.float64]]:
    """Return the value of the semi-dual and the plan at alpha."""
    x = alpha[:, None] - cost
    y = project_sparse(x / (gamma * b), support)
    value = alpha @ a - b @ ((y * x).sum(axis=0) - gamma * b / 2 * (y * y).sum(axis=0))
    return float(value), b * y


def solve(
    cost: NDArray, a: NDArray, b: NDArray, gamma: float, support: Support, *, iterations: int = 1000, cuts: int = 0
) -> Plan:
    """Return the solution by L-BFGS from alpha = 0; cuts: most cutting planes after that, for small problems."""
    from scipy.optimize import minimize

    def loss(alpha: NDArray) -> tuple[float, NDArray]:
        value, plan = semidual(alpha, cost, a, b, gamma, support)
        return -value, plan.sum(axis=1) - a

    options = {"maxiter": iterations, "ftol": 1e-15, "gtol": 1e-10, "maxfun": 10 * iterations}
    alpha = minimize(loss, np.zeros(len(a)), jac=True, method="L-BFGS-B", options=options).x
    alpha = cutting_planes(loss, alpha, cuts) if cuts else alpha
    value, plan = semidual(alpha, cost, a, b, gamma, support)
    return Plan(plan, alpha, value)


def cutting_planes(
    loss: Callable[[NDArray], tuple[float, NDArray]], start: NDArray, limit: int, tolerance: float = 1e-10
) -> NDArray[np.float64]:
    """Return a better minimum of a convex function than `start`, by linear lower bounds in a trust box.

    loss: value and a subgradient. Stops when the bounds promise less than `tolerance`, or after `limit` of them.
    """
    from scipy.optimize import linprog

    size = len(start)
    best, (least, slope) = start, loss(start)
    slopes, offsets, radius = [slope], [least - slope @ start], 1.0
    for _ in range(limit):
        # Minimise t over t >= slope . x + offset inside the box around the best point.
        rows = np.column_stack([np.array(slopes), -np.ones(len(slopes))])
        bounds = [(x - radius, x + radius) for x in best] + [(None, None)]
        found = linprog(np.append(np.zeros(size), 1.0), A_ub=rows, b_ub=-np.array(offsets), bounds=bounds)
        if found.x is None or least - found.x[-1] < tolerance:
            break
        x, promised = found.x[:size], least - found.x[-1]
        value, slope = loss(x)
        slopes.append(slope)
        offsets.append(value - slope @ x)
        if value < least:
            radius *= 2.0 if least - value > 0.5 * promised else 1.0
            best, least = x, value
        else:
            radius *= 0.7
    return best


def solve_steps(
    cost: NDArray, a: NDArray, b: NDArray, gamma: float, support: Support, *, steps: int = 20, lr: float = 1e-2
) -> Plan:
    """Return what a router does: a fixed number of Adam steps from alpha = 0."""
    alpha = np.zeros(len(a))
    first, second = np.zeros_like(alpha), np.zeros_like(alpha)
    for step in range(1, steps + 1):
        grad = a - semidual(alpha, cost, a, b, gamma, support)[1].sum(axis=1)
        first, second = 0.9 * first + 0.1 * grad, 0.999 * second + 0.001 * grad**2
        alpha = alpha + lr * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
    value, plan = semidual(alpha, cost, a, b, gamma, support)
    return Plan(plan, alpha, value)


def primal(plan: NDArray, cost: NDArray, gamma: float) -> float:
    """Return <T, C> + gamma / 2 |T|^2."""
    return float((plan * cost).sum() + gamma / 2 * (plan * plan).sum())
