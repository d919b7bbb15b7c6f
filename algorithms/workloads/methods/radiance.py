"""Radiance fields on rays: encoding of conical sections, volume rendering with its gradient, sampling by weight.

Source: J. Barron et al., "Mip-NeRF", ICCV 2021, arXiv 2103.13415, equations 8 (moments), 14 (encoding), and the
rendering of B. Mildenhall et al., "NeRF", ECCV 2020:

    alpha_i = 1 - exp(-sigma_i delta_i)     w_i = alpha_i prod_{j < i} (1 - alpha_j)
    colour  = sum w c                       depth = sum w t / sum w

Positions and encodings are computed in binary64 on the host: their frequencies reach 2^15.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from nmsat.algorithms.workloads.engine.ops import given

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nmsat.algorithms.workloads.engine.program import Program, Tensor

EMPTY = 1e-10
"""Added to the opacity below a depth, so that an empty ray has one."""


def sections(
    origins: NDArray, directions: NDArray, edges: NDArray, radius: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean and variance [R, S, d] of the sections of cones around rays.

    origins, directions: [R, d]; edges: [R, S + 1], ascending distances; radius: of the cone at distance 1.
    """
    middle, half = (edges[:, 1:] + edges[:, :-1]) / 2, (edges[:, 1:] - edges[:, :-1]) / 2
    base = 3 * middle**2 + half**2
    along = middle + 2 * middle * half**2 / base
    spread = half**2 / 3 - 4 / 15 * half**4 * (12 * middle**2 - half**2) / base**2
    across = radius**2 * (middle**2 / 4 + 5 / 12 * half**2 - 4 / 15 * half**4 / base)
    share = directions**2 / np.sum(directions**2, axis=1, keepdims=True)
    mean = origins[:, None] + along[..., None] * directions[:, None]
    return mean, spread[..., None] * directions[:, None] ** 2 + across[..., None] * (1 - share[:, None])


def encoded(mean: NDArray, variance: NDArray, degree: int) -> NDArray[np.float64]:
    """Return sines and cosines of 2^l x, l < degree, each times its expectation's decay: [..., 2 * degree * d]."""
    scale = 2.0 ** np.arange(degree)[:, None]
    angle = mean[..., None, :] * scale
    decay = np.exp(-0.5 * variance[..., None, :] * scale**2)
    found = np.stack([np.sin(angle) * decay, np.cos(angle) * decay], axis=-3)
    return found.reshape(*mean.shape[:-1], -1)


def encoding_operations(samples: int, degree: int, dims: int) -> int:
    """Operations of the host for `samples` sections: angle, decay (2), sine, cosine and two products each; moments."""
    return samples * (7 * degree * dims + 25 + 5 * dims)


def weights(density: NDArray, edges: NDArray) -> tuple[NDArray, NDArray]:
    """Return w[R, S] of density[R, S] between edges[R, S + 1], and what still gets through behind each sample."""
    thick = np.cumsum(density * np.diff(edges, axis=1), axis=1)
    behind = np.exp(-thick)
    before = np.concatenate([np.ones_like(behind[:, :1]), behind[:, :-1]], axis=1)
    return before - behind, behind


def render(density: Tensor, colour: Tensor, edges: NDArray | None) -> Tensor:
    """Return [R, C + 2]: colours, depth and opacity of density[R, S] and colour[R, S, C] between edges[R, S + 1]."""
    channels = colour.shape[-1]

    def middle() -> NDArray:
        return (given(edges)[:, 1:] + given(edges)[:, :-1]) / 2

    def forward(s: NDArray, c: NDArray) -> NDArray:
        w, _ = weights(s, given(edges))
        opacity = w.sum(axis=1)
        depth = (w * middle()).sum(axis=1) / (opacity + EMPTY)
        return np.concatenate([(w[..., None] * c).sum(axis=1), depth[:, None], opacity[:, None]], axis=1).astype(
            s.dtype
        )

    def backward(d: NDArray, y: NDArray, s: NDArray, c: NDArray) -> tuple[NDArray, NDArray]:
        w, behind = weights(s, given(edges))
        shift = (middle() - y[:, channels, None]) / (y[:, channels + 1, None] + EMPTY)
        slope = (c * d[:, None, :channels]).sum(-1) + d[:, channels, None] * shift + d[:, channels + 1, None]
        below = w * slope
        later = below.sum(axis=1, keepdims=True) - np.cumsum(below, axis=1)
        thin = (behind * slope - later) * np.diff(given(edges), axis=1)
        return thin.astype(s.dtype), (w[..., None] * d[:, None, :channels]).astype(c.dtype)

    shape = (density.shape[0], channels + 2)
    return density.program.apply("VolumeRendering", (density, colour), shape, forward, backward)


def resample(edges: NDArray, w: NDArray, samples: int, padding: float = 0.01) -> NDArray:
    """Return samples + 1 new edges per ray, dense where the blurred weights w[R, S] are (mip-NeRF, section 3.2)."""
    wide = np.pad(w, ((0, 0), (1, 1)), mode="edge")
    peaks = np.maximum(wide[:, :-1], wide[:, 1:])
    soft = (peaks[:, :-1] + peaks[:, 1:]) / 2 + padding
    rise = np.concatenate([np.zeros((len(w), 1)), np.cumsum(soft, axis=1)], axis=1)
    rise /= rise[:, -1:]
    at = np.linspace(0, 1, samples + 1)
    return np.stack([np.interp(at, r, e) for r, e in zip(rise, edges, strict=True)])


def resample_work(p: Program, rays: int, samples: int) -> None:
    """Count the host's work of `resample`: blur and sum (6 a sample), a binary search and a division per edge."""
    per_ray = 6 * samples + (samples + 1) * ((samples - 1).bit_length() + 4)
    p.host("resample", "Resampling", rays * per_ray, rays * (3 * samples + 1) * 4)


def softplus(x: Tensor, shift: float = 0.0) -> Tensor:
    """log(1 + exp(x + shift))."""
    return x.program.apply(
        "Softplus",
        (x,),
        x.shape,
        lambda v: np.logaddexp(0, v + shift).astype(v.dtype),
        lambda d, _y, v: ((d / (1 + np.exp(-(v + shift)))).astype(v.dtype),),
    )


def sigmoid(x: Tensor, padding: float = 0.0) -> Tensor:
    """Sigmoid, stretched to -padding .. 1 + padding."""

    def forward(v: NDArray) -> NDArray:
        return ((1 + 2 * padding) / (1 + np.exp(-v)) - padding).astype(v.dtype)

    def backward(d: NDArray, _y: NDArray, v: NDArray) -> tuple[NDArray]:
        s = 1 / (1 + np.exp(-v))
        return ((d * (1 + 2 * padding) * s * (1 - s)).astype(v.dtype),)

    return x.program.apply("Sigmoid", (x,), x.shape, forward, backward)
