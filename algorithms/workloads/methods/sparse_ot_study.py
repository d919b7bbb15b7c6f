"""Constrained transport (`algorithms.workloads.methods.sparse_ot`) as a router and as a map, beside simpler ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import numpy as np

from nmsat.algorithms.core.tape import Pattern
from nmsat.algorithms.workloads.engine import ops
from nmsat.algorithms.workloads.engine.products import experts, linear
from nmsat.algorithms.workloads.engine.program import Program
from nmsat.algorithms.workloads.engine.registry import Study, Variant
from nmsat.algorithms.workloads.engine.training import adam, clear
from nmsat.algorithms.workloads.methods.routing import balanced, greedy, placed, route
from nmsat.algorithms.workloads.methods.transport import cardinality, grouped, semidual, solve

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nmsat.algorithms.workloads.engine.parameters import Parameter
    from nmsat.algorithms.workloads.engine.program import Tensor

Router: TypeAlias = Literal["transport", "balanced", "greedy"]

SEEDS: Final = 3
TOKENS: Final = 128
KINDS: Final = 4
FEATURES: Final = 16
OUTPUTS: Final = 4
SHARES: Final = (0.55, 0.25, 0.12, 0.08)
"""How often each kind of token comes."""

CAPACITY: Final = 36
"""1.05 times an equal share, rounded up to a multiple of 4."""

TRAINING: Final = 200


def tokens_of(seed: int, batch: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return tokens of four kinds, some rare, and what each kind's own matrix makes of them; outputs of variance 1."""
    planted, rng = np.random.default_rng(700 + seed), np.random.default_rng((seed, batch))
    centres = planted.standard_normal((KINDS, FEATURES))
    matrices = planted.standard_normal((KINDS, FEATURES, OUTPUTS)) / np.sqrt(1.25 * FEATURES)
    kind = rng.choice(KINDS, TOKENS, p=SHARES)
    x = centres[kind] + 0.5 * rng.standard_normal((TOKENS, FEATURES))
    return x, np.einsum("tk,tkn->tn", x, matrices[kind])


def mixed(p: Program, x: Tensor, router: Router, variant: Variant) -> tuple[Tensor, NDArray[np.bool_]]:
    """Return the mixture of one matrix per expert, and which expert took which token.

    Outputs are weighted with the router's softmax, through which the router learns; choices have no gradient.
    """
    scores = ops.softmax(linear("router", x, p.weight("router", (FEATURES, KINDS), gain=1.0)))
    seen = scores.array.astype(float)
    if router == "transport":
        chosen = route(seen, CAPACITY, variant) > 0
    else:
        chosen = greedy(balanced(seen) if router == "balanced" else seen, CAPACITY)
    places, weights = placed(chosen, seen, CAPACITY)
    owner, rows = np.repeat(np.arange(KINDS), CAPACITY), KINDS * CAPACITY
    w = p.weight("experts", (KINDS, FEATURES, OUTPUTS), gain=1.0)
    y = experts("experts", ops.gather(x, places, rows), w, (CAPACITY,) * KINDS, TOKENS)
    gate = ops.gather(ops.reshape(scores, (TOKENS * KINDS, 1)), places * KINDS + owner, rows)
    gate = ops.mul(gate, p.input((rows, 1), (weights > 0)[:, None].astype(float)))
    return ops.scatter_add(ops.mul(y, gate), places, TOKENS), chosen


def router_run(seed: int, router: Router, variant: Variant) -> dict[str, float]:
    """Train router and experts together; returns test error over variance, dropped tokens and the largest load."""
    store: dict[str, Parameter] = {}
    for step in range(1, TRAINING + 1):
        p = Program(store=store, rng=np.random.default_rng(seed))
        x, target = tokens_of(seed, step)
        y, _ = mixed(p, p.input(x.shape, x), router, variant)
        p.backward(ops.squared_error(y, p.input(target.shape, target)))
        adam(store.values(), 2e-2 * (1 - (step - 1) / TRAINING), step)
        clear(store.values())
    errors, drops, loads = [], [], []
    for batch in range(8):
        x, target = tokens_of(seed, 10_000 + batch)
        p = Program(store=store)
        y, chosen = mixed(p, p.input(x.shape, x), router, variant)
        errors.append(np.mean((y.array - target) ** 2) / np.mean(target**2))
        drops.append(1 - chosen.any(axis=1).mean())
        loads.append(chosen.sum(axis=0).max())
    return {"error": float(np.mean(errors)), "dropped": float(np.mean(drops)), "load": float(max(loads))}


def study_router(variant: Variant) -> Study:
    """Experts behind three routers of one capacity, on tokens of four kinds of which one is more than half of all."""
    measured: dict[str, float | int | str] = {"seeds": SEEDS, "capacity": CAPACITY}
    mean: dict[str, float] = {}
    for router in ("transport", "balanced", "greedy"):
        found = [router_run(seed, router, variant) for seed in range(SEEDS)]
        mean[router] = float(np.mean([f["error"] for f in found]))
        measured[f"error_{router}"] = mean[router]
        measured[f"error_{router}_seeds"] = ", ".join(f"{f['error']:.3f}" for f in found)
        measured[f"dropped_{router}"] = float(np.mean([f["dropped"] for f in found]))
        measured[f"largest_load_{router}"] = int(max(f["load"] for f in found))
    within = all(int(measured[f"largest_load_{router}"]) <= CAPACITY for router in mean)
    holds = within and mean["transport"] < min(mean["balanced"], mean["greedy"])
    claim = "behind constrained transport experts err less than behind a balanced and a greedy router of one capacity"
    return Study(claim, holds, measured)


SOURCES: Final = 64
TARGETS: Final = 48
LIMIT: Final = 4
PLAN: Final = Pattern(1, 16)
STRENGTHS: Final = (0.1, 1.0, 10.0)
"""gamma, over a range that takes the plan without a limit from few to many non-zeros."""


def clouds(seed: int) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return sources [SOURCES, 2], targets [TARGETS, 2], and where the targets came from.

    Targets are other points of the sources' distribution under the gradient of a convex quadratic, which is the
    optimal map (Brenier).
    """
    rng = np.random.default_rng(800 + seed)
    half = rng.standard_normal((2, 2))
    x, origin = rng.standard_normal((SOURCES, 2)), rng.standard_normal((TARGETS, 2))
    return x, origin @ (half @ half.T + 0.5 * np.eye(2)) + rng.standard_normal(2), origin


def map_errors(seed: int, gamma: float, variant: Variant) -> dict[str, float]:
    """Return the error of each barycentric map over the variance of the origins, and non-zeros per target."""
    x, y, origin = clouds(seed)
    cost = ((x[:, None] - y) ** 2).sum(axis=2)
    cost = cost / cost.max()
    a, b = np.full(SOURCES, 1 / SOURCES), np.full(TARGETS, 1 / TARGETS)
    support = grouped(PLAN) if variant == "nm" else cardinality(LIMIT)
    plans = {
        "transport": solve(cost, a, b, gamma, support).plan,
        "balanced": solve(cost, a, b, gamma, cardinality(SOURCES)).plan,
        # Each target for itself: its cheapest sources, whatever the others take.
        "greedy": semidual(np.zeros(SOURCES), cost, a, b, gamma, cardinality(LIMIT))[1],
    }
    out = {}
    for name, plan in plans.items():
        out[f"error_{name}"] = float(np.mean((plan.T @ x / b[:, None] - origin) ** 2) / origin.var())
        out[f"nonzeros_{name}"] = float(np.count_nonzero(plan > 1e-12) / TARGETS)
    return out


def study_map(variant: Variant) -> Study:
    """The map of a plan with at most four sources a target, beside one without a limit and the nearest sources."""
    measured: dict[str, float | int | str] = {"seeds": SEEDS, "limit": LIMIT}
    holds = True
    for gamma in STRENGTHS:
        found = [map_errors(seed, gamma, variant) for seed in range(SEEDS)]
        mean = {name: float(np.mean([f[name] for f in found])) for name in found[0]}
        measured |= {f"{name}_gamma{gamma:g}": value for name, value in mean.items()}
        holds &= mean["error_transport"] <= mean["error_balanced"]
        holds &= mean["error_transport"] < mean["error_greedy"]
    claim = "a map of few sources a target errs no more than one without a limit, and less than one of the nearest"
    return Study(claim, holds, measured)
