"""What a long UPDATE takes, from shorter ones: the engine repeats itself, so that cycles and counters are a line.

The quick gear walks an UPDATE cycle by cycle: a matrix of millions of weights takes it minutes. All that its streams do
depends on where they stand in bursts of 8 beats, in groups and in the block of 16 columns, which repeats every 384
rows and 4 blocks. Two equal steps of three shorter UPDATEs, equal in every counter, give the line; where there are
none, the whole is walked. The three have fewer rows and blocks, and differ in one of them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from math import gcd
from typing import TYPE_CHECKING, Final

from nmsat.dataflow.contract.config import MAX_GROUP
from nmsat.dataflow.contract.isa import LANES
from nmsat.dataflow.contract.limits import PAGE_BEATS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from nmsat.dataflow.program.jobs import UpdateJob

    Counters = dict[str, int]
    Walk = Callable[[UpdateJob], Counters]

RHYTHM_ROWS: Final = 6 * PAGE_BEATS
"""Rows after which streams, groups and the order of requests stand alike."""

RHYTHM_BLOCKS: Final = 4
"""The same in blocks of 16 columns: halves of gradient beats, runs of W_bp."""

PERIOD: Final = RHYTHM_ROWS * RHYTHM_BLOCKS
"""Rows, over all blocks, after which the engine repeats itself."""

WALKED: Final = 12 * PERIOD
"""Rows, over all blocks, up to which an UPDATE is walked as a whole."""


def update_counters(job: UpdateJob, walk: Walk) -> Counters:
    """Return the counters of one UPDATE of a job. walk: gives those of any UPDATE by running it."""
    blocks = -(-job.n // LANES)
    if job.k * blocks <= WALKED:
        return walk(job)
    line = min([*_wider(job.k, blocks), *_taller(job.k, blocks)], key=lambda line: line.walked, default=None)
    if line is None or line.walked > job.k * blocks:
        return walk(job)
    at = [walk(_cut(job, rows, few, blocks)) for rows, few in line.sizes]
    first, second = ({name: b[name] - a[name] for name in a} for a, b in pairwise(at))
    (rows, few), step = line.sizes[0], line.step
    more = job.k * blocks - rows * few
    if first != second or any(count * more % step for count in first.values()):
        return walk(job)
    return {name: count + first[name] * more // step for name, count in at[0].items()}


@dataclass(frozen=True)
class _Line:
    """Three UPDATEs, each (rows, blocks), on whose line the whole must lie: they end and stand in the period as it."""

    sizes: tuple[tuple[int, int], ...]

    @property
    def walked(self) -> int:
        """Rows over all blocks that the three have."""
        return sum(rows * blocks for rows, blocks in self.sizes)

    @property
    def step(self) -> int:
        """Rows over all blocks from one to the next."""
        (rows, blocks), (more_rows, more_blocks) = self.sizes[:2]
        return more_rows * more_blocks - rows * blocks


def _wider(k: int, blocks: int) -> Iterator[_Line]:
    """Yield lines of UPDATEs that differ in their blocks. Rows are whole groups in every pattern, or all there are."""
    fewer = [k % RHYTHM_ROWS + i * RHYTHM_ROWS for i in range(1, 5)] if k % MAX_GROUP == 0 else []
    for rows in (*(rows for rows in fewer if rows < k), k):
        step = RHYTHM_BLOCKS * (PERIOD // gcd(PERIOD, rows * RHYTHM_BLOCKS))
        for few in range(RHYTHM_BLOCKS + blocks % RHYTHM_BLOCKS, 6 * RHYTHM_BLOCKS, RHYTHM_BLOCKS):
            if (rows < k or few + 2 * step <= blocks) and (k * blocks - rows * few) % PERIOD == 0:
                yield _Line(tuple((rows, few + i * step) for i in range(3)))


def _taller(k: int, blocks: int) -> Iterator[_Line]:
    """Yield the line of UPDATEs that differ in their rows, for matrices of few columns."""
    step = PERIOD // gcd(RHYTHM_BLOCKS, blocks)
    first = k % step if k % step >= RHYTHM_ROWS else k % step + step
    yield _Line(tuple((first + i * step, blocks) for i in range(3)))


def _cut(job: UpdateJob, rows: int, few: int, blocks: int) -> UpdateJob:
    """Return an update with fewer rows and blocks; the last block stays as wide as it is."""
    return replace(job, k=rows, n=job.n - LANES * (blocks - few))
