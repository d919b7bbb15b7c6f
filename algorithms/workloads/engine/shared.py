"""One stream of indices for several operands: products of matrices that differ in their values and share their mask.

The members of a soup, or mean and variance of a Bayesian weight, are copies W[copies, k, n] under one mask bool[k, n].
Activations hold the copies' channels side by side, x[..., copies * k], as a grouped convolution does. Each product is
recorded once with `count` copies and the one mask: the lowering chooses one cover, one order of columns and one set of
indices for all of them. (The machine stores a pair with its index, so what is shared there is the layout, not bytes.)
N:M patterns are shared as well: along k the mask is one, and the copy for the input gradient is pruned along n by the
mean magnitude of all copies.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product as pairs
from typing import TYPE_CHECKING

import numpy as np

from nmsat.algorithms.core.sparsity import Blocks, Unstructured
from nmsat.algorithms.core.tape import ConvShape, Stage
from nmsat.algorithms.core.windows import (
    backward_matrix,
    backward_shape,
    backward_taps,
    forward_windows,
    output_size,
    windows,
)
from nmsat.algorithms.workloads.engine.parameters import Operand, Parameter, nm_mask
from nmsat.algorithms.workloads.engine.products import multiply

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nmsat.algorithms.core.tape import Pattern
    from nmsat.algorithms.core.windows import Taps
    from nmsat.algorithms.workloads.engine.program import Backward, Gradients, Program, Tensor


def shared_weight(
    p: Program,
    name: str,
    copies: int,
    shape: tuple[int, int],
    *,
    density: float = 1.0,
    pattern: Pattern | None = None,
    gain: float = 2.0,
) -> Parameter:
    """Return the matrices `name` [copies, k, n] under one mask, made on first use; only kept elements learn.

    density: share that the mask keeps, at random places; pattern: N:M instead, along k and (of the copy for the input
    gradient) along n. Raises ValueError if `copies` is below 1.
    """
    if copies < 1:
        raise ValueError(f"copies of {name!r} is {copies!r}; it must be at least 1")
    if name not in p.store:
        k, n = shape
        w = p.weight(name, (copies, k, n), gain=gain, ff=pattern, bp=pattern, masked_gradient=True)
        kept = max(1, round(density * k * n))
        w.nonzeros = copies * kept
        if p.values and w.ff is not None:
            w.mask(nm_mask(w.array[0], w.ff, 0))
        elif p.values and kept < k * n:
            places = np.zeros(k * n, np.bool_)
            places[p.rng.permutation(k * n)[:kept]] = True
            w.mask(places.reshape(k, n))
    return p.store[name]


def shared_linear(name: str, x: Tensor, w: Parameter) -> Tensor:
    """Return [..., copies * n]: each copy's k channels of x[..., copies * k] through its matrix."""
    p, (copies, k, n) = x.program, w.shape
    rows = x.size // (copies * k)
    a = None if x.data is None else _apart(x.data.reshape(rows, -1), copies)
    y = multiply(p, name, p.stage, a, w.forward(), (rows, k, n), copies)

    def back(dy: NDArray | None) -> Gradients:
        d = None if dy is None else _apart(dy.reshape(rows, -1), copies)
        _gradient(p, name, a, d, (k, rows, n), w, None)
        if not x.needs:
            return (None,)
        dx = multiply(p, name, Stage.BP, d, turned(w), (rows, n, k), copies)
        return (None if dx is None else _together(dx, copies, x.shape),)

    return _learning(p, (*x.shape[:-1], copies * n), y, x, w, back)


def shared_conv2d(
    name: str, x: Tensor, w: Parameter, kernel: int, stride: int = 1, padding: int | None = None
) -> Tensor:
    """Return the convolution of x[B, H, W, copies * C_in] with W[copies, taps * C_in, C_out], copy by copy."""
    p, (copies, k, n) = x.program, w.shape
    batch, height, width, channels = x.shape
    pad = kernel // 2 if padding is None else padding
    one = ConvShape(batch, height, width, channels // copies, n, (kernel, kernel), (stride, stride), (pad, pad))
    out = output_size(one)
    rows = batch * out[0] * out[1]
    a = None
    if x.data is not None:
        a = np.stack([forward_windows(part, one) for part in np.split(x.data, copies, axis=-1)])
    y = multiply(p, name, p.stage, a, w.forward(), (rows, k, n), copies, conv=_grouped(one, copies))

    def back(dy: NDArray | None) -> Gradients:
        d = None if dy is None else _apart(dy.reshape(rows, -1), copies)
        _gradient(p, name, a, d, (k, rows, n), w, _grouped(one, copies))
        return (_input_gradient(name, x, dy, w, one),) if x.needs else (None,)

    return _learning(p, (batch, *out, copies * n), y, x, w, back)


def turned(w: Parameter) -> Operand:
    """Return W^T[copies, n, k] as the input gradient reads it: one mask for all copies, N:M along n with `bp`."""
    if w.bp is None or w.value is None or len(w.shape) == 2:
        return w.backward()
    masked = w.array if w.keep is None else np.where(w.keep, w.array, 0)
    keep = nm_mask(np.abs(masked).mean(axis=0), w.bp, -1)
    return Operand(np.ascontiguousarray(np.swapaxes(np.where(keep, masked, 0), -1, -2)), w.bp)


def _input_gradient(name: str, x: Tensor, dy: NDArray | None, w: Parameter, one: ConvShape) -> NDArray | None:
    """Record one product per stride phase that meets a tap and return dx."""
    p, copies, operand = x.program, w.shape[0], turned(w)
    parts = None if dy is None else np.split(dy, copies, axis=-1)
    dx = None if dy is None else np.zeros((copies, *x.shape[:-1], one.channels_in), p.dtype)
    met = [pair for pair in pairs(backward_taps(one, 0), backward_taps(one, 1)) if pair[0].taps and pair[1].taps]
    conv = backward_shape(one)
    for index, (rows, columns) in enumerate(met):
        label = name if len(met) == 1 else f"{name}/phase{index}"
        taps, size = len(rows.taps) * len(columns.taps), (rows.length, columns.length)
        dims = (x.shape[0] * size[0] * size[1], taps * one.channels_out, one.channels_in)
        cut = _phase(p, label, operand, one, copies, rows, columns)
        picked = None if parts is None else np.stack([windows(d, rows.offsets, columns.offsets, size) for d in parts])
        shape = None if conv is None else _grouped(conv, copies)
        part = multiply(p, label, Stage.BP, picked, cut, dims, copies, conv=shape)
        if dx is not None and part is not None:
            s = one.stride[0]
            dx[:, :, rows.phase :: s, columns.phase :: s] = part.reshape(copies, x.shape[0], *size, -1)
    return None if dx is None else np.concatenate(list(dx), axis=-1)


def _phase(p: Program, label: str, whole: Operand, one: ConvShape, copies: int, rows: Taps, columns: Taps) -> Operand:
    """Cut the taps of a phase out of W^T[copies, C_out, taps * C_in]."""

    def cut(matrix: NDArray) -> NDArray:
        return backward_matrix(matrix.T, one, rows, columns)

    values = None if whole.values is None else np.stack([cut(v) for v in whole.values])
    pattern = whole.pattern if whole.pattern is None or one.channels_out % whole.pattern.m == 0 else None
    mask = whole.sparsity
    if mask is None:
        return Operand(values, pattern)
    if isinstance(mask, Blocks):
        raise ValueError(f"{label!r} has a mask of blocks; copies of a convolution share an unstructured mask")
    keep = None if mask.keep is None else cut(mask.keep)
    taps, kernel = len(rows.taps) * len(columns.taps), one.kernel[0] * one.kernel[1]
    count = p.statistic(
        f"{label}.nonzeros",
        lambda: 0 if keep is None else copies * int(np.count_nonzero(keep)),
        lambda: round(mask.nonzeros * taps / kernel),
    )
    return Operand(values, pattern, Unstructured("w", count, keep))


def _gradient(
    p: Program,
    name: str,
    a: NDArray | None,
    d: NDArray | None,
    dims: tuple[int, int, int],
    w: Parameter,
    conv: ConvShape | None,
) -> None:
    """Record dW of all copies and add it to the parameter; kept elements alone are wanted."""
    if w.frozen:
        return
    wanted = Unstructured("y", w.kept, w.keep) if w.masked_gradient and w.kept < w.size else None
    left = None if a is None else np.swapaxes(a, 1, 2)
    grad = multiply(p, name, Stage.WU, left, Operand(d), dims, w.shape[0], conv=conv, sparsity=wanted)
    if grad is not None:
        p.add_gradient(w, grad.reshape(w.shape))


def _grouped(one: ConvShape, copies: int) -> ConvShape:
    """Return the convolution of all copies: as many groups."""
    return replace(one, channels_in=one.channels_in * copies, channels_out=one.channels_out * copies, groups=copies)


def _apart(x: NDArray, copies: int) -> NDArray:
    """[rows, copies * c] to [copies, rows, c]."""
    return np.ascontiguousarray(x.reshape(len(x), copies, -1).transpose(1, 0, 2))


def _together(y: NDArray, copies: int, shape: tuple[int, ...]) -> NDArray:
    """[copies, rows, c] to `shape`, whose last axis is copies * c."""
    rows = y.size // (copies * y.shape[-1])
    return np.ascontiguousarray(y.reshape(copies, rows, -1).transpose(1, 0, 2)).reshape(shape)


def _learning(p: Program, shape: tuple[int, ...], y: NDArray | None, x: Tensor, w: Parameter, back: Backward) -> Tensor:
    data = None if y is None else _together(y, w.shape[0], shape).astype(p.dtype, copy=False)
    node = p.node(shape, data, (x,), back)
    if not w.frozen and not node.needs:
        node.needs = True
        p.nodes.append(node)
    return node
