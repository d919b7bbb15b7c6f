"""The N:M that a whole mask obeys, counted group by group."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nmsat.algorithms.core.tape import Pattern

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def native_pattern(mask: NDArray[np.bool_], run: int | None = None) -> Pattern | None:
    """Return the N:M with the lowest N/M, then the lowest M, that mask[k, columns] obeys; None if dense.

    run: rows after which groups begin anew.
    """
    runs = [mask[at : at + (run or len(mask))] for at in range(0, len(mask), run or len(mask))]
    needs = []
    for m in (2, 4, 8, 16):
        groups = [rows[at : at + m] for rows in runs for at in range(0, len(rows), m)]
        needs.append(Pattern(max(1, *(int(group.sum(axis=0).max()) for group in groups)), m))
    best = min(needs, key=lambda p: (p.n / p.m, p.m))
    return best if best.n < best.m else None
