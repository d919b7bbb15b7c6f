"""Weights with absent blocks: forward and both gradients, on the tape, on the ways to the array, on the simulator."""

from __future__ import annotations

import numpy as np
import pytest

from nmsat.algorithms.core.sparsity import Blocks
from nmsat.algorithms.core.tape import Stage
from nmsat.algorithms.workloads.engine import ops
from nmsat.algorithms.workloads.engine.parameters import Parameter
from nmsat.algorithms.workloads.engine.products import conv2d, linear
from nmsat.algorithms.workloads.engine.program import Program, differences
from nmsat.dataflow.contract.config import preset
from nmsat.dataflow.program.ways import How, Options, lower
from nmsat.sim.work.workload import check_values, simulate_tape

RNG = np.random.default_rng(4)
PRESENT = RNG.random((24, 4)) < 0.6
TAPS = np.repeat(RNG.random((1, 8, 2)) < 0.5, 9, axis=0).reshape(72, 2)


def _network(p: Program) -> None:
    x = p.input((2, 3, 3, 8), lambda: np.random.default_rng(3).standard_normal((2, 3, 3, 8)))
    w = p.weight("conv", (72, 8))
    w.mask_blocks(TAPS, 1, 4)
    h = ops.reshape(conv2d("conv", x, w, 3, 2), (2 * 4, 8))
    h = ops.relu(linear("wide", h, p.weight("wide", (8, 24))))
    w = p.weight("fc", (24, 16), masked_gradient=True)
    w.mask_blocks(PRESENT, 1, 4)
    p.backward(ops.total(ops.mul(y := linear("fc", h, w), y)))


def test_values_and_shapes_give_one_tape_and_the_simulator_the_bits_in_every_way() -> None:
    with_values, shapes = Program(exact=True), Program(values=False)
    with_values.tape.values = True
    _network(with_values)
    _network(shapes)
    assert differences(with_values.tape, shapes.tape) == []
    ways = set()
    for only in (None, (How.DENSE,), (How.COVER, How.DENSE), (How.SKIP, How.DENSE)):
        result = simulate_tape(with_values.tape, preset("tiny"), Options(only=only))
        ways |= {item.how for item in result.lowered}
        assert check_values(result) == []
    for product in with_values.tape.products:
        if product.name == "fc":
            ways.add(lower(product, preset("tiny"), Options(only=(How.SKIP,))).how)
    assert {How.DENSE, How.SKIP} <= ways


def test_gradients_are_those_of_the_masked_matrix() -> None:
    p = Program(dtype=np.float64)
    _network(p)
    conv, wide, fc = (p.store[name] for name in ("conv", "wide", "fc"))

    def loss(store: dict[str, np.ndarray]) -> float:
        q = Program(dtype=np.float64, store={k: Parameter(k, v.shape, v) for k, v in store.items()})
        x = q.input((2, 3, 3, 8), np.random.default_rng(3).standard_normal((2, 3, 3, 8)))
        h = ops.reshape(conv2d("conv", x, q.store["conv"], 3, 2), (8, 8))
        y = linear("fc", ops.relu(linear("wide", h, q.store["wide"])), q.store["fc"])
        return float(np.sum(y.array**2))

    plain = {w.name: w.array * (1 if w.keep is None else w.keep) for w in (conv, wide, fc)}
    for w in (conv, wide, fc):
        kept = np.argwhere(w.array if w.keep is None else w.keep)
        for place in map(tuple, kept[:: max(1, len(kept) // 6)]):
            ends = []
            for sign in (1, -1):
                plain[w.name][place] += sign * 1e-6
                ends.append(loss(plain))
                plain[w.name][place] -= sign * 1e-6
            assert w.grad is not None
            assert w.grad[place] == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-5, abs=1e-5)
    assert fc.grad is not None
    assert not fc.grad[~np.repeat(PRESENT, 4, axis=1)].any()


def test_multiply_adds_are_those_of_present_blocks() -> None:
    p = Program(values=False)
    _network(p)
    found = {(q.name, q.stage): q for q in p.tape.products}
    present = int(PRESENT.sum()) * 4 * 8
    assert [found["fc", s].macs_true for s in (Stage.FF, Stage.BP, Stage.WU)] == [present] * 3
    assert found["conv", Stage.FF].macs_true == 8 * int(TAPS.sum()) * 4
    turned = found["fc", Stage.BP].sparsity
    assert isinstance(turned, Blocks)
    assert (turned.height, turned.width) == (4, 1)
    assert np.array_equal(turned.places(16, 24), np.repeat(PRESENT, 4, axis=1).T)


def test_a_block_of_columns_gathers_its_own_inputs_along_k() -> None:
    balanced = np.zeros((64, 2), bool)
    balanced[::2, 0] = balanced[32:, 1] = True
    p = Program(values=False)
    w = p.weight("w", (64, 8))
    w.mask_blocks(balanced, 1, 4)
    linear("w", p.input((64, 64)), w)
    item = lower(p.tape.products[0], preset("tiny"))
    assert item.how is How.SKIP
    assert [(piece.m, piece.k, piece.n, piece.count) for piece in item.pieces] == [(64, 32, 4, 2)]
    assert item.cycles < 0.6 * item.cycles_dense


def test_blocks_are_checked() -> None:
    with pytest.raises(ValueError, match="must be \\(3, 2\\)"):
        Parameter("w", (3, 8)).mask_blocks(np.ones((3, 4), bool), 1, 4)
    p = Program(values=False)
    w = p.weight("c", (9, 6))
    w.mask_blocks(np.ones((9, 2), bool), 1, 4)
    with pytest.raises(ValueError, match="1 x G"):
        p.backward(ops.total(conv2d("c", linear("l", p.input((1, 3, 3, 1)), p.weight("l", (1, 1))), w, 3)))
