"""An attention as parts of a step: products of two activations for every head, softmax on the host between them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

from nmsat.algorithms.core.tape import Stage
from nmsat.dataflow.program import kinds
from nmsat.dataflow.program.host import Value
from nmsat.dataflow.program.tensors import DENSE

if TYPE_CHECKING:
    from collections.abc import Iterable

    from nmsat.algorithms.core.tape import Pattern
    from nmsat.algorithms.layers.attention import Attention
    from nmsat.algorithms.layers.products import Conv2d, Linear
    from nmsat.dataflow.program.host import Action, Back
    from nmsat.dataflow.program.product import ProductCode
    from nmsat.dataflow.program.tensors import Layout, Rows, Weights

SOFTMAX_OPERATIONS = 5
"""Operations of a softmax for each score, forward and backward, as `Attention` records them."""


class AttentionPlanner(Protocol):
    """What an attention needs of `dataflow.program.graph.Planner`, which says what each method does."""

    layout: Layout

    def host(
        self,
        name: str,
        kind: str,
        stage: Stage,
        reads: tuple[Value, ...],
        writes: tuple[Value, ...],
        action: Action,
        operations: int,
    ) -> None: ...

    def machine(self, codes: Iterable[ProductCode]) -> None: ...

    def read(self, value: Value) -> Rows: ...

    def made(self, name: str, shape: tuple[int, ...], size: int = 2) -> Value: ...

    def record(
        self, name: str, stage: Stage, shape: tuple[int, int, int], pattern: Pattern, count: int = 1
    ) -> None: ...

    def identity(self, rows: int) -> Weights: ...

    def product(self, layer: Conv2d | Linear, x: Value, *, relu: bool, mask: bool) -> tuple[Value, Back]: ...


def attention(planner: AttentionPlanner, layer: Attention, x: Value) -> tuple[Value, Back]:
    """Plan the forward pass; return the output and how to plan the backward pass.

    The host lays out heads one behind the other: they are narrower than a beat, or not.
    """
    batch, places, features = x.shape
    count, width = batch * layer.heads, features // layer.heads
    heads, square = (count, places, width), (count, places, places)
    qkv, project_back = planner.product(layer.project, x, relu=False, mask=False)
    q, k, v = (Value(f"{layer.name}.{part}", heads) for part in "qkv")
    planner.host(f"{layer.name}.split", "Transpose", Stage.FF, (qkv,), (q, k, v), lambda _, f: [*layer.split(f[0])], 0)
    scores = planner.made(f"{layer.name}.scores", square, 4)
    _batched(planner, "scores", layer, Stage.FF, (q, k), scores, turned=True)
    share = Value(f"{layer.name}.share", square)
    size = SOFTMAX_OPERATIONS * int(np.prod(square))
    planner.host(
        f"{layer.name}.softmax",
        "Softmax",
        Stage.FF,
        (scores,),
        (share,),
        lambda r, f: [layer.shares(f[0], r.ctx)],
        size,
    )
    mixed = planner.made(f"{layer.name}.mixed", heads)
    _batched(planner, "mix", layer, Stage.FF, (share, v), mixed)
    joined = Value(f"{layer.name}.joined", x.shape)
    planner.host(
        f"{layer.name}.join", "Transpose", Stage.FF, (mixed,), (joined,), lambda _, f: [layer.join(f[0], batch)], 0
    )
    y, out_back = planner.product(layer.out, joined, relu=False, mask=False)

    def backward(dy: Value) -> Value | None:
        d_joined = out_back(dy)
        assert d_joined is not None
        d_mixed = Value(f"{layer.name}.dmixed", heads)
        planner.host(
            f"{layer.name}.dsplit",
            "Transpose",
            Stage.BP,
            (d_joined,),
            (d_mixed,),
            lambda _, f: [layer.split_heads(f[0])],
            0,
        )
        dv = planner.made(f"{layer.name}.dv", heads)
        _batched(planner, "dv", layer, Stage.BP, (share, d_mixed), dv, transposed=True)
        d_share = planner.made(f"{layer.name}.dshare", square, 4)
        _batched(planner, "dshare", layer, Stage.BP, (d_mixed, v), d_share, turned=True)
        d_scores = Value(f"{layer.name}.dscores", square)
        planner.host(
            f"{layer.name}.dsoftmax",
            "Softmax",
            Stage.BP,
            (d_share,),
            (d_scores,),
            lambda r, f: [layer.scores_gradient(f[0], r.ctx)],
            size,
        )
        dq, dk = planner.made(f"{layer.name}.dq", heads), planner.made(f"{layer.name}.dk", heads)
        _batched(planner, "dq", layer, Stage.BP, (d_scores, k), dq)
        _batched(planner, "dk", layer, Stage.BP, (d_scores, q), dk, transposed=True)
        d_qkv = Value(f"{layer.name}.dqkv", qkv.shape)
        planner.host(
            f"{layer.name}.djoin",
            "Transpose",
            Stage.BP,
            (dq, dk, dv),
            (d_qkv,),
            lambda _, f: [layer.join_gradients(np.stack(f), batch)],
            0,
        )
        return project_back(d_qkv)

    return y, backward


def _batched(
    planner: AttentionPlanner,
    what: str,
    layer: Attention,
    stage: Stage,
    operands: tuple[Value, Value],
    y: Value,
    *,
    turned: bool = False,
    transposed: bool = False,
) -> None:
    """Append Y = A B for every head; turned: B lies transposed; transposed: A does."""
    name, (a, b) = f"{layer.name}.{what}", operands
    count, m, n = y.shape
    rows, columns = a.shape[1:]
    k = rows if transposed else columns
    first, second, result = planner.read(a), planner.read(b), planner.read(y)
    room = planner.layout.rows(f"{name}.turned", result.region, count * k, n) if turned else None
    codes: list[Iterable[ProductCode]] = []
    for head in range(count):
        left = first.part((head * rows, rows), (0, columns))
        right = second.part((head * b.shape[1], b.shape[1]), (0, b.shape[2]))
        turning = None
        if room is not None:
            turning = kinds.Turning(room.part((head * k, k), (0, n)), planner.identity(n))
        target = result.part((head * m, m), (0, n))
        label = f"{name}/head{head}.{stage}"
        codes.append(
            kinds.activation_product(
                label, kinds.Matrix(left, transposed), kinds.Matrix(right, turned), target, turning
            )
        )
    planner.machine(kinds.turned_first(codes))
    planner.record(name, stage, (m, k, n), DENSE, count)
