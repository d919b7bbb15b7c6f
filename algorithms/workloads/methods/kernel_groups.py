"""Kernel groups: blocks of one input channel and G output channels, and the order of channels that suits them.

Source: M. Lin et al., "1xN Pattern for Pruning Convolutional Neural Networks", IEEE TPAMI 2022, and its code; that the
order of channels is carried through the network is what H. Xu et al. (SparseByteNN, arXiv 2310.19509) add.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nmsat.algorithms.workloads.engine.transformer import top_groups, top_k

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from nmsat.algorithms.core.tape import Pattern


def scores(w: NDArray, group: int) -> NDArray[np.float64]:
    """Return the sum of |W| in each block [1, group] of w[k, n]: [k, ceil(n / group)]."""
    padded = np.pad(np.abs(w.astype(np.float64)), ((0, 0), (0, -w.shape[1] % group)))
    return padded.reshape(w.shape[0], -1, group).sum(axis=2)


def balanced(score: NDArray, kept: int) -> NDArray[np.bool_]:
    """Keep the `kept` best inputs of each group of outputs: bool of score's shape [k, groups]."""
    return top_k(score.T, kept).T


def threshold(score: NDArray, kept: int) -> NDArray[np.bool_]:
    """Keep the `kept` best blocks of the layer."""
    return top_k(score.reshape(1, -1), kept).reshape(score.shape)


def along_inputs(score: NDArray, pattern: Pattern) -> NDArray[np.bool_]:
    """Keep n of each m consecutive inputs, for each group of outputs: N:M along k with one set of indices a group."""
    return top_groups(score.T, pattern.n, pattern.m).T


def by_norm(w: NDArray) -> NDArray[np.int64]:
    """Return the outputs of w[k, n] by falling L1 norm, so that a group holds outputs of like importance."""
    return np.argsort(-np.abs(w).sum(axis=0), kind="stable")


def shared_order(matrices: Sequence[NDArray]) -> NDArray[np.int64]:
    """Return one order for layers whose outputs are added up: by the sum of their norms."""
    return np.argsort(-sum(np.abs(w).sum(axis=0) for w in matrices), kind="stable")


@dataclass(frozen=True)
class Use:
    """A tensor that channels run through: its name, the axis they lie on."""

    name: str
    axis: int


def carried(tensors: Mapping[str, NDArray], uses: Sequence[Use], order: NDArray) -> dict[str, NDArray]:
    """Return tensors with their channels in a new order: the outputs of the layer that makes them, what works on
    each by itself (normalisation, bias, depthwise kernels), and the inputs of every layer that reads them.
    """
    found = dict(tensors)
    for use in uses:
        found[use.name] = np.take(found[use.name], order, axis=use.axis)
    return found


def cover(keep: NDArray[np.bool_]) -> float:
    """Return the share of multiply-adds that N:M with fillers spends on a mask keep[k, n]: the best M, N by column."""
    best = 1.0
    for m in (2, 4, 8, 16):
        counts = np.add.reduceat(keep, np.arange(0, keep.shape[0], m), axis=0, dtype=np.int64)
        best = min(best, float(counts.max(axis=0).mean() / m))
    return best
