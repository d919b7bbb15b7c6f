"""Every engine on Verilated RTL against its model, with the number of vectors that were compared.

One function per unit; each raises SimulationError at the first difference and returns how much it compared.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from nmsat.algorithms.core.nm import pack
from nmsat.algorithms.core.numeric import canonical, to_half
from nmsat.algorithms.core.ranges import GROUP_SIZES
from nmsat.algorithms.core.tape import Pattern
from nmsat.dataflow.contract.config import preset
from nmsat.dataflow.mapping.tiling import Tiling, legal_mappings
from nmsat.hw.fp.convert import F16ToF32, F32ToF16
from nmsat.hw.fp.f32 import F32Add, F32Multiply
from nmsat.hw.parts.verilog import emit
from nmsat.hw.store.epilogue import EpilogueEngine
from nmsat.hw.update.pregen import Pregen
from nmsat.hw.update.sore import Sore
from nmsat.hw.update.wuve import Wuve
from nmsat.tb.array.products import Job, bench_config, verify_products
from nmsat.tb.drive.bank import check
from nmsat.tb.fp import mac_vectors
from nmsat.tb.fp.f32_vectors import SPECIAL, add_pairs, half_boundaries, multiply_pairs, numpy_add, numpy_multiply
from nmsat.tb.fp.mac_lanes import Mac
from nmsat.tb.run.errors import SimulationError
from nmsat.tb.run.runner import build, run

if TYPE_CHECKING:
    from collections.abc import Callable

    from amaranth.lib.wiring import Component

HALVES: Final = np.arange(1 << 16, dtype=np.uint32)
"""Every binary16 number."""


@dataclass(frozen=True)
class Unit:
    """One unit: what a vector is, and the function that compares about `count` of them from `seed`."""

    name: str
    vector: str
    check: Callable[[int, int], int]


def check_add(count: int, seed: int) -> int:
    """binary32 adder against NumPy."""
    a, b = add_pairs(np.random.default_rng(seed), count)
    return check(lambda: F32Add(4), 4, {"a": a, "b": b, "o": numpy_add(a, b)})


def check_multiply(count: int, seed: int) -> int:
    """binary32 multiplier against NumPy."""
    a, b = multiply_pairs(np.random.default_rng(seed), count)
    return check(lambda: F32Multiply(5), 5, {"a": a, "b": b, "o": numpy_multiply(a, b)})


def check_widen(count: int, seed: int) -> int:
    """binary16 to binary32 times a power of two: every binary16 number, for as many scales as `count` allows."""
    scales = np.random.default_rng(seed).permutation(25)[: max(1, count // HALVES.size)]
    half, down = np.tile(HALVES, len(scales)), np.repeat(scales.astype(np.uint32), HALVES.size)
    value = half.astype(np.uint16).view(np.float16).astype(np.float64)
    with np.errstate(all="ignore"):
        expected = canonical((value * np.exp2(-down.astype(np.float64))).astype(np.float32)).view(np.uint32)
    return check(F16ToF32, 1, {"i": half, "down": down, "o": expected})


def check_round(count: int, seed: int) -> int:
    """binary32 to binary16: all midpoints with their neighbours, all binary16 numbers, and `count` random ones."""
    random = np.random.default_rng(seed).integers(0, 1 << 32, count, dtype=np.uint32)
    values = np.concatenate([half_boundaries(), SPECIAL, random])
    expected = to_half(values.view(np.float32)).view(np.uint16).astype(np.uint32)
    return check(lambda: F32ToF16(2), 2, {"i": values, "o": expected})


def check_accumulate(count: int, seed: int) -> int:
    """Widening, product and accumulation of the element against NumPy."""
    vectors = mac_vectors.make(count, seed)
    job = {name: getattr(vectors, name).astype(np.uint32) for name in ("a", "w", "filler", "x")}
    return check(lambda: Mac(4), 5, {**job, "out": mac_vectors.expected_numpy(vectors)}, output="out")


def check_stce(count: int, seed: int) -> int:
    """Array engine against simulator and reference: `count` products; returns the results compared."""
    config = bench_config(preset("tiny"))
    rng = np.random.default_rng(seed)
    patterns = [None, *(Pattern(n, m) for m in GROUP_SIZES for n in range(1, m + 1))]
    jobs = []
    for _ in range(count):
        mappings = legal_mappings(config, patterns[int(rng.integers(len(patterns)))])
        mapping = mappings[int(rng.integers(len(mappings)))]
        m, k, n = (int(x) for x in rng.integers(1, 40, 3))
        a, w = (rng.standard_normal(shape).astype(np.float16) for shape in ((m, k), (k, n)))
        jobs.append(Job(a, pack(w, mapping.n, mapping.m), Tiling(config, mapping, m, k, n)))
    verdicts = verify_products(config, jobs)
    for job, verdict in zip(jobs, verdicts, strict=True):
        if not verdict.match:
            raise SimulationError(f"{job.tiling.mapping} {job.tiling.m}x{job.tiling.k}x{job.tiling.n}: {verdict}")
    return sum(verdict.outputs for verdict in verdicts)


def check_sore(count: int, seed: int) -> int:
    """Pruning engine against its model, every pattern; returns the elements that went in."""
    lanes = 4
    saved = _lockstep(Sore(lanes), "sat_sore", {"lanes": lanes, "width": 1, "groups": count}, seed)
    return lanes * int(saved["beats_in"])


def check_wuve(count: int, seed: int) -> int:
    """Weight-update engine against its model; returns the weights that went in."""
    lanes = 4
    job = {"lanes": lanes, "beats": -(-count // (12 * lanes)), "jobs": 12, "stages": (4, 4, 2)}
    return lanes * int(_lockstep(Wuve(lanes), "sat_wuve", job, seed)["beats_in"])


def check_epilogue(count: int, seed: int) -> int:
    """Epilogue against its model, every switch; returns the sums that went in."""
    lanes = 4
    job = {"lanes": lanes, "beats": max(2, count // (32 * lanes)), "stages": (4, 2)}
    return lanes * int(_lockstep(EpilogueEngine(lanes), "sat_epilogue", job, seed)["beats_in"])


def check_pregen(count: int, seed: int) -> int:
    """Update with both pruned copies against its model: `count` matrices; returns the weights that went in."""
    lanes = 4
    job = {"lanes": lanes, "jobs": count, "k": 40, "n": 12}
    return lanes * int(_lockstep(Pregen(lanes), "sat_pregen", job, seed)["beats_in"])


def _lockstep(engine: Component, top: str, job: dict[str, Any], seed: int) -> dict[str, Any]:
    return run(build(emit(engine, top), top), f"tb.test_{top.removeprefix('sat_')}", job=job, seed=seed).check().saved


UNITS: Final = (
    Unit("binary32 add", "sums", check_add),
    Unit("binary32 multiply", "products", check_multiply),
    Unit("binary16 to binary32", "numbers", check_widen),
    Unit("binary32 to binary16", "numbers", check_round),
    Unit("element arithmetic", "sums", check_accumulate),
    Unit("STCE (array)", "results", check_stce),
    Unit("SORE (pruning)", "elements", check_sore),
    Unit("WUVE (update)", "weights", check_wuve),
    Unit("update with pruning", "weights", check_pregen),
    Unit("epilogue", "sums", check_epilogue),
)
"""All units in the order in which they are reported."""
