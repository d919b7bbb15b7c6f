"""Host work with costs of its own: counted loops of plain algorithms, and operations that carry them."""

from __future__ import annotations

import heapq

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from nmsat.algorithms.core.tape import Stage
from nmsat.algorithms.workloads.engine import ops
from nmsat.algorithms.workloads.engine.hostwork import Work, elementwise, fft, hungarian, select, sort
from nmsat.algorithms.workloads.engine.program import Program


def _radix2(x: list[complex], spent: list[int]) -> list[complex]:
    """A plain recursive transform that counts its real operations; twiddles of 1 count like all others."""
    if len(x) == 1:
        return x
    even, odd = _radix2(x[::2], spent), _radix2(x[1::2], spent)
    half = len(x) // 2
    out = [0j] * len(x)
    for i in range(half):
        turned = np.exp(-2j * np.pi * i / len(x)) * odd[i]
        out[i], out[i + half] = even[i] + turned, even[i] - turned
        spent[0] += 6 + 2 + 2
    return out


def test_a_transform_costs_what_the_plain_one_counts() -> None:
    x = np.random.default_rng(0).standard_normal(64) + 0j
    spent = [0]
    assert np.allclose(_radix2(list(x), spent), np.fft.fft(x))
    assert fft(64).operations == spent[0]
    assert fft(64, count=3) == fft(64).times(3)
    assert fft(64, real=True).operations == spent[0] // 2
    assert fft(1).operations == 0


def test_a_sort_costs_no_less_than_merging_counts() -> None:
    values = np.random.default_rng(1).random(200).tolist()
    counted = [0]

    class Key(float):
        """A number that counts its comparisons."""

        def __lt__(self, other: float) -> bool:
            counted[0] += 1
            return float(self) < float(other)

    runs = [[Key(v)] for v in values]
    while len(runs) > 1:
        runs = [list(heapq.merge(*runs[i : i + 2])) for i in range(0, len(runs), 2)]
    assert runs[0] == sorted(values)
    assert counted[0] / 2 <= sort(1, 200).operations <= 2 * counted[0]
    assert select(3, 200).operations < sort(3, 200).operations


def test_an_assignment_costs_at_most_what_is_counted() -> None:
    """Shortest augmenting paths written out; its relaxations stay below the bound, and the answer is SciPy's."""
    rng = np.random.default_rng(2)
    for rows, columns in ((6, 6), (5, 9)):
        cost = rng.random((rows, columns))
        relaxed, total = _augmenting(cost)
        r, c = linear_sum_assignment(cost)
        assert total == pytest.approx(float(cost[r, c].sum()))
        assert 0 < 4 * relaxed <= hungarian(rows, columns).operations
        assert hungarian(rows, columns) == hungarian(columns, rows)


def _augmenting(cost: np.ndarray) -> tuple[int, float]:
    rows, columns = cost.shape
    u, v = np.zeros(rows), np.zeros(columns)
    owner = np.full(columns, -1)
    relaxed = 0
    for start in range(rows):
        distance, before, done = np.full(columns, np.inf), np.full(columns, -1), np.zeros(columns, bool)
        row, base, last = start, 0.0, -1
        while True:
            for j in np.flatnonzero(~done):
                relaxed += 1
                reach = base + cost[row, j] - u[row] - v[j]
                if reach < distance[j]:
                    distance[j], before[j] = reach, last
            last = int(np.where(done, np.inf, distance).argmin())
            done[last], base = True, distance[last]
            if owner[last] < 0:
                break
            row = int(owner[last])
        settled = np.flatnonzero(done & (distance < base))
        u[start] += base
        u[owner[settled]] += base - distance[settled]
        v[settled] -= base - distance[settled]
        while before[last] >= 0:
            owner[last] = owner[before[last]]
            last = int(before[last])
        owner[last] = start
    taken = np.flatnonzero(owner >= 0)
    return relaxed, float(cost[owner[taken], taken].sum())


def test_an_operation_carries_its_own_work() -> None:
    p = Program()
    x = p.vector("x", (8,), 1.0)
    spent = fft(8)
    y = p.apply("FFT", (x,), (8,), lambda v: v * 2, lambda d, _y, _v: (d * 2,), spent=spent, back_spent=spent)
    p.backward(ops.total(y))
    found = [work for work in p.tape.host if work.kind == "FFT"]
    assert [(w.stage, w.operations, w.bytes) for w in found] == [(Stage.FF, *spent), (Stage.BP, *spent)]
    p.host("again", "Sort", *sort(2, 8).plus(elementwise(5, 3, 2)))
    assert p.tape.host[-1].operations == 2 * 8 * 3 + 15
    with pytest.raises(ValueError, match="known kinds"):
        p.apply("Unheard", (x,), (8,), lambda v: v)


def test_sizes_are_checked() -> None:
    for wrong in (lambda: fft(0), lambda: sort(1, 0), lambda: hungarian(0, 3), lambda: Work(1, 1).times(-1)):
        with pytest.raises(ValueError, match="must be"):
            wrong()
