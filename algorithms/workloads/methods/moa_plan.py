"""The plan of MoA: rules, influence, mixed-integer program, and a retrieval task whose spans are known."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np

from nmsat.algorithms.workloads.engine import ops
from nmsat.algorithms.workloads.engine.program import Program
from nmsat.algorithms.workloads.engine.registry import Study, Variant
from nmsat.algorithms.workloads.engine.training import adam, clear
from nmsat.algorithms.workloads.methods.moa_model import FULL, SMALL, Rule, Size, band, forward

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from nmsat.algorithms.workloads.engine.parameters import Parameter
    from nmsat.algorithms.workloads.engine.program import Tensor

    Plan: TypeAlias = list[tuple[tuple[Rule, int], ...]]

PROFILED: Final = (32, 64)
UNSEEN: Final = 48
SLOTS: Final = 8


def rule_grid(shortest: int, longest: int, block: int = 1) -> list[Rule]:
    """Return the rules tried: 11 alphas from -shortest to longest, 9 betas from 0 to 1.

    Kept are those whose span is positive at the shortest length and no more than everything at the longest and at twice
    that. block: spans below one block are left out.
    """
    found = []
    for alpha, beta in product(np.linspace(-shortest, longest, 11), np.linspace(0, 1, 9)):
        rule = Rule(float(alpha), float(beta))
        inside = all(rule.span(length) <= length for length in (longest, 2 * longest))
        if inside and rule.span(shortest) > block - 1:
            found.append(rule)
    return found


def influence(a: NDArray, g: NDArray) -> NDArray:
    """Return E of A[..., queries, keys] and G = dLoss / dA: the change of the loss if a pair is left out.

    Exact for a loss that is linear in A: the row is renormalised without the pair.
    """
    e = -a * (g - (g * a).sum(axis=-1, keepdims=True)) / (1 - a + 1e-12)
    e[..., 0, :] = -(g * a)[..., 0, :]
    return e


def block_influence(e: NDArray, block: int) -> NDArray:
    """Return the sums of |E| over blocks, per head, averaged over samples: [heads, blocks, blocks]."""
    samples, heads, queries, keys = e.shape
    size = np.abs(e) * np.tri(queries, keys, dtype=bool)
    tiles = size.reshape(samples, heads, queries // block, block, keys // block, block)
    return tiles.sum(axis=(3, 5)).mean(axis=0)


def rule_losses(blocks: NDArray, rules: Sequence[Rule], length: int, block: int) -> NDArray[np.float64]:
    """Return the influence that each rule leaves outside its mask: [heads, rules]."""
    masks = np.stack([band(blocks.shape[1], rule.blocks(length, block)) for rule in rules])
    return np.einsum("hij,rij->hr", blocks, ~masks)


def span_costs(rules: Sequence[Rule], length: int, block: int) -> NDArray[np.float64]:
    """Return the share of the cache that each rule keeps: blocks in its fullest row over all blocks."""
    total = -(-length // block)
    return np.array([rule.blocks(length, block) / total for rule in rules])


def choose(
    losses: Sequence[NDArray],
    costs: Sequence[NDArray],
    layers: NDArray[np.int64],
    *,
    primary: int = 0,
    limits: Sequence[float | None] = (),
    budget: float = 0.5,
    per_layer: int = 2,
) -> NDArray[np.int64] | None:
    """Return the rule of each head with the least primary loss, None if there is none.

    losses: per length [heads, rules]; costs: per length [rules], more lengths than losses are allowed; layers: layer of
    each head; limits: upper bounds of the total losses (None: free); budget: largest mean cost, 0.9 of it the least;
    per_layer: distinct rules in a layer.
    """
    from scipy.optimize import Bounds, milp

    heads, rules = losses[0].shape
    groups = sorted(set(layers.tolist()))
    picks, used = heads * rules, len(groups) * rules
    rows: list[NDArray] = []
    low: list[float] = []
    high: list[float] = []

    def add(x: NDArray, y: NDArray | None, least: float, most: float) -> None:
        rows.append(np.concatenate([x.ravel(), np.zeros(used) if y is None else y.ravel()]))
        low.append(least)
        high.append(most)

    for h in range(heads):
        one = np.zeros((heads, rules))
        one[h] = 1
        add(one, None, 1, 1)
        for r in range(rules):
            x, y = np.zeros((heads, rules)), np.zeros((len(groups), rules))
            x[h, r], y[groups.index(int(layers[h])), r] = 1, -1
            add(x, y, -np.inf, 0)
    for g in range(len(groups)):
        y = np.zeros((len(groups), rules))
        y[g] = 1
        add(np.zeros(picks), y, 0, per_layer)
    for cost in costs:
        add(np.tile(cost, (heads, 1)), None, 0.9 * budget * heads, budget * heads + 1e-9)
    for loss, limit in zip(losses, limits, strict=False):
        if limit is not None:
            add(loss, None, -np.inf, limit)
    answer = milp(
        np.concatenate([losses[primary].ravel(), np.zeros(used)]),
        constraints=(np.array(rows), np.array(low), np.array(high)),
        integrality=np.ones(picks + used),
        bounds=Bounds(0, 1),
    )
    return None if answer.x is None else answer.x[:picks].reshape(heads, rules).argmax(axis=1)


def pareto(
    losses: Sequence[NDArray], costs: Sequence[NDArray], layers: NDArray[np.int64], steps: int = 4, budget: float = 0.5
) -> list[NDArray[np.int64]]:
    """Return choices no other one beats at every length, by the epsilon constraint.

    Each loss in turn is minimised with upper bounds on the others, `steps` values between the best and the worst that
    the single optima show.
    """
    singles = [choose(losses, costs, layers, primary=i, budget=budget) for i in range(len(losses))]
    known = [single for single in singles if single is not None]
    if not known:
        return []
    totals = np.array([[loss[np.arange(len(one)), one].sum() for loss in losses] for one in known])
    found = {tuple(int(r) for r in one): one for one in known}
    for primary in range(len(losses)):
        levels = [
            [None] if i == primary else list(np.linspace(totals[:, i].min(), totals[:, i].max(), steps + 1)[1:])
            for i in range(len(losses))
        ]
        for limits in product(*levels):
            one = choose(losses, costs, layers, primary=primary, limits=limits, budget=budget)
            if one is not None:
                found[tuple(int(r) for r in one)] = one
    ones = list(found.values())
    scores = np.array([[loss[np.arange(len(one)), one].sum() for loss in losses] for one in ones])
    best = [not ((scores <= s).all(axis=1) & (scores < s - 1e-12).any(axis=1)).any() for s in scores]
    return [one for one, keep in zip(ones, best, strict=True) if keep]


def retrieval(size: Size, length: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return features and labels of a task with one short and one long span.

    Every token shows one of 4 contents and asks for one of 8 named slots, which stand at L / 4 .. L / 4 + 8. Its label
    joins the content two tokens before with that of the slot; tokens up to the slots are not asked (-1).
    """
    rng = np.random.default_rng(seed)
    content = rng.integers(0, 4, (size.batch, length))
    asked = rng.integers(0, SLOTS, (size.batch, length))
    names = np.full((size.batch, length), -1)
    first = length // 4
    order = np.argsort(rng.random((size.batch, SLOTS)), axis=1)
    names[:, first : first + SLOTS] = order
    x = np.concatenate(
        [np.eye(4)[content], np.eye(SLOTS)[asked], np.eye(SLOTS)[names] * (names >= 0)[..., None]], axis=2
    )
    place = first + np.argsort(order, axis=1)
    distant = np.take_along_axis(content, np.take_along_axis(place, asked, axis=1), axis=1)
    labels = 4 * np.roll(content, 2, axis=1) + distant
    labels[:, : first + SLOTS] = -1
    return x.astype(np.float32), labels


def study(variant: Variant) -> Study:
    """Train dense, profile, plan, and compare with a uniform window of the same budget and with the dense model."""
    store: dict[str, Parameter] = {}
    for step in range(1, 501):
        _train_step(replace(SMALL, batch=16), store, PROFILED[step % 2], variant, step)
    rules = rule_grid(16, 64, SMALL.block)
    lengths = (*PROFILED, 2 * PROFILED[-1])
    losses = [rule_losses(profile(store, length, variant), rules, length, SMALL.block) for length in PROFILED]
    costs = [span_costs(rules, length, SMALL.block) for length in lengths]
    layers = np.repeat(np.arange(SMALL.layers), SMALL.heads)
    plans = [_sorted_plan(one, rules) for one in pareto(losses, costs, layers)]
    scored = [(accuracy(store, UNSEEN, plan, order, variant)[1], plan, order) for plan, order in plans]
    _, plan, order = min(scored, key=lambda item: item[0])
    uniform: Plan = [((Rule(0, 0.5), SMALL.heads),)] * SMALL.layers
    dense: Plan = [((FULL, SMALL.heads),)] * SMALL.layers
    natural = np.arange(SMALL.heads)
    measured: dict[str, float | int | str] = {"rules": len(rules), "pareto_plans": len(plans)}
    for length in (*PROFILED, UNSEEN):
        measured[f"accuracy_dense_{length}"] = accuracy(store, length, dense, natural, variant)[0]
        measured[f"accuracy_moa_{length}"] = accuracy(store, length, plan, order, variant)[0]
        measured[f"accuracy_uniform_{length}"] = accuracy(store, length, uniform, natural, variant)[0]
    measured["plan"] = "; ".join(f"{heads} heads {rule.alpha:g} + {rule.beta:g} L" for rule, heads in plan[0])
    gains = [float(measured[f"accuracy_moa_{n}"]) - float(measured[f"accuracy_uniform_{n}"]) for n in (64, UNSEEN)]
    claim = "spans chosen per head keep what a uniform window of the same budget loses"
    return Study(claim, min(gains) > 0.05, measured, permuted(store, order))


def profile(store: dict[str, Parameter], length: int, variant: Variant) -> NDArray[np.float64]:
    """Return the block influences [heads of all layers, blocks, blocks] on the dense model's own answers."""
    size = replace(SMALL, batch=16, tokens=length)
    x, labels = retrieval(size, length, 777)
    plan: Plan = [((FULL, size.heads),)] * size.layers
    answers = _logits(store, size, x, plan, variant).argmax(axis=-1)
    p = Program(store=store)
    attentions: list[Tensor] = []
    logits = forward(p, size, p.input(x.shape, x), plan, variant, attentions)
    p.backward(ops.cross_entropy(logits, np.where(labels < 0, -1, answers)))
    clear(store.values())
    found = []
    for a in attentions:
        if a.grad is None:
            raise RuntimeError("an attention got no gradient; profiling needs the backward pass")
        found.append(block_influence(influence(a.array.astype(float), a.grad.astype(float)), size.block))
    return np.concatenate(found)


def accuracy(
    store: dict[str, Parameter], length: int, plan: Plan, order: NDArray[np.int64], variant: Variant
) -> tuple[float, float]:
    """Return accuracy and loss of a plan whose heads stand in the given order."""
    size = replace(SMALL, batch=64, tokens=length)
    x, labels = retrieval(size, length, 888)
    logits = _logits(permuted(store, order), size, x, plan, variant)
    asked = labels >= 0
    chosen = np.take_along_axis(np.log(ops.soft(logits) + 1e-30), np.maximum(labels, 0)[..., None], axis=-1)[..., 0]
    return float((logits.argmax(axis=-1) == labels)[asked].mean()), float(-chosen[asked].mean())


def permuted(store: dict[str, Parameter], order: NDArray[np.int64]) -> dict[str, Parameter]:
    """Return the parameters with the heads of every layer in another order (order: of one layer after the other)."""
    out, per = dict(store), SMALL.head
    for layer, part in enumerate(order.reshape(-1, SMALL.heads)):
        places = (part[:, None] % SMALL.heads * per + np.arange(per)).ravel()
        for kind in "qkv":
            w = store[f"l{layer}.{kind}"]
            out[w.name] = replace(w, value=w.array[:, places], state={})
        w = store[f"l{layer}.o"]
        out[w.name] = replace(w, value=w.array[places], state={})
    return out


def _sorted_plan(chosen: NDArray[np.int64], rules: Sequence[Rule]) -> tuple[Plan, NDArray[np.int64]]:
    """Return a plan and the order of heads in which heads of equal rule stand side by side."""
    plan: Plan = []
    order = []
    for start in range(0, len(chosen), SMALL.heads):
        part = chosen[start : start + SMALL.heads]
        order.append(start + np.argsort(part, kind="stable"))
        plan.append(tuple((rules[int(r)], int((part == r).sum())) for r in np.unique(part)))
    return plan, np.concatenate(order)


def _logits(store: dict[str, Parameter], size: Size, x: NDArray, plan: Plan, variant: Variant) -> NDArray[np.float32]:
    p = Program(store=store)
    return forward(p, size, p.input(x.shape, x), plan, variant).array


def _train_step(size: Size, store: dict[str, Parameter], length: int, variant: Variant, step: int) -> None:
    size = replace(size, tokens=length)
    x, labels = retrieval(size, length, step)
    p = Program(store=store)
    logits = forward(p, size, p.input(x.shape, x), [((FULL, size.heads),)] * size.layers, variant)
    p.backward(ops.cross_entropy(logits, labels))
    adam(store.values(), 5e-3 * min(1.0, 2 * (1 - step / 500)), step)
    clear(store.values())
