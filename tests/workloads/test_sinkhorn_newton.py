"""Sinkhorn-Newton-Sparse: derivatives, closed forms, limits, masks; the oracles of its fact sheet."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from nmsat.algorithms.core.tape import Pattern
from nmsat.algorithms.workloads.engine.parameters import nm_mask
from nmsat.algorithms.workloads.engine.program import Program
from nmsat.algorithms.workloads.engine.registry import record
from nmsat.algorithms.workloads.methods.sinkhorn_newton import (
    ASSIGNMENT,
    Block,
    Problem,
    Size,
    Solved,
    direction,
    largest,
    matched,
    random_assignment,
    solve,
)

SIZE = Size(points=20, eta=40.0, warm=10, newton=40, kept=6, cg=80, tolerance=1e-8)


def _solved(problem: Problem, size: Size, *, goal: float = 1e-12, half: bool = False) -> Solved:
    found = solve(Program(), problem, size, "faithful", goal=goal, half=half)
    assert found is not None
    return found


def _hessian(problem: Problem, plan: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """-H + u u^T written out, off-diagonal blocks where `keep` is."""
    n = len(plan)
    h = np.zeros((2 * n, 2 * n))
    h[:n, :n], h[n:, n:] = np.diag(plan.sum(axis=1)), np.diag(plan.sum(axis=0))
    h[:n, n:] = np.where(keep, plan, 0)
    h[n:, :n] = h[:n, n:].T
    u = np.repeat([1.0, -1.0], n)
    return problem.eta * h + np.outer(u, u)


def test_gradient_and_hessian_of_the_dual() -> None:
    problem, rng = random_assignment(4, 3.0, 1), np.random.default_rng(0)
    z, step = rng.standard_normal(8) * 0.1, 1e-5

    def gradient(at: np.ndarray) -> np.ndarray:
        plan = problem.plan(at[:4], at[4:])
        return np.concatenate([problem.r - plan.sum(axis=1), problem.c - plan.sum(axis=0)])

    u = np.repeat([1.0, -1.0], 4)
    h = _hessian(problem, problem.plan(z[:4], z[4:]), np.ones((4, 4), bool)) - np.outer(u, u)
    for i, e in enumerate(np.eye(8) * step):
        ends = [problem.dual((z + s * e)[:4], (z + s * e)[4:]) for s in (1, -1)]
        assert gradient(z)[i] == pytest.approx((ends[0] - ends[1]) / (2 * step), abs=1e-7)
        assert np.allclose(-h[i], (gradient(z + e) - gradient(z - e)) / (2 * step), atol=1e-6)
    assert np.allclose(h @ u, 0)


@pytest.mark.parametrize("kept", [3, 20])
def test_the_direction_is_that_of_the_written_out_matrix(kept: int) -> None:
    problem = random_assignment(20, 40.0, 2)
    start = _solved(problem, replace(SIZE, newton=0))
    keep, plan = largest(start.plan, kept * 20), start.plan
    h = _hessian(problem, plan, keep)
    assert np.allclose(h, h.T)
    assert np.linalg.eigvalsh(h).min() > 0
    g = np.concatenate([problem.r - plan.sum(axis=1), problem.c - plan.sum(axis=0)])
    scaled = np.where(keep, plan / np.sqrt(np.outer(plan.sum(axis=1), plan.sum(axis=0))), 0)
    block = Block(Program(), "b", replace(SIZE, kept=kept), "faithful", scaled, keep)
    found, steps = direction(block, plan, g, problem.eta, 400, 1e-13)
    assert np.allclose(found, np.linalg.solve(h, g), rtol=1e-6, atol=1e-12)
    assert 0 < steps <= 400


def test_no_newton_steps_are_sinkhorn_and_both_reach_one_plan() -> None:
    problem = random_assignment(20, 40.0, 3)
    x = y = np.zeros(20)
    for _ in range(10):
        x, y = problem.sinkhorn(x, y)
    assert np.array_equal(_solved(problem, replace(SIZE, newton=0)).x, x)
    for _ in range(4000):
        x, y = problem.sinkhorn(x, y)
    sparse, dense = _solved(problem, SIZE), _solved(problem, replace(SIZE, kept=20))
    for found in (sparse, dense):
        assert found.errors[-1] <= 1e-12
        assert np.allclose(found.plan, problem.plan(x, y), atol=1e-10)
    assert len(dense.errors) <= len(sparse.errors)


def test_two_points_have_a_closed_form() -> None:
    half = np.full(2, 0.5)
    for eta in (1.0, 5.0):
        problem = Problem(1 - np.eye(2), half, half, eta)
        found = _solved(problem, Size(points=2, eta=eta, warm=5, newton=20, kept=2, cg=20, tolerance=1e-10))
        assert found.plan[0, 0] == pytest.approx(0.5 / (1 + np.exp(-eta)))


def test_smoothing_bounds_the_cost_and_much_of_it_forgets_the_cost() -> None:
    problem = random_assignment(20, 200.0, 4)
    found = _solved(problem, replace(SIZE, eta=200.0, newton=100, cg=200, kept=10), goal=1e-10)
    best = problem.cost[linear_sum_assignment(problem.cost)].mean()
    assert found.errors[-1] <= 1e-10
    assert -1e-9 <= (problem.cost * found.plan).sum() - best <= np.log(20) / 200
    rng = np.random.default_rng(5)
    r, c = rng.dirichlet(np.ones(20)), rng.dirichlet(np.ones(20))
    flat = _solved(Problem(problem.cost, r, c, 1e-6), replace(SIZE, eta=1e-6))
    assert np.allclose(flat.plan, np.outer(r, c), atol=1e-6)


def test_points_on_a_line_have_the_distance_of_their_quantiles() -> None:
    rng = np.random.default_rng(6)
    a, b = np.sort(rng.random(20)), np.sort(rng.random(20) + 0.5)
    even = np.full(20, 0.05)
    problem = Problem((a[:, None] - b) ** 2, even, even, 300.0)
    found = _solved(problem, replace(SIZE, eta=300.0, warm=200, newton=200, kept=20), goal=1e-9)
    cost, exact = float((problem.cost * found.plan).sum()), float(((a - b) ** 2).mean())
    assert exact - 1e-9 <= cost <= exact + np.log(20) / 300


def test_binary16_products_cost_steps_but_no_accuracy() -> None:
    problem = random_assignment(20, 40.0, 7)
    half = _solved(problem, replace(SIZE, newton=100), half=True)
    assert half.errors[-1] <= 1e-12
    assert len(half.errors) >= len(_solved(problem, SIZE).errors)


def test_masks() -> None:
    plan = np.random.default_rng(8).random((36, 36))
    assert largest(plan, 70).sum() == 70
    assert plan[largest(plan, 70)].min() >= plan[~largest(plan, 70)].max()
    keep = matched(plan, 16)
    for side in (keep, keep.T):
        assert (side & ~nm_mask(np.where(side, 1.0, 0.0), Pattern(1, 16), 0) == 0).all()
    block = plan[:16, :16]
    rows, columns = np.nonzero(keep[:16, :16])
    greedy, left = 0.0, block.copy()
    for _ in range(16):
        i, j = np.unravel_index(left.argmax(), left.shape)
        greedy += left[i, j]
        left[i], left[:, j] = -1, -1
    assert block[rows, columns].sum() >= greedy


def test_the_work_of_the_paper() -> None:
    tape = record("sinkhorn-newton", "paper", "faithful").tape
    n, pairs = ASSIGNMENT.points, ASSIGNMENT.newton * ASSIGNMENT.cg
    assert len(tape.products) == 2 * pairs
    assert sum(q.macs_true for q in tape.products) == pairs * 2 * (2 / n) * n * n
    assert sum(work.macs for work in tape.host) == (20 + 9) * 2 * n * n
