"""Sparsity-constrained transport: projection, semi-dual, limits, routing; the oracles of the fact sheet."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment, linprog

from nmsat.algorithms.core.sparsity import Gathered
from nmsat.algorithms.core.tape import Pattern
from nmsat.algorithms.workloads.engine.registry import VARIANTS, Variant, record, workload
from nmsat.algorithms.workloads.methods.routing import ROUTER, balanced, dispatch, greedy, placed, route
from nmsat.algorithms.workloads.methods.sparse_ot import SMALL, VMOE_B16, fitted
from nmsat.algorithms.workloads.methods.sparse_ot_study import clouds, tokens_of
from nmsat.algorithms.workloads.methods.transport import (
    cardinality,
    grouped,
    primal,
    project_simplex,
    project_sparse,
    semidual,
    solve,
    solve_steps,
)
from nmsat.algorithms.workloads.methods.transport_check import (
    Choices,
    best_projection,
    brute_force,
    gaussians,
    quadratic_transport,
    skewed_scores,
)


def _problem(seed: int, m: int, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.random((m, n)), rng.dirichlet(np.full(m, 5.0)), rng.dirichlet(np.full(n, 5.0))


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=9))
@settings(max_examples=50)
def test_the_simplex_projection_is_the_nearest_point(values: list[float]) -> None:
    x = np.array(values)[:, None]
    y = project_simplex(x, np.ones(x.shape, bool))
    assert (y >= 0).all()
    assert y.sum() == pytest.approx(1)
    # First-order optimality: x - y is the same on the support and no larger elsewhere.
    level = (x - y)[y > 0].max()
    assert ((x - y)[y > 0] >= level - 1e-9).all()
    assert ((x - y)[y == 0] <= level + 1e-9).all()


def test_sparse_projections_equal_brute_force_over_supports() -> None:
    x = np.random.default_rng(0).standard_normal((8, 60))
    for support, choices in (
        (cardinality(2), "pairs"),
        (grouped(Pattern(1, 4)), "groups"),
        (grouped(Pattern(1, 2)), "halves"),
    ):
        assert np.allclose(project_sparse(x, support), best_projection(x, choices), atol=1e-13)  # type: ignore[arg-type]


def test_the_gradient_of_the_semidual() -> None:
    cost, a, b = _problem(1, 5, 4)
    alpha = np.random.default_rng(2).standard_normal(5) * 0.3
    plan = semidual(alpha, cost, a, b, 0.4, cardinality(3))[1]
    for i in range(5):
        ends = [semidual(alpha + s * 1e-6 * np.eye(5)[i], cost, a, b, 0.4, cardinality(3))[0] for s in (1, -1)]
        assert (a - plan.sum(axis=1))[i] == pytest.approx((ends[0] - ends[1]) / 2e-6, abs=1e-6)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_plans_obey_their_constraints(k: int) -> None:
    cost, a, b = _problem(3, 5, 7)
    found = solve(cost, a, b, 0.3, cardinality(k))
    assert (found.plan >= 0).all()
    assert np.allclose(found.plan.sum(axis=0), b, atol=1e-12)
    assert ((found.plan > 0).sum(axis=0) <= k).all()
    if k == 5:
        assert np.allclose(found.plan.sum(axis=1), a, atol=1e-7)
        assert primal(found.plan, cost, 0.3) == pytest.approx(found.value, abs=1e-8)


def test_one_non_zero_per_column_is_the_linear_program() -> None:
    cost, a, b = _problem(4, 4, 6)
    rows = np.array([np.kron(np.eye(4)[i], np.ones(6)) for i in range(4)])
    columns = np.array([np.kron(np.ones(4), np.eye(6)[j]) for j in range(6)])
    exact = linprog(cost.ravel(), A_eq=np.concatenate([rows, columns]), b_eq=np.concatenate([a, b]))
    assert exact.fun is not None
    found = solve(cost, a, b, 0.2, cardinality(1), cuts=300)
    assert found.value == pytest.approx(exact.fun + 0.1 * (b * b).sum(), abs=1e-8)


def test_equal_uniform_marginals_are_an_assignment() -> None:
    cost = np.random.default_rng(5).random((6, 6))
    uniform = np.full(6, 1 / 6)
    value = solve(cost, uniform, uniform, 0.01, cardinality(1), cuts=300).value
    assigned = cost[linear_sum_assignment(cost)].sum() / 6
    assert value == pytest.approx(assigned + 0.005 / 6, abs=1e-8)


def test_without_a_limit_it_is_quadratic_transport() -> None:
    cost, a, b = _problem(6, 3, 3)
    exact = quadratic_transport(cost, a, b, 0.3, np.ones((3, 3), bool))
    assert exact is not None
    assert np.allclose(solve(cost, a, b, 0.3, cardinality(3)).plan, exact, atol=1e-6)


def test_more_non_zeros_never_cost_more() -> None:
    cost, a, b = gaussians()
    values = [solve(cost, a, b, 0.1, cardinality(k), cuts=120).value for k in (1, 2, 4, 8, 32)]
    assert (np.diff(values) <= 1e-7).all()
    assert values[0] > values[-1]


@pytest.mark.parametrize("seed", range(3))
def test_the_semidual_bounds_brute_force_from_below(seed: int) -> None:
    cost, a, b = _problem(10 + seed, 4, 2)
    found = solve(cost, a, b, 0.5, cardinality(2))
    assert found.value <= brute_force(cost, a, b, 0.5, "pairs") + 1e-7


@pytest.mark.parametrize(
    ("kind", "seed"), [("pairs", 1), ("pairs", 3), ("pairs", 5), ("pairs", 6), ("halves", 3), ("halves", 5)]
)
def test_a_plan_that_meets_both_marginals_equals_brute_force(kind: Choices, seed: int) -> None:
    support = cardinality(2) if kind == "pairs" else grouped(Pattern(1, 2))
    cost, a, b = np.random.default_rng(seed).random((4, 2)), np.full(4, 0.25), np.full(2, 0.5)
    found = solve(cost, a, b, 1.0, support, cuts=100)
    assert np.allclose(found.plan.sum(axis=1), a, atol=1e-6)
    least = brute_force(cost, a, b, 1.0, kind)
    assert found.value == pytest.approx(least, abs=1e-9)
    assert primal(found.plan, cost, 1.0) == pytest.approx(least, abs=1e-6)
    assert solve(cost, a, b, 1.0, cardinality(4)).value < least - 1e-4  # the limit binds


def test_shifts_of_the_cost_shift_the_value_only() -> None:
    cost, a, b = _problem(7, 5, 4)
    rng = np.random.default_rng(8)
    u, v = rng.random(5), rng.random(4)
    plain, moved = (solve(c, a, b, 0.4, cardinality(5)) for c in (cost, cost + u[:, None] + v))
    assert np.allclose(plain.plan, moved.plan, atol=1e-6)
    assert moved.value == pytest.approx(plain.value + a @ u + b @ v, abs=1e-8)


def test_permuting_tokens_permutes_the_plan() -> None:
    scores, order = skewed_scores(40, 4), np.random.default_rng(9).permutation(40)
    assert np.allclose(route(scores[order], 12, "faithful"), route(scores, 12, "faithful")[order], atol=1e-12)


def test_no_expert_gets_more_than_its_capacity() -> None:
    scores = skewed_scores(256, 8)
    plan = route(scores, 64, "faithful")
    assert (plan > 0).sum(axis=0).max() <= 64
    assert np.bincount(scores.argsort(axis=1)[:, -2:].ravel(), minlength=8).max() > 2 * 64
    groups = (route(scores, 64, "nm") > 0).reshape(-1, ROUTER.m, 8).sum(axis=1)
    assert groups.max() <= ROUTER.n
    places, weights = dispatch(scores, 64, "faithful")
    assert places.shape == weights.shape == (8 * 64,)
    assert np.count_nonzero(weights) == np.count_nonzero(plan)


def test_more_steps_come_closer_to_the_optimum() -> None:
    cost, a, b = _problem(11, 12, 3)
    best = solve(cost, a, b, 1.0, cardinality(12)).value
    gaps = [best - solve_steps(cost, a, b, 1.0, cardinality(12), steps=steps).value for steps in (1, 20, 400)]
    assert gaps[0] > gaps[1] > gaps[2] > -1e-9


def test_vmoe_has_the_macs_of_the_fact_sheet() -> None:
    tape = record("sparse-ot", "paper", "faithful").tape
    assert VMOE_B16.tokens == 1576
    assert VMOE_B16.capacity("faithful") == 416  # 414 places, rounded up to a multiple of 4
    assert sum(p.macs_true for p in tape.products) == pytest.approx(189e9, rel=0.01)
    banks = [p for p in tape.products if isinstance(p.sparsity, Gathered)]
    assert all(p.sparsity.loads == (416,) * 8 for p in banks if isinstance(p.sparsity, Gathered))
    share = sum(p.macs_true for p in banks) / sum(p.macs_true for p in tape.products)
    assert share == pytest.approx(0.5, abs=0.01)
    router = sum(p.macs_true for p in tape.products if p.name.endswith("router"))
    assert router / sum(p.macs_true for p in tape.products) == pytest.approx(0.0003, abs=5e-5)
    assert SMALL.capacity("nm") == 18


def test_a_greedy_router_fills_experts_in_the_order_of_the_tokens() -> None:
    scores = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4]])
    assert greedy(scores, 2).astype(int).tolist() == [[1, 0], [1, 0], [0, 1], [0, 0]]
    places, weights = placed(greedy(scores, 2), scores, 2)
    assert places.tolist() == [0, 1, 2, 0]
    assert weights.tolist() == [0.9, 0.8, 0.7, 0.0]


def test_a_balanced_router_gives_all_experts_as_much() -> None:
    scores = skewed_scores(64, 4)
    plan = balanced(scores)
    assert np.allclose(plan.sum(axis=0), 16)
    assert np.allclose(plan.sum(axis=1), 1, atol=1e-3)
    # Only rows and columns were scaled: odds of two tokens and two experts stay.
    before, after = (p[:-1, :-1] * p[1:, 1:] / (p[1:, :-1] * p[:-1, 1:]) for p in (scores, plan))
    assert np.allclose(before, after)
    plain, even = (np.bincount(x.argmax(axis=1), minlength=4).max() for x in (scores, plan))
    assert even < plain


def test_the_problems_of_the_studies_have_known_answers() -> None:
    x, target = zip(*(tokens_of(0, batch) for batch in range(6)), strict=True)
    whole, wanted = np.concatenate(x), np.concatenate(target)
    planted = np.random.default_rng(700)
    centres, matrices = planted.standard_normal((4, 16)), planted.standard_normal((4, 16, 4)) / np.sqrt(20)
    kind = ((whole[:, None] - centres) ** 2).sum(axis=2).argmin(axis=1)
    assert np.allclose(np.bincount(kind) / len(kind), [0.55, 0.25, 0.12, 0.08], atol=0.05)
    assert np.allclose(np.einsum("tk,tkn->tn", whole, matrices[kind]), wanted)
    _, y, origin = clouds(1)
    slope = np.linalg.lstsq(np.column_stack([origin, np.ones(len(origin))]), y, rcond=None)[0]
    assert np.allclose(np.column_stack([origin, np.ones(len(origin))]) @ slope, y)
    assert np.allclose(slope[:2], slope[:2].T)
    assert (np.linalg.eigvalsh(slope[:2]) > 0).all()  # the gradient of a convex function


@pytest.mark.parametrize("variant", VARIANTS)
def test_further_targets_take_their_columns_from_the_same_potentials(variant: Variant) -> None:
    size = workload("sparse-ot-map").sizes["small"]
    rng = np.random.default_rng(5)
    cost = rng.random((size.sources, size.targets))
    found = fitted(cost, size, variant)
    solved = found.columns(found.cost)
    order = rng.permutation(size.targets)[:7]
    assert np.array_equal(found.columns(found.cost[:, order]), solved[:, order])
    fresh = found.columns(rng.random((size.sources, 9)))
    assert np.allclose(fresh.sum(axis=0), 1)
    if variant == "nm":
        assert (fresh > 0).reshape(-1, 16, 9).sum(axis=1).max() == 1
    else:
        assert (fresh > 0).sum(axis=0).max() <= size.nonzeros
    tape = record("sparse-ot-map", "small", variant).tape
    assert [q.name for q in tape.products] == ["cost", "map", "further.cost", "further.map"]
    assert tape.products[3].n == size.further
