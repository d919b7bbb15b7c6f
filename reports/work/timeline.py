"""How busy the array is, over a step and from cycle to cycle."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from nmsat.dataflow.contract.config import INTERLEAVE
from nmsat.dataflow.contract.timing import TOKEN_TO_STEP
from nmsat.reports.work.records import Span, Timeline
from nmsat.sim.array.links import positions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nmsat.algorithms.core.tape import Product
    from nmsat.dataflow.mapping.tiling import Tiling
    from nmsat.sim.array.fast import ProductResult


def step_timeline(label: str, products: Sequence[Product], results: Sequence[ProductResult]) -> Timeline:
    """Return the use of the array over products that follow one another.

    Each product is drawn in three parts: the window that fills the array, the part in which it multiplies, averaged,
    and the cycles until its last result has left.
    """
    edges, busy, spans = [0], [], []
    for product, result in zip(products, results, strict=True):
        start, duration = edges[-1], result.duration
        middle = duration.total - duration.fill - duration.finish
        edges += [start + duration.fill, start + duration.fill + middle, start + duration.total]
        busy += [0.0, result.macs / (middle * result.tiling.config.elements), 0.0]
        spans.append(Span(product.name, product.stage.value, start, edges[-1]))
    return Timeline(label, tuple(edges), tuple(busy), tuple(spans))


def busy_elements(starts: Sequence[tuple[int, bool]], tiling: Tiling, cycles: int) -> np.ndarray:
    """Return int[cycles]: elements that issue a multiply-add in each cycle, counted from the first window's start.

    starts: (cycle, whether it computes) of each window at the head, as in `sim.array.stce.Trace`. A window keeps
    element (r, c) busy for 8 N cycles, later by the way of the token down the rows and of the row link to the right.
    """
    config, steps = tiling.config, INTERLEAVE * tiling.mapping.slots
    rows = positions(config.rows, config.row_slices)
    if tiling.mapping.ws:
        rows = rows + steps * np.arange(config.rows)
    offset = TOKEN_TO_STEP + rows[:, None] + positions(config.columns, config.column_slices)[None, :]
    windows = np.array([cycle - starts[0][0] for cycle, computes in starts if computes])
    first = np.minimum((windows[:, None] + offset.reshape(1, -1)).reshape(-1), cycles)
    last = np.minimum(first + steps, cycles)
    change = np.bincount(first, minlength=cycles + 1) - np.bincount(last, minlength=cycles + 1)
    return np.cumsum(change)[:cycles]
