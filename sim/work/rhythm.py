"""What a long UPDATE takes, from shorter ones: the engine repeats itself, so that cycles and counters are a line.

The quick gear walks an UPDATE cycle by cycle: a matrix of millions of weights takes it minutes. All that its streams do
depends on where they stand in bursts of 8 beats, in groups and in the block of 16 columns, which repeats every 384
rows and 4 blocks. Two equal steps of three shorter UPDATEs, equal in every counter, give the line; where there are
none, the whole is walked.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from math import gcd
from typing import TYPE_CHECKING, Final

from nmsat.dataflow.contract.config import MAX_GROUP
from nmsat.dataflow.contract.isa import LANES
from nmsat.dataflow.contract.limits import PAGE_BEATS

if TYPE_CHECKING:
    from collections.abc import Callable

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
    few = RHYTHM_BLOCKS + blocks % RHYTHM_BLOCKS
    # rows that are whole groups in every pattern
    rows = RHYTHM_ROWS + job.k % RHYTHM_ROWS if job.k % MAX_GROUP == 0 and job.k > RHYTHM_ROWS else job.k
    step = RHYTHM_BLOCKS * (PERIOD // gcd(PERIOD, rows * RHYTHM_BLOCKS))
    if rows * (few + 2 * step) >= job.k * blocks or (few + 2 * step > blocks and rows == job.k):
        return walk(job)
    at = [walk(_cut(job, rows, few + i * step, blocks)) for i in range(3)]
    first, second = ({name: b[name] - a[name] for name in a} for a, b in pairwise(at))
    more, whole = job.k * blocks - rows * few, rows * step
    if first != second or more % PERIOD or any(count * more % whole for count in first.values()):
        return walk(job)
    return {name: count + first[name] * more // whole for name, count in at[0].items()}


def _cut(job: UpdateJob, rows: int, few: int, blocks: int) -> UpdateJob:
    """Return an update with fewer rows and blocks; the last block stays as wide as it is."""
    return replace(job, k=rows, n=job.n - LANES * (blocks - few))
