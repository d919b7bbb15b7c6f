"""Routers of a mixture of experts: which tokens each expert takes, by constrained transport and by simpler rules.

All get scores[tokens, experts] in 0..1 and return bool[tokens, experts] with at most `capacity` tokens per expert.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from nmsat.algorithms.core.tape import Pattern
from nmsat.algorithms.workloads.methods.transport import cardinality, grouped, solve_steps

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nmsat.algorithms.workloads.engine.registry import Variant

ROUTER: Final = Pattern(2, 8)
STEPS: Final = 20
"""Adam steps of constrained transport, and rounds of Sinkhorn."""


def route(scores: NDArray[np.float64], capacity: int, variant: Variant) -> NDArray[np.float64]:
    """Return the plan [tokens, experts] of constrained transport (Liu et al., ICLR 2023)."""
    tokens, count = scores.shape
    support = grouped(ROUTER) if variant == "nm" else cardinality(capacity)
    return solve_steps(-scores, np.ones(tokens), np.full(count, tokens / count), 1.0, support, steps=STEPS).plan


def greedy(preferences: NDArray[np.float64], capacity: int) -> NDArray[np.bool_]:
    """Return what a top-1 router takes: each token its best expert, in their order, until that one is full."""
    best = preferences.argmax(axis=1)
    mask = best[:, None] == np.arange(preferences.shape[1])
    return mask & (mask.cumsum(axis=0) <= capacity)


def balanced(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return scores scaled to one a token and equal sums of all experts (Sinkhorn; Clark et al., ICML 2022)."""
    plan, share = scores, len(scores) / scores.shape[1]
    for _ in range(STEPS):
        plan = plan / plan.sum(axis=1, keepdims=True)
        plan = plan * (share / plan.sum(axis=0))
    return plan


def placed(
    chosen: NDArray[np.bool_], scores: NDArray[np.float64], capacity: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return for `capacity` places of each expert the token and its weight (token 0 and weight 0 in free places)."""
    places, weights = [], []
    for expert, column in enumerate(chosen.T):
        tokens = np.flatnonzero(column)
        free = capacity - len(tokens)
        places.append(np.concatenate([tokens, np.zeros(free, np.int64)]))
        weights.append(np.concatenate([scores[tokens, expert], np.zeros(free)]))
    return np.concatenate(places), np.concatenate(weights)


def dispatch(
    scores: NDArray[np.float64], capacity: int, variant: Variant
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the places and weights (`placed`) of constrained transport."""
    return placed(route(scores, capacity, variant) > 0, scores, capacity)
