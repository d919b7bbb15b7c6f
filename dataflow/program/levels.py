"""Unstructured masks on the array: which columns run with which N of N:M, so that the mask is covered exactly.

A column needs N = the largest number of non-zeros in any of its groups. Columns that need the same N form one product;
neighbouring levels are merged where one product with the larger N takes fewer cycles than two. Where the mask is not
known, its elements are assumed independent and equally likely, and the expected number of columns per N is used.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from nmsat.algorithms.core.ranges import GROUP_SIZES
from nmsat.algorithms.core.tape import Pattern
from nmsat.dataflow.mapping.chain import chain_cycles
from nmsat.dataflow.mapping.cover import COVER_SIZES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nmsat.dataflow.contract.config import SatConfig


@dataclass(frozen=True, eq=False)
class Level:
    """Columns of W that run with one pattern: how many, and which where the mask is known (ascending)."""

    pattern: Pattern
    columns: int
    which: NDArray[np.int64] | None = None


def cover_levels(
    config: SatConfig, m: int, keep: NDArray[np.bool_], *, sort: bool = True, sizes: tuple[int, ...] = GROUP_SIZES
) -> list[Level]:
    """Return the cheapest cover of keep[k, n] for m rows of activations.

    sort: columns may be put together whatever their place; otherwise only whole tiles, as wide as the array, in which
    the widest column counts. sizes: group sizes to try. Columns without non-zeros are in no level.
    """
    k, n = keep.shape
    width = 1 if sort else config.columns
    best: tuple[int, list[Level]] | None = None
    for size in sizes:
        need = column_needs(keep, size)
        need = np.repeat(np.maximum.reduceat(need, np.arange(0, n, width)), width)[:n]
        values, counts = np.unique(need, return_counts=True)
        groups = _merge(config, m, k, size, [(int(v), int(c)) for v, c in zip(values, counts, strict=True) if v])
        levels = [
            Level(Pattern(high, size), c, np.flatnonzero((need >= low) & (need <= high))) for low, high, c in groups
        ]
        best = _better(best, (_cycles(config, m, k, levels), levels))
    return [] if best is None else best[1]


def assumed_levels(
    config: SatConfig,
    m: int,
    k: int,
    n: int,
    density: float,
    *,
    sort: bool = True,
    sizes: tuple[int, ...] = COVER_SIZES,
) -> list[Level]:
    """Return the cover expected for an independent random mask of the given density; arguments as `cover_levels`."""
    width = 1 if sort else config.columns
    best: tuple[int, list[Level]] | None = None
    for size in sizes:
        units = -(-n // width)
        counts = expected_needs(k, units, min(width, n), density, size)
        columns = [(level, min(c * width, n)) for level, c in enumerate(counts) if level and c]
        over = sum(c for _, c in columns) - n  # the last tile may be narrower
        if over > 0:
            level, c = columns[-1]
            columns[-1] = (level, max(1, c - over))
        groups = _merge(config, m, k, size, columns)
        levels = [Level(Pattern(high, size), c) for _, high, c in groups]
        best = _better(best, (_cycles(config, m, k, levels), levels))
    return [] if best is None else best[1]


def column_needs(keep: NDArray[np.bool_], size: int) -> NDArray[np.int64]:
    """Return for each column of keep[k, n] the largest number of non-zeros in a group of `size`."""
    starts = np.arange(0, keep.shape[0], size)
    return np.add.reduceat(keep, starts, axis=0, dtype=np.int64).max(axis=0)


@lru_cache(maxsize=4096)
def expected_needs(k: int, units: int, width: int, density: float, size: int) -> tuple[int, ...]:
    """Return how many of `units` tiles of `width` columns are expected to need N = 0, 1, .. `size`; they sum to units.

    A group of s elements holds Binomial(s, density) non-zeros, so a tile of G groups needs at most N with probability
    F(N)^G (facts: lossless cover).
    """
    full, tail = divmod(k, size)
    below = [
        (_binomial(size, density, level) ** full * (_binomial(tail, density, level) if tail else 1.0)) ** width
        for level in range(size + 1)
    ]
    ends = [round(units * share) for share in below]
    return tuple(end - start for start, end in zip([0, *ends], ends, strict=False))


def balanced_rows(keep: NDArray[np.bool_], size: int) -> NDArray[np.int64]:
    """Return an order of the rows of keep[k, n] in which groups of `size` hold fewer non-zeros per column.

    Greedy: rows with many non-zeros first, each into the group with room whose fullest affected column grows least.
    The order of the chain changes with it, and so may the last bits of the result.
    """
    k, n = keep.shape
    groups = -(-k // size)
    room = np.full(groups, size)
    room[-1] = k - (groups - 1) * size
    load = np.zeros((groups, n), np.int64)
    members: list[list[int]] = [[] for _ in range(groups)]
    for row in np.argsort(-keep.sum(axis=1), kind="stable"):
        after = (load + keep[row]) ** 3  # high counts weigh more
        growth = (after - load**3).sum(axis=1)
        growth[room == 0] = np.iinfo(np.int64).max
        chosen = int(growth.argmin())
        load[chosen] += keep[row]
        room[chosen] -= 1
        members[chosen].append(int(row))
    return np.array([row for group in members for row in sorted(group)])


def _binomial(trials: int, p: float, at_most: int) -> float:
    """Probability of at most so many successes."""
    if at_most >= trials:
        return 1.0
    return sum(math.comb(trials, i) * p**i * (1 - p) ** (trials - i) for i in range(at_most + 1))


def _merge(config: SatConfig, m: int, k: int, size: int, levels: list[tuple[int, int]]) -> list[tuple[int, int, int]]:
    """Cut ascending levels (N, columns) into runs with the fewest cycles; returns (lowest N, highest N, columns)."""
    best: list[tuple[int, int]] = [(0, 0)]  # cycles of the first i levels, start of their last run
    for stop in range(1, len(levels) + 1):
        pattern = _dense_if_full(Pattern(levels[stop - 1][0], size))
        options = []
        for start in range(stop):
            columns = sum(c for _, c in levels[start:stop])
            options.append((best[start][0] + chain_cycles(config, ((m, k, columns, 1),), pattern), start))
        best.append(min(options))
    runs, stop = [], len(levels)
    while stop:
        start = best[stop][1]
        runs.append((levels[start][0], levels[stop - 1][0], sum(c for _, c in levels[start:stop])))
        stop = start
    return runs[::-1]


def _dense_if_full(pattern: Pattern) -> Pattern | None:
    return pattern if pattern.n < pattern.m else None


def _cycles(config: SatConfig, m: int, k: int, levels: list[Level]) -> int:
    return sum(chain_cycles(config, ((m, k, x.columns, 1),), _dense_if_full(x.pattern)) for x in levels)


def _better(best: tuple[int, list[Level]] | None, other: tuple[int, list[Level]]) -> tuple[int, list[Level]]:
    return other if best is None or other[0] < best[0] else best
