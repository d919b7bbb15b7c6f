"""A linear-chain conditional random field (Lafferty et al., ICML 2001) over tags, on the host.

    score(y) = sum_t e_t(y_t) + sum_t A(y_{t-1}, y_t)        log Z = log sum over all y of exp(score(y))
    loss     = log Z - score(gold)

Tags are O = 0, B = 1, I = 2. `FORBIDDEN` keeps I from following O and from standing first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from nmsat.algorithms.workloads.engine.ops import given

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nmsat.algorithms.workloads.engine.program import Tensor

OUTSIDE, BEGIN, INSIDE = range(3)
NEVER: Final = -1e4
FORBIDDEN: Final = np.array([[0.0, 0.0, NEVER], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
"""Added to A."""

START: Final = np.array([0.0, 0.0, NEVER])
"""Added to the first emissions."""


def log_sum(x: NDArray, axis: int) -> NDArray:
    """log of the sum of exp along an axis."""
    top = x.max(axis=axis, keepdims=True)
    return np.squeeze(top, axis) + np.log(np.exp(x - top).sum(axis=axis))


def _alphas(e: NDArray, a: NDArray) -> NDArray:
    alpha = np.empty(e.shape)
    alpha[:, 0] = e[:, 0] + START
    for t in range(1, e.shape[1]):
        alpha[:, t] = e[:, t] + log_sum(alpha[:, t - 1, :, None] + a, 1)
    return alpha


def log_partition(e: NDArray, a: NDArray) -> NDArray:
    """Return log Z of each sequence; e: [B, T, 3]; a: [3, 3] with `FORBIDDEN` in it."""
    return log_sum(_alphas(e, a)[:, -1], 1)


def score(e: NDArray, a: NDArray, tags: NDArray[np.integer]) -> NDArray:
    """Return the score of one tagging of each sequence; tags: [B, T]."""
    unary = np.take_along_axis(e, tags[..., None], 2)[..., 0].sum(axis=1)
    return unary + START[tags[:, 0]] + a[tags[:, :-1], tags[:, 1:]].sum(axis=1)


def marginals(e: NDArray, a: NDArray) -> tuple[NDArray, NDArray]:
    """Return P(y_t = j) as [B, T, 3], and the expected number of each transition over the batch as [3, 3]."""
    alpha, steps = _alphas(e, a), e.shape[1]
    beta = np.zeros_like(alpha)
    for t in range(steps - 2, -1, -1):
        beta[:, t] = log_sum(a + (e[:, t + 1] + beta[:, t + 1])[:, None, :], 2)
    z = log_sum(alpha[:, -1], 1)[:, None, None]
    pairs = alpha[:, :-1, :, None] + a + (e[:, 1:] + beta[:, 1:])[:, :, None, :] - z[..., None]
    return np.exp(alpha + beta - z), np.exp(pairs).sum(axis=(0, 1))


def viterbi(e: NDArray, a: NDArray) -> NDArray[np.int64]:
    """Return the tagging of the highest score, [B, T]."""
    best, steps = e[:, 0] + START, e.shape[1]
    origin = np.zeros(e.shape, np.int64)
    for t in range(1, steps):
        paths = best[:, :, None] + a
        origin[:, t] = paths.argmax(axis=1)
        best = e[:, t] + paths.max(axis=1)
    tags = np.empty(e.shape[:2], np.int64)
    tags[:, -1] = best.argmax(axis=1)
    for t in range(steps - 1, 0, -1):
        tags[:, t - 1] = np.take_along_axis(origin[:, t], tags[:, t, None], 1)[:, 0]
    return tags


def crf_loss(emissions: Tensor, transitions: Tensor, tags: NDArray[np.integer] | None) -> Tensor:
    """Return the mean loss per token of emissions[B, T, 3] under transitions[3, 3]; tags: [B, T]."""
    tokens = emissions.shape[0] * emissions.shape[1]

    def forward(e: NDArray, a: NDArray) -> NDArray:
        full = a + FORBIDDEN
        return np.asarray((log_partition(e, full) - score(e, full, given(tags))).sum() / tokens, e.dtype)

    def backward(d: NDArray, _y: NDArray, e: NDArray, a: NDArray) -> tuple[NDArray, NDArray]:
        gold = given(tags)
        unary, pairs = marginals(e, a + FORBIDDEN)
        np.subtract.at(pairs, (gold[:, :-1], gold[:, 1:]), 1)
        unary[np.arange(gold.shape[0])[:, None], np.arange(gold.shape[1]), gold] -= 1
        return (d * unary / tokens).astype(e.dtype), (d * pairs / tokens).astype(a.dtype)

    return emissions.program.apply("LinearChainCRF", (emissions, transitions), (), forward, backward)
