"""Products of a program: linear layers, convolutions, attention, experts; forward and both gradients, on the tape."""

from __future__ import annotations

from dataclasses import replace
from itertools import product as pairs
from typing import TYPE_CHECKING

import numpy as np

from nmsat.algorithms.core.nm import pack_kept
from nmsat.algorithms.core.numeric import ordered_dot, ordered_dot_packed, to_half
from nmsat.algorithms.core.sparsity import Blocks, Gathered, Unstructured
from nmsat.algorithms.core.tape import ConvShape, Pattern, Product, Stage
from nmsat.algorithms.core.windows import (
    backward_matrix,
    backward_shape,
    backward_taps,
    forward_windows,
    output_size,
    windows,
)
from nmsat.algorithms.workloads.engine.parameters import Operand, nm_mask

if TYPE_CHECKING:
    from typing import TypeAlias

    from numpy.typing import NDArray

    from nmsat.algorithms.core.sparsity import Dims, Sparsity
    from nmsat.algorithms.core.windows import Taps
    from nmsat.algorithms.workloads.engine.parameters import Parameter
    from nmsat.algorithms.workloads.engine.program import Backward, Gradients, Program, Tensor

    Pair: TypeAlias = tuple[int, int]


def linear(
    name: str, x: Tensor, w: Parameter, bias: Tensor | None = None, *, gathered: Gathered | None = None
) -> Tensor:
    """Return x[..., k] @ W[k, n] (+ bias). gathered: says that rows of x or ranks of W were left out."""
    p, (k, n) = x.program, w.shape
    rows = x.size // k
    flat = None if x.data is None else x.data.reshape(rows, k)
    y = multiply(p, name, p.stage, flat, w.forward(), (rows, k, n), gathered=gathered)
    shape = (*x.shape[:-1], n)
    if y is not None and bias is not None:
        y = y + bias.array

    def back(dy: NDArray | None) -> Gradients:
        d = None if dy is None else np.ascontiguousarray(dy.reshape(rows, n))
        if not w.frozen:
            _weight_gradient(p, name, flat, d, (k, rows, n), w, gathered=_reordered(gathered, (1, 0, 2)))
        dx = None
        if x.needs:
            turned = _reordered(gathered, (0, 2, 1))
            dx = multiply(p, name, Stage.BP, d, w.backward(), (rows, n, k), gathered=turned)
            dx = None if dx is None else dx.reshape(x.shape)
        return (dx,) if bias is None else (dx, None if d is None else d.sum(axis=0))

    parents = (x,) if bias is None else (x, bias)
    return _learning(p, shape, y, parents, back, w)


def conv2d(
    name: str,
    x: Tensor,
    w: Parameter,
    kernel: int | Pair,
    stride: int | Pair = 1,
    padding: int | Pair | None = None,
    *,
    groups: int = 1,
) -> Tensor:
    """Return the convolution of x[B, H, W, C_in] with W[taps * C_in, C_out]; padding: half the kernel by default.

    kernel, stride, padding: one number, or height and width. groups: channels in as many parts, each with weights of
    its own, W[groups, taps * C_in / groups, C_out / groups]; as many as channels is a depthwise convolution. Raises
    ValueError if W has another shape.
    """
    p, (batch, height, width, channels) = x.program, x.shape
    sides, steps = _pair(kernel), _pair(stride)
    pads = (sides[0] // 2, sides[1] // 2) if padding is None else _pair(padding)
    k, n = w.shape[-2:]
    copies = () if groups == 1 else (groups,)
    wanted = (*copies, sides[0] * sides[1] * (channels // groups), n)
    if w.shape != wanted or channels % groups:
        raise ValueError(f"W of {name!r} has shape {w.shape}; {channels} channels in {groups} groups need {wanted}")
    shape = ConvShape(batch, height, width, channels, n * groups, sides, steps, pads, groups=groups)
    out = output_size(shape)
    rows = batch * out[0] * out[1]
    flat = None if x.data is None else _grouped_windows(forward_windows(x.data, shape), groups, channels)
    y = multiply(p, name, p.stage, flat, w.forward(), (rows, k, n), groups, conv=shape)

    def back(dy: NDArray | None) -> Gradients:
        d = None if dy is None else _by_group(dy, groups)
        if not w.frozen:
            _weight_gradient(p, name, flat, d, (k, rows, n), w, shape, count=groups)
        if not x.needs:
            return (None,)
        return (_conv_input_gradient(name, x, dy, w, shape),)

    y = None if y is None else _ungrouped(y, groups)
    return _learning(p, (batch, *out, n * groups), y, (x,), back, w)


def matmul(
    name: str,
    a: Tensor,
    b: Tensor,
    *,
    pattern: Pattern | None = None,
    sparsity: Sparsity | None = None,
    transpose: bool = False,
) -> Tensor:
    """Return a[..., m, k] @ b[..., k, n] of two activations with equal leading axes, which become the count.

    pattern, sparsity: of the operand in the W role, which is b, or with `transpose` a: then Y^T = b^T a^T is recorded.
    The gradients are recorded dense.
    """
    p, (m, k), n = a.program, a.shape[-2:], b.shape[-1]
    count = a.size // (m * k)
    left, right = (None if t.data is None else t.data.reshape(count, *t.shape[-2:]) for t in (a, b))
    shape = (*a.shape[:-1], n)
    if transpose:
        operand = Operand(_swap(left), pattern)
        y = _swap(multiply(p, name, p.stage, _swap(right), operand, (n, k, m), count, sparsity=sparsity))
    else:
        y = multiply(p, name, p.stage, left, Operand(right, pattern), (m, k, n), count, sparsity=sparsity)

    def back(dy: NDArray | None) -> Gradients:
        d = None if dy is None else dy.reshape(count, m, n)
        da = db = None
        if a.needs:
            da = multiply(p, f"{name}.da", Stage.BP, d, Operand(_swap(right)), (m, n, k), count)
        if b.needs:
            db = multiply(p, f"{name}.db", Stage.BP, _swap(left), Operand(d), (k, m, n), count)
        return (
            None if da is None else da.reshape(a.shape),
            None if db is None else db.reshape(b.shape),
        )

    return p.node(shape, None if y is None else y.reshape(shape), (a, b), back)


def experts(name: str, x: Tensor, w: Parameter, loads: tuple[int, ...], rows: int) -> Tensor:
    """Return x[sum of loads, k], sorted by expert, through W[experts, k, n]; rows: tokens before the gathering."""
    p, (count, k, n) = x.program, w.shape
    if len(loads) != count or sum(loads) != x.shape[0]:
        raise ValueError(f"loads of {name!r} are {loads!r}; they must be {count} numbers that add up to {x.shape[0]}")
    total, gathered = x.shape[0], Gathered("experts", (rows, k, n), loads)
    y = multiply(p, name, p.stage, x.data, w.forward(), (total, k, n), gathered=gathered)

    def back(dy: NDArray | None) -> Gradients:
        if not w.frozen:
            _expert_gradients(p, name, x.data, dy, w, loads, rows)
        dx = None
        if x.needs:
            dx = multiply(p, name, Stage.BP, dy, w.backward(), (total, n, k), gathered=_reordered(gathered, (0, 2, 1)))
        return (dx,)

    return _learning(p, (total, n), y, (x,), back, w)


def multiply(
    p: Program,
    name: str,
    stage: Stage,
    a: NDArray | None,
    w: Operand,
    dims: Dims,
    count: int = 1,
    *,
    conv: ConvShape | None = None,
    sparsity: Sparsity | None = None,
    gathered: Gathered | None = None,
) -> NDArray | None:
    """Compute Y[(count,) m, n] = A @ W, record it, and return Y (None in a run of shapes).

    a: [(count,) m, k], the count axis may stay when it is 1; sparsity: beside that of the operand, of which a product
    records one.
    """
    known = gathered or sparsity or w.sparsity
    if a is None or w.values is None:
        p.tape.record(Product(name, stage, *dims, w.pattern, count, conv, sparsity=known))
        return None
    left, right = _narrow(p, a), _narrow(p, w.values)
    if count == 1 and left.ndim == 3:
        left = left[0]
        right = right[0] if right.ndim == 3 else right
    y = _compute(p, left, right, w.pattern, known)
    # Without values the tape drops them; a product made without them needs no copy.
    arrays = (left, right, y) if p.tape.values else (None, None, None)
    p.tape.record(Product(name, stage, *dims, w.pattern, count, conv, *arrays, known))
    return y


def _compute(p: Program, a: NDArray, w: NDArray, pattern: Pattern | None, sparsity: Sparsity | None) -> NDArray:
    """Return Y of one record: plain in the program's format, or under the contract."""
    if isinstance(sparsity, Gathered) and sparsity.loads:
        ends = np.cumsum(sparsity.loads)
        out = [
            _compute(p, a[e - s : e], w[i], pattern, None)
            for i, (e, s) in enumerate(zip(ends, sparsity.loads, strict=True))
        ]
        return np.concatenate(out)
    if not p.exact:
        return a @ w
    if a.ndim == 3:
        masks = _masks(sparsity, a.shape[0], w.shape[-2:])
        return np.stack([_chain(x, v, pattern, keep) for x, v, keep in zip(a, w, masks, strict=True)])
    return _chain(a, w, pattern, _masks(sparsity, 1, w.shape[-2:])[0])


def _chain(a: NDArray, w: NDArray, pattern: Pattern | None, keep: NDArray[np.bool_] | None) -> NDArray:
    """Return a @ w under the contract: only kept elements enter the chain."""
    if keep is None and pattern is None:
        return ordered_dot(a, w)
    m = 16 if pattern is None else pattern.m
    kept = nm_mask(w, pattern, 0) if pattern is not None else keep
    if kept is None or not kept.any():
        return np.zeros((a.shape[0], w.shape[1]), np.float32)
    groups = np.add.reduceat(kept, np.arange(0, kept.shape[0], m), axis=0, dtype=np.int64)
    return ordered_dot_packed(a, pack_kept(w, kept, int(groups.max()), m))


def _masks(sparsity: Sparsity | None, count: int, shape: tuple[int, int]) -> list[NDArray[np.bool_] | None]:
    if isinstance(sparsity, Unstructured) and sparsity.role == "w" and sparsity.keep is not None:
        return list(sparsity.keep) if sparsity.keep.ndim == 3 else [sparsity.keep] * count
    if isinstance(sparsity, Blocks) and sparsity.role == "w":
        return [sparsity.places(*shape)] * count
    return [None] * count


def _narrow(p: Program, x: NDArray) -> NDArray:
    if not p.exact:
        return x
    with np.errstate(over="ignore"):
        return to_half(x.astype(np.float32) if x.dtype != np.float16 else x)


def _weight_gradient(
    p: Program,
    name: str,
    x: NDArray | None,
    dy: NDArray | None,
    dims: Dims,
    w: Parameter,
    conv: ConvShape | None = None,
    gathered: Gathered | None = None,
    count: int = 1,
) -> None:
    """Record dW[k, n] = x^T[k, rows] dy[rows, n], `count` times with groups, and add it to the parameter."""
    if w.masked_gradient and w.blocks is not None and gathered is None:
        _block_gradient(p, name, x, dy, dims, w)
        return
    turned = None if x is None else np.swapaxes(x, -1, -2)
    known = w.wanted
    grad = multiply(p, name, Stage.WU, turned, Operand(dy), dims, count, conv=conv, sparsity=known, gathered=gathered)
    if grad is not None:
        p.add_gradient(w, grad)


def _block_gradient(p: Program, name: str, x: NDArray | None, dy: NDArray | None, dims: Dims, w: Parameter) -> None:
    """Record dW^T[n, k] = dy^T x of the present blocks: columns of W in one block want the same rows of it."""
    if w.blocks is None:
        raise ValueError(f"weight {name!r} has no blocks")
    k, rows, n = dims
    left, right = (None, None) if x is None or dy is None else (np.ascontiguousarray(dy.T), x)
    grad = multiply(p, name, Stage.WU, left, Operand(right), (n, rows, k), sparsity=w.blocks.turned("y"))
    if grad is not None:
        p.add_gradient(w, np.where(w.blocks.places(k, n), grad.T, 0))


def _expert_gradients(
    p: Program, name: str, x: NDArray | None, dy: NDArray | None, w: Parameter, loads: tuple[int, ...], rows: int
) -> None:
    """Record dW of each expert that got rows; the reduction runs over the rows, so each is a product of its own."""
    grads = None if x is None else np.zeros(w.shape, p.dtype)
    end = 0
    for expert, load in enumerate(loads):
        end += load
        if not load:
            continue
        part = slice(end - load, end)
        _, k, n = w.shape
        gathered = Gathered("rows", (k, rows, n))
        left, right = (None, None) if x is None or dy is None else (x[part].T, dy[part])
        grad = multiply(p, f"{name}/{expert}", Stage.WU, left, Operand(right), (k, load, n), gathered=gathered)
        if grads is not None and grad is not None:
            grads[expert] = grad
    if grads is not None:
        p.add_gradient(w, grads)


def _conv_input_gradient(name: str, x: Tensor, dy: NDArray | None, w: Parameter, shape: ConvShape) -> NDArray | None:
    """Record one product per stride phase that meets a tap (`algorithms.core.windows`) and return dx."""
    p, turned, groups = x.program, w.backward(), shape.groups
    inputs, outputs = shape.channels_in // groups, shape.channels_out // groups
    plain = backward_shape(shape)
    conv = None if plain is None else replace(plain, groups=groups)
    dx = None if dy is None else np.zeros(x.shape, p.dtype)
    met = [pair for pair in pairs(backward_taps(shape, 0), backward_taps(shape, 1)) if pair[0].taps and pair[1].taps]
    for index, (rows, columns) in enumerate(met):
        label = name if len(met) == 1 else f"{name}/phase{index}"
        taps, size = len(rows.taps) * len(columns.taps), (rows.length, columns.length)
        dims = (x.shape[0] * size[0] * size[1], taps * outputs, inputs)
        operand = _phase(p, label, turned, shape, rows, columns)
        picked = None if dy is None else windows(dy, rows.offsets, columns.offsets, size)
        picked = None if picked is None else _grouped_windows(picked, groups, shape.channels_out)
        part = multiply(p, label, Stage.BP, picked, operand, dims, groups, conv=conv)
        if dx is not None and part is not None:
            place = dx[:, rows.phase :: shape.stride[0], columns.phase :: shape.stride[1]]
            place[...] = _ungrouped(part, groups).reshape(x.shape[0], *size, -1)
    return dx


def _phase(p: Program, label: str, turned: Operand, shape: ConvShape, rows: Taps, columns: Taps) -> Operand:
    """Cut the taps of a phase out of W^T[(groups,) C_out, taps * C_in], channels of a group."""
    outputs = shape.channels_out // shape.groups
    group = replace(shape, channels_in=shape.channels_in // shape.groups, channels_out=outputs, groups=1)

    def cut(matrix: NDArray) -> NDArray:
        if matrix.ndim == 3:
            return np.stack([backward_matrix(copy.T, group, rows, columns) for copy in matrix])
        return backward_matrix(matrix.T, group, rows, columns)

    values = None if turned.values is None else cut(turned.values)
    taps, kernel = len(rows.taps) * len(columns.taps), shape.kernel[0] * shape.kernel[1]
    pattern = turned.pattern if turned.pattern is None or outputs % turned.pattern.m == 0 else None
    mask = turned.sparsity
    if mask is None:
        return Operand(values, pattern)
    if isinstance(mask, Blocks):
        return Operand(values, pattern, _phase_blocks(mask.turned("w"), group, rows, columns))
    keep = None if mask.keep is None else cut(mask.keep)
    count = p.statistic(
        f"{label}.nonzeros",
        lambda: 0 if keep is None else int(np.count_nonzero(keep)),
        lambda: round(mask.nonzeros * taps / kernel),
    )
    return Operand(values, pattern, Unstructured("w", count, keep))


def _phase_blocks(blocks: Blocks, shape: ConvShape, rows: Taps, columns: Taps) -> Blocks:
    """Cut the taps of a phase out of blocks 1 x width of W[taps * C_in, C_out] and turn them."""
    if blocks.height != 1 or shape.channels_out % blocks.width:
        raise ValueError(f"blocks are {blocks.height} x {blocks.width}; a convolution needs 1 x G, G in C_out")
    narrow = replace(shape, channels_out=shape.channels_out // blocks.width)
    return Blocks("w", blocks.width, 1, backward_matrix(blocks.keep, narrow, rows, columns))


def _pair(size: int | Pair) -> Pair:
    return (size, size) if isinstance(size, int) else size


def _grouped_windows(flat: NDArray, groups: int, channels: int) -> NDArray:
    """[rows, taps * channels] to [groups, rows, taps * channels / groups]; with one group as it is."""
    if groups == 1:
        return flat
    parts = flat.reshape(len(flat), -1, groups, channels // groups).transpose(2, 0, 1, 3)
    return np.ascontiguousarray(parts).reshape(groups, len(flat), -1)


def _by_group(x: NDArray, groups: int) -> NDArray:
    """[B, H, W, C] to [groups, rows, C / groups]; with one group to [rows, C]."""
    rows = x.size // x.shape[-1]
    if groups == 1:
        return np.ascontiguousarray(x.reshape(rows, -1))
    return np.ascontiguousarray(x.reshape(rows, groups, -1).swapaxes(0, 1))


def _ungrouped(y: NDArray, groups: int) -> NDArray:
    """[groups, rows, n] to [rows, groups * n]; with one group as it is."""
    return y if groups == 1 else np.ascontiguousarray(y.swapaxes(0, 1)).reshape(y.shape[1], -1)


def _learning(
    p: Program, shape: tuple[int, ...], y: NDArray | None, parents: tuple[Tensor, ...], back: Backward, w: Parameter
) -> Tensor:
    """Return the node of a layer; a weight that learns needs a backward pass even if nothing before it does."""
    y = None if y is None else y.reshape(shape).astype(p.dtype, copy=False)
    node = p.node(shape, y, parents, back)
    if not w.frozen and not node.needs:
        node.needs = True
        p.nodes.append(node)
    return node


def _reordered(gathered: Gathered | None, order: tuple[int, int, int]) -> Gathered | None:
    """Return the record of a gradient: `order` says which of the forward product's m, k, n its own are."""
    if gathered is None:
        return None
    a, b, c = (gathered.whole[axis] for axis in order)
    return Gathered(gathered.kind, (a, b, c), gathered.loads)


def _swap(x: NDArray | None) -> NDArray | None:
    return None if x is None else np.ascontiguousarray(np.swapaxes(x, -1, -2))
