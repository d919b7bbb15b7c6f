"""The compute engine: Verilated RTL against its model cycle by cycle, captured results against the reference."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from nmsat.algorithms.core.numeric import ordered_dot_packed
from nmsat.algorithms.core.tape import Pattern
from nmsat.dataflow.contract.config import SatConfig, preset
from nmsat.dataflow.contract.isa import Compute
from nmsat.dataflow.mapping.place import place_results, results_per_column
from nmsat.dataflow.mapping.tiling import legal_mappings
from nmsat.hw.array.compute import ComputeEngine as ComputeRtl
from nmsat.hw.parts.verilog import emit
from nmsat.sim.array.stepped import place_operands
from nmsat.tb.array.products import operand_words
from nmsat.tb.run.runner import build, run
from tests.benches import in_amaranth
from tests.cases import product

if TYPE_CHECKING:
    from nmsat.algorithms.core.packed import Packed
    from nmsat.dataflow.mapping.tiling import Tiling

pytestmark = pytest.mark.rtl

TINY = preset("tiny").replace(act_depth=4096, weight_depth=4096, sum_depth=512)
SLICED = TINY.replace(rows=3, columns=5, row_slices=(1,), column_slices=(2, 4), act_lanes=2)


def random_commands(rng: np.random.Generator, config: SatConfig, count: int) -> list[Compute]:
    """Return legal commands; every third or so changes mode, pattern or rectangle, and chains of sums occur."""
    found: list[Compute] = []
    while len(found) < count:
        ws, m, a = bool(rng.integers(2)), int(rng.choice([2, 4, 8, 16])), int(rng.choice([1, 2, 4, 8]))
        n = int(rng.integers(1, m + 1))
        if a * m > config.act_bank or (ws and n * (8 // a) > config.weight_bank):
            continue
        kept = False
        for _ in range(int(rng.integers(1, 6))):
            windows = int(rng.choice([1, 1, 2, 3, 7]))
            seed, kept = kept, bool(rng.random() < (0.6 if ws else 0.3))
            found.append(Compute(ws=ws, n=n, m=m, a=a, windows=windows, seed=seed, keep=kept))
    return found[:count]


def product_job(rng: np.random.Generator, tiling: Tiling, a: np.ndarray, packed: Packed) -> dict[str, Any]:
    """Return a product whose results all fit the capture buffers, from a random place on."""
    config, placed = tiling.config, place_operands(a, packed, tiling)
    act, wgt = operand_words(placed)
    first = int(rng.integers(config.sum_depth))
    words, at = [], first
    for command in placed.commands:
        words.append(dataclasses.replace(command, capture=at % config.sum_depth).instruction().encode())
        if not command.keep:
            at += 8 * (command.windows if command.ws else config.rows)
    gaps = (rng.integers(0, 200, len(words)) * (rng.random() < 0.5)).tolist()
    return {"act": act, "wgt": wgt, "words": words, "gaps": gaps, "first": first, "results": results_per_column(tiling)}


def check(config: SatConfig, seed: int, commands: int, products: int) -> dict[str, Any]:
    """Hold the circuit against model and reference over random commands and products."""
    rng = np.random.default_rng(seed)
    chosen: list[tuple[np.ndarray, Packed, Tiling]] = []
    fields = {name: value for name, value in dataclasses.asdict(config).items() if name != "memory"}
    job: dict[str, Any] = {"config": fields, "count": products}
    random = random_commands(rng, config, commands)
    job["timing"] = [
        dataclasses.replace(c, capture=int(rng.integers(config.sum_depth))).instruction().encode() for c in random
    ]
    job["gaps"] = [int(gap) for gap in rng.choice([0, 0, 0, 1, 7, 60, 700], commands)]
    job["reset_after"] = [int(stop) for stop in rng.integers(20, 40 * commands, 4)]
    while len(chosen) < products:
        mappings = legal_mappings(config, [None, Pattern(2, 8), Pattern(1, 4), Pattern(3, 16)][int(rng.integers(4))])
        m, k, n = (int(x) for x in rng.integers(1, 40, 3))
        a, packed, tiling = product(rng, config, mappings[int(rng.integers(len(mappings)))], (m, k, n))
        if results_per_column(tiling) <= config.sum_depth:
            part = product_job(rng, tiling, a, packed)
            job.update({f"{name}_{len(chosen)}": value for name, value in part.items()})
            chosen.append((a, packed, tiling))
    built = build(emit(ComputeRtl(config), "sat_compute"), "sat_compute")
    saved = run(built, "nmsat.tb.array.bench_compute", job=job, seed=seed).check().saved
    for i, (a, packed, tiling) in enumerate(chosen):
        got = place_results(tiling, saved[f"values_{i}"])
        assert np.array_equal(got, ordered_dot_packed(a, packed).view(np.uint32)), tiling
    return saved


@pytest.mark.parametrize(("config", "seed"), [(TINY, 1), (SLICED, 2)])
def test_rtl_against_model(config: SatConfig, seed: int) -> None:
    saved = check(config, seed, commands=40, products=6)
    assert saved["cycles"] > 4_000
    assert saved["done"] > 40


@pytest.mark.long
@pytest.mark.parametrize("seed", range(10, 16))
def test_rtl_against_model_long(seed: int) -> None:
    check((TINY, SLICED, TINY.replace(rows=1, columns=1))[seed % 3], seed, commands=400, products=25)


@pytest.mark.long
def test_in_amaranths_simulator() -> None:
    """A little of the bench, for faults that are planted (`make mutate`)."""
    with in_amaranth(__name__):
        assert check(TINY.replace(rows=2, columns=2), 1, commands=12, products=1)["done"] > 12
