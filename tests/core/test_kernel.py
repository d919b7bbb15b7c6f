"""The C kernel against the NumPy definition, bit for bit; how it is built, found again, refused and replaced."""

from __future__ import annotations

import ctypes
import logging
import os
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nmsat.algorithms.core import chains, compiled, kernel, numeric
from nmsat.algorithms.core.nm import pack, pack_kept
from nmsat.algorithms.core.packed import Packed
from nmsat.algorithms.core.tensors import address
from nmsat.algorithms.core.windows import Windows

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CLASSES = {
    "zeros": [0x0000, 0x8000],
    "subnormal": [0x0001, 0x8001, 0x03FF, 0x83FF, 0x0200],
    "small": [0x0400, 0x8400, 0x0401],
    "ones": [0x3C00, 0xBC00, 0x3C01, 0x3555, 0x4248],
    "large": [0x7BFF, 0xFBFF, 0x7800],
    "infinite": [0x7C00, 0xFC00],
    "nan": [0x7E00, 0xFE01, 0x7D00, 0x7FFF],
}
"""Bit patterns of binary16 of every class; signalling and quiet NaNs with payloads."""

PATTERNS = [(1, 2), (2, 4), (3, 4), (2, 8), (8, 8), (1, 16), (2, 16), (16, 16)]


@pytest.fixture(scope="module")
def built() -> kernel.Kernel:
    found = kernel.load()
    assert found is not None, "no C compiler, or a kernel that differs from NumPy"
    return found


@pytest.fixture
def fresh() -> Iterator[None]:
    """Load the kernel anew in the test, and once more after it."""
    kernel.forget()
    yield
    kernel.forget()


def operands(rng: np.random.Generator, shape: tuple[int, ...], names: tuple[str, ...]) -> np.ndarray:
    """Random values of the given classes; 'any' is any bit pattern, 'normal' a normal distribution."""
    bits = np.concatenate([np.array(CLASSES[name], np.uint16) for name in names if name in CLASSES] or [np.zeros(1)])
    x = rng.choice(bits.astype(np.uint16), shape).view(np.float16)
    if "any" in names:
        x = np.where(rng.random(shape) < 0.5, rng.integers(0, 1 << 16, shape, np.uint16).view(np.float16), x)
    if "normal" in names:
        x = np.where(rng.random(shape) < 0.5, rng.standard_normal(shape).astype(np.float16), x)
    return np.asfortranarray(x) if rng.random() < 0.5 else x


def bits_of(y: np.ndarray) -> np.ndarray:
    assert y.dtype == np.float32
    assert y.flags.c_contiguous
    return y.view(np.uint32)


def numpy_bits(y: np.ndarray) -> np.ndarray:
    return bits_of(np.ascontiguousarray(numeric.canonical(y)))


NAMES = st.lists(st.sampled_from(["any", "normal", *CLASSES]), min_size=1, max_size=4).map(tuple)
SIZES = st.tuples(st.integers(1, 200), st.integers(1, 300), st.integers(1, 40))


@given(SIZES, NAMES, st.sampled_from(PATTERNS), st.booleans(), st.integers(0, 1 << 30))
@settings(max_examples=60, deadline=None)
def test_every_operand_gives_the_bits_of_numpy(
    sizes: tuple[int, int, int], names: tuple[str, ...], pattern: tuple[int, int], seeded: bool, number: int
) -> None:
    (m, k, n), rng = sizes, np.random.default_rng(number)
    a, w = operands(rng, (m, k), names), operands(rng, (k, n), names)
    seed = rng.integers(0, 1 << 32, (m, n), np.uint32).view(np.float32) if seeded else None  # subnormal ones, too
    start = np.zeros((m, n), np.float32) if seed is None else seed
    with np.errstate(all="ignore"):
        assert np.array_equal(bits_of(numeric.ordered_dot(a, w, seed)), numpy_bits(chains.dense(a, w, start.copy())))
        packed = pack(w, *pattern)
        want = numpy_bits(chains.packed(a, packed, start.copy()))
        assert np.array_equal(bits_of(numeric.ordered_dot_packed(a, packed, seed)), want)


@pytest.mark.parametrize("shape", [(1, 1, 1), (6, 16, 16), (97, 257, 17), (60, 512, 1), (193, 64, 300), (5, 0, 3)])
def test_tails_of_blocks(built: kernel.Kernel, shape: tuple[int, int, int]) -> None:
    m, k, n = shape
    rng = np.random.default_rng(list(shape))
    a, w = operands(rng, (m, k), ("normal",)), operands(rng, (k, n), ("normal",))
    y = built.dense(a, w, np.zeros((m, n), np.float32))
    assert np.array_equal(bits_of(y), numpy_bits(chains.dense(a, w, np.zeros((m, n), np.float32))))


OFFSETS = st.lists(st.integers(-3, 4), min_size=1, max_size=3).map(tuple)


@given(
    st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9)),
    st.sampled_from([8, 16, 24, 64]),
    st.tuples(OFFSETS, OFFSETS),
    st.tuples(st.integers(1, 7), st.integers(1, 9)),
    st.sampled_from([(1, 1), (2, 1), (2, 3)]),
    st.integers(1, 40),
    NAMES,
    st.integers(0, 1 << 30),
)
@settings(max_examples=60, deadline=None)
def test_windows_give_the_bits_of_the_matrix_that_is_not_made(
    image: tuple[int, int, int],
    channels: int,
    places: tuple[tuple[int, ...], tuple[int, ...]],
    size: tuple[int, int],
    step: tuple[int, int],
    n: int,
    names: tuple[str, ...],
    number: int,
) -> None:
    """Forward, as the update reads them (turned), and by a packed matrix, against the NumPy chain over the windows."""
    rng = np.random.default_rng(number)
    x = np.ascontiguousarray(operands(rng, (*image, channels), names))
    wanted = Windows(x, places, size, step)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(kernel, "between", lambda: None)
        made = wanted.array()
    assert made.shape == wanted.shape
    m, k = made.shape
    w, dy = operands(rng, (k, n), names), operands(rng, (m, n), names)
    packed = pack(w, *PATTERNS[number % len(PATTERNS)])
    with np.errstate(all="ignore"):
        want = [
            chains.dense(made, w, np.zeros((m, n), np.float32)),
            chains.dense(made.T, dy, np.zeros((k, n), np.float32)),
            chains.packed(made, packed, np.zeros((m, n), np.float32)),
        ]
    built = kernel.load()
    assert built is not None
    found = [
        built.dense(wanted, w, np.zeros((m, n), np.float32)),
        built.dense(wanted.T, dy, np.full((k, n), np.nan, np.float32), seeded=False),
        built.packed(wanted, packed, np.full((m, n), np.nan, np.float32), seeded=False),
    ]
    rounded = [numeric.ordered_dot_half(*pair) for pair in ((wanted, w), (wanted.T, dy), (wanted, packed))]
    for y, half, right in zip(found, rounded, want, strict=True):
        assert np.array_equal(bits_of(y), numpy_bits(right))
        assert np.array_equal(half.view(np.uint16), numeric.to_half(right).view(np.uint16))


def test_threads_share_windows_without_changing_a_bit(built: kernel.Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(8)
    wanted = Windows(operands(rng, (5, 9, 7, 8), ("any",)).copy(), ((-1, 0, 1), (-1, 0, 1)), (9, 7))
    w, dy = operands(rng, (72, 20), ("normal",)), operands(rng, (315, 20), ("normal",))
    packed = pack(w, 2, 8)
    pairs = ((wanted, w), (wanted.T, dy), (wanted, packed))
    one = [numeric.ordered_dot_half(*pair) for pair in pairs]
    monkeypatch.setenv("NMSAT_THREADS", "3")
    monkeypatch.setattr(kernel, "_MANY", 1)
    monkeypatch.setattr(kernel, "_STRIP", 24)
    several = [numeric.ordered_dot_half(*pair) for pair in pairs]
    for x, y in zip(one, several, strict=True):
        assert np.array_equal(x.view(np.uint16), y.view(np.uint16))
    assert isinstance(built, kernel.Kernel)


def test_windows_that_the_kernel_does_not_read_are_made() -> None:
    rng = np.random.default_rng(9)
    x = rng.standard_normal((2, 5, 4, 8)).astype(np.float16)
    places = ((0, 1), (0, 1))
    w = rng.standard_normal((32, 3)).astype(np.float16)
    for image in (x[:, ::-1], x[..., :4]):
        odd = Windows(image, places, (4, 3))
        assert not odd.read_by_kernel(packed=False)
        right = w[: odd.shape[1]]
        want = numeric.to_half(numeric.ordered_dot(odd.array(), right))
        assert np.array_equal(numeric.ordered_dot_half(odd, right), want)
    with pytest.raises(ValueError, match="operands have shapes"):
        numeric.ordered_dot_half(Windows(x, places, (4, 3)), w[:8])
    with pytest.raises(TypeError, match="float16"):
        numeric.ordered_dot_half(Windows(x.astype(np.float32), places, (4, 3)), w)


def test_a_product_without_terms_is_zero(built: kernel.Kernel) -> None:
    a, w, sums = np.empty((3, 0), np.float16), np.empty((0, 5), np.float16), np.full((3, 5), np.nan, np.float32)
    shape = (0, 2, 5)
    empty = Packed(np.empty(shape, np.float16), np.empty(shape, np.uint8), np.empty(shape, np.bool_), 0, 2, 8)
    for y in (built.dense(a, w, sums.copy(), seeded=False), built.packed(a, empty, sums.copy(), seeded=False)):
        assert not bits_of(y).any()
    assert not numeric.ordered_dot_half(a, w).any()


def test_addresses_are_those_of_numpy() -> None:
    x = np.arange(12, dtype=np.float16).reshape(3, 4)
    fixed = x.copy()
    fixed.flags.writeable = False
    for array in (x, x[1:], x.T, x[:, ::2], fixed, np.empty((0, 4), np.float16), np.zeros(3, bool)):
        assert address(array) == array.ctypes.data


def test_groups_with_few_kept_and_a_last_group_that_is_short(built: kernel.Kernel) -> None:
    rng = np.random.default_rng(3)
    a, w = operands(rng, (33, 45), ("any",)), operands(rng, (45, 29), ("any",))
    keep = rng.random(w.shape) < 0.2
    keep[:, 0] = False  # a column without any
    packed = pack_kept(w, keep, 8, 8)
    zeros = np.zeros((33, 29), np.float32)
    y = built.packed(a, packed, zeros.copy(), seeded=False)
    with np.errstate(all="ignore"):
        assert np.array_equal(bits_of(y), numpy_bits(chains.packed(a, packed, zeros)))
    assert not y[:, 0].any()


def test_any_strides_are_read(built: kernel.Kernel) -> None:
    rng = np.random.default_rng(4)
    whole, other = (operands(rng, (60, 90), ("normal",)) for _ in range(2))
    odd = np.zeros(1 + 60 * 90 * 2, np.uint8)[1:].view(np.float16).reshape(60, 90)
    odd[...] = whole
    for a in (whole[::2, ::-1], whole[::-3], whole.T[:60, :60].T, np.broadcast_to(whole[:1], (7, 90)), odd):
        w = other.T[: a.shape[1], ::2]
        start = np.zeros((a.shape[0], w.shape[1]), np.float32)
        assert np.array_equal(bits_of(built.dense(a, w, start.copy())), numpy_bits(chains.dense(a, w, start.copy())))
        packed = pack(w, 2, 8)
        found = built.packed(a, packed, start.copy(), seeded=False)
        assert np.array_equal(bits_of(found), numpy_bits(chains.packed(a, packed, start)))


@pytest.mark.parametrize("count", ["1", "2", "3"])
def test_threads_change_no_bit(count: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(5)
    a, w = operands(rng, (500, 300), ("normal",)), operands(rng, (300, 60), ("normal",))
    one = numeric.ordered_dot(a, w), numeric.ordered_dot_packed(a, pack(w, 2, 8))
    monkeypatch.setattr(kernel, "_MANY", 1)
    monkeypatch.setenv("NMSAT_THREADS", count)
    many = numeric.ordered_dot(a, w), numeric.ordered_dot_packed(a, pack(w, 2, 8))
    assert all(np.array_equal(bits_of(x), bits_of(y)) for x, y in zip(one, many, strict=True))


@pytest.mark.parametrize("text", ["0", "two", "-1", "1e3"])
def test_threads_are_a_number(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NMSAT_THREADS", text)
    with pytest.raises(ValueError, match=f"NMSAT_THREADS is '{text}'"):
        kernel.threads()


def test_a_pair_outside_of_the_matrix_is_refused(built: kernel.Kernel) -> None:
    packed = pack(np.ones((12, 3), np.float16), 2, 8)
    for place, index in (((0, 0, 0), 8), ((1, 1, 2), 7)):
        wrong = packed.index.copy()
        wrong[place] = index
        with pytest.raises(ValueError, match="index outside"):
            numeric.ordered_dot_packed(np.ones((2, 12), np.float16), replace(packed, index=wrong))
    with pytest.raises(ValueError, match="shapes"):
        cut = replace(packed, filler=packed.filler[:, :, :2])
        built.packed(np.ones((2, 12), np.float16), cut, np.zeros((2, 3), np.float32), seeded=False)


@pytest.mark.parametrize("variant", compiled.VARIANTS)
def test_each_variant_of_the_flags_is_right(variant: tuple[str, ...]) -> None:
    """The plain one runs other code: four lanes, no conversion by the processor."""
    assert kernel.equal_to_numpy(kernel.Kernel(compiled.compiled(kernel.SOURCES, variant)))


def test_a_kernel_of_other_bits_is_not_used(
    fresh: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An addition that was left out, one rounding too many, a NaN with a payload: each is found when it is loaded."""
    del fresh
    monkeypatch.setenv("NMSAT_BUILD_DIR", str(tmp_path))
    text = kernel.SOURCES[0].read_text(encoding="utf-8")
    wrong = text.replace("NAN32 = 0x7fc00000u", "NAN32 = 0xffc00000u")
    assert wrong != text
    source = tmp_path / "wrong.c"
    source.write_text(wrong)
    monkeypatch.setattr(kernel, "SOURCES", (source, kernel.SOURCES[1]))
    monkeypatch.setattr(kernel, "VARIANTS", (("-O0",),))
    with caplog.at_level(logging.WARNING, "nmsat.algorithms"):
        assert kernel.load() is None
    assert "differs from NumPy" in caplog.text


@pytest.mark.parametrize("case", ["no compiler", "bad compiler", "no cache"])
def test_without_a_kernel_numpy_gives_the_same_and_says_so_once(
    case: str, fresh: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    del fresh
    rng = np.random.default_rng(6)
    a, w = operands(rng, (20, 40), ("any",)), operands(rng, (40, 9), ("any",))
    three = np.stack([a, a]), np.stack([w, w])
    want = numeric.ordered_dot(a, w), numeric.ordered_dot_packed(a, pack(w, 2, 8)), numeric.ordered_dot_batched(*three)
    kernel.forget()
    monkeypatch.setenv("NMSAT_BUILD_DIR", str(tmp_path / "caches"))
    monkeypatch.setenv("CC", {"no compiler": "no-such-cc", "bad compiler": "false"}.get(case, "cc"))
    if case == "no cache":
        (tmp_path / "caches").write_text("a file")
    with caplog.at_level(logging.WARNING, "nmsat.algorithms"):
        plain = (
            numeric.ordered_dot(a, w),
            numeric.ordered_dot_packed(a, pack(w, 2, 8)),
            numeric.ordered_dot_batched(*three),
        )
    assert all(np.array_equal(bits_of(x), bits_of(y)) for x, y in zip(want, plain, strict=True))
    assert len([r for r in caplog.records if "run in NumPy" in r.message]) == 1


def test_the_variable_asks_for_numpy_without_a_word(
    fresh: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    del fresh
    monkeypatch.setenv("NMSAT_KERNEL", "numpy")
    assert kernel.load() is None
    assert not caplog.records


@pytest.mark.usefixtures("fresh")
def test_a_failure_does_not_outlive_its_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setenv("NMSAT_BUILD_DIR", "/proc/caches")
        assert kernel.load() is None
    assert kernel.load() is not None
    monkeypatch.setenv("NMSAT_BUILD_DIR", str(tmp_path / "other"))
    assert kernel.load() is not None  # a kernel that is loaded stays
    assert not (tmp_path / "other").exists()


def test_first_builds_at_once_leave_one_library(tmp_path: Path) -> None:
    code = "from nmsat.algorithms.core import kernel; assert kernel.load() is not None"
    environment = {**os.environ, "NMSAT_BUILD_DIR": str(tmp_path / "caches")}
    started = [subprocess.Popen([sys.executable, "-c", code], env=environment) for _ in range(2)]
    assert [process.wait() for process in started] == [0, 0]
    names = [path.name for path in (tmp_path / "caches" / "kernel").iterdir()]
    assert len(names) == 1
    assert names[0].endswith(".so")


def test_the_kernel_leaves_the_state_of_the_processor_alone(built: kernel.Kernel) -> None:
    """No library loaded with -ffast-math: binary32 subnormals, which the update needs, are still numbers."""
    assert isinstance(built, kernel.Kernel)
    tiny = np.float32(2.0**-140)
    assert tiny * np.float32(0.5) == np.float32(2.0**-141)
    assert ctypes.c_float(2.0**-149).value > 0
