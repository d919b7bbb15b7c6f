"""Masks that change in training: ERK densities, pruning schedules, drop and grow, free and inside N:M groups."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from nmsat.algorithms.workloads.engine.parameters import nm_mask

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from nmsat.algorithms.core.tape import Pattern


def cubic_density(event: int, start: int, stop: int, initial: float, final: float) -> float:
    """Return d_f + (d_i - d_f) (1 - (t - t0) / (tf - t0))^3, held before and after (Zhu and Gupta, 2017)."""
    part = min(max((event - start) / (stop - start), 0.0), 1.0)
    return final + (initial - final) * (1 - part) ** 3


def cosine(step: int, steps: int, high: float, low: float = 0.0) -> float:
    """Return a value that falls from high to low along half a cosine."""
    return low + (high - low) * 0.5 * (1 + math.cos(math.pi * min(step / steps, 1.0)))


def erk_densities(shapes: Sequence[tuple[int, ...]], density: float) -> list[float]:
    """Return Erdos-Renyi-kernel densities: proportional to sum(dims) / prod(dims), at most 1, `density` on the whole.

    shapes: of the tensors with all their axes (C_in, C_out, kh, kw). Layers that would exceed 1 become dense and the
    rest is solved again (Evci et al., ICML 2020, section 3).
    """
    sizes = np.array([math.prod(shape) for shape in shapes], float)
    raw = np.array([sum(shape) / math.prod(shape) for shape in shapes])
    dense = np.zeros(len(sizes), bool)
    while True:
        budget = density * sizes.sum() - sizes[dense].sum()
        factor = budget / (raw * sizes)[~dense].sum() if not dense.all() else 0.0
        over = ~dense & (factor * raw > 1)
        if not over.any():
            return [1.0 if full else float(factor * r) for full, r in zip(dense, raw, strict=True)]
        dense |= over


def global_magnitude(values: Sequence[NDArray], keep: Sequence[NDArray], count: int) -> list[NDArray[np.bool_]]:
    """Return masks of the `count` largest |w| over all tensors, among what is kept now; a tie keeps the earlier one."""
    flat = np.concatenate([np.where(k, np.abs(v), -1).ravel() for v, k in zip(values, keep, strict=True)])
    chosen = np.zeros(flat.size, np.bool_)
    chosen[np.argsort(-flat, kind="stable")[:count]] = True
    chosen &= flat >= 0
    parts = np.split(chosen, np.cumsum([v.size for v in values])[:-1])
    return [part.reshape(v.shape) for part, v in zip(parts, values, strict=True)]


def regenerate(
    w: NDArray, keep: NDArray[np.bool_], grad: NDArray, fraction: float
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Drop the smallest ceil(fraction * kept) of |w| and grow as many places with the largest |grad|.

    Places just dropped may grow again. Returns the new mask, with as many places as before, and the grown places.
    """
    count = math.ceil(fraction * int(keep.sum()))
    flat, kept = np.abs(w).ravel(), keep.ravel().copy()
    inside = np.flatnonzero(kept)
    kept[inside[np.argsort(flat[inside], kind="stable")[:count]]] = False
    outside = np.flatnonzero(~kept)
    grown = outside[np.argsort(-np.abs(grad).ravel()[outside], kind="stable")[:count]]
    new = np.zeros_like(kept)
    new[grown] = True
    return (kept | new).reshape(w.shape), new.reshape(w.shape)


def regenerate_nm(
    w: NDArray, keep: NDArray[np.bool_], grad: NDArray, fraction: float, pattern: Pattern
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Drop as `regenerate` does, but grow inside the group that lost a place, so that an N:M mask stays N:M (ours).

    w: [k, n], groups along k. Returns the new mask and the grown places.
    """
    k, n = w.shape
    count = math.ceil(fraction * int(keep.sum()))
    inside = np.flatnonzero(keep)
    lost = np.zeros(w.size, np.bool_)
    lost[inside[np.argsort(np.abs(w).ravel()[inside], kind="stable")[:count]]] = True
    pad = ((0, -k % pattern.m), (0, 0))
    dropped = np.pad(lost.reshape(k, n), pad).reshape(-1, pattern.m, n)
    held = np.pad(keep, pad).reshape(dropped.shape) & ~dropped
    # Padding and kept places rank last.
    slope = np.pad(np.abs(grad), pad, constant_values=-np.inf).reshape(dropped.shape)
    order = np.argsort(np.where(held, np.inf, -slope), axis=1, kind="stable")
    rank = np.argsort(order, axis=1, kind="stable")
    grown = rank < dropped.sum(axis=1, keepdims=True)
    return (held | grown).reshape(-1, n)[:k], grown.reshape(-1, n)[:k]


def narrow_nm(w: NDArray, keep: NDArray[np.bool_], pattern: Pattern) -> NDArray[np.bool_]:
    """Return the N:M mask along k of the largest |w| among what is kept."""
    masked = np.where(keep, w, 0)
    return nm_mask(masked, pattern, 0) & keep
