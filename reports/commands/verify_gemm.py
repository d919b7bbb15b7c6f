"""`nmsat verify gemm`: one product on the RTL, held against simulator and reference."""

from __future__ import annotations

import dataclasses
import sys
from typing import TYPE_CHECKING, Any, Final

from nmsat.reports.commands.base import Answer, Command, InputError, add_shape

if TYPE_CHECKING:
    import argparse

    import numpy as np

    from nmsat.algorithms.core.nm import Packed
    from nmsat.dataflow.mapping.tiling import Tiling
    from nmsat.tb.array.products import Job

MAX_CYCLES: Final = 2_000_000
"""Longest product that is run on the RTL, in simulated cycles."""


def run(options: argparse.Namespace) -> Answer:
    """Run random operands through RTL, simulator and reference."""
    from nmsat.dataflow.cycles.array import product_duration
    from nmsat.reports.work.operands import choose_tiling, random_operands
    from nmsat.tb.array.products import verify_products
    from nmsat.tb.run.runner import check_tools

    check_tools()
    tiling = choose_tiling(options.config, options, options.pattern)
    cycles = product_duration(tiling).total
    if cycles > MAX_CYCLES:
        raise InputError(
            f"the product takes {cycles} cycles; the RTL runs at most {MAX_CYCLES} here; choose a smaller M, K or N"
        )
    a, packed = random_operands(tiling, options.pattern, options.seed)
    job = _bench_job(a, packed, tiling)
    print("nmsat: compiling and running the RTL (the first time takes a minute)", file=sys.stderr)
    (verdict,) = verify_products(job.tiling.config, [job])
    values: dict[str, Any] = {
        "match": verdict.match,
        "cycles_rtl": verdict.cycles_rtl,
        "cycles_sim": verdict.cycles_sim,
        "first_difference": verdict.differences[0] if verdict.differences else None,
        "values": verdict.outputs,
        "config": options.config.name,
        "m": tiling.m,
        "k": tiling.k,
        "n": tiling.n,
        "pattern": str(options.pattern or "dense"),
        "dataflow": tiling.mapping.name,
        "seed": options.seed,
    }
    return Answer(values, _text(values), ok=verdict.match)


def _bench_job(a: np.ndarray, packed: Packed, tiling: Tiling) -> Job:
    """Return the product for a bench with buffers that hold its operands, small ones if they do."""
    from nmsat.sim.array.stepped import place_operands
    from nmsat.tb.array.products import Job, bench_config

    problem = ""
    for deep in (False, True):
        benched = dataclasses.replace(tiling, config=bench_config(tiling.config, deep=deep))
        try:
            place_operands(a, packed, benched)
        except ValueError as error:
            problem = str(error)
        else:
            return Job(a, packed, benched)
    raise InputError(problem)


def _text(values: dict[str, Any]) -> str:
    result = "match" if values["match"] else f"MISMATCH: {values['first_difference']}"
    return (
        f"{values['m']} x {values['k']} x {values['n']}, {values['pattern']}, {values['dataflow'].upper()}, "
        f"configuration {values['config']}, seed {values['seed']}: {values['values']} values, "
        f"{values['cycles_rtl']} cycles on the RTL, {values['cycles_sim']} in the simulator: {result}"
    )


COMMAND = Command(
    summary="Run one product with random operands on the RTL and compare bits and cycles with simulator and reference.",
    example="nmsat verify gemm 17 37 9 --pattern 2:8 --config tiny --seed 1 --json",
    add_arguments=add_shape,
    run=run,
)
