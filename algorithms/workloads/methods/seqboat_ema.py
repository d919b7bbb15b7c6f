"""The state-space part of SeqBoat (`algorithms.workloads.methods.seqboat`): moving averages of each channel.

    h_t = q h_(t-1) + p beta x_t,  y_t = sum over the states of gamma h_t / sqrt(states) + omega x_t
    p = sigmoid(delta), q = 1 - p sigmoid(alpha)

As a convolution: k[l] = sum of p beta q^l gamma / sqrt(states). It stays with the host, by FFT of twice the length.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from nmsat.algorithms.core.tape import Stage
from nmsat.algorithms.workloads.engine import ops

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from nmsat.algorithms.workloads.engine.program import Program, Tensor

STATES: Final = 16


def averages(p: Program, name: str, x: Tensor) -> Tensor:
    """Return silu(k * x + omega x) of x[batch, tokens, width]."""
    width = x.shape[2]
    y = convolved(p, name, x, kernel(p, name, width, x.shape[1]))
    return ops.silu(ops.add(y, ops.mul(x, _drawn(p, f"{name}.omega", (width,), 1.0))))


def kernel(p: Program, name: str, width: int, length: int, states: int = STATES) -> Tensor:
    """Return k[width, length]; its parameters are made on first use as in the authors' code."""
    shape = (width, states)
    signs = np.where(np.arange(states) % 2, -1.0, 1.0)
    leaves = (
        _drawn(p, f"{name}.delta", shape, 0.2),
        _drawn(p, f"{name}.alpha", shape, 0.2),
        _drawn(p, f"{name}.beta", shape, 0.02, signs),
        _drawn(p, f"{name}.gamma", shape, 1.0),
    )
    steps = np.arange(length)

    def parts(delta: NDArray, alpha: NDArray) -> tuple[NDArray, NDArray, NDArray]:
        keep, fade = 1 / (1 + np.exp(-delta)), 1 / (1 + np.exp(-alpha))
        return keep, fade, 1 - keep * fade

    def forward(delta: NDArray, alpha: NDArray, beta: NDArray, gamma: NDArray) -> NDArray:
        keep, _, q = parts(delta, alpha)
        weight = keep * beta * gamma / np.sqrt(states)
        return np.einsum("ds,dsl->dl", weight, q[:, :, None] ** steps).astype(delta.dtype)

    def backward(d: NDArray, delta: NDArray, alpha: NDArray, beta: NDArray, gamma: NDArray) -> list[NDArray]:
        keep, fade, q = parts(delta, alpha)
        root = np.sqrt(states)
        weight = np.einsum("dl,dsl->ds", d, q[:, :, None] ** steps) / root
        slope = np.einsum("dl,dsl->ds", d * steps, q[:, :, None] ** np.maximum(steps - 1, 0)) / root
        through = slope * keep * beta * gamma
        grads = (
            (weight * beta * gamma - through * fade) * keep * (1 - keep),
            -through * keep * fade * (1 - fade),
            weight * keep * gamma,
            weight * keep * beta,
        )
        return [g.astype(delta.dtype) for g in grads]

    # A power by its predecessor, a product and a sum for each entry; twice that and the slope behind.
    size = width * states * length
    work = ((3 * size, 2 * width * length), (7 * size, 2 * width * length))
    return counted(p, f"{name}.kernel", "ExponentialKernel", leaves, (width, length), forward, backward, work)


def convolved(p: Program, name: str, x: Tensor, k: Tensor) -> Tensor:
    """Return y[b, t, c] = sum over l of k[c, l] x[b, t - l, c]."""
    batch, length, width = x.shape
    twice = 2 * length

    def forward(v: NDArray, w: NDArray) -> NDArray:
        product = np.fft.rfft(v, twice, axis=1) * np.fft.rfft(w.T, twice, axis=0)
        return np.fft.irfft(product, twice, axis=1)[:, :length].astype(v.dtype)

    def backward(d: NDArray, v: NDArray, w: NDArray) -> list[NDArray]:
        dy, fx, fw = np.fft.rfft(d, twice, axis=1), np.fft.rfft(v, twice, axis=1), np.fft.rfft(w.T, twice, axis=0)
        dx = np.fft.irfft(dy * np.conj(fw), twice, axis=1)[:, :length]
        dk = np.fft.irfft((dy * np.conj(fx)).sum(axis=0), twice, axis=0)[:length].T
        return [dx.astype(v.dtype), dk.astype(w.dtype)]

    # A real FFT of n points: 2.5 n log2 n operations; the complex product of half as many: 6 each.
    transform = 5 * twice * (twice - 1).bit_length() // 2
    lines, product = batch * width, 3 * twice
    work = (
        (transform * (2 * lines + width) + product * lines, 8 * twice * (2 * lines + width)),
        (transform * (2 * lines + width) + 2 * product * lines, 8 * twice * (4 * lines + width)),
    )
    return counted(p, f"{name}.fft", "DFT", (x, k), x.shape, forward, backward, work)


def counted(
    p: Program,
    name: str,
    kind: str,
    inputs: Sequence[Tensor],
    shape: tuple[int, ...],
    forward: Callable[..., NDArray],
    backward: Callable[..., list[NDArray]],
    work: tuple[tuple[int, int], tuple[int, int]],
) -> Tensor:
    """Run a host operation whose cost is not per element. work: operations and bytes, forward and backward."""
    p.host(name, kind, *work[0])
    arrays = [t.data for t in inputs]

    def back(d: NDArray | None) -> list[NDArray] | list[None]:
        p.host(name, kind, *work[1], Stage.BP)
        return [None] * len(arrays) if d is None else backward(d, *arrays)

    return p.node(shape, forward(*arrays) if p.values else None, tuple(inputs), back)


def _drawn(p: Program, name: str, shape: tuple[int, ...], spread: float, mean: NDArray | float = 0.0) -> Tensor:
    fresh = name not in p.store
    leaf = p.vector(name, shape)
    if fresh and p.values:
        leaf.array[...] = mean + spread * p.rng.standard_normal(shape)
    return leaf
