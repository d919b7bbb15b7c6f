"""What lies between products in C (`tensors.c`): the same bits as the NumPy code beside each call, much sooner.

Arrays are checked by the callers: C-contiguous, of the types that are named.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_SIZE = ctypes.c_ssize_t
_POINTER = ctypes.c_void_p


_FROM_BUFFER = ctypes.c_char.from_buffer
_ADDRESS_OF = ctypes.addressof


def address(x: NDArray[Any]) -> int:
    """Return where the first element of x lies, as `x.ctypes.data` does in three times the time."""
    buffer: Any = x  # which the types of Python 3.11 do not know an array to be
    try:
        return _ADDRESS_OF(_FROM_BUFFER(buffer))
    except (TypeError, ValueError):  # read-only, not contiguous, or empty
        return x.ctypes.data


@dataclass(frozen=True, eq=False)
class Pairs:
    """The kept pairs of the groups of a matrix; parts of `algorithms.core.packed.Packed`."""

    values: NDArray[np.float16]
    index: NDArray[np.uint8]
    filler: NDArray[np.bool_]


class Tensors:
    """The functions of one compiled library."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        self._bound: dict[str, Any] = {}

    def _call(self, name: str, *arguments: NDArray[Any] | int | None) -> int:
        """Call a function of arrays, sizes and null pointers; return its number, of no meaning if it has none."""
        function = self._bound.get(name)
        if function is None:
            function = self._library[name]
            function.argtypes = [_SIZE if isinstance(x, int) else _POINTER for x in arguments]
            self._bound[name] = function
        return function(*[address(x) if isinstance(x, np.ndarray) else x for x in arguments])

    def to_half(self, x: NDArray[np.float32] | NDArray[np.float64]) -> NDArray[np.float16]:
        """Return x rounded to binary16 once, with canonical NaNs, laid out as x, which has no gaps."""
        out = np.empty_like(x, np.float16)
        self._call("nmsat_to_half" if x.dtype == np.float32 else "nmsat_wide_to_half", out, x, x.size)
        return out

    def add(self, x: NDArray[np.float16], y: NDArray[np.float16]) -> NDArray[np.float16]:
        """Return round16(round32(x + y)) of two tensors of one shape."""
        out = np.empty_like(x)
        self._call("nmsat_add", out, x, y, x.size)
        return out

    def statistics(self, x: NDArray[np.float16]) -> tuple[NDArray[np.float64], NDArray[np.float64], bool]:
        """Return mean and variance of every channel of x[..., channels], and whether all of them are finite."""
        channels = x.shape[-1]
        mean, variance = np.empty(channels), np.empty(channels)
        finite = self._call("nmsat_statistics", mean, variance, x, x.size // channels, channels)
        return mean, variance, bool(finite)

    def normalise(
        self,
        x: NDArray[np.float16],
        mean: NDArray[np.float64],
        inverse: NDArray[np.float64],
        *scale: NDArray[np.float16],
    ) -> NDArray[np.float16]:
        """Return round16(normal * gain + offset), normal = (x - mean) * inverse; scale: gain, offset."""
        y = np.empty_like(x)
        self._call("nmsat_normalise", y, x, mean, inverse, *scale, x.size // x.shape[-1], x.shape[-1])
        return y

    def norm_gradients(
        self,
        dy: NDArray[np.float16],
        x: NDArray[np.float16],
        mean: NDArray[np.float64],
        inverse: NDArray[np.float64],
        gain: NDArray[np.float16],
    ) -> tuple[NDArray[np.float16], NDArray[np.float16], NDArray[np.float16]]:
        """Return the gradients of x, gain and offset of a normalisation over the rows, each rounded once.

        With normal = (x - mean) * inverse: the sums over the rows of dy * normal and of dy, and (dy * gain - mean of
        dy * gain - normal * mean of dy * gain * normal) * inverse.
        """
        dx, gains, offsets = np.empty_like(dy), np.empty_like(gain), np.empty_like(gain)
        channels = dy.shape[-1]
        self._call(
            "nmsat_norm_gradients", dx, gains, offsets, dy, x, mean, inverse, gain, dy.size // channels, channels
        )
        return dx, gains, offsets

    def relu(self, x: NDArray[np.float16]) -> NDArray[np.float16]:
        """Return max(x, 0): +0 for -0, a NaN stays."""
        y = np.empty_like(x)
        self._call("nmsat_relu", y, x, x.size)
        return y

    def relu_gradient(self, y: NDArray[np.float16], dy: NDArray[np.float16]) -> NDArray[np.float16]:
        """Return dy where the output y of `relu` is not +0, else +0."""
        dx = np.empty_like(dy)
        self._call("nmsat_relu_gradient", dx, y, dy, dy.size)
        return dx

    def finite(self, x: NDArray[np.float16]) -> bool:
        """Tell whether no element is infinite or NaN."""
        return bool(self._call("nmsat_finite", x, x.size))

    def max_pool(self, x: NDArray[np.float16], size: int) -> tuple[NDArray[np.float16], NDArray[np.uint8]]:
        """Return the first largest of each size x size window of x[B, H, W, C], size up to 16, and its place there."""
        batch, height, width, channels = x.shape
        y = np.empty((batch, height // size, width // size, channels), np.float16)
        place = np.empty(y.shape, np.uint8)
        self._call("nmsat_max_pool", y, place, x, *x.shape, size)
        return y, place

    def max_pool_gradient(
        self, dy: NDArray[np.float16], place: NDArray[np.uint8], shape: tuple[int, ...], size: int
    ) -> NDArray[np.float16]:
        """Return the gradient of the input, of a shape, of `max_pool`."""
        whole = shape[1] % size == shape[2] % size == 0
        dx = np.empty(shape, np.float16) if whole else np.zeros(shape, np.float16)
        self._call("nmsat_max_pool_gradient", dx, dy, place, *shape, size)
        return dx

    def turned_taps(self, w: NDArray[np.float16], taps: Sequence[int], rows: int) -> NDArray[np.float16]:
        """Return, of w[taps * rows, columns], the given taps, each transposed, as [taps * columns, rows]."""
        columns = w.shape[1]
        out = np.empty((len(taps) * columns, rows), w.dtype)
        self._call("nmsat_turn_taps", out, w, np.array(taps, np.int64), len(taps), rows, columns)
        return out

    def sgd(
        self,
        w: NDArray[np.float32],
        v: NDArray[np.float32],
        g: NDArray[np.float16],
        keep: NDArray[np.bool_] | None,
        constants: NDArray[np.float32],
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the new w and v of `algorithms.training.optim.sgd_update`; constants: lr, mu, wd, lam, 2^-s."""
        new, velocity = np.empty_like(w), np.empty_like(v)
        self._call("nmsat_sgd", new, velocity, w, v, g, keep, w.size, constants)
        return new, velocity

    def mask(self, w: NDArray[np.float16], n: int, m: int) -> NDArray[np.bool_]:
        """Return which elements of w[k, columns], of any strides, N:M pruning along k keeps, laid out as w."""
        keep = np.empty_like(w, np.bool_)
        self._call("nmsat_select", w, *_steps(w), *w.shape, int(n), int(m), keep, *keep.strides, *[None] * 3)
        return keep

    def pack(self, w: NDArray[np.float16], n: int, m: int) -> Pairs:
        """Return the kept pairs of w[k, columns], of any strides."""
        shape = (-(-w.shape[0] // m), n, w.shape[1])
        pairs = Pairs(np.empty(shape, np.float16), np.empty(shape, np.uint8), np.empty(shape, np.bool_))
        parts = (pairs.values, pairs.index, pairs.filler)
        self._call("nmsat_select", w, *_steps(w), *w.shape, int(n), int(m), None, 0, 0, *parts)
        return pairs

    def windows(
        self, x: NDArray, rows: Sequence[int], columns: Sequence[int], size: tuple[int, int], step: tuple[int, int]
    ) -> NDArray:
        """Return what `algorithms.core.windows.windows` does, for elements of any type."""
        batch, height, width, channels = x.shape
        out = np.empty((batch * size[0] * size[1], len(rows) * len(columns) * channels), x.dtype)
        taps = np.array(rows, np.int64), np.array(columns, np.int64)
        places = (taps[0], len(rows), taps[1], len(columns))
        self._call("nmsat_windows", out, x, batch, height, width, channels * x.itemsize, *places, *size, *step)
        return out


def equal_to_numpy(t: Tensors) -> bool:
    """Tell whether the functions give the bits of NumPy on samples of all classes of numbers, fixed by a seed."""
    rng = np.random.default_rng(64)
    halves = rng.integers(0, 1 << 16, (37, 70), np.uint16).view(np.float16)
    tied = np.where(rng.random(halves.shape) < 0.5, np.float16(-1), halves)
    singles = rng.integers(0, 1 << 32, 5001, np.uint32).view(np.float32)
    singles[:2000] = np.ldexp(rng.integers(-4096, 4097, 2000) / 2048, rng.integers(-28, 18, 2000))  # ties, both ends
    beside = singles[:2000] * (1 + rng.integers(-1, 2, 2000) * 2.0**-50)
    with np.errstate(all="ignore"):
        wides = np.concatenate([singles.astype(np.float64), beside])
    finite = rng.standard_normal((37, 70)).astype(np.float16)
    channel = rng.standard_normal((2, 70))
    constants = np.array([0.05, 0.9, 5e-4, 2e-4, 2.0**-10], np.float32)
    images = halves[:36, :68].reshape(2, 6, 3, 68)
    with np.errstate(all="ignore"):
        wide = finite.astype(np.float64)
        (mean, inverse), gain, offset = channel, finite[0], finite[1]
        normal = (wide - mean) * inverse
        inner = wide[::-1] * gain.astype(np.float64)
        middle, slope = inner.sum(axis=0) / len(wide), (inner * normal).sum(axis=0) / len(wide)
        relu = np.where(halves <= 0, np.float16(0), halves)
        right = [
            *_updated(*(singles[:1000], singles[1000:2000], halves.ravel()[:1000], tied.ravel()[:1000] < 0, constants)),
            *(_rounded(x) for x in (singles, wides)),
            _rounded(halves.astype(np.float32) + halves[::-1].astype(np.float32)),
            *(wide.mean(axis=0), wide.var(axis=0)),
            _rounded(normal * gain.astype(np.float64) + offset.astype(np.float64)),
            _rounded((inner - middle - normal * slope) * inverse),
            *(_rounded((wide[::-1] * normal).sum(axis=0)), _rounded(wide[::-1].sum(axis=0))),
            *(relu, np.where(relu.view(np.uint16) == 0, np.float16(0), finite)),
            *_pooled(images),
            finite[:36].reshape(3, 12, 70)[::-1].transpose(0, 2, 1).reshape(-1, 12),
            *_selected(tied, 2, 8),
        ]
    pairs = t.pack(tied, 2, 8)
    back = np.ascontiguousarray(finite[::-1])
    found = [
        *t.sgd(singles[:1000], singles[1000:2000], halves.ravel()[:1000], tied.ravel()[:1000] < 0, constants),
        *(t.to_half(x) for x in (singles, wides)),
        t.add(halves, np.ascontiguousarray(halves[::-1])),
        *t.statistics(finite)[:2],
        t.normalise(finite, mean, inverse, gain, offset),
        *t.norm_gradients(back, finite, mean, inverse, gain),
        *(t.relu(halves), t.relu_gradient(t.relu(halves), finite)),
        *_pooled_by(t, np.ascontiguousarray(images)),
        t.turned_taps(finite[:36], (2, 1, 0), 12),
        *(t.mask(tied, 2, 8), pairs.values, pairs.index),
    ]
    infinite = np.where(finite == finite.max(), np.float16(np.inf), finite)
    if not (t.finite(finite) and t.statistics(finite)[2]) or t.finite(infinite) or t.statistics(infinite)[2]:
        return False
    return all(_bytes(x) == _bytes(y) for x, y in zip(found, right, strict=True))


_NAN16: Final = np.uint16(0x7E00).view(np.float16)


def _rounded(x: NDArray[np.floating]) -> NDArray[np.float16]:
    half = x.astype(np.float16)
    half[np.isnan(half)] = _NAN16
    return half


def _updated(
    w: NDArray[np.float32],
    v: NDArray[np.float32],
    g: NDArray[np.float16],
    keep: NDArray[np.bool_],
    constants: NDArray[np.float32],
) -> list[NDArray[np.float32]]:
    lr, mu, wd, lam, scale = constants
    g1 = g.astype(np.float32) * scale + wd * w
    v2 = mu * v + (g1 + np.where(keep, np.float32(0), lam * w))
    new = [w - lr * v2, v2]
    return [np.where(np.isnan(x), np.uint32(0x7FC00000).view(np.float32), x) for x in new]


def _pooled(x: NDArray[np.float16]) -> tuple[NDArray[np.float16], NDArray[np.uint8], NDArray[np.float16]]:
    """Return the first largest of each 2 x 2 window, its place, and x itself where it was chosen."""
    batch, height, width, channels = x.shape
    cut = x[:, : height // 2 * 2, : width // 2 * 2].reshape(batch, height // 2, 2, width // 2, 2, channels)
    tiles = cut.transpose(0, 1, 3, 5, 2, 4).reshape(batch, height // 2, width // 2, channels, 4)
    place = tiles.argmax(axis=-1)[..., None]
    best = np.take_along_axis(tiles, place, axis=-1)
    chosen = np.zeros_like(tiles)
    np.put_along_axis(chosen, place, best, axis=-1)
    spread = chosen.reshape(*chosen.shape[:-1], 2, 2).transpose(0, 1, 4, 2, 5, 3)
    dx = np.zeros_like(x)
    dx[:, : height // 2 * 2, : width // 2 * 2] = spread.reshape(batch, height // 2 * 2, width // 2 * 2, channels)
    return best[..., 0], place[..., 0].astype(np.uint8), dx


def _pooled_by(t: Tensors, x: NDArray[np.float16]) -> tuple[NDArray, ...]:
    y, place = t.max_pool(x, 2)
    return y, place, t.max_pool_gradient(y, place, x.shape, 2)


def _selected(w: NDArray[np.float16], n: int, m: int) -> tuple[NDArray, NDArray, NDArray]:
    """Return mask, values and places of N:M pruning along axis 0 by sorting; the last group may be short."""
    size = np.full((-(-len(w) // m) * m, w.shape[1]), -1, np.int32)
    size[: len(w)] = w.view(np.uint16) & 0x7FFF
    order = np.sort(np.argsort(-size.reshape(-1, m, w.shape[1]), axis=1, kind="stable")[:, :n], axis=1)
    keep = np.zeros((len(size) // m, m, w.shape[1]), bool)
    np.put_along_axis(keep, order, True, axis=1)
    padded = np.zeros(size.shape, np.float16)
    padded[: len(w)] = w
    values = np.take_along_axis(padded.reshape(keep.shape), order, axis=1)
    return keep.reshape(size.shape)[: len(w)], values, order.astype(np.uint8)


def _bytes(x: NDArray) -> tuple[tuple[int, ...], np.dtype, bytes]:
    return x.shape, x.dtype, np.ascontiguousarray(x).tobytes()


def _steps(x: NDArray) -> tuple[int, ...]:
    return tuple(step // x.itemsize for step in x.strides)
