"""Host operations of a program with their gradients, counted by kind."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from nmsat.algorithms.workloads.engine.program import Tensor


def given(array: NDArray | None) -> NDArray:
    """Return an index, mask or label array; RuntimeError when a run with values was not given one."""
    if array is None:
        raise RuntimeError("an index, mask or label array is None; a run with values needs it")
    return array


def add(a: Tensor, b: Tensor) -> Tensor:
    """a + b with broadcasting."""
    return a.program.apply(
        "Add", (a, b), np.broadcast_shapes(a.shape, b.shape), np.add, lambda d, _y, u, v: (_fit(d, u), _fit(d, v))
    )


def mul(a: Tensor, b: Tensor) -> Tensor:
    """a * b with broadcasting."""
    return a.program.apply(
        "Mul",
        (a, b),
        np.broadcast_shapes(a.shape, b.shape),
        np.multiply,
        lambda d, _y, u, v: (_fit(d * v, u), _fit(d * u, v)),
    )


def scale(x: Tensor, factor: float, share: float = 1.0) -> Tensor:
    """x * factor; share: as of `Program.apply`."""
    c = x.program.dtype(factor)
    return x.program.apply("Mul", (x,), x.shape, lambda v: v * c, lambda d, _y, _v: (d * c,), share)


def relu(x: Tensor) -> Tensor:
    """max(x, 0)."""
    return x.program.apply("Relu", (x,), x.shape, lambda v: np.maximum(v, 0), lambda d, y, _v: (d * (y > 0),))


def gelu(x: Tensor) -> Tensor:
    """GELU in the tanh form (Hendrycks and Gimpel, arXiv 1606.08415)."""
    c = math.sqrt(2 / math.pi)

    def forward(v: NDArray) -> NDArray:
        return (0.5 * v * (1 + np.tanh(c * (v + 0.044715 * v**3)))).astype(v.dtype)

    def backward(d: NDArray, _y: NDArray, v: NDArray) -> tuple[NDArray]:
        t = np.tanh(c * (v + 0.044715 * v**3))
        slope = 0.5 * (1 + t) + 0.5 * v * (1 - t * t) * c * (1 + 3 * 0.044715 * v * v)
        return ((d * slope).astype(v.dtype),)

    return x.program.apply("Gelu", (x,), x.shape, forward, backward)


def silu(x: Tensor) -> Tensor:
    """x * sigmoid(x); the exponent stops at 80, within the range of binary32."""

    def backward(d: NDArray, _y: NDArray, v: NDArray) -> tuple[NDArray]:
        s = 1 / (1 + np.exp(-np.maximum(v, -80)))
        return (d * s * (1 + v * (1 - s)),)

    return x.program.apply("Swish", (x,), x.shape, lambda v: v / (1 + np.exp(-np.maximum(v, -80))), backward)


def softmax(x: Tensor, share: float = 1.0) -> Tensor:
    """Softmax over the last axis; -inf stands for an absent entry; share: as of `Program.apply`."""

    def backward(d: NDArray, y: NDArray, _v: NDArray) -> tuple[NDArray]:
        return (y * (d - (d * y).sum(-1, keepdims=True)),)

    return x.program.apply("Softmax", (x,), x.shape, soft, backward, share)


def soft(v: NDArray) -> NDArray:
    """Softmax of an array over the last axis."""
    e = np.exp(v - v.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def mask_fill(x: Tensor, keep: NDArray[np.bool_] | None, share: float = 1.0) -> Tensor:
    """Put -inf where keep is False (keep broadcasts; None in a run of shapes); share: as of `Program.apply`."""
    return x.program.apply(
        "MaskedFill",
        (x,),
        x.shape,
        lambda v: np.where(given(keep), v, v.dtype.type(-np.inf)),
        lambda d, _y, _v: (np.where(given(keep), d, 0),),
        share,
    )


def rotary(x: Tensor, base: float = 10000.0, start: int = 0) -> Tensor:
    """Rotary position embedding of x[..., tokens, d]: pairs (i, i + d/2) turned by position * base^(-2 i / d).

    start: position of the first token.
    """
    tokens, width = x.shape[-2:]
    half = width // 2

    def turned(v: NDArray, sign: int) -> NDArray:
        angle = np.arange(start, start + tokens)[:, None] * base ** (-np.arange(half) / half)
        c, s = np.cos(angle).astype(v.dtype), (sign * np.sin(angle)).astype(v.dtype)
        left, right = v[..., :half], v[..., half:]
        return np.concatenate([left * c - right * s, left * s + right * c], axis=-1)

    return x.program.apply("RotaryEmbedding", (x,), x.shape, lambda v: turned(v, 1), lambda d, _y, _v: (turned(d, -1),))


def layer_norm(x: Tensor, gain: Tensor, bias: Tensor, epsilon: float = 1e-5) -> Tensor:
    """Layer normalisation over the last axis."""

    def parts(v: NDArray) -> tuple[NDArray, NDArray]:
        centred = v - v.mean(-1, keepdims=True)
        inverse = 1 / np.sqrt((centred * centred).mean(-1, keepdims=True) + epsilon)
        return centred * inverse, inverse

    def backward(d: NDArray, _y: NDArray, v: NDArray, g: NDArray, b: NDArray) -> tuple[NDArray, NDArray, NDArray]:
        z, inverse = parts(v)
        dz = d * g
        dx = inverse * (dz - dz.mean(-1, keepdims=True) - z * (dz * z).mean(-1, keepdims=True))
        return dx, _fit(d * z, g), _fit(d, b)

    return x.program.apply(
        "LayerNormalization", (x, gain, bias), x.shape, lambda v, g, b: (parts(v)[0] * g + b).astype(v.dtype), backward
    )


def rms_norm(x: Tensor, gain: Tensor, epsilon: float = 1e-6) -> Tensor:
    """Root-mean-square normalisation over the last axis."""

    def inverse(v: NDArray) -> NDArray:
        return 1 / np.sqrt((v * v).mean(-1, keepdims=True) + epsilon)

    def backward(d: NDArray, _y: NDArray, v: NDArray, g: NDArray) -> tuple[NDArray, NDArray]:
        r = inverse(v)
        z, dz = v * r, d * g
        return r * (dz - z * (dz * z).mean(-1, keepdims=True)), _fit(d * z, g)

    return x.program.apply("RMSNormalization", (x, gain), x.shape, lambda v, g: v * inverse(v) * g, backward)


def batch_norm(x: Tensor, gain: Tensor, bias: Tensor, epsilon: float = 1e-5) -> Tensor:
    """Batch normalisation over all axes but the last, with the statistics of the batch."""

    def parts(v: NDArray) -> tuple[NDArray, NDArray]:
        flat = v.reshape(-1, v.shape[-1])
        inverse = 1 / np.sqrt(flat.var(0) + epsilon)
        return ((flat - flat.mean(0)) * inverse).reshape(v.shape), inverse

    def backward(d: NDArray, _y: NDArray, v: NDArray, g: NDArray, _b: NDArray) -> tuple[NDArray, NDArray, NDArray]:
        z, inverse = (part.reshape(-1, v.shape[-1]) if part.ndim > 1 else part for part in parts(v))
        flat = d.reshape(z.shape)
        shift, stretch = flat.sum(0), (flat * z).sum(0)
        dx = g * inverse * (flat - shift / len(flat) - z * (stretch / len(flat)))
        return dx.reshape(v.shape).astype(v.dtype), stretch, shift

    return x.program.apply(
        "BatchNormalization", (x, gain, bias), x.shape, lambda v, g, b: (parts(v)[0] * g + b).astype(v.dtype), backward
    )


def mean(x: Tensor, axis: int | tuple[int, ...]) -> Tensor:
    """Mean over axes."""
    axes = {a % len(x.shape) for a in ((axis,) if isinstance(axis, int) else axis)}
    shape = tuple(s for i, s in enumerate(x.shape) if i not in axes)
    count = x.size // math.prod(shape)
    order = tuple(sorted(axes))

    def backward(d: NDArray, _y: NDArray, v: NDArray) -> tuple[NDArray]:
        return (np.broadcast_to(np.expand_dims(d, order) / v.dtype.type(count), v.shape),)

    return x.program.apply("ReduceMean", (x,), shape, lambda v: v.mean(axis=order), backward)


def total(x: Tensor) -> Tensor:
    """Sum of all elements, as a scalar."""
    return x.program.apply(
        "ReduceSum", (x,), (), lambda v: np.asarray(v.sum()), lambda d, _y, v: (np.broadcast_to(d, v.shape),)
    )


def max_pool(x: Tensor, size: int, stride: int, padding: int = 0) -> Tensor:
    """Largest of each window of x[B, H, W, C]."""
    batch, height, width, channels = x.shape
    out = tuple((side + 2 * padding - size) // stride + 1 for side in (height, width))

    def cut(padded: NDArray, tap: int) -> NDArray:
        i, j = divmod(tap, size)
        return padded[:, i : i + out[0] * stride : stride, j : j + out[1] * stride : stride]

    def stacked(v: NDArray) -> NDArray:
        padded = np.pad(v, ((0, 0), (padding, padding), (padding, padding), (0, 0)), constant_values=-np.inf)
        taps = [(i, j) for i in range(size) for j in range(size)]
        return np.stack(
            [padded[:, i : i + out[0] * stride : stride, j : j + out[1] * stride : stride] for i, j in taps]
        )

    def backward(d: NDArray, _y: NDArray, v: NDArray) -> tuple[NDArray]:
        place = stacked(v).argmax(axis=0)
        padded = np.zeros((batch, height + 2 * padding, width + 2 * padding, channels), v.dtype)
        for tap in range(size * size):
            view = cut(padded, tap)
            view += np.where(place == tap, d, 0)
        return (padded[:, padding : padding + height, padding : padding + width],)

    return x.program.apply("MaxPool", (x,), (batch, *out, channels), lambda v: stacked(v).max(axis=0), backward)


def reshape(x: Tensor, shape: Sequence[int]) -> Tensor:
    """The same elements in another shape: costs nothing."""
    p = x.program
    data = None if x.data is None else x.data.reshape(shape)
    return p.node(tuple(shape), data, (x,), lambda d: (None if d is None else d.reshape(x.shape),))


def transpose(x: Tensor, axes: Sequence[int]) -> Tensor:
    """Axes in another order, as a copy."""
    order = tuple(axes)
    undo = tuple(int(i) for i in np.argsort(order))
    shape = tuple(x.shape[i] for i in order)
    return x.program.apply(
        "Transpose", (x,), shape, lambda v: v.transpose(order), lambda d, _y, _v: (d.transpose(undo),)
    )


def expand(x: Tensor, shape: Sequence[int]) -> Tensor:
    """Repeat along axes of length 1."""
    wide = tuple(shape)
    return x.program.apply("Expand", (x,), wide, lambda v: np.broadcast_to(v, wide), lambda d, _y, v: (_fit(d, v),))


def relative_shift(x: Tensor) -> Tensor:
    """Turn columns by distance into columns by key: y[.., i, j] = x[.., i, j + T - 1 - i], 0 past the end.

    x: [..., T, K] with distances K - 1 .. 0 (Dai et al., ACL 2019, appendix B).
    """
    rows, columns = x.shape[-2:]
    source = np.arange(columns)[None] + rows - 1 - np.arange(rows)[:, None]
    inside = source < columns
    index = np.where(inside, source, 0)

    def forward(v: NDArray) -> NDArray:
        return np.where(inside, np.take_along_axis(v, np.broadcast_to(index, v.shape), -1), 0)

    def backward(d: NDArray, _y: NDArray, v: NDArray) -> tuple[NDArray]:
        out = np.zeros_like(v)
        i, j = np.nonzero(inside)
        out[..., i, source[i, j]] = d[..., i, j]
        return (out,)

    return x.program.apply("RelativeShift", (x,), x.shape, forward, backward)


def part(x: Tensor, axis: int, start: int, stop: int) -> Tensor:
    """Slice start:stop of one axis."""
    axis %= len(x.shape)
    index = (*[slice(None)] * axis, slice(start, stop))
    shape = (*x.shape[:axis], stop - start, *x.shape[axis + 1 :])

    def backward(d: NDArray, _y: NDArray, v: NDArray) -> tuple[NDArray]:
        out = np.zeros_like(v)
        out[index] = d
        return (out,)

    return x.program.apply("Slice", (x,), shape, lambda v: v[index], backward)


def concat(parts: Sequence[Tensor], axis: int) -> Tensor:
    """Tensors one after the other along an axis."""
    axis %= len(parts[0].shape)
    lengths = [t.shape[axis] for t in parts]
    shape = (*parts[0].shape[:axis], sum(lengths), *parts[0].shape[axis + 1 :])
    cuts = [int(c) for c in np.cumsum(lengths)[:-1]]
    return parts[0].program.apply(
        "Concat", tuple(parts), shape, lambda *v: np.concatenate(v, axis), lambda d, _y, *_v: np.split(d, cuts, axis)
    )


def gather(x: Tensor, index: NDArray[np.integer] | None, rows: int) -> Tensor:
    """Rows x[index] of axis 0; index may repeat (None in a run of shapes); rows: its length."""

    def backward(d: NDArray, _y: NDArray, v: NDArray) -> tuple[NDArray]:
        out = np.zeros_like(v)
        np.add.at(out, given(index), d)
        return (out,)

    return x.program.apply("Gather", (x,), (rows, *x.shape[1:]), lambda v: v[given(index)], backward)


def take_last(x: Tensor, index: NDArray[np.integer]) -> Tensor:
    """Pick along the last axis: y[..., i, j] = x[..., i, index[i, j]]."""
    shape = (*x.shape[:-1], index.shape[1])

    def backward(d: NDArray, _y: NDArray, v: NDArray) -> tuple[NDArray]:
        out = np.zeros_like(v)
        rows = np.arange(index.shape[0])
        for column in range(index.shape[1]):  # a row of one column names each place once
            out[..., rows, index[:, column]] += d[..., column]
        return (out,)

    def forward(v: NDArray) -> NDArray:
        return np.take_along_axis(v, np.broadcast_to(index, (*v.shape[:-1], index.shape[1])), -1)

    return x.program.apply("Gather", (x,), shape, forward, backward)


def scatter_add(x: Tensor, index: NDArray[np.integer] | None, rows: int) -> Tensor:
    """Sum of rows of x into `rows` rows: y[index[i]] += x[i]."""

    def forward(v: NDArray) -> NDArray:
        out = np.zeros((rows, *v.shape[1:]), v.dtype)
        np.add.at(out, given(index), v)
        return out

    return x.program.apply("ScatterElements", (x,), (rows, *x.shape[1:]), forward, lambda d, _y, _v: (d[given(index)],))


def cross_entropy(logits: Tensor, labels: NDArray[np.integer] | None) -> Tensor:
    """Mean cross entropy in nats of logits[..., classes]; labels[...] below 0 do not count."""

    def forward(v: NDArray) -> NDArray:
        flat, wanted = v.reshape(-1, v.shape[-1]), given(labels).reshape(-1)
        used = wanted >= 0
        top = flat.max(axis=1)
        chosen = flat[np.arange(len(flat)), np.maximum(wanted, 0)]
        loss = np.log(np.exp(flat - top[:, None]).sum(axis=1)) + top - chosen
        return np.asarray(loss[used].mean(), v.dtype)

    def backward(d: NDArray, _y: NDArray, v: NDArray) -> tuple[NDArray]:
        flat, wanted = v.reshape(-1, v.shape[-1]), given(labels).reshape(-1)
        used = wanted >= 0
        grad = soft(flat)
        grad[np.arange(len(flat)), np.maximum(wanted, 0)] -= 1
        grad[~used] = 0
        return ((grad * (d / used.sum())).astype(v.dtype).reshape(v.shape),)

    return logits.program.apply("SoftmaxCrossEntropyLoss", (logits,), (), forward, backward)


def squared_error(x: Tensor, target: Tensor, weight: float | Callable[[NDArray], float] = 1.0) -> Tensor:
    """weight * mean((x - target)^2); target is a constant; weight may depend on it (computed on the array)."""

    def factor(t: NDArray) -> float:
        return weight(t) if callable(weight) else weight

    return x.program.apply(
        "SquaredError",
        (x, target),
        (),
        lambda v, t: np.asarray(factor(t) * np.mean((v - t) ** 2), v.dtype),
        lambda d, _y, v, t: ((d * factor(t) * 2 / v.size * (v - t)).astype(v.dtype), None),
    )


def _fit(d: NDArray, like: NDArray) -> NDArray:
    """Sum a gradient over the axes along which its tensor was broadcast."""
    while d.ndim > like.ndim:
        d = d.sum(axis=0)
    axes = tuple(i for i, (a, b) in enumerate(zip(d.shape, like.shape, strict=True)) if a != b)
    return d.sum(axis=axes, keepdims=True) if axes else d
