"""The tier of the second simulator: make icarus, or python -m nmsat.tb.icarus machine-92 --json out/icarus.json.

The array engine and the whole machine of `tiny` run in Icarus Verilog without initial values: what is neither reset
nor written is X, and reaches no result.
"""

from __future__ import annotations

import argparse
import difflib
import json
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from nmsat.algorithms.core.nm import pack
from nmsat.algorithms.core.tape import Pattern
from nmsat.dataflow.contract.config import preset
from nmsat.dataflow.mapping.choose import best_tiling
from nmsat.tb.array.products import TOP as ARRAY
from nmsat.tb.array.products import Job, bench_config, compare, run_products, stce_verilog
from nmsat.tb.machine.jobs import random_job
from nmsat.tb.machine.model import TOP as MACHINE
from nmsat.tb.machine.model import sat_verilog
from nmsat.tb.run.icarus import find_icarus, icarus_version
from nmsat.tb.run.runner import MissingToolError, SimulationError, build_icarus, run

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from nmsat.tb.run.runner import Built

TINY: Final = preset("tiny")
"""The configuration that runs: about 100 cycles of its machine take Icarus Verilog a second."""

PRODUCTS: Final = (
    (None, "os", (5, 9, 6)),
    (Pattern(2, 8), "os", (6, 17, 5)),
    (Pattern(2, 8), "ws", (5, 20, 6)),
    (Pattern(3, 16), "ws", (3, 33, 5)),
)
"""Pattern, dataflow and shape (m, k, n) of products on the array."""

SEEDS: Final = (9, 92, 50, 109, 64)
"""Random programs for the machine, short ones: UPDATE; backward with STAGE; weight gradient; forward; a chain of an OS
and a WS product."""

SEEDS_SAID: Final = "fixed: that of a program, or the number of a product, stands in the name of the case"

LIMIT_S: Final = 600.0
"""Seconds after which a case is given up."""


@dataclass(frozen=True)
class Verdict:
    """What came of a case. why: what differs, nothing if it is equal; cycles: of the circuit."""

    name: str
    what: str
    cycles: int
    seconds: float
    why: str

    @property
    def repeat(self) -> str:
        """The command that runs this case alone."""
        return f"make icarus CASE={self.name}"

    def record(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {**asdict(self), "seconds": round(self.seconds, 1), "equal": not self.why, "repeat": self.repeat}


@dataclass(frozen=True)
class Case:
    """A case by name; module: top of what it runs; check: runs it, returns what differs and the cycles."""

    name: str
    what: str
    module: str
    check: Callable[[Built], tuple[str, int]]


def cases() -> dict[str, Case]:
    """Return all cases by name: products by their number, programs by their seed."""
    found = []
    for number, (pattern, dataflow, (m, k, n)) in enumerate(PRODUCTS):
        what = f"{m}x{k}x{n} {pattern or 'dense'} {dataflow}"
        found.append(Case(f"array-{number}", what, ARRAY, partial(_product, number)))
    for seed in SEEDS:
        found.append(Case(f"machine-{seed}", random_job(TINY, seed).what, MACHINE, partial(_program, seed)))
    return {case.name: case for case in found}


def array_job(number: int) -> Job:
    """Return a product of `PRODUCTS`, with random operands of its number."""
    pattern, dataflow, (m, k, n) = PRODUCTS[number]
    rng = np.random.default_rng([31, number])
    a, w = (rng.standard_normal(shape).astype(np.float16) for shape in ((m, k), (k, n)))
    tiling = best_tiling(bench_config(TINY), m, k, n, pattern, dataflow)
    return Job(a, pack(w, tiling.mapping.n, tiling.mapping.m), tiling, w=w, pattern=pattern)


def verilog(module: str) -> dict[str, str]:
    """Return file name -> Verilog of a top."""
    return stce_verilog(bench_config(TINY)) if module == ARRAY else sat_verilog(TINY)


def judge(case: Case, built: Built) -> Verdict:
    """Run a case on a model of its module; what ends the simulation (X where a number must be) is told."""
    began = time.monotonic()
    try:
        why, cycles = case.check(built)
    except SimulationError as error:
        why, cycles = str(error), 0
    return Verdict(case.name, case.what, cycles, time.monotonic() - began, why)


def _product(number: int, built: Built) -> tuple[str, int]:
    job = array_job(number)
    verdict = compare(job, run_products(bench_config(TINY), [job], built)[0])
    return "; ".join(verdict.differences), verdict.cycles_rtl


def _program(seed: int, built: Built) -> tuple[str, int]:
    job = {"config": TINY.name, "first": seed, "count": 1, "pauses": 0.0}
    saved = run(built, "nmsat.tb.machine.bench_runs", ["jobs"], job=job, timeout_s=LIMIT_S).check().saved
    return "; ".join(json.loads(saved["wrong"])), int(saved["cycles"])


def table(verdicts: Sequence[Verdict]) -> str:
    """Return one line per case."""
    lines = [f"{'case':12} {'cycles':>6} {'seconds':>7}  verdict"]
    for one in verdicts:
        said = f"DIFFERS (again: {one.repeat}): {one.why}" if one.why else f"equal: {one.what}"
        lines.append(f"{one.name:12} {one.cycles:6} {one.seconds:7.1f}  {said}")
    return "\n".join(lines)


def chosen(names: Sequence[str], known: dict[str, Case]) -> list[Case]:
    """Return the cases of these names, all without a name; ValueError for a name that none has."""
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(name, known, cutoff=0) or list(known)
            raise ValueError(f"case is {name!r}; there is none of this name. Close are: {', '.join(close)}")
    return [known[name] for name in names] or list(known.values())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the chosen cases; return 0 if all are equal, 1 if not, 2 without Icarus or for a name that none has."""
    parser = argparse.ArgumentParser(description="Run array and machine in Icarus Verilog, without initial values.")
    parser.add_argument("cases", nargs="*", metavar="CASE", help="some of them, by name; all without")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the verdicts here")
    options = parser.parse_args(arguments)
    try:
        found = chosen(options.cases, cases())
        find_icarus()
    except (ValueError, MissingToolError) as error:
        print(error, file=sys.stderr)
        return 2
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="nmsat-icarus-") as folder:
        built = {name: build_icarus(verilog(name), name, Path(folder) / name) for name in {c.module for c in found}}
        verdicts = []
        for case in found:
            verdicts.append(judge(case, built[case.module]))
            print(f"{len(verdicts):2}/{len(found)} {case.name}", file=sys.stderr)
    seconds = time.monotonic() - began
    equal = sum(not verdict.why for verdict in verdicts)
    print(table(verdicts))
    print(f"{equal} of {len(verdicts)} equal to the simulator in {seconds:.0f} s, {icarus_version()}")
    print(f"seeds: {SEEDS_SAID}")
    if options.json is not None:
        record = {"tool": icarus_version(), "config": TINY.name, "seconds": round(seconds)}
        record |= {"seeds": SEEDS_SAID}
        record |= {"cases": [verdict.record() for verdict in verdicts]}
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 0 if equal == len(verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
