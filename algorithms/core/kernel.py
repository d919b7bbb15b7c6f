"""The contract's products in C (`kernel.c`): compiled once, checked against NumPy when it is loaded, called by ctypes.

    c = load()                      None where it cannot be had: then NumPy computes the same bits, slowly
    y = c.dense(a, w, start)

Operands are checked by the callers (`algorithms.core.numeric`).
"""

from __future__ import annotations

import ctypes
import logging
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np

from nmsat.algorithms.core import chains, tensors
from nmsat.algorithms.core.caches import BUILD_DIR_VARIABLE, CacheError
from nmsat.algorithms.core.compiled import VARIANTS, CompileError, compiled
from nmsat.algorithms.core.packed import Packed
from nmsat.algorithms.core.tensors import Tensors, address

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

KERNEL_VARIABLE: Final = "NMSAT_KERNEL"
"""Environment variable: 'numpy' computes in NumPy although C could be had."""

THREADS_VARIABLE: Final = "NMSAT_THREADS"
"""Environment variable: threads of one large product (default 1); they change no bit."""

SOURCES: Final = tuple(Path(__file__).with_name(name) for name in ("kernel.c", "tensors.c"))

_LOG: Final = logging.getLogger("nmsat.algorithms")

_MANY: Final = 1 << 23
"""Multiply-adds from which a product is worth a second thread."""

_MOST_SUMS: Final = 1 << 24
"""Sums of a product whose memory is kept for the next one."""

_STRIP: Final = 96
"""Rows that the kernel takes at once: threads get whole strips of them."""

_SIZE = ctypes.c_ssize_t
_POINTER = ctypes.c_void_p

_SCRATCH: Final = threading.local()
"""Scratch memory of a thread, kept for its next product."""


class ImageWindows(Protocol):
    """What a product reads of windows, such as `algorithms.core.windows.Windows`.

    x: C-contiguous image in binary16, [B, H, W, C]; numbers: height, width, channels, taps per axis, size, step, and
    the offsets of the taps of both axes; turned: the transpose of their matrix is meant.
    """

    @property
    def x(self) -> NDArray[np.float16]: ...

    @property
    def numbers(self) -> NDArray[np.int64]: ...

    @property
    def turned(self) -> bool: ...


class Kernel:
    """The functions of one compiled library. All return canonical NaNs. tensors: what lies between products."""

    def __init__(self, path: Path) -> None:
        self.path = path
        library = ctypes.CDLL(str(path))
        self.tensors = Tensors(library)
        self._dense_scratch = _function(library.nmsat_dense_scratch, _SIZE, _SIZE)
        self._packed_scratch = _function(library.nmsat_packed_scratch, _SIZE, *[_SIZE] * 4, _POINTER)
        matrix = [_POINTER, _SIZE, _SIZE]
        left = [*matrix, _POINTER, _SIZE]
        to = [_POINTER, _POINTER, ctypes.c_int]
        self._dense = _function(library.nmsat_dense, None, *to, *[_SIZE] * 3, *left, *matrix, _POINTER)
        self._packed = _function(
            library.nmsat_packed,
            ctypes.c_int,
            *(*to, *[_SIZE] * 3, *left, *[_POINTER] * 3, *[_SIZE] * 3, _POINTER),
        )
        batch = [_POINTER, *[_SIZE] * 3]
        self._batched = _function(library.nmsat_batched, None, _POINTER, *[_SIZE] * 4, *batch, *batch, _POINTER)

    def dense(
        self,
        a: NDArray[np.float16] | ImageWindows,
        w: NDArray[np.float16],
        y: NDArray[np.float32],
        *,
        seeded: bool = True,
        halves: NDArray[np.float16] | None = None,
    ) -> NDArray[np.float32]:
        """Continue y[m, n] (from zeros unless `seeded`), C-contiguous, with a[m, k] @ w[k, n] in place; return y.

        halves: gets y rounded to binary16; then y may hold any NaN. Windows are of a C-contiguous image in binary16.
        """
        left, w, (k, n) = _left(a), _plain(w), w.shape
        right = address(w), *_steps(w)
        to = _places(y, halves)

        def part(first: int, rows: int) -> None:
            scratch = _scratch(self._dense_scratch(n))
            self._dense(*to(first * n), seeded, rows, k, n, *left.rows(first), *right, scratch)

        _shared(part, y.shape[0], k * n)
        return y

    def packed(
        self,
        a: NDArray[np.float16] | ImageWindows,
        w: Packed,
        y: NDArray[np.float32],
        *,
        seeded: bool,
        halves: NDArray[np.float16] | None = None,
    ) -> NDArray[np.float32]:
        """Continue y[m, n] (from zeros unless `seeded`), C-contiguous, with a[m, k] @ W[k, n] in place; return y.

        halves: gets y rounded to binary16, too.
        Windows are of a C-contiguous image in binary16, not turned. Raises ValueError for a pair outside of W, which
        `pack` never makes.
        """
        left, k, n = _left(a), int(w.k), w.columns
        pattern = int(w.n), int(w.m)
        pairs = [np.ascontiguousarray(x, t) for x, t in zip((w.values, w.index, w.filler), _PAIR, strict=True)]
        if any(x.shape != (w.groups, w.n, n) for x in pairs):
            raise ValueError(f"packed matrix has parts of shapes {[x.shape for x in pairs]}; they must be equal")
        places = [address(x) for x in pairs]
        to = _places(y, halves)

        def part(first: int, rows: int) -> None:
            scratch = _scratch(self._packed_scratch(w.groups, *pattern, n, left.windows))
            wrong = self._packed(
                *(*to(first * n), seeded, rows, k, n, *left.rows(first), *places, w.groups, *pattern, scratch)
            )
            if wrong:
                raise ValueError(f"packed matrix holds an index outside of its {w.m} places or of k = {k}")

        _shared(part, y.shape[0], w.groups * w.n * n)
        return y

    def batched(self, a: NDArray[np.float16], w: NDArray[np.float16]) -> NDArray[np.float32]:
        """Return a[g, m, k] @ w[g, k, n] as g dense products."""
        a, w, (count, m, k), n = _plain(a), _plain(w), a.shape, w.shape[2]
        y = np.zeros((count, m, n), np.float32)
        scratch = _scratch(self._dense_scratch(n))
        left, right = (address(a), *_steps(a)), (address(w), *_steps(w))
        self._batched(address(y), count, m, k, n, *left, *right, scratch)
        return y


_PAIR: Final = (np.float16, np.uint8, np.bool_)


_LOADED: Final[list[Kernel]] = []
_FAILED: Final[set[tuple[str | None, ...]]] = set()
"""Settings of the environment under which no kernel could be had; under others it is tried again."""


def load() -> Kernel | None:
    """Return the kernel, compiled if need be; None, and one warning that says why, if it cannot be had.

    A library whose results differ from NumPy's in one bit is not used.
    """
    if os.environ.get(KERNEL_VARIABLE) == "numpy":
        return None
    if not _LOADED:
        settings = tuple(os.environ.get(name) for name in (BUILD_DIR_VARIABLE, "CC", "PATH"))
        if settings in _FAILED:
            return None
        found, why = _first_that_works()
        if found is None:
            _FAILED.add(settings)
            _LOG.warning(
                "contract products run in NumPy: the same bits, but 20 times slower, as the C kernel fails (%s)", why
            )
            return None
        _LOADED.append(found)
    return _LOADED[0]


def forget() -> None:
    """Load the kernel anew when it is needed next."""
    _LOADED.clear()
    _FAILED.clear()


def _first_that_works() -> tuple[Kernel | None, str]:
    """Return the kernel by the first variant of flags whose every bit is right, or why there is none."""
    why = ""
    for variant in VARIANTS:
        try:
            kernel = Kernel(compiled(SOURCES, variant))
        except (CompileError, CacheError, OSError, AttributeError) as error:  # the last: another's library of that name
            why = str(error)
            continue
        if equal_to_numpy(kernel) and tensors.equal_to_numpy(kernel.tensors):
            return kernel, ""
        why = f"what {str(kernel.path)!r} computes differs from NumPy"
    return None, why


def between() -> Tensors | None:
    """Return what computes between products; None where NumPy must."""
    found = load()
    return None if found is None else found.tensors


def threads() -> int:
    """Return how many threads a large product may take; ValueError if the variable is no such number."""
    text = os.environ.get(THREADS_VARIABLE) or "1"
    if not text.isdecimal() or not 1 <= int(text) <= 1024:
        raise ValueError(f"{THREADS_VARIABLE} is {text!r}; it must be a whole number from 1 to 1024")
    return int(text)


def equal_to_numpy(kernel: Kernel) -> bool:
    """Tell whether a kernel computes the bits of the NumPy definition: all classes of operands, tails, fillers, seeds.

    A few products of a millisecond together, fixed by a seed.
    """
    rng = np.random.default_rng(16)
    for m, k, n, pattern in ((97, 70, 17, (2, 8)), (13, 259, 35, (3, 4)), (1, 16, 1, (16, 16))):
        a, w = (rng.integers(0, 1 << 16, size, np.uint16).view(np.float16) for size in ((m, k), (k, n)))
        a[: m // 2] = rng.standard_normal((m // 2, k)).astype(np.float16)
        w[:, ::2] = rng.standard_normal(w[:, ::2].shape).astype(np.float16)
        seed = rng.standard_normal((m, n)).astype(np.float32)
        sparse = _any_packed(rng, w, *pattern)
        for start in (np.zeros_like(seed), seed):
            for left in (a, np.asfortranarray(a)):
                with np.errstate(all="ignore"):
                    right = [chains.dense(left, w, start.copy()), chains.packed(left, sparse, start.copy())]
                found = [kernel.dense(left, w, start.copy())]
                found.append(kernel.packed(left, sparse, start.copy(), seeded=start is seed))
                if not all(same(x, y) for x, y in zip(found, right, strict=True)):
                    return False
    return _windows_equal(kernel, rng)


@dataclass(frozen=True, eq=False)
class _Sample:
    """Windows to try the kernel with; those of `algorithms.core.windows` need this module."""

    x: NDArray[np.float16]
    numbers: NDArray[np.int64]
    turned: bool


def _windows_equal(kernel: Kernel, rng: np.random.Generator) -> bool:
    """Tell the same of the windows of an image: forward, turned, and by a packed matrix."""
    x = rng.integers(0, 1 << 16, (3, 7, 6, 24), np.uint16).view(np.float16)
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    made = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    made = made.transpose(0, 1, 2, 4, 5, 3).reshape(3 * 7 * 6, 9 * 24)
    numbers = np.array([7, 6, 24, 3, 3, 7, 6, 1, 1, *[-1, 0, 1] * 2], np.int64)
    lazy, turned = (_Sample(x, numbers, turned=turned) for turned in (False, True))
    w, dy = (rng.standard_normal((rows, 17)).astype(np.float16) for rows in made.T.shape)
    sparse = _any_packed(rng, w, 2, 8)
    starts = [np.zeros((rows, 17), np.float32) for rows in made.shape]
    with np.errstate(all="ignore"):
        right = [chains.dense(made, w, starts[0].copy()), chains.dense(made.T, dy, starts[1].copy())]
        right.append(chains.packed(made, sparse, starts[0].copy()))
    found = [kernel.dense(lazy, w, starts[0].copy()), kernel.dense(turned, dy, starts[1].copy())]
    found.append(kernel.packed(lazy, sparse, starts[0].copy(), seeded=False))
    return all(same(x, y) for x, y in zip(found, right, strict=True))


def same(x: NDArray[np.float32], y: NDArray[np.float32]) -> bool:
    """Tell whether x, whose NaNs are canonical, has the bits of y but for the kind of its NaNs."""
    bits = np.where(np.isnan(y), np.uint32(0x7FC00000), y.view(np.uint32))
    return np.array_equal(x.view(np.uint32), bits)


def _any_packed(rng: np.random.Generator, w: NDArray[np.float16], n: int, m: int) -> Packed:
    """Return a packed form of w with random places, in which some groups end in fillers."""
    groups = -(-w.shape[0] // m)
    padded = np.concatenate([w, np.zeros((groups * m - w.shape[0], w.shape[1]), np.float16)])
    index = np.sort(rng.random((groups, m, w.shape[1])).argsort(axis=1)[:, :n], axis=1)
    whole = index + m * np.arange(groups)[:, None, None]
    filler = whole >= w.shape[0]
    filler[0, n - 1 :] = n > 1
    values = np.where(filler, np.float16(0), np.take_along_axis(padded.reshape(groups, m, -1), index, axis=1))
    return Packed(values, np.where(filler, 0, index).astype(np.uint8), filler, w.shape[0], n, m)


def _function(function: Callable[..., object], result: object, *arguments: object) -> Callable[..., int]:
    function.restype, function.argtypes = result, arguments  # type: ignore[attr-defined] # of a ctypes function
    return function  # type: ignore[return-value]


def _plain(x: NDArray[np.float16]) -> NDArray[np.float16]:
    """Return x, copied if its elements do not lie a whole number of elements apart."""
    fits = x.flags.aligned and not any(step % 2 for step in x.strides)
    return x if fits else np.ascontiguousarray(x)


def _steps(x: NDArray[np.float16]) -> tuple[int, ...]:
    return tuple(step // 2 for step in x.strides)


def _scratch(floats: int) -> int:
    """Return the address of memory of this thread that begins at a cache line; the next call may hand out the same."""
    block = getattr(_SCRATCH, "block", None)
    if block is None or block.size < floats + 16:
        block = _SCRATCH.block = np.empty(floats + 16, np.float32)
    return -(-address(block) // 64) * 64


@dataclass(frozen=True, eq=False)
class _Left:
    """A of a product as the C functions take it. windows: address of the numbers of windows, None of a matrix."""

    array: NDArray[np.float16]
    address: int
    steps: tuple[int, ...]
    windows: int | None = None

    def rows(self, first: int) -> tuple[int | None, ...]:
        """Return the arguments that stand for the rows from `first` on."""
        start = self.address if self.windows is not None else self.address + 2 * first * self.steps[0]
        return start, *self.steps, self.windows, first


def _places(
    y: NDArray[np.float32], halves: NDArray[np.float16] | None
) -> Callable[[int], tuple[int, int | None]]:
    """Return what gives the addresses of an element of both results."""
    wide, narrow = address(y), None if halves is None else address(halves)
    return lambda at: (wide + 4 * at, None if narrow is None else narrow + 2 * at)


def sums(m: int, n: int) -> NDArray[np.float32]:
    """Return memory of this thread for float32[m, n] of any contents; the next call may hand out the same."""
    if m * n > _MOST_SUMS:
        return np.empty((m, n), np.float32)
    block = getattr(_SCRATCH, "sums", None)
    if block is None or block.size < m * n:
        block = _SCRATCH.sums = np.empty(m * n, np.float32)
    return block[: m * n].reshape(m, n)


def _left(a: NDArray[np.float16] | ImageWindows) -> _Left:
    if isinstance(a, np.ndarray):
        a = _plain(a)
        return _Left(a, address(a), _steps(a))
    steps = (1, 2) if a.turned else (2, 1)  # which of both lies side by side is all that is read of them
    return _Left(a.x, address(a.x), steps, address(a.numbers))


def _shared(part: Callable[[int, int], None], rows: int, macs: int) -> None:
    """Call part(first row, rows) for all rows, by several threads if they are wanted and worth it."""
    count = threads() if rows * macs >= _MANY else 1
    size = max(_STRIP, -(-rows // (count * _STRIP)) * _STRIP)
    if count == 1 or size >= rows:
        part(0, rows)
        return
    firsts = range(0, rows, size)
    with ThreadPoolExecutor(len(firsts)) as pool:
        list(pool.map(lambda first: part(first, min(size, rows - first)), firsts))
