"""MoA: influence, rules, program and masks; the oracles of its fact sheet."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from nmsat.algorithms.core.sparsity import Blocks
from nmsat.algorithms.workloads.engine import ops
from nmsat.algorithms.workloads.engine.program import Program
from nmsat.algorithms.workloads.engine.registry import record
from nmsat.algorithms.workloads.methods.moa import VICUNA_7B
from nmsat.algorithms.workloads.methods.moa_model import FULL, SMALL, Rule, band, forward, token_mask
from nmsat.algorithms.workloads.methods.moa_plan import (
    block_influence,
    choose,
    influence,
    pareto,
    permuted,
    retrieval,
    rule_grid,
    rule_losses,
    span_costs,
)


def test_influence_is_the_change_when_a_pair_is_left_out() -> None:
    rng = np.random.default_rng(0)
    a, g = ops.soft(rng.standard_normal((2, 3, 5, 5))), rng.standard_normal((2, 3, 5, 5))
    e = influence(a, g)
    for place in product(range(2), range(3), range(1, 5), range(5)):
        row, slope, j = a[place[:3]], g[place[:3]], place[3]
        without = np.where(np.arange(5) == j, 0, row)
        change = slope @ (without / without.sum()) - slope @ row
        assert e[place] == pytest.approx(change, abs=1e-10)
    assert np.allclose(e[:, :, 0], -(g * a)[:, :, 0])


def test_the_default_grid_has_48_rules() -> None:
    rules = rule_grid(2048, 8192)
    assert len(rules) == 48
    assert Rule(0, 1) in rules
    assert all(rule.span(2048) > 0 and rule.span(16384) <= 16384 for rule in rules)


def active_blocks(blocks: int, width: int) -> int:
    """Return the number of blocks seen: w (w + 1) / 2 + w (n - w)."""
    return width * (width + 1) // 2 + width * (blocks - width)


def test_block_counts_follow_the_formula() -> None:
    for blocks, width in product((1, 4, 9), range(1, 10)):
        if width <= blocks and width > 1:
            assert band(blocks, width).sum() == active_blocks(blocks, width)
    keep = band(6, 6)
    assert np.array_equal(keep, np.tri(6, dtype=bool))
    assert np.array_equal(token_mask(keep, 22, 4), np.tri(22, dtype=bool))


def test_a_uniform_half_keeps_half_of_the_cache() -> None:
    assert span_costs([Rule(0, 0.5)], 64, 4).tolist() == [0.5]
    assert span_costs([FULL], 64, 4).tolist() == [1.0]


def test_wider_windows_never_leave_more_influence() -> None:
    e = np.random.default_rng(1).standard_normal((3, 4, 32, 32))
    blocks = block_influence(e, 4)
    assert blocks.sum() == pytest.approx((np.abs(e) * np.tri(32)).sum() / 3)
    losses = rule_losses(blocks, [Rule(4.0 * w, 0) for w in range(1, 9)], 32, 4)
    assert (np.diff(losses, axis=1) <= 1e-12).all()
    assert np.allclose(losses[:, -1], 0)


def _totals(losses: list[np.ndarray], one: tuple[int, ...]) -> list[float]:
    return [float(sum(loss[h, r] for h, r in enumerate(one))) for loss in losses]


@pytest.mark.parametrize("seed", range(4))
def test_the_program_finds_what_brute_force_finds(seed: int) -> None:
    rng = np.random.default_rng(seed)
    heads, rules = 5, 4
    costs = [np.array([0.2, 0.4, 0.7, 1.0]), np.array([0.3, 0.35, 0.8, 0.9])]
    losses = [rng.random((heads, rules)) * (1.5 - cost) for cost in costs]
    layers = np.array([0, 0, 0, 1, 1])
    allowed = []
    for one in product(range(rules), repeat=heads):
        spans = [float(sum(cost[r] for r in one)) for cost in costs]
        few = all(len({r for r, layer in zip(one, layers, strict=True) if layer == x}) <= 2 for x in (0, 1))
        if few and all(0.9 * 0.5 * heads <= span <= 0.5 * heads + 1e-9 for span in spans):
            allowed.append(one)
    assert allowed
    found = choose(losses, costs, layers)
    assert found is not None
    best = min(_totals(losses, one)[0] for one in allowed)
    assert _totals(losses, tuple(found))[0] == pytest.approx(best)
    front = [_totals(losses, tuple(one)) for one in pareto(losses, costs, layers)]
    everything = np.array([_totals(losses, one) for one in allowed])
    for point in front:
        assert not (
            (everything <= np.array(point) + 1e-9).all(axis=1) & (everything < np.array(point) - 1e-9).any(axis=1)
        ).any()


def test_one_head_takes_its_best_rule() -> None:
    loss = [np.array([[3.0, 1.0, 2.0]])]
    assert choose(loss, [np.array([0.45, 0.48, 0.5])], np.array([0])) == [1]
    assert choose(loss, [np.array([0.9, 0.9, 0.9])], np.array([0])) is None


def test_a_window_as_wide_as_the_input_is_full_attention() -> None:
    size = replace(SMALL, batch=3)
    x, _ = retrieval(size, 64, 1)
    store, found = {}, []
    for rule in (FULL, Rule(64, 0), Rule(16, 0)):
        p = Program(store=store, dtype=np.float64)
        found.append(forward(p, size, p.input(x.shape, x), [((rule, 4),)]).array)
    assert np.array_equal(found[0], found[1])
    assert not np.allclose(found[0], found[2], atol=1e-3)


def test_the_order_of_heads_does_not_matter() -> None:
    size = replace(SMALL, batch=2)
    x, _ = retrieval(size, 64, 2)
    store: dict = {}
    found = []
    for order in (np.arange(4), np.array([2, 0, 3, 1])):
        p = Program(store=permuted(store, order) if store else store, dtype=np.float64)
        found.append(forward(p, size, p.input(x.shape, x), [((FULL, 4),)]).array)
    assert np.allclose(found[0], found[1], atol=1e-12)


def test_labels_of_the_retrieval_task() -> None:
    x, labels = retrieval(replace(SMALL, batch=2), 32, 3)
    for sample, wanted in zip(x, labels, strict=True):
        content, asked = sample[:, :4].argmax(axis=1), sample[:, 4:12].argmax(axis=1)
        names = {int(t[12:].argmax()): i for i, t in enumerate(sample) if t[12:].any()}
        assert sorted(names) == list(range(8))
        assert (wanted[:16] == -1).all()
        assert all(wanted[i] == 4 * content[i - 2] + content[names[int(asked[i])]] for i in range(16, 32))


def test_vicuna_has_the_macs_and_densities_of_the_fact_sheet() -> None:
    program = record("moa", "paper", "faithful")
    layer = [p for p in program.tape.products if p.name.startswith("l0.")]
    linear = sum(p.macs_full for p in layer if p.sparsity is None)
    assert linear / VICUNA_7B.tokens == pytest.approx(202.4e6, rel=1e-3)
    scores = [p for p in layer if p.name.endswith(".qk")]
    kept = [p.sparsity.keep for p in scores if isinstance(p.sparsity, Blocks)]
    assert [int(k.sum()) for k in kept] == [active_blocks(128, 16), active_blocks(128, 112)]
    prefill = np.mean([k.sum() for k in kept]) / active_blocks(128, 128)
    assert 0.60 <= prefill <= 0.66
    cache = np.mean([k.sum(axis=1).max() / 128 for k in kept])
    assert cache == 0.5
