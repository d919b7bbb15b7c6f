"""SparseNeRF: a radiance field from three views, with the order of depths that a coarse prior gives.

Source: G. Wang et al., "SparseNeRF: Distilling Depth Ranking for Few-shot Novel View Synthesis", ICCV 2023,
arXiv 2303.16196, and the code of its authors.
Known: equations and weights from that code; the figure for DTU is from memory.

    ranking    R = mean max(d_near - d_far + m, 0)                     m = 1e-4; near, far: order of the prior
    continuity K = mean max(|d_near - d_near'| - m, 0) + the same for far    ': a neighbour alike in the prior
    loss       L = MSE(fine) + 0.1 MSE(coarse) + w (R + 0.01 K)        w = 0.5 (LLFF); d: fine level, from 0 to 1

Faithful: the mip-NeRF field (8 layers of 256, skip behind the fifth, encoding of conical sections, one field for both
levels of 128 samples), groups of four rays (near, far, a neighbour of each), the losses, Adam. Left out: DTU's patch
term, density noise, annealing of near and far.
On SAT: sparse are the views; every product is dense. Density and bottleneck read one input, so they are one product of
257 columns. Encoding, ray marching and sampling are the host's.
Assumed: a step on DTU, 256 rays of colour and 256 of depth.
Ours (`nm`): the eight hidden layers are 2:8 along k, and along n in the input gradient.
Study: the field with the prior against the same field without, from the same start; error of depth and share of pairs
in the wrong order, between the three cameras of a flat world with known depth; three seeds. It takes the weights of
LLFF, and depths from 0 to 1 as there.
Found here: with each seed depths are nearer and better ordered with the prior: yes. With depths from 1 to 5 the same
weights flatten the scene, and its depths are worse than without the prior.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from nmsat.algorithms.core.tape import Pattern
from nmsat.algorithms.workloads.engine import ops
from nmsat.algorithms.workloads.engine.products import linear
from nmsat.algorithms.workloads.engine.program import Program
from nmsat.algorithms.workloads.engine.registry import Study, Variant, Workload, register
from nmsat.algorithms.workloads.engine.training import LOSS_SCALE, adam, clear
from nmsat.algorithms.workloads.methods import flatland
from nmsat.algorithms.workloads.methods.radiance import (
    encoded,
    encoding_operations,
    render,
    resample,
    resample_work,
    sections,
    sigmoid,
    softplus,
    weights,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nmsat.algorithms.workloads.engine.parameters import Parameter
    from nmsat.algorithms.workloads.engine.program import Tensor
    from nmsat.algorithms.workloads.methods.flatland import Rays

PATTERN: Final = Pattern(2, 8)
MARGIN: Final = 1e-4
SMOOTH: Final = 0.01
"""Weight of continuity beside ranking."""

RADIUS: Final = 0.01
"""Of the cone of a pixel at distance 1."""

STEPS: Final = 400
"""Of a training of the study."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """A field in `dims` dimensions and the rays of a step.

    rgb, depth: rays of colour, and of the prior in groups of four; samples: per level; layers, width, skip: hidden
    layers, the input joins again behind layer `skip`; degree, view_degree: frequencies of position and direction.
    """

    dims: int
    rgb: int
    depth: int
    samples: int
    layers: int
    width: int
    skip: int
    degree: int
    view_degree: int
    view_width: int

    @property
    def rays(self) -> int:
        """Rays of a step."""
        return self.rgb + self.depth


def run(p: Program, size: Size, variant: Variant) -> None:
    """Record one training step."""
    rays = flatland.step(size.rgb, size.depth, 0) if p.values else None
    p.backward(loss(p, size, rays, 0.5, variant), LOSS_SCALE)
    learnt = sum(w.size for w in p.store.values())
    p.host("update", "Adam", 13 * learnt, 32 * learnt)


def loss(p: Program, size: Size, rays: Rays | None, ranking: float, variant: Variant) -> Tensor:
    """Return the loss of the rays of a step; ranking: the weight w, 0 for a field without prior."""
    coarse, fine = levels(p, size, rays, variant)
    target = p.input((size.rgb, 3), None if rays is None else rays.colour)
    total = ops.add(
        ops.squared_error(_colours(fine, size.rgb), target),
        ops.squared_error(_colours(coarse, size.rgb), target, 0.1),
    )
    if not ranking:
        return total
    near, far = flatland.RANGE
    # The weights are those of LLFF, whose depths run from 0 to 1.
    depth = ops.scale(ops.part(ops.part(fine, 0, size.rgb, size.rays), 1, 3, 4), 1 / (far - near))
    prior = ops.add(rank_loss(depth), ops.scale(continuity_loss(depth), SMOOTH))
    return ops.add(total, ops.scale(prior, ranking))


def rank_loss(depth: Tensor) -> Tensor:
    """Return R of depth[4 groups, 1]: near, far, near's neighbour, far's neighbour."""
    near, far, _, _ = _quarters(depth)
    return _mean(ops.relu(_shifted(_difference(near, far), MARGIN)))


def continuity_loss(depth: Tensor) -> Tensor:
    """Return K of depth[4 groups, 1]."""
    near, far, *beside = _quarters(depth)
    parts = []
    for left, right in zip((near, far), beside, strict=True):
        gap = _difference(left, right)
        # max(|g| - m, 0) = max(g - m, 0) + max(-g - m, 0)
        parts += [_mean(ops.relu(_shifted(ops.scale(gap, sign), -MARGIN))) for sign in (1.0, -1.0)]
    return ops.add(ops.add(parts[0], parts[1]), ops.add(parts[2], parts[3]))


def levels(p: Program, size: Size, rays: Rays | None, variant: Variant) -> tuple[Tensor, Tensor]:
    """Return colour, depth and opacity [rays, 5] of the coarse and of the fine level."""
    edges = None if rays is None else np.tile(np.linspace(*flatland.RANGE, size.samples + 1), (size.rays, 1))
    coarse, density = level(p, size, rays, edges, "", variant)
    if density.data is not None and edges is not None:
        edges = resample(edges, weights(density.data, edges)[0], size.samples)
    resample_work(p, size.rays, size.samples)
    return coarse, level(p, size, rays, edges, "/fine", variant)[0]


def field(p: Program, size: Size, x: Tensor, view: Tensor, label: str, variant: Variant) -> tuple[Tensor, Tensor]:
    """Return density [N, 1] and colour [N, 3] of encoded places and directions; label: behind the names of products."""
    pattern = PATTERN if variant == "nm" else None

    def layer(name: str, h: Tensor, n: int, pattern: Pattern | None = None) -> Tensor:
        w = p.weight(name, (h.shape[-1], n), ff=pattern, bp=pattern)
        return linear(f"{name}{label}", h, w, p.vector(f"{name}.bias", (n,)))

    h = x
    for index in range(size.layers):
        h = ops.relu(layer(f"l{index}", h, size.width, pattern))
        if index == size.skip:
            h = ops.concat([h, x], 1)
    both = layer("head", h, size.width + 1)
    h = ops.concat([ops.part(both, 1, 1, size.width + 1), view], 1)
    h = ops.relu(layer("view", h, size.view_width))
    return softplus(ops.part(both, 1, 0, 1), -1.0), sigmoid(layer("rgb", h, 3), 0.001)


def level(
    p: Program, size: Size, rays: Rays | None, edges: NDArray | None, label: str, variant: Variant
) -> tuple[Tensor, Tensor]:
    """Return what the rays see, and the density [rays, samples]."""
    samples = size.rays * size.samples
    features, view = 2 * size.degree * size.dims, size.dims * (1 + 2 * size.view_degree)

    def places() -> NDArray:
        if rays is None or edges is None:
            raise RuntimeError("a run with values needs rays")
        mean, variance = sections(rays.origins, rays.directions, edges, RADIUS)
        return encoded(mean, variance, size.degree).reshape(samples, features)

    def views() -> NDArray:
        if rays is None:
            raise RuntimeError("a run with values needs rays")
        unit = rays.directions / np.linalg.norm(rays.directions, axis=1, keepdims=True)
        found = np.concatenate([unit, encoded(unit, np.zeros_like(unit), size.view_degree)], axis=1)
        return np.repeat(found, size.samples, axis=0)

    work = encoding_operations(samples, size.degree, size.dims) + 3 * size.rays * view
    p.host("encoding", "PositionalEncoding", work, 2 * samples * (features + view))
    x, direction = p.input((samples, features), places), p.input((samples, view), views)
    density, colour = field(p, size, x, direction, label, variant)
    density = ops.reshape(density, (size.rays, size.samples))
    return render(density, ops.reshape(colour, (size.rays, size.samples, 3)), edges), density


def _colours(seen: Tensor, count: int) -> Tensor:
    return ops.part(ops.part(seen, 0, 0, count), 1, 0, 3)


def _quarters(depth: Tensor) -> list[Tensor]:
    count = depth.shape[0] // 4
    return [ops.part(depth, 0, i * count, (i + 1) * count) for i in range(4)]


def _difference(a: Tensor, b: Tensor) -> Tensor:
    return ops.add(a, ops.scale(b, -1.0))


def _shifted(x: Tensor, by: float) -> Tensor:
    return ops.add(x, x.program.input((1, 1), lambda: np.full((1, 1), by)))


def _mean(x: Tensor) -> Tensor:
    return ops.mean(ops.reshape(x, (x.size,)), 0)


def train(seed: int, ranking: float, variant: Variant, steps: int = STEPS) -> dict[str, Parameter]:
    """Train a field on three rows of pixels; ranking: 0 for the same field without the prior."""
    store: dict[str, Parameter] = {}
    for index in range(1, steps + 1):
        p = Program(store=store, rng=np.random.default_rng(seed))
        rays = flatland.step(TOY.rgb, TOY.depth, index, seed)
        p.backward(loss(p, TOY, rays, ranking, variant))
        adam(store.values(), 5e-3 * 0.1 ** (index / steps), index)
        clear(store.values())
    return store


def errors(store: dict[str, Parameter], variant: Variant) -> tuple[float, float]:
    """Return the mean error of depth between the cameras, and the share of pairs of pixels in the wrong order."""
    rays = flatland.everything(flatland.HELD_OUT)
    size = replace(TOY, rgb=len(rays.depth), depth=0)
    found = levels(Program(store=store), size, rays, variant)[1].array[:, 3]
    left, right = np.subtract.outer(found, found), np.subtract.outer(rays.depth, rays.depth)
    told = np.abs(right) > 0.2
    return float(np.mean(np.abs(found - rays.depth))), float(np.mean((left * right < 0)[told]))


def study(variant: Variant) -> Study:
    """Train with and without the prior from the same start, three seeds; depths are those between the cameras."""
    measured: dict[str, float | int | str] = {}
    found: dict[str, list[float]] = {"ranking": [], "none": []}
    store: dict[str, Parameter] = {}
    for seed in range(3):
        for name, weight in (("none", 0.0), ("ranking", 0.5)):
            store = train(seed, weight, variant)
            depth, order = errors(store, variant)
            found[name].append(depth)
            measured[f"depth_error_{name}_seed{seed}"] = depth
            measured[f"wrong_order_{name}_seed{seed}"] = order
    for name, values in found.items():
        measured[f"depth_error_{name}"] = float(np.mean(values))
    holds = float(measured["depth_error_ranking"]) < float(measured["depth_error_none"])
    return Study("from three views depths are nearer the truth with the ranking than without", holds, measured, store)


SMALL: Final = Size(
    dims=2, rgb=4, depth=4, samples=8, layers=3, width=32, skip=1, degree=4, view_degree=1, view_width=16
)
TOY: Final = replace(SMALL, rgb=16, depth=16, samples=16)
DTU: Final = Size(
    dims=3, rgb=256, depth=256, samples=128, layers=8, width=256, skip=4, degree=16, view_degree=4, view_width=128
)

register(
    Workload(
        name="sparse-nerf",
        title="SparseNeRF",
        source="Wang et al., ICCV 2023, arXiv 2303.16196",
        sparse="views (three); nothing in the products",
        variants={
            "faithful": "dense",
            "nm": "ours: hidden layers 2:8 along k and along n",
        },
        quoted="PSNR of 3 views: 19.86 on LLFF (RegNeRF 19.08, FreeNeRF 19.63), 19.55 on DTU (from memory)",
        sizes={"small": SMALL, "paper": DTU},
        run=run,
        study=study,
        about=__doc__,
    )
)
