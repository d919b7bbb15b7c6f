"""Recurrent layers: gradients, directions, carried state, one weight gradient over all steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from nmsat.algorithms.core.tape import Pattern, Stage
from nmsat.algorithms.workloads.engine import ops
from nmsat.algorithms.workloads.engine.parameters import Parameter
from nmsat.algorithms.workloads.engine.products import linear
from nmsat.algorithms.workloads.engine.program import Program, Tensor, differences
from nmsat.algorithms.workloads.engine.recurrent import State, lstm
from nmsat.dataflow.contract.config import preset
from nmsat.sim.work.workload import check_values, simulate_tape

if TYPE_CHECKING:
    from numpy.typing import NDArray

RNG = np.random.default_rng(0)
BATCH, STEPS, INPUTS, HIDDEN = 3, 5, 6, 4
X = RNG.standard_normal((BATCH, STEPS, INPUTS))
FACTORS = RNG.standard_normal((BATCH, STEPS, HIDDEN))


def _loss(p: Program, *, reverse: bool = False, pattern: Pattern | None = None) -> Tensor:
    x = p.input(X.shape, lambda: X)
    gates = linear("w", x, p.weight("w", (INPUTS, 4 * HIDDEN)), p.vector("b", (4 * HIDDEN,), 0.1))
    y, _ = lstm("u", gates, p.weight("u", (HIDDEN, 4 * HIDDEN), ff=pattern, bp=pattern), reverse=reverse)
    return ops.total(ops.mul(y, p.input(y.shape, lambda: FACTORS)))


def _reference(x: NDArray, w: NDArray, u: NDArray, b: NDArray) -> NDArray:
    """One scalar at a time, as the equations are written."""

    def sigmoid(v: float) -> float:
        return 1 / (1 + np.exp(-v))

    y = np.zeros((BATCH, STEPS, HIDDEN))
    for s in range(BATCH):
        h, c = np.zeros(HIDDEN), np.zeros(HIDDEN)
        for t in range(STEPS):
            z, new = x[s, t] @ w + h @ u + b, np.zeros(HIDDEN)
            for j in range(HIDDEN):
                i, f, g, o = (z[gate * HIDDEN + j] for gate in range(4))
                c[j] = sigmoid(f) * c[j] + sigmoid(i) * np.tanh(g)
                new[j] = sigmoid(o) * np.tanh(c[j])
            h = new
            y[s, t] = h
    return y


def _outputs(
    x: NDArray, store: dict[str, Parameter], *, reverse: bool = False, state: State | None = None
) -> tuple[NDArray, State]:
    p = Program(dtype=np.float64, store=store)
    gates = linear("w", p.input(x.shape, x), store["w"], p.vector("b", (4 * HIDDEN,)))
    y, last = lstm("u", gates, store["u"], reverse=reverse, state=state)
    return y.array, last


def _store() -> dict[str, Parameter]:
    p = Program(dtype=np.float64)
    _loss(p)
    return p.store


def test_outputs_are_those_of_the_equations() -> None:
    store = _store()
    expected = _reference(X, store["w"].array, store["u"].array, store["b"].array)
    assert np.allclose(_outputs(X, store)[0], expected, atol=1e-12)
    assert np.allclose(_outputs(X[:, ::-1], store, reverse=True)[0][:, ::-1], expected, atol=1e-12)


@pytest.mark.parametrize("reverse", [False, True])
def test_gradients_match_differences(reverse: bool) -> None:
    p = Program(dtype=np.float64)
    p.backward(_loss(p, reverse=reverse), 4.0)
    for parameter in p.store.values():
        assert parameter.grad is not None
        for place in list(np.ndindex(parameter.shape))[::5]:
            ends = []
            for sign in (1, -1):
                parameter.array[place] += sign * 1e-6
                ends.append(float(_loss(Program(dtype=np.float64, store=p.store), reverse=reverse).array))
                parameter.array[place] -= sign * 1e-6
            assert parameter.grad[place] == pytest.approx((ends[0] - ends[1]) / 2e-6, abs=1e-6), (parameter.name, place)


def test_the_weight_gradient_is_one_product_over_all_steps() -> None:
    p = Program(values=False)
    p.backward(_loss(p))
    chain = [(q.name, q.stage, q.m, q.k, q.n) for q in p.tape.products if q.name.startswith("u")]
    assert chain == [
        *[(f"u/{t}", Stage.FF, BATCH, HIDDEN, 4 * HIDDEN) for t in range(STEPS)],
        *[(f"u/{t}", Stage.BP, BATCH, 4 * HIDDEN, HIDDEN) for t in range(STEPS - 1, 0, -1)],
        ("u", Stage.WU, HIDDEN, BATCH * STEPS, 4 * HIDDEN),
    ]


def test_an_open_forget_gate_keeps_the_cell_and_a_closed_one_forgets() -> None:
    c = RNG.standard_normal((BATCH, HIDDEN))
    state = State(np.zeros((BATCH, HIDDEN)), c)
    for forget, expected in ((50.0, c), (-50.0, np.zeros_like(c))):
        gates = np.zeros((BATCH, STEPS, 4 * HIDDEN))
        gates[..., :HIDDEN], gates[..., HIDDEN : 2 * HIDDEN] = -50.0, forget
        p = Program(dtype=np.float64)
        u = Parameter("u", (HIDDEN, 4 * HIDDEN), np.zeros((HIDDEN, 4 * HIDDEN)))
        last = lstm("u", p.input(gates.shape, gates), u, state=state)[1]
        assert last.c is not None
        assert np.allclose(last.c, expected, atol=1e-12)


def test_a_carried_state_continues_the_sequence() -> None:
    store = _store()
    whole, _ = _outputs(X, store)
    first, state = _outputs(X[:, :2], store)
    second, _ = _outputs(X[:, 2:], store, state=state)
    assert np.array_equal(np.concatenate([first, second], axis=1), whole)


@pytest.mark.parametrize("pattern", [None, Pattern(2, 4)], ids=str)
def test_values_and_shapes_give_one_tape_and_the_simulator_the_bits(pattern: Pattern | None) -> None:
    with_values, shapes = Program(exact=True), Program(values=False)
    with_values.tape.values = True
    for p in (with_values, shapes):
        p.backward(_loss(p, pattern=pattern), 64.0)
    assert differences(with_values.tape, shapes.tape) == []
    assert check_values(simulate_tape(with_values.tape, preset("tiny"))) == []


def test_shapes_are_checked() -> None:
    p = Program(values=False)
    with pytest.raises(ValueError, match="must be 4 H"):
        lstm("u", p.input((1, 2, 12)), p.weight("u", (4, 16)))
