"""SoRA: thresholds, dead ranks, counts; the oracles of its fact sheet."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from nmsat.algorithms.core.sparsity import Gathered
from nmsat.algorithms.core.tape import Stage
from nmsat.algorithms.workloads.engine import ops
from nmsat.algorithms.workloads.engine.program import Program
from nmsat.algorithms.workloads.engine.registry import record
from nmsat.algorithms.workloads.methods.sora import (
    ALPHA,
    DEBERTA_V3_BASE,
    adapt,
    adapted,
    planted,
    pruned,
    soft_threshold,
    student,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nmsat.algorithms.workloads.engine.parameters import Parameter

X = np.random.default_rng(0).standard_normal((6, 40)).astype(np.float32)


def _store(gate: np.ndarray) -> dict[str, Parameter]:
    """An adapter on a frozen 40 x 12 matrix with a Wu that is not zero."""
    store: dict[str, Parameter] = {}
    p = Program(store=store)
    adapted(p, ["fc"], p.input(X.shape, X), [12], 8, "faithful", gathered=False)
    store["fc.wu"].value = np.random.default_rng(1).standard_normal((8, 12)).astype(np.float32)
    store["fc.gate"].value = gate.astype(np.float32)
    return store


def _run(store: dict[str, Parameter], *, gathered: bool, exact: bool = False) -> tuple[np.ndarray, Program]:
    p = Program(store=store, exact=exact)
    (y,) = adapted(p, ["fc"], p.input(X.shape, X), [12], 8, "faithful", gathered=gathered)
    return y.array, p


def test_the_threshold_minimises_its_objective() -> None:
    grid = np.linspace(-3, 3, 60001)
    for z in (-2.0, -0.3, 0.0, 0.49, 1.7):
        best = grid[np.argmin((grid - z) ** 2 / 2 + 0.5 * np.abs(grid))]
        assert float(soft_threshold(np.array(z), 0.5)) == pytest.approx(best, abs=1e-4)


def repo_threshold(z: NDArray, xi: float) -> NDArray:
    """Return what the authors' code computes: shrink by xi, then zero what is left below xi."""
    shrunk = soft_threshold(z, xi)
    return np.where(np.abs(shrunk) < xi, 0, shrunk)


def test_the_threshold_of_the_authors_code_has_twice_the_dead_zone() -> None:
    xi = 0.25
    z = np.array([0.5, 1.0, 1.5, 2.0, 2.5, 3.0]) * xi
    assert repo_threshold(z, xi).tolist() == [0, 0, 0, xi, 1.5 * xi, 2 * xi]
    assert soft_threshold(z, xi).tolist() == [0, 0, 0.5 * xi, xi, 1.5 * xi, 2 * xi]


def test_a_proximal_gate_settles_at_the_soft_threshold_of_its_target() -> None:
    z, rate, penalty = np.array([1.2, -0.4, 0.1, 0.6]), 0.1, 0.5
    g = np.ones(4)
    for _ in range(400):
        g = soft_threshold(g - rate * (g - z), rate * penalty)
    assert np.allclose(g, soft_threshold(z, penalty))
    assert not soft_threshold(g - rate * (g - z), 10.0).any()


def test_leaving_dead_ranks_out_changes_no_bit() -> None:
    store = _store(np.array([0, 1.5, 0, -0.2, 0, 0, 2.0, 0]))
    full, small = _run(store, gathered=False, exact=True), _run(store, gathered=True, exact=True)
    assert np.array_equal(full[0], small[0])
    shapes = [(q.k, q.n) for q in small[1].tape.products if isinstance(q.sparsity, Gathered)]
    assert shapes == [(40, 3), (3, 12)]
    wholes = [q.sparsity.whole for q in small[1].tape.products if isinstance(q.sparsity, Gathered)]
    assert wholes == [(6, 40, 8), (6, 8, 12)]


def test_closed_gates_are_the_base_model_and_open_ones_lora() -> None:
    store = _store(np.zeros(8))
    base = X @ store["fc"].array
    closed, p = _run(store, gathered=True)
    assert np.allclose(closed, base, atol=1e-5)
    assert len(p.tape.products) == 1
    store["fc.gate"].value = np.ones(8, np.float32)
    lora = base + ALPHA / 8 * X @ store["fc.wd"].array @ store["fc.wu"].array
    assert np.allclose(_run(store, gathered=True)[0], lora, atol=1e-4)


def test_at_the_first_step_no_gate_has_a_gradient() -> None:
    store: dict[str, Parameter] = {}
    x, y = planted(0, (2, 4), 32, store, "faithful")
    p = Program(store=store)
    p.backward(ops.squared_error(student(p, p.input(x.shape, x), 8, "faithful"), p.input(y.shape, y)))
    assert not store["fc1.gate"].grad.any()  # type: ignore[union-attr]  # the backward pass has run
    assert store["fc1.wu"].grad.any()  # type: ignore[union-attr]
    assert store["fc1"].grad is None


def test_deberta_has_the_adapters_of_the_fact_sheet() -> None:
    tape = record("sora", "paper", "faithful").tape
    size = DEBERTA_V3_BASE
    tokens = size.batch * size.tokens
    forward = [q for q in tape.of(Stage.FF) if q.name.startswith("l") and q.m == tokens]
    factors = [q for q in forward if isinstance(q.sparsity, Gathered)]
    assert sum(q.macs_full for q in factors) == tokens * 1_327_104
    assert sum(q.macs_true for q in factors) / sum(q.macs_full for q in factors) == pytest.approx(0.7, abs=0.03)
    base = [q for q in forward if not isinstance(q.sparsity, Gathered)]
    assert sum(q.macs_full for q in base) / tokens == pytest.approx(84.9e6, rel=1e-3)
    assert not [q for q in tape.of(Stage.WU) if q.name in {"l0.q", "l0.o", "l0.up", "l0.down"}]
    relative = [q for q in tape.of(Stage.FF) if q.m == 512 and q.k == q.n == 768]
    assert len(relative) == 2 * size.layers


def test_ranks_die_until_the_planted_ones_are_left() -> None:
    store, error = adapt(1, (2, 4), 8e-3, steps=300)
    left = [int(np.count_nonzero(store[f"{name}.gate"].array)) for name in ("fc1", "fc2")]
    assert 2 <= left[0] < 8
    assert 4 <= left[1] < 8
    assert error < 0.05


def test_pruned_adapters_keep_the_ranks_that_weigh_most() -> None:
    store: dict[str, Parameter] = {}
    planted(0, (2, 4), 8, store, "faithful")
    rng = np.random.default_rng(3)
    for name in ("fc1", "fc2"):
        store[f"{name}.gate"].value = rng.standard_normal(8)
        store[f"{name}.wu"].value = rng.standard_normal(store[f"{name}.wu"].shape)
    left = pruned(store, (3, 0))
    parts = [
        store["fc1.gate"].array[r] * np.outer(store["fc1.wd"].array[:, r], store["fc1.wu"].array[r]) for r in range(8)
    ]
    largest = np.argsort([-np.linalg.norm(part) for part in parts])[:3]
    assert set(np.flatnonzero(left["fc1.gate"].array)) == set(largest)
    assert not left["fc2.gate"].array.any()
    assert np.count_nonzero(store["fc1.gate"].array) == 8  # the other stays as it was
