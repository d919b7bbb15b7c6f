"""What `nmsat bench` measures of the Verilog: simulators beside the Verilated circuit, writing and compiling it."""

from __future__ import annotations

import os
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from nmsat.algorithms.core.nm import pack, prune
from nmsat.algorithms.core.tape import Pattern
from nmsat.dataflow.mapping.choose import best_tiling
from nmsat.hw.parts.cache import BUILD_DIR_VARIABLE
from nmsat.reports.work.bench import timed, used
from nmsat.reports.work.program import matrix_program
from nmsat.reports.work.verify import build_machine, run_image
from nmsat.sim.array.fast import simulate_product
from nmsat.sim.array.stepped import place_operands
from nmsat.sim.sat import Sat, launch
from nmsat.tb.array.products import Job, bench_config, build_stce, run_products

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from nmsat.dataflow.contract.config import SatConfig
    from nmsat.reports.work.bench import Rounds

DEPTH: Final = 512
"""K of the product of the array; M = 8 rows, N = 8 columns."""

SPARSE: Final = "2:8"

MORE: Final = 4
"""Products, or rows of a product in units of the array, of the longer of two runs: their difference has no start."""

ARRAY_RTL: Final = "Verilog of the array, one product"
VALUES: Final = "values in the fast gear, the same product"
MACHINE_RTL: Final = "Verilog of the machine, a program"
MACHINE_SIM: Final = "exact gear with values, the same program"
WRITING: Final = "writing the Verilog of the machine"
COMPILING: Final = "compiling the Verilog of the machine"


class UnequalError(RuntimeError):
    """Simulator and Verilog differ: a figure of speed would be of two different things."""


@dataclass(frozen=True)
class ArrayWork:
    """A product on the Verilated array and in the fast gear."""

    config: SatConfig
    job: Job

    @staticmethod
    def make(config: SatConfig) -> ArrayWork:
        """Return the product for an array, which is compiled if need be."""
        machine = bench_config(config)
        pattern = Pattern.parse(SPARSE)
        m, n = 8 * config.rows, 8 * config.columns
        tiling = best_tiling(machine, m, DEPTH, n, pattern)
        rng = np.random.default_rng(1)
        a, w = (rng.standard_normal(shape).astype(np.float16) for shape in ((m, DEPTH), (DEPTH, n)))
        packed = pack(prune(w, tiling.mapping.n, tiling.mapping.m, axis=0), tiling.mapping.n, tiling.mapping.m)
        place_operands(a, packed, tiling)  # complains before the long build if the operands do not fit
        build_stce(machine)
        return ArrayWork(machine, Job(a, packed, tiling))

    def on_rtl(self) -> float:
        """Return the seconds of one product on the Verilog, without the start; UnequalError if it differs."""
        runs: list[Any] = []
        few = timed(lambda: runs.extend(run_products(self.config, [self.job])))
        many = timed(lambda: runs.extend(run_products(self.config, [self.job] * MORE)))
        expected = simulate_product(self.job.tiling, self.job.a, self.job.packed)
        assert expected.y is not None
        same = [(run.y.view(np.uint32) == expected.y.view(np.uint32)).all() for run in runs]
        if not all(same) or {run.cycles for run in runs} != {expected.cycles}:
            raise UnequalError(f"array {self.config.name!r}: a product on the Verilog has other bits or cycles")
        return (many - few) / (MORE - 1)

    def on_simulator(self) -> float:
        """Return the seconds of the same product in the fast gear, with values."""
        return timed(lambda: simulate_product(self.job.tiling, self.job.a, self.job.packed), repeats=5)


class MachineWork:
    """A program on the Verilated machine and in the exact gear with values: a long one less a short one."""

    def __init__(self, config: SatConfig) -> None:
        self.config = config
        m, n = 8 * config.rows, 8 * config.columns
        shapes = [(rows, 128, n) for rows in (m, MORE * m)]
        self._programs = [matrix_program(config, shape, Pattern.parse(SPARSE), None, 0) for shape in shapes]
        build_machine(config)
        self._counters: list[dict[str, int]] = []
        self.on_simulator()
        self.cycles = self._counters[1]["cycles"] - self._counters[0]["cycles"]

    def on_rtl(self) -> float:
        """Return the seconds of the difference on the Verilog; UnequalError if a counter or the memory differs."""
        seconds = []
        for program, known, expected in zip(self._programs, self._counters, self._after, strict=True):
            given = [region.copy() for region in program.image.regions]
            start = used()
            counters, regions = run_image(self.config, given, program.place)
            seconds.append(used() - start)
            same = all((one == other).all() for one, other in zip(regions, expected, strict=True))
            if counters != known or not same:
                raise UnequalError(f"machine {self.config.name!r}: a program counts or writes otherwise on the Verilog")
        return seconds[1] - seconds[0]

    def on_simulator(self) -> float:
        """Return the seconds of the difference in the exact gear, with values."""
        seconds, self._counters, self._after = [], [], []
        for program in self._programs:
            regions = [region.copy() for region in program.image.regions]
            settings = launch(regions, program.place, ports=self.config.ports)
            start = used()
            report = Sat(self.config).run(settings, regions)
            seconds.append(used() - start)
            self._counters.append(report.counters)
            self._after.append(regions)
        return seconds[1] - seconds[0]


def rtl_works(rounds: Rounds, config: SatConfig) -> dict[str, Callable[[], float]]:
    """Return the works on the Verilog and those beside them; circuits are compiled first, if need be."""
    array, machine = ArrayWork.make(config), MachineWork(config)
    product = {"cycles": simulate_product(array.job.tiling, array.job.a, array.job.packed).cycles}
    rounds.facts |= {ARRAY_RTL: product, VALUES: product}
    rounds.facts |= {name: {"cycles": machine.cycles} for name in (MACHINE_RTL, MACHINE_SIM)}
    works = {ARRAY_RTL: array.on_rtl, VALUES: array.on_simulator}
    return works | {MACHINE_RTL: machine.on_rtl, MACHINE_SIM: machine.on_simulator}


def rtl_ratios(rounds: Rounds) -> dict[str, dict[str, Any]]:
    """Return how many times as fast the simulators are as the Verilog."""
    return {
        "values, times as fast as the Verilog of the array": rounds.ratio(ARRAY_RTL, VALUES),
        "exact gear with values, times as fast as the Verilog of the machine": rounds.ratio(MACHINE_RTL, MACHINE_SIM),
    }


def build_works(config: SatConfig) -> dict[str, Callable[[], float]]:
    """Return the writing and the compiling of the machine's Verilog, into caches of their own that are empty."""
    from nmsat.hw.parts.verilog import emit
    from nmsat.hw.sat import Sat as Circuit
    from nmsat.tb.machine.model import TOP, build_verilog

    texts: dict[str, str] = {}

    def write() -> float:
        return timed(lambda: texts.update(emit(Circuit(config), TOP)))

    def make() -> float:
        with _empty_caches():
            return timed(lambda: build_verilog(config, texts))

    return {WRITING: write, COMPILING: make}


@contextmanager
def _empty_caches() -> Iterator[None]:
    """Let the caches lie in a new folder while the block runs."""
    before = os.environ.get(BUILD_DIR_VARIABLE)
    with tempfile.TemporaryDirectory(prefix="nmsat-bench-", ignore_cleanup_errors=True) as folder:
        os.environ[BUILD_DIR_VARIABLE] = f"{folder}/caches"
        try:
            yield
        finally:
            del os.environ[BUILD_DIR_VARIABLE]
            if before is not None:
                os.environ[BUILD_DIR_VARIABLE] = before
