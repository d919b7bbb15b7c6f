"""GraNet: schedules, drop and grow, and the oracles of its fact sheet."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nmsat.algorithms.core.tape import Pattern
from nmsat.algorithms.workloads.engine import ops
from nmsat.algorithms.workloads.engine.networks import MlpSize, convolutions, mlp
from nmsat.algorithms.workloads.engine.parameters import Parameter
from nmsat.algorithms.workloads.engine.planted import sparse_teacher
from nmsat.algorithms.workloads.engine.program import Program, Tensor
from nmsat.algorithms.workloads.engine.registry import record
from nmsat.algorithms.workloads.methods.dropgrow import (
    cosine,
    cubic_density,
    erk_densities,
    global_magnitude,
    narrow_nm,
    regenerate,
    regenerate_nm,
)
from nmsat.algorithms.workloads.methods.granet import (
    RESNET50_CIFAR,
    SMALL,
    Schedule,
    layer_densities,
    prune_and_grow,
    teacher_error,
    train,
)


def test_the_cubic_schedule_at_the_quarters() -> None:
    found = [round(cubic_density(t, 0, 4, 0.5, 0.1), 3) for t in (-1, 0, 1, 2, 3, 4, 9)]
    assert found == [0.5, 0.5, 0.269, 0.15, 0.106, 0.1, 0.1]
    assert cosine(0, 10, 0.5, 0.005) == 0.5
    assert cosine(10, 10, 0.5, 0.005) == pytest.approx(0.005)


@given(
    st.lists(st.tuples(st.integers(1, 64), st.integers(1, 64), st.sampled_from([1, 3])), min_size=1, max_size=8),
    st.floats(0.02, 0.9),
)
def test_erk_spends_the_budget(layers: list[tuple[int, int, int]], density: float) -> None:
    shapes = [(a, b, side, side) for a, b, side in layers]
    sizes = np.array([np.prod(shape) for shape in shapes])
    found = np.array(erk_densities(shapes, density))
    assert found.max() <= 1
    assert found @ sizes == pytest.approx(density * sizes.sum())
    open_layers = found < 1
    raw = np.array([sum(shape) for shape in shapes]) / sizes
    if open_layers.any():  # one factor for all layers that are not dense
        assert np.ptp((found / raw)[open_layers]) < 1e-9 * (found / raw)[open_layers].max() + 1e-12
    equal = erk_densities([(8, 8, 3, 3)] * 3, density)
    assert equal == pytest.approx([density] * 3)


def test_global_magnitude_keeps_the_largest_over_all_layers() -> None:
    rng = np.random.default_rng(0)
    values = [rng.standard_normal((7, 5)), rng.standard_normal((4, 9)) * 3]
    full = [np.ones(v.shape, bool) for v in values]
    keep = global_magnitude(values, full, 20)
    inside = np.concatenate([np.abs(v[k]) for v, k in zip(values, keep, strict=True)])
    outside = np.concatenate([np.abs(v[~k]) for v, k in zip(values, keep, strict=True)])
    assert len(inside) == 20
    assert inside.min() >= outside.max()
    again = global_magnitude(values, keep, 12)
    assert all((a <= b).all() for a, b in zip(again, keep, strict=True))


def test_regeneration_keeps_the_count_and_takes_the_largest_gradients() -> None:
    rng = np.random.default_rng(1)
    keep = rng.random((12, 11)) < 0.3
    w, grad = np.where(keep, rng.standard_normal(keep.shape), 0), rng.standard_normal(keep.shape)
    for fraction in (0.0, 0.2, 1.0):
        new, grown = regenerate(w, keep, grad, fraction)
        count = int(np.ceil(fraction * keep.sum()))
        assert new.sum() == keep.sum()
        assert grown.sum() == count
        weakest = set(np.argsort(np.where(keep, np.abs(w), np.inf).ravel())[:count])
        absent = np.array([i for i in range(keep.size) if i in weakest or not keep.ravel()[i]])
        expected = absent[np.argsort(-np.abs(grad).ravel()[absent])[:count]]
        assert set(np.flatnonzero(grown)) == set(expected)
    assert np.array_equal(regenerate(w, keep, grad, 0.0)[0], keep)


@pytest.mark.parametrize(("shape", "pattern"), [((16, 5), (2, 8)), ((19, 4), (1, 8)), ((13, 3), (2, 4))])
def test_regeneration_inside_groups_stays_n_of_m(shape: tuple[int, int], pattern: tuple[int, int]) -> None:
    rng, nm = np.random.default_rng(2), Pattern(*pattern)
    dense = rng.standard_normal(shape).astype(np.float32)
    keep = narrow_nm(dense, np.ones(shape, bool), nm)
    w, grad = np.where(keep, dense, 0), rng.standard_normal(shape) * 5
    starts = np.arange(0, shape[0], nm.m)
    for fraction in (0.0, 0.3, 1.0):
        new, grown = regenerate_nm(w, keep, grad, fraction, nm)
        assert np.array_equal(
            np.add.reduceat(new, starts, axis=0, dtype=int), np.add.reduceat(keep, starts, axis=0, dtype=int)
        )
        assert grown.sum() == int(np.ceil(fraction * keep.sum()))
        assert not (grown & ~new).any()
    # With everything dropped each group keeps its largest gradients.
    assert np.array_equal(new, narrow_nm(grad.astype(np.float32), np.ones(shape, bool), nm))


def test_growing_a_weight_lowers_the_loss_as_its_gradient_says() -> None:
    data, size, store = sparse_teacher(0), MlpSize(batch=200, widths=(64, 16, 4)), {}

    def loss() -> tuple[Program, Tensor]:
        p = Program(store=store, dtype=np.float64)
        y = mlp(p, size, p.input((200, 64), data.x_train[:200]), lambda name, shape: p.weight(name, shape, density=0.2))
        return p, ops.squared_error(y, p.input((200, 4), data.y_train[:200]))

    p, before = loss()
    p.backward(before)
    w = store["fc0"]
    assert w.grad is not None
    assert w.keep is not None
    i = np.unravel_index(np.argmax(np.where(w.keep, 0, np.abs(w.grad))), w.shape)
    step = 1e-6
    w.array[i] = -step * w.grad[i]
    w.keep[i] = True
    change = float(loss()[1].array - before.array)
    assert change == pytest.approx(-step * w.grad[i] ** 2, rel=1e-3)


def _train(schedule: Schedule, **options: bool) -> tuple[list[float], dict[str, Parameter]]:
    data, size, store = sparse_teacher(1), MlpSize(batch=32, widths=(64, 24, 4)), {}

    def loss(p: Program, rng: np.random.Generator) -> Tensor:
        pick = rng.integers(0, 1500, 32)
        y = mlp(p, size, p.input((32, 64), data.x_train[pick]), p.weight)
        return ops.squared_error(y, p.input((32, 4), data.y_train[pick]))

    return train(store, loss, ["fc0", "fc1"], schedule, 0, **options), store


def test_density_follows_the_schedule_and_then_stays() -> None:
    densities, store = _train(Schedule(steps=60, every=5, stop=30, final=0.1, lr=0.05))
    total = 64 * 24 + 24 * 4
    for event, density in enumerate(densities, 1):
        assert density == pytest.approx(cubic_density(5 * event, 0, 30, 1.0, 0.1), abs=1 / total)
    for w in (store["fc0"], store["fc1"]):
        assert w.keep is not None
        assert not w.array[~w.keep].any()
        assert not w.state["velocity"][~w.keep].any()


@pytest.mark.parametrize("fraction", [0.0, 0.5])
def test_without_growing_it_is_gradual_pruning_and_with_it_as_dense(fraction: float) -> None:
    rng = np.random.default_rng(3)
    weights = [Parameter(name, shape, rng.standard_normal(shape)) for name, shape in (("a", (20, 30)), ("b", (30, 7)))]
    schedule = Schedule(steps=80, every=10, stop=40, final=0.1, fraction=fraction, lr=0.1)
    total, returned = sum(w.size for w in weights), 0
    for step in range(10, 80, 10):
        before = [np.ones(w.shape, bool) if w.keep is None else w.keep for w in weights]
        magnitudes = np.concatenate(
            [np.where(k, np.abs(w.array), 0).ravel() for w, k in zip(weights, before, strict=True)]
        )
        prune_and_grow(weights, [rng.standard_normal(w.shape) for w in weights], schedule, step)
        density = cubic_density(step, 0, 40, 1.0, 0.1)
        after = np.concatenate([w.keep.ravel() for w in weights if w.keep is not None])
        assert after.sum() == int(density * total)  # equal density, whether it grows or not
        returned += int((after & ~np.concatenate([k.ravel() for k in before])).sum())
        if not fraction:
            assert set(np.flatnonzero(after)) == set(np.argsort(-magnitudes, kind="stable")[: int(density * total)])
    assert (returned > 0) is (fraction > 0)


def test_without_pruning_and_growing_it_is_plain_sgd() -> None:
    _, pruned = _train(Schedule(steps=20, every=5, stop=10, final=1.0, fraction=0.0, lr=0.05))
    _, plain = _train(Schedule(steps=20, every=50, stop=50, final=1.0, fraction=0.0, lr=0.05))
    assert np.array_equal(pruned["fc0"].array, plain["fc0"].array)


def test_nm_training_ends_in_the_pattern() -> None:
    _, store = _train(Schedule(steps=40, every=5, stop=20, final=0.125, lr=0.05), nm=True)
    w = store["fc0"]
    assert w.keep is not None
    assert np.add.reduceat(w.keep, np.arange(0, 64, 8), axis=0, dtype=int).max() == 1
    assert w.ff == w.bp == Pattern(1, 8)


def test_granet_beats_gradual_pruning_on_a_planted_teacher() -> None:
    assert teacher_error(0, 0.5) < teacher_error(0, 0.0)


def test_resnet50_has_the_macs_of_the_paper() -> None:
    program = record("granet", "paper", "faithful")
    forward = [p for p in program.tape.products if p.stage == "ff"]
    assert len(forward) == 54
    assert sum(p.macs_full for p in forward) / 128 == pytest.approx(1.298e9, rel=1e-3)
    weights = sum(k * n for _, k, n in convolutions(RESNET50_CIFAR))
    assert weights == pytest.approx(23.6e6, rel=0.01)
    kept = sum(p.sparsity.nonzeros if p.sparsity else p.k * p.n for p in forward)  # type: ignore[union-attr]
    assert kept == pytest.approx(0.1 * weights, rel=1e-3)
    assert set(layer_densities(SMALL)) == {"fc0", "fc1", "fc2"}
