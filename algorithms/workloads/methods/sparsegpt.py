"""SparseGPT: one-shot pruning that corrects the weights still to come for the error of those already pruned.

Source: E. Frantar and D. Alistarh, ICML 2023, arXiv 2301.00774, algorithm 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nmsat.algorithms.core.tape import Pattern

BLOCK = 128
"""Inputs whose unstructured mask is chosen at once."""


def sparsegpt(
    w: NDArray, x: NDArray, *, density: float | None = None, pattern: Pattern | None = None, damping: float = 0.01
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return the pruned and corrected weights and their mask.

    w: [k, n], x: inputs [rows, k] of y = x W. density: share kept of each block of 128 inputs; pattern: N:M along k
    instead. With H = 2 x^T x + damping mean(diag H) I and U the upper Cholesky factor of its inverse, inputs are walked
    in order; what is dropped has the least w^2 / U_jj^2, and its error w / U_jj is taken off the following inputs along
    row j of U. Raises ValueError unless exactly one of density and pattern is given.
    """
    if (density is None) == (pattern is None):
        raise ValueError(f"density is {density!r} and pattern {pattern}; give exactly one of them")
    k = w.shape[0]
    h = 2 * x.astype(np.float64).T @ x
    h[np.diag_indices(k)] += damping * np.mean(np.diag(h))
    u = np.linalg.cholesky(np.linalg.inv(h)).T
    value, keep = w.astype(np.float64), np.ones(w.shape, np.bool_)
    for start in range(0, k, BLOCK):
        stop = min(start + BLOCK, k)
        if density is not None:
            keep[start:stop] = _largest(value[start:stop] / np.diag(u)[start:stop, None], density)
        errors = np.zeros((stop - start, w.shape[1]))
        for j in range(start, stop):
            if pattern is not None and j % pattern.m == 0:
                group = slice(j, min(j + pattern.m, k))
                keep[group] = _best(value[group] / np.diag(u)[group, None], pattern.n)
            errors[j - start] = np.where(keep[j], 0, value[j]) / u[j, j]
            value[j] = np.where(keep[j], value[j], 0)
            value[j + 1 : stop] -= np.outer(u[j, j + 1 : stop], errors[j - start])
        value[stop:] -= u[start:stop, stop:].T @ errors
    return value, keep


def _largest(score: NDArray, density: float) -> NDArray[np.bool_]:
    """Mask of the `density` share of largest |score|; a tie keeps the earlier one."""
    count = round(density * score.size)
    keep = np.zeros(score.size, np.bool_)
    keep[np.argsort(-np.abs(score).ravel(), kind="stable")[:count]] = True
    return keep.reshape(score.shape)


def _best(score: NDArray, count: int) -> NDArray[np.bool_]:
    """Mask of the `count` largest |score| of each column."""
    keep = np.zeros(score.shape, np.bool_)
    np.put_along_axis(keep, np.argsort(-np.abs(score), axis=0, kind="stable")[:count], True, axis=0)
    return keep
