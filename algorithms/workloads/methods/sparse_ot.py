"""Sparsity-constrained optimal transport: as the router of a vision mixture of experts, and as a map between clouds.

Source: T. Liu, J. Puigcerver, M. Blondel, ICLR 2023, arXiv 2209.15466, and the code of its authors (vmoe).
Known: equations and solvers from that code (`algorithms.workloads.methods.transport`); the paper's tables were not
read.

    plan    min <T, C> + gamma / 2 |T|^2, rows sum to a, columns to b, at most k non-zeros in a column
    router  C = -softmax(X W_r), one unit per token, m / E per expert, gamma = 1, at most `capacity` tokens per expert
    map     C = |x - y|^2 of two clouds, Y = diag(1 / b) T^T X

Faithful: the router takes 20 Adam steps on the semi-dual, no gradient through them; an expert takes the tokens of its
column of the plan; outputs are weighted with the router's softmax, not with the plan. The map takes L-BFGS on it.
On SAT: router: experts gathered, dense, of constant size: each takes `capacity` rows (free places carry weight 0).
Full, as "dense" in the tables, means every token through every expert. Map: x y^T of the cost dense, X^T T with the
plan as the weight operand by cover; then both again for further targets, whose columns follow from the potentials of
the solution without solving again. Solvers, sorts and projections are the host's.
Assumed: router: V-MoE B/16 with 8 experts, a routing group of 8 images. Map: sizes are ours: pixels of three 64 x 64
images, three colours, 8 sources a target, 500 iterations.
Ours (`nm`): the router's plan takes 2 of each 8 consecutive tokens per expert; the projection stays exact, since the
constraint is a partition matroid. The experts' matrices are 2:8 along k besides. The map's plan takes 1 of each
16 rows.
Study: router: constrained transport against a balanced (Sinkhorn) and a greedy router of one capacity, error of experts
over the variance, three seeds. Map: a plan of at most four sources a target against one without a limit and the nearest
sources, error of the map over the variance for gamma from 0.1 to 10, three seeds.
Found here: behind constrained transport experts err less (0.12) than behind a Sinkhorn router (0.17) and a greedy one
(0.25): yes; with 2 of each 8 consecutive tokens (0.23) more than behind Sinkhorn: no, for `nm`. A plan of four sources
a target errs as the one without a limit to within 0.01 of the variance (`nm`: 0.02), far less than the nearest
sources, but not always less or equal: no, for the map.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from nmsat.algorithms.core.sparsity import Unstructured
from nmsat.algorithms.core.tape import Pattern
from nmsat.algorithms.training.data import digits
from nmsat.algorithms.workloads.engine import ops
from nmsat.algorithms.workloads.engine.hostcost import sort_operations
from nmsat.algorithms.workloads.engine.products import experts, linear, matmul
from nmsat.algorithms.workloads.engine.registry import Variant, Workload, register
from nmsat.algorithms.workloads.engine.transformer import dense, feed_forward, merge, norm, split, turn
from nmsat.algorithms.workloads.methods.routing import ROUTER, STEPS, dispatch
from nmsat.algorithms.workloads.methods.sparse_ot_study import PLAN, study_map, study_router
from nmsat.algorithms.workloads.methods.transport import cardinality, grouped, semidual, solve

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nmsat.algorithms.workloads.engine.program import Program, Tensor
    from nmsat.algorithms.workloads.methods.transport import Support

EXPERT: Final = Pattern(2, 8)
STRENGTH: Final = 0.1
"""gamma of the recorded map, whose largest cost is 1."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """A vision transformer whose every second MLP is a mixture of experts.

    images: in one routing group; chosen: experts per token, on average; slack: capacity factor.
    """

    images: int
    patches: int
    inputs: int
    layers: int
    width: int
    heads: int
    hidden: int
    experts: int
    classes: int
    chosen: int = 2
    slack: float = 1.05

    @property
    def tokens(self) -> int:
        """Tokens of the group, the class tokens included."""
        return self.images * (self.patches + 1)

    def capacity(self, variant: Variant) -> int:
        """Return the tokens an expert takes: a multiple of 4, or what 2 of each 8 amount to."""
        if variant == "nm":
            full, tail = divmod(self.tokens, ROUTER.m)
            return full * ROUTER.n + min(ROUTER.n, tail)
        exact = math.ceil(self.slack * self.chosen * self.tokens / self.experts)
        return -(-exact // 4) * 4


@dataclass(frozen=True, kw_only=True)
class MapSize:
    """Two clouds of points: rows of X, columns of the plan, dimension, non-zeros per column, L-BFGS iterations.

    further: targets that the solution did not see.
    """

    sources: int
    targets: int
    dimension: int
    nonzeros: int
    iterations: int
    further: int


def run(p: Program, size: Size, variant: Variant) -> None:
    """Record the forward pass of a routing group."""
    x = p.input((size.images, size.patches, size.inputs), lambda: patches(size.images))
    h = dense(p, "embed", x, size.width)
    start = ops.expand(p.vector("class", (1, 1, size.width), 0.1), (size.images, 1, size.width))
    h = ops.concat([start, h], 1)
    for layer in range(size.layers):
        name = f"l{layer}"
        qkv = dense(p, f"{name}.qkv", norm(p, f"{name}.norm1", h), 3 * size.width)
        q, k, v = (split(ops.part(qkv, 2, i * size.width, (i + 1) * size.width), size.heads) for i in range(3))
        scores = ops.scale(matmul(f"{name}.qk", q, turn(k)), (size.width // size.heads) ** -0.5)
        h = ops.add(h, dense(p, f"{name}.proj", merge(matmul(f"{name}.av", ops.softmax(scores), v)), size.width))
        y = norm(p, f"{name}.norm2", h)
        if layer % 2:
            flat = ops.reshape(y, (size.tokens, size.width))
            h = ops.add(h, ops.reshape(mixture(p, size, f"{name}.moe", flat, variant), h.shape))
        else:
            h = ops.add(h, feed_forward(p, f"{name}.mlp", y, size.hidden))
    h = ops.reshape(ops.part(norm(p, "norm", h), 1, 0, 1), (size.images, size.width))
    dense(p, "head", h, size.classes)


def mixture(p: Program, size: Size, name: str, x: Tensor, variant: Variant) -> Tensor:
    """Return the mixture of experts of x[tokens, width], routed by optimal transport."""
    tokens, count, capacity = size.tokens, size.experts, size.capacity(variant)
    scores = ops.softmax(linear(f"{name}.router", x, p.weight(f"{name}.router", (size.width, count), gain=1.0)))
    # Per step and expert: a sort, threshold, projection and sums over its tokens; Adam on one number per token.
    per_step = sort_operations(count, tokens) + 8 * tokens * count + 13 * tokens
    p.host(f"{name}.plan", "SemiDual", STEPS * per_step, STEPS * 8 * tokens * (3 * count + 4))
    places = weights = None
    if scores.data is not None:
        places, weights = dispatch(scores.data.astype(float), capacity, variant)
    rows, pattern = count * capacity, EXPERT if variant == "nm" else None
    loads = (capacity,) * count
    first = p.weight(f"{name}.w1", (count, size.width, size.hidden), ff=pattern)
    second = p.weight(f"{name}.w2", (count, size.hidden, size.width), ff=pattern)
    owner = np.repeat(np.arange(count), capacity) if p.values else None
    h = experts(f"{name}.w1", ops.gather(x, places, rows), first, loads, tokens)
    h = ops.gelu(ops.add(h, ops.gather(p.vector(f"{name}.b1", (count, size.hidden)), owner, rows)))
    y = experts(f"{name}.w2", h, second, loads, tokens)
    y = ops.add(y, ops.gather(p.vector(f"{name}.b2", (count, size.width)), owner, rows))
    gate = p.input((rows, 1), None if weights is None else weights[:, None])
    return ops.scatter_add(ops.mul(y, gate), places, tokens)


def run_map(p: Program, size: MapSize, variant: Variant) -> None:
    """Record cost matrix and barycentric map of two clouds, then both for further targets; the solver is host work.

    The potentials of the solution give further targets their columns of the plan without solving again.
    """
    m, n, d = size.sources, size.targets, size.dimension
    rng = np.random.default_rng(0)
    x = p.input((m, d), lambda: rng.random((m, d)))
    y = p.input((n, d), lambda: rng.random((n, d)) ** 2)
    evaluations = round(1.2 * size.iterations)  # a line search takes a little more than one evaluation
    cost = costs(p, "cost", x, y)
    operations, nbytes = _evaluation(m, n)
    p.host("plan", "SemiDual", evaluations * operations, evaluations * nbytes)
    found = None if cost is None else fitted(cost, size, variant)
    barycentres(p, "map", x, None if found is None else found.columns(found.cost), size, n, variant)
    z = p.input((size.further, d), lambda: rng.random((size.further, d)) ** 2)
    cost = costs(p, "further.cost", x, z)
    p.host("further.plan", "SemiDual", *_evaluation(m, size.further))
    columns = None if found is None or cost is None else found.columns(cost / found.scale)
    barycentres(p, "further.map", x, columns, size, size.further, variant)


def _evaluation(sources: int, targets: int) -> tuple[int, int]:
    """Return operations and bytes of one evaluation of the semi-dual: sort, threshold, projection, sums."""
    return sort_operations(targets, sources) + 8 * sources * targets + 20 * sources, 3 * 8 * sources * targets


def costs(p: Program, name: str, x: Tensor, y: Tensor) -> NDArray[np.float64] | None:
    """Record x y^T of two clouds and return |x - y|^2 [m, n]; None in a run of shapes."""
    (m, d), n = x.shape, y.shape[0]
    products = matmul(name, x, ops.transpose(y, (1, 0)))
    p.host(name, "Add", 3 * m * n + 2 * d * (m + n), 3 * 8 * m * n)
    if products.data is None:
        return None
    return ((x.array**2).sum(axis=1)[:, None] + (y.array**2).sum(axis=1) - 2 * products.data).astype(float)


def barycentres(
    p: Program, name: str, x: Tensor, columns: NDArray | None, size: MapSize, targets: int, variant: Variant
) -> None:
    """Record X^T times columns[m, targets] of a plan, each of which sums to 1."""
    weights = p.input((size.sources, targets), columns)
    turned = ops.transpose(x, (1, 0))
    if variant == "nm":
        matmul(name, turned, weights, pattern=PLAN)
        return
    nonzeros = p.statistic(
        f"{name}.nonzeros",
        lambda: 0 if columns is None else int(np.count_nonzero(columns)),
        lambda: size.nonzeros * targets,
    )
    mask = Unstructured("w", nonzeros, None if columns is None else columns != 0, static=False)
    matmul(name, turned, weights, sparsity=mask)


@dataclass(frozen=True, eq=False)
class Fitted:
    """A solution: potentials of the sources, the cost it was solved for (largest 1), and what that was divided by."""

    alpha: NDArray[np.float64]
    cost: NDArray[np.float64]
    scale: float
    support: Support

    def columns(self, cost: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the columns of the plan, each over its sum, of targets with cost[m, any] from the sources."""
        m, n = self.cost.shape
        b = np.full(cost.shape[1], 1 / n)
        return semidual(self.alpha, cost, np.full(m, 1 / m), b, STRENGTH, self.support)[1] / b


def fitted(cost: NDArray[np.float64], size: MapSize, variant: Variant) -> Fitted:
    """Return the solution between two clouds whose points weigh alike."""
    m, n = cost.shape
    support = grouped(PLAN) if variant == "nm" else cardinality(size.nonzeros)
    scale = float(cost.max())
    found = solve(
        cost / scale, np.full(m, 1 / m), np.full(n, 1 / n), STRENGTH, support, iterations=size.iterations
    )
    return Fitted(found.alpha, cost / scale, scale, support)


def patches(images: int) -> NDArray[np.float64]:
    """Return digits as 16 patches of 2 x 2 pixels: [images, 16, 4]."""
    x = digits().x_train[:images].reshape(images, 4, 2, 4, 2)
    return x.transpose(0, 1, 3, 2, 4).reshape(images, 16, 4)


SMALL: Final = Size(
    images=4, patches=16, inputs=4, layers=2, width=32, heads=2, hidden=64, experts=4, classes=10, chosen=1
)
VMOE_B16: Final = Size(
    images=8, patches=196, inputs=768, layers=12, width=768, heads=12, hidden=3072, experts=8, classes=1000
)

register(
    Workload(
        name="sparse-ot",
        title="Sparsity-constrained OT, expert routing",
        source="Liu, Puigcerver, Blondel, ICLR 2023, arXiv 2209.15466",
        sparse="token-to-expert plan, at most the capacity per expert",
        variants={
            "faithful": "experts gathered, dense, of constant size; solver on the host",
            "nm": "ours: plan 2 of each 8 consecutive tokens, experts 2:8 along k",
        },
        quoted="routers of V-MoE B/32 and B/16 compared on JFT-300M (tables not read)",
        sizes={"small": SMALL, "paper": VMOE_B16},
        run=run,
        study=study_router,
        about=__doc__,
    )
)
register(
    Workload(
        name="sparse-ot-map",
        title="Sparsity-constrained OT, barycentric map",
        source="Liu, Puigcerver, Blondel, ICLR 2023, arXiv 2209.15466",
        sparse="transport plan, at most k non-zeros per column",
        variants={
            "faithful": "plan by lossless cover; solver on the host",
            "nm": "ours: plan 1 of each 16 rows, native",
        },
        quoted="colour transfer between images, sparser maps at equal quality (figures not read)",
        sizes={
            "small": MapSize(sources=64, targets=48, dimension=8, nonzeros=4, iterations=100, further=40),
            # Sizes are ours: pixels of two 64 x 64 images, three colours.
            "paper": MapSize(sources=4096, targets=4096, dimension=3, nonzeros=8, iterations=500, further=4096),
        },
        run=run_map,
        study=study_map,
        about=__doc__,
    )
)
