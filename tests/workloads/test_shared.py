"""Operands that share their indices: results of every copy, gradients, one mask on the tape."""

from __future__ import annotations

import numpy as np
import pytest

from nmsat.algorithms.core.sparsity import Unstructured
from nmsat.algorithms.core.tape import Pattern, Stage
from nmsat.algorithms.workloads.engine import ops
from nmsat.algorithms.workloads.engine.parameters import Parameter
from nmsat.algorithms.workloads.engine.products import conv2d, linear
from nmsat.algorithms.workloads.engine.program import Program, differences
from nmsat.algorithms.workloads.engine.shared import shared_conv2d, shared_linear, shared_weight, turned
from nmsat.dataflow.contract.config import preset
from nmsat.sim.work.workload import check_values, simulate_tape

RNG = np.random.default_rng(0)
OPTIONS: dict[str, dict] = {"masked": {"density": 0.2}, "pattern": {"pattern": Pattern(2, 8)}, "dense": {}}


def _network(p: Program, options: dict) -> None:
    x = p.input((2, 6, 6, 3 * 8), lambda: np.random.default_rng(1).standard_normal((2, 6, 6, 24)))
    y = shared_conv2d("stem", x, shared_weight(p, "stem", 3, (72, 16), **options), 3)
    y = ops.relu(shared_conv2d("strided", y, shared_weight(p, "strided", 3, (144, 8), **options), 3, 2))
    y = shared_linear("fc", ops.mean(y, (1, 2)), shared_weight(p, "fc", 3, (8, 5), **options))
    p.backward(ops.total(ops.mul(y, p.input((2, 15), lambda: np.random.default_rng(2).standard_normal((2, 15))))))


@pytest.mark.parametrize("kind", OPTIONS)
def test_one_tape_and_the_bits_of_the_simulator(kind: str) -> None:
    p, shapes = Program(exact=True), Program(values=False)
    p.tape.values = True
    _network(p, OPTIONS[kind])
    shapes.profile = p.profile
    _network(shapes, OPTIONS[kind])
    assert differences(p.tape, shapes.tape) == []
    assert all(q.count == 3 for q in p.tape.products)
    assert check_values(simulate_tape(p.tape, preset("tiny"))) == []


@pytest.mark.parametrize("kind", ["masked", "dense"])
def test_copies_are_layers_of_their_own(kind: str) -> None:
    """Results and gradients of each copy are those of a plain layer with its matrix."""
    p = Program(dtype=np.float64)
    x = p.vector("x", (2, 6, 6, 24))
    p.store["x"].value = RNG.standard_normal((2, 6, 6, 24))
    x = p.vector("x", (2, 6, 6, 24))
    w, f = shared_weight(p, "w", 3, (72, 16), **OPTIONS[kind]), shared_weight(p, "f", 3, (16, 5), **OPTIONS[kind])
    y = shared_linear("f", shared_conv2d("w", x, w, 3, 2), f)
    slope = RNG.standard_normal(y.shape)
    p.backward(ops.total(ops.mul(y, p.input(y.shape, slope))))
    for i in range(3):
        q = Program(dtype=np.float64)
        q.store["x"] = Parameter("x", (2, 6, 6, 8), p.store["x"].array[..., 8 * i : 8 * i + 8])
        wi, fi = (Parameter(s.name, s.shape[1:], s.array[i], s.keep) for s in (w, f))
        for s in (wi, fi):
            if s.keep is not None:
                s.mask(s.keep)
        z = linear("f", conv2d("w", q.vector("x", (2, 6, 6, 8)), wi, 3, 2), fi)
        assert np.allclose(y.array[..., 5 * i : 5 * i + 5], z.array)
        q.backward(ops.total(ops.mul(z, q.input(z.shape, slope[..., 5 * i : 5 * i + 5]))))
        for ours, theirs in ((w, wi), (f, fi)):
            assert ours.grad is not None
            assert theirs.grad is not None
            assert np.allclose(ours.grad[i], theirs.grad)
        assert np.allclose(p.store["x"].grad[..., 8 * i : 8 * i + 8], q.store["x"].grad)  # type: ignore[index]


def test_the_tape_holds_one_mask() -> None:
    p = Program()
    w = shared_weight(p, "w", 4, (40, 12), density=0.25)
    assert w.nonzeros == 4 * 120
    y = shared_linear("w", p.input((7, 160), RNG.standard_normal((7, 160))), w)
    p.backward(ops.total(y))
    (forward,), (gradient,) = p.tape.of(Stage.FF), p.tape.of(Stage.WU)
    assert isinstance(forward.sparsity, Unstructured)
    assert forward.sparsity.keep is not None
    assert forward.sparsity.keep.shape == (40, 12)
    assert forward.macs_true == gradient.macs_true == 7 * 4 * 120
    (item,) = simulate_tape(p.tape, preset("tiny")).lowered[:1]
    assert all(piece.count == 4 for piece in item.pieces)


def test_patterns_are_shared_along_both_axes() -> None:
    p = Program()
    w = shared_weight(p, "w", 2, (16, 24), pattern=Pattern(2, 8))
    ahead, behind = w.forward().values, turned(w).values
    assert ahead is not None
    assert behind is not None
    assert np.array_equal(ahead[0] != 0, ahead[1] != 0)
    assert np.array_equal(behind[0] != 0, behind[1] != 0)
    assert ((behind[0] != 0).reshape(3, 8, 16).sum(axis=1) <= 2).all()
    with pytest.raises(ValueError, match="copies of 'v'"):
        shared_weight(p, "v", 0, (4, 4))
