"""The three products of one run of a layer, from its shapes: what a recording puts on the tape.

A two- or one-dimensional convolution is recorded with its shape; one of three dimensions as windows times W, a
transposed one as pixels times W whose results are added up in place.
"""

# pyright: reportMissingImports=false
# PyTorch is an optional extra: the type checker runs without it.

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from nmsat.algorithms.core.tape import ConvShape, Product, Stage
from nmsat.algorithms.core.windows import backward_shape, backward_taps, output_size

if TYPE_CHECKING:
    from nmsat.algorithms.core.tape import Pattern
    from nmsat.algorithms.pytorch.rules import Rule


@dataclass(frozen=True)
class Work:
    """Products of one run: forward, input gradient (several for a strided convolution), weight gradient."""

    name: str
    ff: Product
    bp: tuple[Product, ...]
    wu: tuple[Product, ...]

    def of(self, stage: Stage) -> tuple[Product, ...]:
        """Return the products of a stage."""
        return {Stage.FF: (self.ff,), Stage.BP: self.bp, Stage.WU: self.wu}[stage]


class Patterns:
    """Which operands of a layer's products are sparse; without a rule none."""

    def __init__(self, rule: Rule | None) -> None:
        self._rule = rule

    def of(self, stage: Stage) -> Pattern | None:
        """Return the pattern of a stage."""
        return self._rule.pattern_of(stage) if self._rule is not None and self._rule.sparse(stage) else None

    @property
    def gradient_side(self) -> bool:
        """Whether dY is the sparse operand of BP."""
        return self._rule is not None and self._rule.gradient_side


def matrix_work(
    name: str,
    weight: str,
    sizes: tuple[int, int, int],
    rule: Rule | None,
    count: int = 1,
    taps: tuple[int, int] = (1, 1),
) -> Work:
    """Return the products of X[rows, k] W[k, n], count times; sizes: rows, k, n; taps: those within k and within n."""
    rows, k, n = sizes
    patterns = Patterns(rule)
    ff = Product(name, Stage.FF, rows, _padded(k, taps[0], patterns.of(Stage.FF)), n, patterns.of(Stage.FF), count)
    bp = _backward(name, (rows, _padded(n, taps[1], patterns.of(Stage.BP)), k), patterns, count, None)
    wu = _update(name, (k, rows, n), patterns, count, None)
    return _named(Work(name, ff, (bp,), (wu,)), weight)


def convolution_work(name: str, weight: str, shape: ConvShape, rule: Rule | None) -> Work:
    """Return the products of a convolution; BP is one product per stride phase."""
    height, width = output_size(shape)
    patterns, groups = Patterns(rule), shape.groups
    inner, outer = shape.channels_in // groups, shape.channels_out // groups
    rows, k = shape.batch * height * width, shape.kernel[0] * shape.kernel[1] * inner
    ff = Product(name, Stage.FF, rows, k, outer, patterns.of(Stage.FF), groups, shape)
    phases = [(r, c) for r in backward_taps(shape, 0) for c in backward_taps(shape, 1) if r.taps and c.taps]
    turned = backward_shape(shape)
    turned = turned if turned is None or groups == 1 else replace(turned, groups=groups)
    bp = []
    for part, (r, c) in enumerate(phases):
        taps = len(r.taps) * len(c.taps)
        sizes = (shape.batch * r.length * c.length, _padded(taps * outer, taps, patterns.of(Stage.BP)), inner)
        label = name if len(phases) == 1 else f"{name}/phase{part}"
        bp.append(_backward(label, sizes, patterns, groups, turned))
    wu = _update(name, (k, rows, outer), patterns, groups, shape)
    return _named(Work(name, ff, tuple(bp), (wu,)), weight)


def activation_work(name: str, sizes: tuple[int, int, int], count: int = 1) -> Work:
    """Return Y = A B of two activations with its two gradients; sizes: m, k, n."""
    m, k, n = sizes
    return Work(
        name,
        Product(name, Stage.FF, m, k, n, None, count),
        (Product(f"{name}.da", Stage.BP, m, n, k, None, count),),
        (Product(f"{name}.db", Stage.BP, k, m, n, None, count),),
    )


def _padded(k: int, taps: int, pattern: Pattern | None) -> int:
    """Pad each tap of a sparse reduction to whole groups, as SAT does."""
    if pattern is None or taps == 1:
        return k
    return taps * -(-(k // taps) // pattern.m) * pattern.m


def _backward(
    name: str, sizes: tuple[int, int, int], patterns: Patterns, count: int, conv: ConvShape | None
) -> Product:
    m, k, n = sizes
    pattern = patterns.of(Stage.BP)
    online = pattern is not None and patterns.gradient_side
    if online:
        m, n, conv = n, m, None  # dY is the sparse operand: the transposed product
    return Product(name, Stage.BP, m, k, n, pattern, count, conv, online=online)


def _update(name: str, sizes: tuple[int, int, int], patterns: Patterns, count: int, conv: ConvShape | None) -> Product:
    pattern = patterns.of(Stage.WU)
    return Product(name, Stage.WU, *sizes, pattern, count, conv, online=pattern is not None)


def _named(work: Work, weight: str) -> Work:
    parts = ((replace(p, weight=weight) for p in work.of(stage)) for stage in (Stage.FF, Stage.BP, Stage.WU))
    (ff,), bp, wu = (tuple(part) for part in parts)
    return Work(work.name, ff, bp, wu)
