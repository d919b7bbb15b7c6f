"""Planted faults: operands and oracle of the floating-point units must find each, in arithmetic and in circuits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pytest
from amaranth.hdl import Const
from amaranth.sim import Simulator

from nmsat.hw.fp import accumulate, convert, f32
from nmsat.hw.fp.convert import F32ToF16
from nmsat.hw.fp.f32 import F32Add, F32Multiply
from nmsat.tb.fp import mac_vectors, mpfr
from nmsat.tb.fp.f32_vectors import SPECIAL, add_pairs, half_boundaries, multiply_pairs
from nmsat.tb.fp.mac_lanes import Mac

if TYPE_CHECKING:
    from collections.abc import Callable

    from amaranth.lib.wiring import Component
    from numpy.typing import NDArray

    Bits = NDArray[np.uint32]
    Job = dict[str, NDArray]


def job_of_add(count: int) -> Job:
    a, b = add_pairs(np.random.default_rng(1), count)
    return {"a": a, "b": b, "o": mpfr.add(a, b)}


def job_of_multiply(count: int) -> Job:
    a, b = multiply_pairs(np.random.default_rng(2), count)
    return {"a": a, "b": b, "o": mpfr.multiply(a, b)}


def job_of_half(count: int) -> Job:
    random = np.random.default_rng(3).integers(0, 1 << 32, count, dtype=np.uint32)
    x = np.concatenate([half_boundaries(), SPECIAL, random])
    return {"i": x, "o": mpfr.to_half(x)}


def job_of_mac(count: int) -> Job:
    v = mac_vectors.make(count, seed=4)
    out = np.where(v.filler, v.x, mpfr.multiply_add(v.a, v.w, v.x))
    return {"a": v.a, "w": v.w, "filler": v.filler, "x": v.x, "out": out}


def wide(bits: NDArray[np.unsignedinteger]) -> NDArray[np.float64]:
    with np.errstate(invalid="ignore"):
        return bits.view({2: np.float16, 4: np.float32}[bits.itemsize]).astype(np.float64)


def narrow(values: NDArray[np.float64]) -> Bits:
    """Return binary64 as binary32: right for products, which binary64 holds exactly, and for most sums."""
    rounded = values.astype(np.float32)
    return np.where(np.isnan(rounded), np.uint32(mpfr.NAN32), rounded.view(np.uint32))


def half(values: NDArray[np.float64]) -> NDArray[np.uint16]:
    rounded = values.astype(np.float16)
    return np.where(np.isnan(rounded), np.uint16(mpfr.NAN16), rounded.view(np.uint16))


def flushed(bits: Bits) -> Bits:
    """Return numbers with subnormal ones made zero."""
    return np.where(bits >> 23 & 0xFF, bits, bits & 0x80000000).astype(np.uint32)


def cut(values: NDArray[np.float64], add: int = 0) -> Bits:
    """Return binary64 cut to 24 bits after `add` (2^29: one in the last place)."""
    kept = (values.view(np.uint64) + np.uint64(add)) & ~np.uint64((1 << 29) - 1)
    return narrow(np.where(np.isfinite(values), kept.view(np.float64), values))


def to_bits(values: NDArray[np.float64], bits: int) -> NDArray[np.float64]:
    """Return numbers rounded to so many bits as if exponents had no end."""
    fraction, exponent = np.frexp(values)
    return np.where(np.isfinite(values), np.ldexp(np.rint(fraction * 2.0**bits) / 2.0**bits, exponent), values)


AWAY: Final = 1 << 28

WRONG: Final[dict[str, tuple[Callable[[int], Job], Callable[..., NDArray]]]] = {
    "add: subnormal sums are zero": (job_of_add, lambda a, b: flushed(narrow(wide(a) + wide(b)))),
    "add: subnormal operands are zero": (job_of_add, lambda a, b: narrow(wide(flushed(a)) + wide(flushed(b)))),
    "add: cut": (job_of_add, lambda a, b: cut(wide(a) + wide(b))),
    "add: ties away from zero": (job_of_add, lambda a, b: cut(wide(a) + wide(b), AWAY)),
    "add: rounded twice, to 32 bits first": (job_of_add, lambda a, b: narrow(to_bits(wide(a) + wide(b), 32))),
    "add: x - x is -0": (job_of_add, lambda a, b: np.where(a == b ^ 0x80000000, 1 << 31, mpfr.add(a, b))),
    "add: NaN keeps its payload": (job_of_add, lambda a, b: np.where(np.isnan(wide(a)), a, mpfr.add(a, b))),
    "multiply: subnormal products are zero": (job_of_multiply, lambda a, b: flushed(narrow(wide(a) * wide(b)))),
    "multiply: subnormal operands are zero": (
        job_of_multiply,
        lambda a, b: narrow(wide(flushed(a)) * wide(flushed(b))),
    ),
    "multiply: cut": (job_of_multiply, lambda a, b: cut(wide(a) * wide(b))),
    "multiply: ties away from zero": (job_of_multiply, lambda a, b: cut(wide(a) * wide(b), AWAY)),
    "multiply: subnormal products rounded twice": (
        job_of_multiply,
        lambda a, b: narrow(to_bits(wide(a) * wide(b), 24)),
    ),
    "multiply: zero has no sign": (
        job_of_multiply,
        lambda a, b: np.where(mpfr.multiply(a, b) << 1, mpfr.multiply(a, b), 0),
    ),
    "half: rounded twice": (job_of_half, lambda i: half(to_bits(wide(i), 12))),
    "half: ties away from zero": (job_of_half, lambda i: half(wide(np.where(i & 0x1FFF == 0x1000, i + 1, i)))),
    "half: subnormals are zero": (job_of_half, lambda i: np.where(half(wide(i)) & 0x7C00, half(wide(i)), 0)),
    "half: overflow stops": (job_of_half, lambda i: np.where(half(wide(i)) & 0x7FFF == 0x7C00, 0x7BFF, half(wide(i)))),
    "mac: product rounded to binary16": (
        job_of_mac,
        lambda a, w, filler, x: np.where(filler, x, narrow((wide(a) * wide(w)).astype(np.float16) + wide(x))),
    ),
    "mac: subnormal halves are zero": (
        job_of_mac,
        lambda a, w, filler, x: np.where(filler, x, mpfr.multiply_add(a * (a & 0x7C00 != 0), w, x)),
    ),
    "mac: cut": (job_of_mac, lambda a, w, filler, x: np.where(filler, x, cut(wide(a) * wide(w) + wide(x)))),
    "mac: filler counts": (job_of_mac, lambda a, w, filler, x: mpfr.multiply_add(a, w, x)),
}
"""Fault -> operands with the oracle's results, and arithmetic that has this fault and no other."""


@pytest.mark.parametrize("fault", WRONG)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_operands_and_oracle_find_wrong_arithmetic(fault: str) -> None:
    make, arithmetic = WRONG[fault]
    job = make(20_000)
    output = list(job)[-1]
    results = arithmetic(*(values for name, values in job.items() if name != output))
    assert np.count_nonzero(results != job[output]) >= 10


def differences(unit: Component, latency: int, job: Job, count: int) -> int:
    """Run `count` vectors of a job on the circuit in Amaranth's simulator; return how many results are wrong."""
    *inputs, output = job
    rows = np.random.default_rng(0).permutation(len(job[output]))[:count]
    columns = {name: values[rows].tolist() for name, values in job.items()}
    wrong = 0

    async def bench(ctx: Any) -> None:
        nonlocal wrong
        for cycle in range(count + latency):
            for name in inputs:
                ctx.set(getattr(unit, name), columns[name][min(cycle, count - 1)])
            if cycle >= latency:
                wrong += ctx.get(getattr(unit, output)) != columns[output][cycle - latency]
            await ctx.tick()

    simulator = Simulator(unit)
    simulator.add_clock(1e-9)
    simulator.add_testbench(bench)
    simulator.run()
    return wrong


# Circuits with a fault in one of their building blocks, put there before they are elaborated.
without_sticky = ("shift_right_sticky", lambda real: lambda *given: (real(*given)[0], Const(0, 1)))
up_at_ties = ("rounded", lambda real: lambda m, name, base, kept, _, overflow=0: real(m, name, base, kept, 1, overflow))
never_up = ("rounded", lambda real: lambda m, name, base, kept, *rest: real(m, name, base, kept & ~1, *rest))
short_shift = ("shift_left", lambda real: lambda m, name, value, amount: real(m, name, value, amount[:-1]))
lost_ones = ("_shift_right", lambda real: lambda m, name, value, by, unit: real(m, name, value & ~1, by, unit))

BROKEN: Final[dict[str, tuple[Callable[[int], Job], Callable[[], Component], int, Any, tuple[str, Any]]]] = {
    "add: sticky bit": (job_of_add, lambda: F32Add(4), 4, f32, without_sticky),
    "add: ties": (job_of_add, lambda: F32Add(4), 4, f32, up_at_ties),
    "add: never up": (job_of_add, lambda: F32Add(4), 4, f32, never_up),
    "add: normalised too little": (job_of_add, lambda: F32Add(4), 4, f32, short_shift),
    "multiply: sticky bit": (job_of_multiply, lambda: F32Multiply(5), 5, f32, without_sticky),
    "multiply: ties": (job_of_multiply, lambda: F32Multiply(5), 5, f32, up_at_ties),
    "multiply: subnormal operands": (job_of_multiply, lambda: F32Multiply(5), 5, f32, short_shift),
    "half: sticky bit": (job_of_half, lambda: F32ToF16(2), 2, convert, without_sticky),
    "mac: sticky bit": (job_of_mac, lambda: Mac(4), 5, accumulate, lost_ones),
}
"""Fault -> operands, the circuit, its latency, the module that is patched, the patch: a name and its wrapper."""


@pytest.mark.parametrize("fault", BROKEN)
def test_operands_and_oracle_find_broken_circuits(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make, unit, latency, module, (name, wrap) = BROKEN[fault]
    job = make(20_000)
    assert differences(unit(), latency, job, 100) == 0
    monkeypatch.setattr(module, name, wrap(getattr(module, name)))
    assert differences(unit(), latency, job, 800) > 0


UNITS: Final = {name.partition(":")[0]: unit for name, unit in BROKEN.items()}
"""Unit -> its operands, circuit and latency, as in `BROKEN`."""


@pytest.mark.long
@pytest.mark.parametrize("unit", UNITS)
def test_in_amaranths_simulator(unit: str) -> None:
    """Many operands of a unit, for faults that are planted (`make mutate`)."""
    make, circuit, latency, _, _ = UNITS[unit]
    assert differences(circuit(), latency, make(20_000), 2_500) == 0
