"""The mechanism of the workloads: gradients, and one program run with values and with shapes alone."""

from __future__ import annotations

import tracemalloc
from typing import TYPE_CHECKING

import numpy as np
import pytest

from nmsat.algorithms.core.sparsity import Blocks, Gathered, Unstructured
from nmsat.algorithms.core.tape import Pattern, Product, Stage
from nmsat.algorithms.workloads.engine import ops
from nmsat.algorithms.workloads.engine.hostcost import COSTS, cost, sort_operations
from nmsat.algorithms.workloads.engine.networks import ResNetSize, convolutions, normalised, resnet
from nmsat.algorithms.workloads.engine.parameters import Parameter, kept_count, nm_mask
from nmsat.algorithms.workloads.engine.products import conv2d, experts, linear, matmul
from nmsat.algorithms.workloads.engine.program import Program, differences
from nmsat.dataflow.contract.config import preset
from nmsat.dataflow.network.layers import HOST_COSTS
from nmsat.sim.work.workload import check_values, simulate_tape

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from nmsat.algorithms.workloads.engine.program import Tensor

RNG = np.random.default_rng(5)
LABELS = RNG.integers(0, 5, 6)
INDEX = np.array([3, 0, 0, 5, 2, 1, 3])


def _weighted(x: Tensor, seed: int = 0) -> Tensor:
    """A scalar that depends on every element in its own way."""
    factors = np.random.default_rng(seed).standard_normal(x.shape)
    return ops.total(ops.mul(x, x.program.input(x.shape, factors)))


CASES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": lambda x, v: _weighted(ops.add(x, v)),
    "mul": lambda x, v: _weighted(ops.mul(x, v)),
    "scale": lambda x, v: _weighted(ops.scale(ops.add(x, v), -0.7)),
    "relu": lambda x, v: _weighted(ops.relu(ops.add(x, v))),
    "gelu": lambda x, v: _weighted(ops.gelu(ops.add(x, v))),
    "silu": lambda x, v: _weighted(ops.silu(ops.add(x, v))),
    "softmax": lambda x, v: _weighted(ops.softmax(ops.mul(x, v))),
    "masked softmax": lambda x, v: _weighted(ops.softmax(ops.mask_fill(ops.mul(x, v), np.tri(6, 5, 1, dtype=bool)))),
    "layer norm": lambda x, v: _weighted(ops.layer_norm(x, v, v)),
    "rms norm": lambda x, v: _weighted(ops.rms_norm(x, v)),
    "batch norm": lambda x, v: _weighted(ops.batch_norm(x, v, v)),
    "rotary": lambda x, v: _weighted(ops.rotary(ops.reshape(ops.mul(x, v), (5, 6)))),
    "expand": lambda x, v: _weighted(ops.expand(ops.reshape(ops.mul(x, v), (6, 1, 5)), (6, 2, 5))),
    "relative shift": lambda x, v: _weighted(ops.relative_shift(ops.reshape(ops.mul(x, v), (2, 3, 5)))),
    "take last": lambda x, v: _weighted(
        ops.take_last(ops.reshape(ops.mul(x, v), (2, 3, 5)), np.array([[0, 4, 4, 1], [2, 2, 2, 3], [1, 0, 3, 4]]))
    ),
    "mean": lambda x, v: _weighted(ops.mean(ops.mul(x, v), 0)),
    "transpose": lambda x, v: _weighted(ops.transpose(ops.mul(x, v), (1, 0))),
    "reshape": lambda x, v: _weighted(ops.reshape(ops.mul(x, v), (3, 10))),
    "part": lambda x, v: _weighted(ops.part(ops.mul(x, v), 1, 1, 4)),
    "concat": lambda x, v: _weighted(ops.concat([ops.mul(x, v), x], 0)),
    "gather": lambda x, v: _weighted(ops.gather(ops.mul(x, v), INDEX, 7)),
    "scatter": lambda x, v: _weighted(ops.scatter_add(ops.gather(ops.mul(x, v), INDEX, 7), INDEX[::-1], 6)),
    "cross entropy": lambda x, v: ops.cross_entropy(ops.mul(x, v), np.where(LABELS == 4, -1, LABELS)),
    "squared error": lambda x, v: ops.squared_error(ops.mul(x, v), x.program.input((6, 5), np.ones((6, 5))), 3.0),
    "max pool": lambda x, v: _weighted(ops.max_pool(ops.reshape(ops.mul(x, v), (1, 6, 5, 1)), 3, 2, 1)),
    "matmul": lambda x, v: _weighted(matmul("mm", ops.reshape(ops.mul(x, v), (2, 3, 5)), ops.reshape(x, (2, 5, 3)))),
    "matmul turned": lambda x, v: _weighted(
        matmul("mm", ops.reshape(ops.mul(x, v), (2, 3, 5)), ops.reshape(x, (2, 5, 3)), transpose=True)
    ),
    "linear": lambda x, v: _weighted(
        linear("l", ops.mul(x, v), x.program.weight("w", (5, 4), density=0.5), x.program.vector("b", (4,)))
    ),
    "conv": lambda x, v: _weighted(
        conv2d("c", ops.reshape(ops.mul(x, v), (1, 5, 3, 2)), x.program.weight("w", (18, 3)), 3, 2)
    ),
    "experts": lambda x, v: _weighted(experts("e", ops.mul(x, v), x.program.weight("w", (3, 5, 4)), (2, 0, 4), 6)),
}


def _loss(case: str, store: dict[str, Parameter]) -> tuple[Program, Tensor]:
    p = Program(dtype=np.float64, store=store, rng=np.random.default_rng(1))
    x = linear("x", p.input((6, 5), np.random.default_rng(2).standard_normal((6, 5))), p.weight("x", (5, 5)))
    return p, CASES[case](x, p.vector("v", (5,), 0.8))


@pytest.mark.parametrize("case", CASES)
def test_gradients_match_differences(case: str) -> None:
    store: dict[str, Parameter] = {}
    p, loss = _loss(case, store)
    p.backward(loss, 4.0)
    step = 1e-6
    for parameter in store.values():
        if parameter.keep is not None:
            parameter.value = np.where(parameter.keep, parameter.array, 0)
        for place in list(np.ndindex(parameter.shape))[:12]:
            if parameter.keep is not None and not parameter.keep[place]:
                continue
            ends = []
            for sign in (1, -1):
                parameter.array[place] += sign * step
                ends.append(float(_loss(case, store)[1].array))
                parameter.array[place] -= sign * step
            slope = (ends[0] - ends[1]) / (2 * step)
            assert parameter.grad is not None
            assert parameter.grad[place] == pytest.approx(slope, abs=2e-6), (parameter.name, place)


def test_relative_shift_puts_distances_under_their_keys() -> None:
    """Query i of 3 behind a memory of 2 sees key j at distance i + 2 - j, which stands in column 4 - distance."""
    x = Program().input((3, 5), np.tile(4.0 - np.arange(5), (3, 1)))
    y = ops.relative_shift(x).array
    assert all(y[i, j] == i + 2 - j for i in range(3) for j in range(i + 3))


def _network(p: Program, **weights: object) -> None:
    size = ResNetSize(batch=3, image=8, channels=1, classes=10, stem=8, widths=(8, 16), blocks=(1, 1), bottleneck=True)
    x = p.input((3, 8, 8, 1), lambda: np.random.default_rng(3).random((3, 8, 8, 1)))

    def unit(name: str, x: Tensor, channels: int, kernel: int, stride: int) -> Tensor:
        w = p.weight(name, (kernel**2 * x.shape[-1], channels), **weights)  # type: ignore[arg-type]
        return normalised(p, name, conv2d(name, x, w, kernel, stride))

    logits = resnet(p, size, x, unit, unit, p.weight)
    p.backward(ops.cross_entropy(logits, np.array([1, 2, 3]) if p.values else None), 256.0)
    assert [name for name, _, _ in convolutions(size)] == [q.name for q in p.tape.products if q.stage is Stage.FF]


@pytest.mark.parametrize(
    "weights",
    [
        {},
        {"density": 0.2, "masked_gradient": True},
        {"ff": Pattern(2, 8), "bp": Pattern(2, 8)},
        {"ff": Pattern(1, 4)},
    ],
    ids=["dense", "masked", "both copies N:M", "forward N:M"],
)
def test_values_and_shapes_give_one_tape_and_the_simulator_the_bits(weights: dict[str, object]) -> None:
    with_values, shapes = Program(exact=True), Program(values=False)
    with_values.tape.values = True
    _network(with_values, **weights)
    shapes.profile = with_values.profile
    _network(shapes, **weights)
    assert differences(with_values.tape, shapes.tape) == []
    assert all(q.a is not None and q.y is not None for q in with_values.tape.products)
    assert check_values(simulate_tape(with_values.tape, preset("tiny"))) == []


def test_differences_are_found() -> None:
    tapes = []
    for width in (8, 9):
        p = Program(values=False)
        ops.relu(linear("l", p.input((2, 4)), p.weight("w", (4, width))))
        tapes.append(p.tape)
    assert len(differences(*tapes)) == 2
    tapes[1].products.pop()
    assert "records of product" in differences(*tapes)[0]


def test_shapes_allocate_nothing_of_their_size() -> None:
    tracemalloc.start()
    p = Program(values=False)
    x = p.input((1 << 16, 1 << 13))
    y = linear("big", x, p.weight("w", (1 << 13, 1 << 13), ff=Pattern(2, 8)))
    p.backward(ops.total(ops.softmax(y)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert y.shape == (1 << 16, 1 << 13)
    assert peak < 1 << 20
    with pytest.raises(RuntimeError, match="no values"):
        _ = y.array


def test_statistics_are_measured_then_told_then_assumed() -> None:
    measured = Program()
    assert measured.statistic("loads", lambda: (3, 1), lambda: (2, 2)) == (3, 1)
    told = Program(values=False, profile=measured.profile)
    assert told.statistic("loads", lambda: (9, 9), lambda: (2, 2)) == (3, 1)
    assert Program(values=False).statistic("loads", lambda: (9, 9), lambda: (2, 2)) == (2, 2)


def test_host_costs_agree_with_those_of_the_layers() -> None:
    shared = set(COSTS) & set(HOST_COSTS) - {"MaxPool"}  # pooling counts its two tensors apart there
    assert len(shared) >= 15
    for kind in shared:
        ours, theirs = COSTS[kind], HOST_COSTS[kind]
        assert (ours.operations, ours.words) == (theirs.ff_operations, theirs.ff_words), kind
        assert (ours.back_operations, ours.back_words) == (theirs.bp_operations, theirs.bp_words), kind
    with pytest.raises(ValueError, match="known kinds"):
        cost("Fold")
    assert sort_operations(3, 8) == 3 * 8 * 3


def test_macs_of_sparse_products() -> None:
    keep = np.zeros((8, 4), bool)
    keep[:3] = True
    product = Product("p", Stage.FF, 5, 8, 4, sparsity=Unstructured("w", 12, keep))
    assert (product.macs_full, product.macs_true) == (160, 60)
    wanted = Product("p", Stage.WU, 5, 8, 4, sparsity=Unstructured("y", 7))
    assert wanted.macs_true == 56
    blocks = Blocks("y", 2, 3, np.array([[True, False], [True, True], [False, True]]))
    ragged = Product("p", Stage.FF, 5, 8, 4, sparsity=blocks)
    assert ragged.macs_true == 8 * (2 * 3 + 2 * 4 + 1 * 1)
    bank = Product("p", Stage.FF, 6, 8, 4, Pattern(2, 8), sparsity=Gathered("experts", (4, 8, 4), (4, 0, 2)))
    assert (bank.macs_full, bank.macs_dense, bank.macs_true) == (3 * 128, 192, 48)


def test_operands_of_a_parameter() -> None:
    value: NDArray = RNG.standard_normal((19, 12)).astype(np.float32)
    w = Parameter("w", (19, 12), value, ff=Pattern(2, 8))
    forward, backward = w.forward(), w.backward()
    assert forward.values is not None
    assert np.array_equal(forward.values != 0, nm_mask(value, Pattern(2, 8), 0))
    assert isinstance(backward.sparsity, Unstructured)
    assert backward.sparsity.nonzeros == kept_count((19, 12), Pattern(2, 8)) == np.count_nonzero(forward.values)
    assert backward.values is not None
    assert np.array_equal(backward.values, forward.values.T)
    w.bp = Pattern(1, 4)
    both = w.backward()
    assert both.values is not None
    assert both.sparsity is None
    assert np.array_equal(both.values.T != 0, nm_mask(value, Pattern(1, 4), 1))
    with pytest.raises(RuntimeError, match="no values"):
        _ = Parameter("w", (2, 2)).array


def test_inputs_are_checked() -> None:
    with pytest.raises(ValueError, match="must be \\(2, 3\\)"):
        Program().input((2, 3), np.zeros((3, 2)))
    with pytest.raises(ValueError, match="announced"):
        p = Program()
        p.apply("Relu", (p.input((2,), np.zeros(2)),), (3,), lambda v: v)
    p = Program(values=False)
    with pytest.raises(ValueError, match="loads of 'e'"):
        experts("e", p.input((5, 4)), p.weight("w", (2, 4, 4)), (1, 1), 5)


def test_a_second_backward_pass_leaves_the_first_alone() -> None:
    p = Program(dtype=np.float64)
    losses = []
    for name in ("first", "second"):
        hidden = linear(f"{name}.a", p.input((4, 8), RNG.standard_normal((4, 8))), p.weight(f"{name}.a", (8, 8)))
        losses.append(ops.total(linear(f"{name}.b", hidden, p.weight(f"{name}.b", (8, 2)))))
    p.backward(losses[0], 2.0)
    grad = p.store["first.a"].grad
    p.backward(losses[1], 4.0)
    assert p.store["first.a"].grad is grad
    found = [(product.name, product.stage.value) for product in p.tape.products]
    assert sorted(found) == sorted(
        (f"{name}.{layer}", stage)
        for name in ("first", "second")
        for layer, stages in (("a", ("ff", "wu")), ("b", ("ff", "bp", "wu")))
        for stage in stages
    )
