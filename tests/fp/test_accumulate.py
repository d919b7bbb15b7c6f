"""hw.fp: widening, exact product, binary32 accumulation; against NumPy and MPFR."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import pytest

from nmsat.hw.fp.accumulate import ADDER_CUTS
from nmsat.hw.parts.steps import chosen_cuts
from nmsat.hw.parts.verilog import emit
from nmsat.tb.fp import mac_vectors, mpfr
from nmsat.tb.fp.mac_lanes import LATENCY, MacLanes, WidenLanes
from nmsat.tb.run.runner import Results, build, run

if TYPE_CHECKING:
    from collections.abc import Mapping

BENCH: Final = "nmsat.tb.fp.bench_accumulate"
LANES: Final = 4
STAGES: Final = tuple(sorted(ADDER_CUTS))


def _stream(sources: Mapping[str, str], top: str, widths: dict[str, int], **job: object) -> Results:
    return run(build(sources, top), BENCH, ["stream"], job={"inputs": widths, **job}).check()


def _mac(vectors: mac_vectors.Vectors) -> dict[int, np.ndarray]:
    """uint32[n] by number of stages: what the circuits answer."""
    pad = -len(vectors.a) % LANES
    rows = {name: np.pad(getattr(vectors, name), (0, pad)).reshape(-1, LANES) for name in ("a", "w", "filler", "x")}
    widths = {"a": 16, "w": 16, "filler": 1, "x": 32}
    names = [f"out{stages}" for stages in STAGES]
    sources = emit(MacLanes(LANES), "mac_lanes")
    saved = _stream(sources, "mac_lanes", widths, outputs=names, latency=LATENCY, **rows).saved
    return {stages: saved[name].reshape(-1)[: len(vectors.a)] for stages, name in zip(STAGES, names, strict=True)}


def _check(vectors: mac_vectors.Vectors, got: np.ndarray, expected: np.ndarray) -> None:
    wrong = np.flatnonzero(got != expected)
    lines = [
        f"{mac_vectors.CLASSES[vectors.kind[i]]}: a {vectors.a[i]:#06x} w {vectors.w[i]:#06x} "
        f"filler {vectors.filler[i]} x {vectors.x[i]:#010x}: {got[i]:#010x}, expected {expected[i]:#010x}"
        for i in wrong[:8]
    ]
    assert not len(wrong), f"{len(wrong)} of {len(got)} sums differ\n" + "\n".join(lines)


def _check_oracle(vectors: mac_vectors.Vectors, expected: np.ndarray) -> None:
    """MPFR gives the same bits with one rounding and with two, since the product of two binary16 numbers is exact."""
    for oracle in (mpfr.multiply_add, mpfr.multiply_then_add):
        sums = np.where(vectors.filler, vectors.x, oracle(vectors.a, vectors.w, vectors.x))
        _check(vectors, sums, expected)


def _widened(bits: np.ndarray, offset: int, top: int) -> np.ndarray:
    """uint32[n]: sign, code, fraction of finite and special numbers, by NumPy's own decomposition."""
    value = bits.view(np.float16).astype(np.float64)
    with np.errstate(all="ignore"):
        fraction, exponent = np.frexp(np.abs(value))
    finite = np.isfinite(value)
    fraction = np.where(finite & (value != 0), np.where(finite, fraction, 0) * 2048 - 1024, 0)
    low = np.where(np.isnan(value), 0x200, fraction)
    code = np.where(finite, np.where(value == 0, 0, exponent - 1 + offset), top)
    width = top.bit_length()
    return ((bits >> 15).astype(np.int64) << (10 + width) | code.astype(np.int64) << 10 | low.astype(np.int64)).astype(
        np.uint32
    )


@pytest.mark.rtl
def test_all_halves_widen_exactly() -> None:
    half = np.arange(1 << 16, dtype=np.uint16).reshape(-1, 32)
    filler = np.zeros(half.shape, bool)
    results = _stream(
        emit(WidenLanes(32), "widen_lanes"),
        "widen_lanes",
        {"half": 16, "filler": 1},
        half=np.concatenate([half, half]),
        filler=np.concatenate([filler, ~filler]),
        outputs=["act", "wgt"],
        latency=1,
    )
    act, wgt = (results.saved[name].reshape(2, -1) for name in ("act", "wgt"))
    bits = half.reshape(-1)
    index = (bits >> 6 & 15).astype(np.uint32) << 18
    np.testing.assert_array_equal(act[0], _widened(bits, 25, 63))
    np.testing.assert_array_equal(act[1], act[0])
    np.testing.assert_array_equal(wgt[0], _widened(bits, 102, 127) | index)
    np.testing.assert_array_equal(wgt[1], 1 << 10 | index)


@pytest.mark.rtl
def test_sums_are_those_of_numpy() -> None:
    vectors = mac_vectors.make(20_000, seed=4)
    expected = mac_vectors.expected_numpy(vectors)
    for got in _mac(vectors).values():
        _check(vectors, got, expected)


def test_oracles_agree_and_vectors_reach_the_hard_cases() -> None:
    vectors = mac_vectors.make(20_000, seed=11)
    expected = mac_vectors.expected_numpy(vectors)
    _check_oracle(vectors, expected)
    x, out = (v.view(np.float32).astype(np.float64) for v in (vectors.x, expected))
    a, w = (v.view(np.float16).astype(np.float64) for v in (vectors.a, vectors.w))
    with np.errstate(all="ignore"):
        p = np.where(vectors.filler, 0, a * w)
        exact = x + p
        half_ulp = np.spacing(np.abs(vectors.x.view(np.float32))).astype(np.float64) / 2
    usable = np.isfinite(exact) & (p != 0) & (x != 0)
    assert np.count_nonzero(usable & (exact == 0)) > 50
    assert np.count_nonzero(usable & (np.abs(exact) < np.abs(x) / 4096) & (exact != 0)) > 200
    assert np.count_nonzero(usable & (np.abs(p) == half_ulp)) > 10
    assert np.count_nonzero(usable & (exact != out)) > 2000
    assert np.count_nonzero(np.isnan(out)) > 200
    assert np.count_nonzero(np.isinf(out)) > 200
    assert np.count_nonzero((vectors.x == 1 << 31) & (expected == 1 << 31)) > 20


@pytest.mark.rtl
@pytest.mark.long
@pytest.mark.parametrize("seed", [101, 102])
def test_many_sums(seed: int) -> None:
    vectors = mac_vectors.make(250_000, seed=seed)
    expected = mac_vectors.expected_numpy(vectors)
    _check_oracle(vectors, expected)
    for got in _mac(vectors).values():
        _check(vectors, got, expected)


def test_a_wrong_sum_is_found() -> None:
    vectors = mac_vectors.make(100, seed=1)
    expected = mac_vectors.expected_numpy(vectors)
    got = expected.copy()
    got[7] ^= 1
    with pytest.raises(AssertionError, match="1 of 108 sums differ"):
        _check(vectors, got, expected)


def test_number_of_stages_is_checked() -> None:
    with pytest.raises(ValueError, match="stages of Accumulate is 8; it must be from 1 to 7"):
        chosen_cuts("Accumulate", ADDER_CUTS, 8)
