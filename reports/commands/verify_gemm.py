"""`nmsat verify gemm`: one product on the RTL, held against simulator and reference."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final

from nmsat.reports.commands.base import Answer, Command, add_shape
from nmsat.reports.work.progress import task
from nmsat.reports.work.text import OPERAND_KINDS, InputError
from nmsat.sim.results.provenance import Source

if TYPE_CHECKING:
    import argparse

    import numpy as np

    from nmsat.algorithms.core.packed import Packed
    from nmsat.dataflow.mapping.tiling import Tiling
    from nmsat.tb.array.products import Job

MAX_CYCLES: Final = 2_000_000
"""Longest product that is run on the RTL, in simulated cycles."""

COMPARED: Final = (
    "RTL with simulator: all bits of every value, and the cycle in which each leaves",
    "both with the reference (docs/arithmetic.md computed apart, tb/array/reference.py): all bits of every value",
    "simulator with the reference: every value rounded to binary16",
    "NaN: a result's is 0x7fc00000 (0x7e00) and compared in all bits; sign and payload of an operand's are lost",
)
"""What a run compares."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_shape(parser)
    parser.add_argument(
        "--operands",
        choices=OPERAND_KINDS,
        default="finite",
        help="random operands: finite, or all: infinities, NaN, zeros of both signs, subnormals, sums beyond binary16 "
        "and cancellation as well (default: finite)",
    )


def run(options: argparse.Namespace) -> Answer:
    """Run random operands through RTL, simulator and reference."""
    from nmsat.dataflow.cycles.array import product_duration
    from nmsat.reports.work.operands import choose_tiling, packed_for, random_pair
    from nmsat.tb.array.products import reference_bits, verify_products
    from nmsat.tb.run.runner import check_tools

    check_tools()
    tiling = choose_tiling(options.config, options, options.pattern)
    cycles = product_duration(tiling).total
    if cycles > MAX_CYCLES:
        raise InputError(
            f"the product takes {cycles} cycles; the RTL runs at most {MAX_CYCLES} here; choose a smaller M, K or N"
        )
    a, w = random_pair(tiling, options.operands, options.seed)
    job = dataclasses.replace(
        _bench_job(a, packed_for(w, tiling, options.pattern), tiling), w=w, pattern=options.pattern
    )
    with task("compiling and running the RTL (compiling takes a minute, once)"):
        (verdict,) = verify_products(job.tiling.config, [job])
    values: dict[str, Any] = {
        "match": verdict.match,
        "compared": list(COMPARED),
        "source": Source.ARRAY,
        "source_rtl": Source.ARRAY_RTL,
        "cycles_rtl": verdict.cycles_rtl,
        "cycles_sim": verdict.cycles_sim,
        "first_difference": verdict.differences[0] if verdict.differences else None,
        "values": verdict.outputs,
        "kinds": _kinds(reference_bits(job)),
        "operands": options.operands,
        "config": options.config.name,
        "m": tiling.m,
        "k": tiling.k,
        "n": tiling.n,
        "pattern": str(options.pattern or "dense"),
        "dataflow": tiling.mapping.name,
        "seed": options.seed,
    }
    return Answer(values, _text(values), ok=verdict.match)


def _kinds(bits: np.ndarray) -> dict[str, int]:
    """Return how many results are of each kind. bits: of binary32 numbers."""
    import numpy as np

    from nmsat.tb.array.reference import half

    magnitude, rounded = bits & 0x7FFFFFFF, half(bits) & 0x7FFF
    finite = magnitude < 0x7F800000
    found = {
        "finite": finite,
        "zero": magnitude == 0,
        "beyond_binary16": finite & (rounded == 0x7C00),
        "subnormal_in_binary16": (rounded > 0) & (rounded < 0x0400),
        "infinite": magnitude == 0x7F800000,
        "nan": magnitude > 0x7F800000,
    }
    return {name: int(np.count_nonzero(which)) for name, which in found.items()}


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
    kinds = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in values["kinds"].items())
    lines = [
        (
            f"{values['m']} x {values['k']} x {values['n']}, {values['pattern']}, {values['dataflow'].upper()}, "
            f"configuration {values['config']}, operands {values['operands']}, seed {values['seed']}: {result}"
        ),
        f"values     {values['values']}: {kinds}",
        f"cycles     {values['cycles_rtl']} on the RTL, {values['cycles_sim']} in the simulator ({values['source']})",
        *(f"{'compared' if not i else '':<11}{line}" for i, line in enumerate(values["compared"])),
    ]
    return "\n".join(lines)


COMMAND = Command(
    summary="Run one product with random operands on the RTL; compare it with the simulator and both with a reference.",
    example="nmsat verify gemm 17 37 9 --pattern 2:8 --config tiny --seed 1 --operands all --json",
    add_arguments=add_arguments,
    run=run,
)
