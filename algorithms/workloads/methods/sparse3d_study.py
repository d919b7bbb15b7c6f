"""The study of Sparse3D: a flat scene from three views, with and without score distillation.

The diffusion model is one whose scores are exact: Gaussians of the rows that a camera sees, fitted to other random
scenes, given the rows of the three input views (phi) or not (category).
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from nmsat.algorithms.workloads.engine import ops
from nmsat.algorithms.workloads.engine.program import Program
from nmsat.algorithms.workloads.engine.registry import Study, Variant
from nmsat.algorithms.workloads.engine.training import adam, clear
from nmsat.algorithms.workloads.methods import flatland
from nmsat.algorithms.workloads.methods.gaussian_score import Regressor, csds, sds
from nmsat.algorithms.workloads.methods.hash_grid import FieldSize, GridSize, field
from nmsat.algorithms.workloads.methods.radiance import render

if TYPE_CHECKING:
    from typing import TypeAlias

    from numpy.typing import NDArray

    from nmsat.algorithms.workloads.engine.parameters import Parameter
    from nmsat.algorithms.workloads.engine.program import Tensor
    from nmsat.algorithms.workloads.methods.flatland import Discs

    Prior: TypeAlias = Literal["none", "csds", "sds"]

BETWEEN: Final = (-0.45, -0.15, 0.15, 0.45)
"""Cameras whose rows are distilled; those of the test stand elsewhere."""

FIELD: Final = FieldSize(
    grid=GridSize(dims=2, levels=4, coarse=4, growth=1.7, rows=512, features=2), width=32, geometry=8, view_degree=1
)
SAMPLES: Final = 24
RAYS: Final = 32
STEPS: Final = 200
SEEDS: Final = 5
SCENES: Final = 600
FLOOR: Final = 1e-3
"""Variance of a pixel that no model goes below."""


@lru_cache(maxsize=1)
def models() -> dict[float, Regressor]:
    """Return for each distilled camera what its row is, given the rows of the input views, from other scenes."""
    rng = np.random.default_rng(7)
    worlds = [flatland.random_discs(rng) for _ in range(SCENES)]
    given = np.stack([seen_rows(world) for world in worlds])
    found = {}
    for place in BETWEEN:
        rows = np.stack([flatland.look(place, world).colour.ravel() for world in worlds])
        found[place] = Regressor.fit(given, rows, 1e-2, FLOOR)
    return found


def seen_rows(world: Discs) -> NDArray[np.float64]:
    """Return the pixels of the three input views, one after the other."""
    return np.concatenate([flatland.look(place, world).colour.ravel() for place in flatland.SEEN])


def seen(p: Program, origins: NDArray, directions: NDArray) -> Tensor:
    """Return colour, depth and opacity [rays, 5] of rays through the field."""
    rays = len(origins)
    edges = np.tile(np.linspace(*flatland.RANGE, SAMPLES + 1), (rays, 1))
    middle = (edges[:, 1:] + edges[:, :-1]) / 2
    points = (origins[:, None] + middle[..., None] * directions[:, None]).reshape(-1, 2)
    places = np.stack([points[:, 0] / 8 + 0.5, points[:, 1] / 5], axis=1)
    count = len(places)
    density, colour = field(p, FIELD, places, directions.repeat(SAMPLES, axis=0), count, count)
    return render(ops.reshape(density, (rays, SAMPLES)), ops.reshape(colour, (rays, SAMPLES, 3)), edges)


def train(seed: int, prior: Prior) -> tuple[dict[str, Parameter], float]:
    """Train a field on a random scene; return it and the mean error of depth between the cameras.

    Both losses are means over their elements, with weight 1; w(t) = s_t^2, t uniform.
    """
    world = flatland.random_discs(np.random.default_rng(1000 + seed))
    views = [flatland.look(place, world) for place in flatland.SEEN]
    origins, directions, colours = (
        np.concatenate([getattr(v, name) for v in views]) for name in ("origins", "directions", "colour")
    )
    conditions = {place: model.given(seen_rows(world)) for place, model in models().items()}
    store: dict[str, Parameter] = {}
    rng = np.random.default_rng(seed)
    for step in range(1, STEPS + 1):
        p = Program(store=store, rng=np.random.default_rng(seed))
        pick, place = rng.integers(0, len(origins), RAYS), float(rng.choice(BETWEEN))
        time, noise = rng.uniform(0.02, 0.98) * np.pi / 2, rng.standard_normal(3 * flatland.PIXELS)
        target = flatland.look(place, world)  # its place and directions alone are used
        o, d = origins[pick], directions[pick]
        if prior != "none":
            o, d = np.concatenate([o, target.origins]), np.concatenate([d, target.directions])
        found = ops.part(seen(p, o, d), 1, 0, 3)
        loss = ops.squared_error(ops.part(found, 0, 0, RAYS), p.input((RAYS, 3), colours[pick]))
        if prior != "none":
            row = ops.part(found, 0, RAYS, RAYS + flatland.PIXELS)
            x, a, s = row.array.ravel().astype(np.float64), np.cos(time), np.sin(time)
            model = models()[place].category
            push = (
                csds(x, conditions[place], model, noise, a, s)
                if prior == "csds"
                else sds(x, conditions[place], noise, a, s)
            )
            push = s * s * push.reshape(row.shape) / row.size
            loss = ops.add(loss, ops.total(ops.mul(row, p.input(row.shape, push))))
        p.backward(loss)
        adam(store.values(), 1e-2 * 0.1 ** (step / STEPS), step)
        clear(store.values())
    tests = [flatland.look(place, world) for place in flatland.HELD_OUT]
    o, d, depth = (np.concatenate([getattr(v, name) for v in tests]) for name in ("origins", "directions", "depth"))
    return store, float(np.mean(np.abs(seen(Program(store=store), o, d).array[:, 3] - depth)))


@lru_cache(maxsize=1)
def depth_errors() -> dict[Prior, list[float]]:
    """Return the error of depth of each of SEEDS random scenes, without a prior and with each of both."""
    priors: tuple[Prior, ...] = ("none", "csds", "sds")
    return {prior: [train(seed, prior)[1] for seed in range(SEEDS)] for prior in priors}


def study(variant: Variant) -> Study:
    """Train on random scenes with C-SDS, without a prior, and with SDS, whose steps cost as much.

    The claim holds if C-SDS has the smaller error than both in the mean, and than no prior with each seed. The N:M
    variant differs in the networks, which are not part of this: both variants share the study.
    """
    del variant
    measured: dict[str, float | int | str] = {"seeds": SEEDS}
    mean: dict[str, float] = {}
    errors = depth_errors()
    for prior, found in errors.items():
        measured |= {f"depth_error_{prior}_seed{seed}": error for seed, error in enumerate(found)}
        mean[prior] = measured[f"depth_error_{prior}"] = float(np.mean(found))
    always = all(ours < without for ours, without in zip(errors["csds"], errors["none"], strict=True))
    holds = always and mean["csds"] < min(mean["none"], mean["sds"])
    return Study("depths are nearer the truth with C-SDS than without, and than with SDS", holds, measured)
