"""Objectives and the metric of models of code: spans and middles that are moved, and pass@k on unit tests that run.

fill in the middle   document -> PRE prefix SUF suffix MID middle          (Bavarian et al., arXiv 2207.14255)
span denoising       source: each span replaced by a sentinel; target: sentinels, each with its span behind it
                                                                            (Raffel et al., JMLR 2020)
pass@k               1 - C(n - c, k) / C(n, k) of n samples of which c pass (Chen et al., arXiv 2107.03374)
"""

from __future__ import annotations

import ast
import operator
from math import comb
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

OPERATIONS: Final[dict[type[ast.operator], Callable[[int, int], int]]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
}
"""What generated code may compute."""


def fill_in_middle(document: NDArray[np.int64], start: int, stop: int, sentinels: tuple[int, int, int]) -> NDArray:
    """Return PRE prefix SUF suffix MID middle, where document[start:stop] is the middle."""
    pre, suf, mid = ([s] for s in sentinels)
    return np.concatenate([pre, document[:start], suf, document[stop:], mid, document[start:stop]])


def from_middle(ids: NDArray[np.int64], sentinels: tuple[int, int, int]) -> NDArray:
    """Undo `fill_in_middle`."""
    pre, suf, mid = (int(np.flatnonzero(ids == s)[0]) for s in sentinels)
    return np.concatenate([ids[pre + 1 : suf], ids[mid + 1 :], ids[suf + 1 : mid]])


def denoise(document: NDArray[np.int64], spans: Sequence[tuple[int, int]], first: int) -> tuple[NDArray, NDArray]:
    """Return source and target of span denoising; spans: ascending and apart; sentinels count down from `first`."""
    source, target, at = [], [], 0
    for index, (start, stop) in enumerate(spans):
        source += [document[at:start], [first - index]]
        target += [[first - index], document[start:stop]]
        at = stop
    return np.concatenate([*source, document[at:]]).astype(np.int64), np.concatenate(target).astype(np.int64)


def from_spans(source: NDArray[np.int64], target: NDArray[np.int64], first: int, count: int) -> NDArray:
    """Undo `denoise` with `count` spans."""
    starts = [int(np.flatnonzero(target == first - i)[0]) for i in range(count)] + [len(target)]
    parts, at = [], 0
    for index in range(count):
        place = int(np.flatnonzero(source == first - index)[0])
        parts += [source[at:place], target[starts[index] + 1 : starts[index + 1]]]
        at = place + 1
    return np.concatenate([*parts, source[at:]])


def pass_at_k(samples: int, correct: int, k: int) -> float:
    """Return the share of draws of k of the samples that hold a correct one; ValueError unless 0 < k <= samples."""
    if not 0 < k <= samples or not 0 <= correct <= samples:
        raise ValueError(f"k is {k!r} and correct {correct!r} of {samples!r} samples; they must be 1 and 0 to samples")
    return 1 - comb(samples - correct, k) / comb(samples, k)


def passes(code: str, cases: Sequence[tuple[int, int, int]]) -> bool:
    """Whether code of the form 'lambda a, b: ...' gives the third number of each case from the first two.

    Only names a and b, whole numbers, +, - and * are computed; anything else, and what Python's grammar refuses, fails.
    """
    try:
        body = ast.parse(code, mode="eval").body
    except SyntaxError:
        return False
    if not isinstance(body, ast.Lambda) or [a.arg for a in body.args.args] != ["a", "b"]:
        return False
    return all(_value(body.body, {"a": a, "b": b}) == wanted for a, b, wanted in cases)


def _value(node: ast.expr, names: dict[str, int]) -> int | None:
    """Return the value of an expression, None for one that is not allowed."""
    if isinstance(node, ast.Name):
        return names.get(node.id)
    if isinstance(node, ast.Constant):
        return node.value if type(node.value) is int else None
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATIONS:
        left, right = _value(node.left, names), _value(node.right, names)
        if left is not None and right is not None:
            return OPERATIONS[type(node.op)](left, right)
    return None


def written(rng: np.random.Generator, symbol: str, skill: float) -> str:
    """Return code for 'a symbol b' as a programmer of known skill writes it: right with that probability.

    A wrong one has another operation or does not parse.
    """
    if rng.random() < skill:
        return f"lambda a, b: a {symbol} b"
    other = "+-*".replace(symbol, "")[rng.integers(2)]
    return str(rng.choice([f"lambda a, b: a {other} b", f"lambda a, b: a {symbol}", f"lambda b, a: a {other} a"]))


def cases(symbol: str) -> list[tuple[int, int, int]]:
    """Return unit tests that no other operation passes."""
    function = {"+": operator.add, "-": operator.sub, "*": operator.mul}[symbol]
    return [(a, b, function(a, b)) for a, b in ((3, 5), (7, 2), (-4, 9))]
