"""Recurrent layers: a chain of short products, and one weight gradient over all their steps.

Long short-term memory (Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al. 2000):

    [i f g o] = x W + h U + b        all inputs of a sequence are multiplied by W at once, before the chain
    c' = sigmoid(f) c + sigmoid(i) tanh(g)
    h' = sigmoid(o) tanh(c')

Each step multiplies h[B, H] by U[H, 4 H]. Backward, each step but the first multiplies dgates[B, 4 H] by U^T; dU is one
product with the reduction over all T B rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from nmsat.algorithms.core.tape import Stage
from nmsat.algorithms.workloads.engine.hostcost import WORD_BYTES
from nmsat.algorithms.workloads.engine.ops import given
from nmsat.algorithms.workloads.engine.parameters import Operand
from nmsat.algorithms.workloads.engine.products import multiply

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nmsat.algorithms.workloads.engine.parameters import Parameter
    from nmsat.algorithms.workloads.engine.program import Gradients, Tensor

CELL: Final = (13, 11)
"""Operations and words of a cell forward: four sums with the inputs, five gates, c' (3), h' (1); reads 9, writes 2."""

CELL_BACK: Final = (23, 13)
"""The same backward: three sigmoid gates (4 each), tanh of g (4), c (6), the sum of both gradients of h."""


@dataclass(frozen=True, eq=False)
class State:
    """h[B, H] and c[B, H] between two runs of a layer; None in a run of shapes."""

    h: NDArray | None
    c: NDArray | None


@dataclass(frozen=True, eq=False)
class _Step:
    """What the backward pass needs of a step: gates after their functions, c before, tanh of c after, h before."""

    gates: NDArray
    c: NDArray
    t: NDArray
    h: NDArray


def lstm(
    name: str, x: Tensor, u: Parameter, *, reverse: bool = False, state: State | None = None
) -> tuple[Tensor, State]:
    """Return the outputs [B, T, H] of a layer and its last state.

    x: the inputs' share x W + b of the gates, [B, T, 4 H]; u: U[H, 4 H]; reverse: walk from the last step to the first;
    state: to begin with, zero by default; it gets no gradient. Raises ValueError if the shapes do not fit.
    """
    p, (batch, steps, width), hidden = x.program, x.shape, u.shape[0]
    if u.shape != (hidden, 4 * hidden) or width != 4 * hidden:
        raise ValueError(f"x of {name!r} has {width} gates and U is {u.shape}; they must be 4 H and (H, 4 H)")
    order = range(steps - 1, -1, -1) if reverse else range(steps)
    kept: dict[int, _Step] = {}
    h = c = y = None
    if x.data is not None:
        zero = np.zeros((batch, hidden), p.dtype)
        h, c = (zero, zero) if state is None else (given(state.h), given(state.c))
        y = np.empty((batch, steps, hidden), p.dtype)
    operand = u.forward()
    for t in order:
        moved = multiply(p, f"{name}/{t}", p.stage, h, operand, (batch, hidden, 4 * hidden))
        if moved is None or x.data is None or h is None or c is None or y is None:
            continue
        gates, after, t_after = _cell(x.data[:, t] + moved, c)
        kept[t] = _Step(gates, c, t_after, h)
        h = (gates[:, 3 * hidden :] * t_after).astype(p.dtype)
        c = after.astype(p.dtype)
        y[:, t] = h
    cells = batch * steps * hidden
    p.host(name, "LSTM", CELL[0] * cells, CELL[1] * cells * WORD_BYTES)

    def back(dy: NDArray | None) -> Gradients:
        p.host(name, "LSTM", CELL_BACK[0] * cells, CELL_BACK[1] * cells * WORD_BYTES, Stage.BP)
        turned, first = u.backward(), order[0]
        dx = None if dy is None else np.empty(x.shape, p.dtype)
        dh = dc = np.zeros((batch, hidden), p.dtype)
        for t in reversed(order):
            d = None
            if dy is not None and dx is not None:
                d, dc = _cell_back(dy[:, t] + dh, dc, kept[t])
                dx[:, t] = d
            if t != first:
                moved = multiply(p, f"{name}/{t}", Stage.BP, d, turned, (batch, 4 * hidden, hidden))
                dh = dh if moved is None else moved
        if not u.frozen:
            before = None if dx is None else np.concatenate([kept[t].h for t in range(steps)]).T
            after = None if dx is None else np.ascontiguousarray(dx.transpose(1, 0, 2).reshape(-1, width))
            grad = multiply(p, name, Stage.WU, before, Operand(after), (hidden, steps * batch, width))
            if grad is not None:
                p.add_gradient(u, grad)
        return (dx,)

    node = p.node((batch, steps, hidden), y, (x,), back)
    if not u.frozen and not node.needs:
        node.needs = True
        p.nodes.append(node)
    return node, State(h, c)


def _cell(z: NDArray, c: NDArray) -> tuple[NDArray, NDArray, NDArray]:
    """Return the gates after their functions, c' and tanh(c')."""
    hidden = c.shape[1]
    gates = 1 / (1 + np.exp(-z))
    gates[:, 2 * hidden : 3 * hidden] = np.tanh(z[:, 2 * hidden : 3 * hidden])
    i, f, g, _ = np.split(gates, 4, axis=1)
    after = f * c + i * g
    return gates, after, np.tanh(after)


def _cell_back(dh: NDArray, dc: NDArray, step: _Step) -> tuple[NDArray, NDArray]:
    """Return the gradients of the gates before their functions and of c."""
    i, f, g, o = np.split(step.gates, 4, axis=1)
    dc = dc + dh * o * (1 - step.t * step.t)
    d = (dc * g * i * (1 - i), dc * step.c * f * (1 - f), dc * i * (1 - g * g), dh * step.t * o * (1 - o))
    return np.concatenate(d, axis=1), dc * f
