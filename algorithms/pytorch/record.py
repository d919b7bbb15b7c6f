"""The tape of a PyTorch step: shapes and patterns of the converted layers' products."""

# pyright: reportMissingImports=false
# PyTorch is an optional extra: the type checker runs without it.

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from nmsat.algorithms.core.tape import Product, Stage, Tape
from nmsat.algorithms.core.windows import backward_shape, backward_taps, output_size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nmsat.algorithms.pytorch.layers import NmConv2d, NmLinear
    from nmsat.algorithms.pytorch.rules import Rule
    from nmsat.algorithms.core.tape import ConvShape, Pattern

_tapes: list[Tape] = []


@contextmanager
def recording() -> Iterator[Tape]:
    """Record the products of all converted layers that run inside the block."""
    tape = Tape()
    _tapes.append(tape)
    try:
        yield tape
    finally:
        _tapes.remove(tape)


def record_linear(layer: NmLinear, stage: Stage, rows: int) -> None:
    """Record a product of a linear layer on `rows` rows."""
    inner, outer = layer.in_features, layer.out_features
    shape = {Stage.FF: (rows, inner, outer), Stage.BP: (rows, outer, inner), Stage.WU: (inner, rows, outer)}[stage]
    _record(layer.rule, layer.rule.name, stage, shape, None)


def record_conv(layer: NmConv2d, stage: Stage, shape: ConvShape) -> None:
    """Record a product of a convolution; its backward pass is one product per stride phase."""
    if not _tapes:
        return
    height, width = output_size(shape)
    rows, taps = shape.batch * height * width, shape.kernel[0] * shape.kernel[1]
    inner, outer = taps * shape.channels_in, shape.channels_out
    if stage is Stage.FF:
        _record(layer.rule, layer.rule.name, stage, (rows, inner, outer), shape)
    elif stage is Stage.WU:
        _record(layer.rule, layer.rule.name, stage, (inner, rows, outer), shape)
    else:
        _record_backward(layer.rule, shape)


def _record_backward(rule: Rule, shape: ConvShape) -> None:
    phases = [(r, c) for r in backward_taps(shape, 0) for c in backward_taps(shape, 1) if r.taps and c.taps]
    for part, (r, c) in enumerate(phases):
        name = rule.name if len(phases) == 1 else f"{rule.name}/phase{part}"
        pixels = shape.batch * r.length * c.length
        k = len(r.taps) * len(c.taps) * shape.channels_out
        _record(rule, name, Stage.BP, (pixels, k, shape.channels_in), backward_shape(shape))


def _record(rule: Rule, name: str, stage: Stage, shape: tuple[int, int, int], conv: ConvShape | None) -> None:
    pattern: Pattern | None = rule.pattern if rule.sparse(stage) else None
    m, k, n = shape
    transposed = pattern is not None and stage is Stage.BP and rule.gradient_side
    if transposed:
        m, n, conv = n, m, None  # dY is the sparse operand: the transposed product
    online = transposed or (pattern is not None and stage is Stage.WU)
    for tape in _tapes:
        tape.record(Product(name, stage, m, k, n, pattern, conv=conv, online=online))
