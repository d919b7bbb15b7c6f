"""Host work whose cost is not per element: transforms, sorts, selections, assignments, as operations and bytes.

Each function returns a `Work` (operations, bytes), which stands where `Program.host` takes them:

    p.host("spectrum", "FFT", *fft(length=256, count=64 * 192, real=True))
    p.host("matching", "Hungarian", *hungarian(rows=200, columns=100))

A transform inside the differentiated part of a program is an operation with its own cost instead of that of its kind:

    spent = fft(length, count=rows)
    y = p.apply("FFT", (x,), shape, forward, backward, spent=spent, back_spent=spent)

Work of two passes adds up: `fft(64, count=33).plus(fft(33, count=64))`. A transcendental function and a comparison
count as one operation each, as in `hostcost`. The counts are those of the textbook algorithm that is named, in the
worst case unless said otherwise; no constant is fitted to a library.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from nmsat.algorithms.core.ranges import whole_number
from nmsat.algorithms.workloads.engine.hostcost import sort_operations

MOST = 1 << 48
"""Largest size of an axis or number of repetitions."""


class Work(NamedTuple):
    """Scalar operations and bytes moved to and from memory; `*work` fills the arguments of `Program.host`."""

    operations: int
    bytes: int

    def plus(self, other: Work) -> Work:
        """Both, one after the other."""
        return Work(self.operations + other.operations, self.bytes + other.bytes)

    def times(self, count: int) -> Work:
        """The same work `count` times."""
        count = whole_number("count of host work", count, 0, MOST)
        return Work(self.operations * count, self.bytes * count)


def elementwise(elements: int, operations: int, words: int, *, word: int = 4) -> Work:
    """Return the work of a loop over elements: operations and words moved of each; word: bytes of one."""
    size = whole_number("elements", elements, 0, MOST)
    return Work(size * operations, size * words * word)


def fft(length: int, *, count: int = 1, real: bool = False, word: int = 4) -> Work:
    """Return the work of `count` complex transforms of `length` points, forward or inverse.

    Radix 2 (Cooley and Tukey, 1965): 5 L log2 L operations; other lengths at the same rate, which mixed radices come
    near. real: one side is real, half the work (Sorensen et al., 1987). Each point is read and written once.
    """
    length, count = whole_number("length of a transform", length, 1, MOST), whole_number("count", count, 0, MOST)
    share = 2 if real else 1
    operations = math.ceil(5 * length * math.log2(length) / share)
    return Work(operations * count, 2 * 2 * word * length // share * count)


def sort(rows: int, length: int, *, word: int = 4) -> Work:
    """Return the work of sorting each of `rows` rows: length ceil(log2 length) comparisons, as many moves each way."""
    rows, length = whole_number("rows", rows, 0, MOST), whole_number("length of a row", length, 1, MOST)
    operations = sort_operations(rows, length)
    return Work(operations, 2 * word * operations)


def select(rows: int, length: int, *, word: int = 4) -> Work:
    """Return the work of finding the k largest of each row, in no order, whatever k is.

    Quickselect (Hoare, 1961): on average no more than 4 comparisons an element (Knuth, 1971: 3.39 for the median);
    every one reads an element, and each element is written once.
    """
    size = whole_number("rows", rows, 0, MOST) * whole_number("length of a row", length, 1, MOST)
    return Work(4 * size, (4 + 1) * word * size)


def hungarian(rows: int, columns: int, *, count: int = 1, word: int = 8) -> Work:
    """Return the work of `count` assignments of the smaller side to the larger by shortest augmenting paths.

    Jonker and Volgenant (Computing 38, 1987), worst case: each of s = min(rows, columns) paths settles up to s columns,
    each settling relaxes all l = max(rows, columns) of them (a sum, a difference, two comparisons): 4 s^2 l operations,
    one read of the cost and one of the distance each, and one write.
    """
    sides = whole_number("rows", rows, 1, MOST), whole_number("columns", columns, 1, MOST)
    relaxed = min(sides) ** 2 * max(sides) * whole_number("count", count, 0, MOST)
    return Work(4 * relaxed, 3 * word * relaxed)
