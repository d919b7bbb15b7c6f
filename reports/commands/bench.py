"""`nmsat bench`: how fast the simulator is, as ratios measured in one run.

Figures of the gears are seconds of processor time of this one process, which other programs on the machine do not
change; on an idle machine they are the time on the clock. Each begins with nothing walked and nothing kept. The ratio
to the RTL is of times on the clock.
"""

from __future__ import annotations

import resource
import time
from typing import TYPE_CHECKING, Any, Final

from nmsat.reports.commands.base import Answer, Command, add_config
from nmsat.reports.work.progress import Task, task
from nmsat.reports.work.text import table
from nmsat.sim.results.provenance import Source, told

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from nmsat.dataflow.contract.config import SatConfig
    from nmsat.dataflow.program.jobs import Job

SCALE_SIM: Final = {"conv 28x28x128 -> 128 3x3, batch 1": 13.5, "ViT-S, five products": 47.8}
"""Seconds of SCALE-Sim v3 on a 32 x 32 array as quoted in the project's brief; not measured here."""

EXACT_PRODUCT: Final = (128, 576, 128)
"""M, K, N at 2:8 of the product that the exact gear runs."""

RTL_DEPTH: Final = 512
"""K of the product that runs on the Verilated array and in the fast gear with values; M = 8 rows, N = 8 columns."""

RTL_PATTERN: Final = "2:8"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument(
        "--only-kernel", action="store_true", help="measure the products and steps of contract arithmetic, nothing else"
    )
    parser.add_argument("--no-rtl", action="store_true", help="leave the comparison with the Verilated array out")
    what = "array of that comparison, of which the largest takes long to build the first time"
    add_config(parser, "vcu1525", "--rtl-config", what)


def _kernel() -> dict[str, Any]:
    """Return the speed of contract arithmetic; what it needs is not imported for the help."""
    from nmsat.reports.work.kernel_speed import kernel_speed

    return kernel_speed()


def run(options: argparse.Namespace) -> Answer:
    """Measure."""
    if options.only_kernel:
        with task("bench", 1, "part") as running:
            running.now("contract arithmetic")
            kernel = _kernel()
            running.advance()
        return Answer({"kernel": kernel}, _kernel_text(kernel))
    with task("bench", 3 if options.no_rtl else 4, "part") as running:
        values = _measure(options, running)
    return Answer(values, f"{_text(values)}\n\n{_kernel_text(values['kernel'])}")


def _measure(options: argparse.Namespace, running: Task) -> dict[str, Any]:
    """Return everything measured; progress is told between the measurements."""
    running.now("two layers")
    layers = _layer_times()
    running.advance()
    running.now("the exact gear")
    exact = _exact_gear()
    running.advance()
    running.now("contract arithmetic")
    kernel = _kernel()
    running.advance()
    values: dict[str, Any] = {
        "source": {"scale_sim": Source.MACHINE, "exact_gear": Source.MACHINE, "rtl_cycles": Source.ARRAY_RTL},
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "scale_sim": layers,
        "exact_gear": exact,
        "kernel": kernel,
        "values_vs_verilator": None,
    }
    if not options.no_rtl:
        running.now("the Verilated array, compiled first if need be (long, once)")
        values |= _verilator(options.rtl_config)
        running.advance()
    return values


def _seconds(work: Callable[[], object], repeats: int = 1, clock: Callable[[], float] = time.perf_counter) -> float:
    """Return the seconds of one call, the least of `repeats`."""
    best = float("inf")
    for _ in range(repeats):
        start = clock()
        work()
        best = min(best, clock() - start)
    return best


def _layer_times() -> dict[str, dict[str, float]]:
    """Timing of the layers for which SCALE-Sim's time is quoted: forward products in the quick gear, choice included.

    The estimate is that of the same programs, choice included."""
    from nmsat.algorithms.core.tape import ConvShape, Product, Stage
    from nmsat.dataflow.contract.config import preset
    from nmsat.dataflow.program.pieces import given_jobs
    from nmsat.sim.work.timed import Estimator, Timer

    shape = ConvShape(1, 28, 28, 128, 128, (3, 3), padding=(1, 1))
    conv = [Product("conv", Stage.FF, 28 * 28, 9 * 128, 128, conv=shape)]
    sizes = ((197, 384, 1152), (197, 64, 197), (197, 197, 64), (197, 384, 1536), (197, 1536, 384))
    vit = [Product(f"gemm{i}", Stage.FF, m, k, n) for i, (m, k, n) in enumerate(sizes)]
    machine, out = preset("vcu1525"), {}
    for (name, quoted), products in zip(SCALE_SIM.items(), (conv, vit), strict=True):
        jobs: list[Job] = list(given_jobs(products))
        cycles = 0

        def work(jobs: list[Job] = jobs) -> None:
            nonlocal cycles
            cycles = sum(timed.cycles for timed in Timer(machine).all(jobs))

        ours = _seconds(work, clock=time.process_time)
        guess = _seconds(lambda jobs=jobs: Estimator(machine).all(jobs), clock=time.process_time)
        out[name] = {
            "cycles": cycles,
            "seconds": ours,
            "estimate_seconds": guess,
            "scale_sim_quoted_seconds": quoted,
            "times": quoted / ours,
        }
    return out


def _exact_gear() -> dict[str, float]:
    """Cycles per second of the exact gear, without values."""
    from nmsat.algorithms.core.tape import Pattern
    from nmsat.dataflow.contract.config import preset
    from nmsat.reports.work.program import matrix_program
    from nmsat.sim.sat import Sat, launch, program_words

    machine = preset("vcu1525")
    program = matrix_program(machine, EXACT_PRODUCT, Pattern(2, 8), None, 0)
    settings = launch(program.image.regions, program.place)
    words, cycles = program_words(program.image.regions, settings), 0

    def work() -> None:
        nonlocal cycles
        cycles = Sat(machine).time(settings, words).cycles

    seconds = _seconds(work, clock=time.process_time)
    return {"cycles": cycles, "seconds": seconds, "cycles_per_second": cycles / seconds}


def _verilator(array: SatConfig) -> dict[str, Any]:
    """The same product on the Verilated array and in the fast gear with values; bits and cycles compared."""
    import numpy as np

    from nmsat.algorithms.core.nm import pack, prune
    from nmsat.algorithms.core.tape import Pattern
    from nmsat.dataflow.mapping.choose import best_tiling
    from nmsat.sim.array.fast import simulate_product
    from nmsat.sim.array.stepped import place_operands
    from nmsat.tb.array.products import Job, bench_config, build_stce, run_products
    from nmsat.tb.run.runner import check_tools

    check_tools()
    pattern = Pattern.parse(RTL_PATTERN)
    machine = bench_config(array)
    m, k, n = 8 * array.rows, RTL_DEPTH, 8 * array.columns
    tiling = best_tiling(machine, m, k, n, pattern)
    rng = np.random.default_rng(1)
    a, w = (rng.standard_normal(shape).astype(np.float16) for shape in ((m, k), (k, n)))
    packed = pack(prune(w, tiling.mapping.n, tiling.mapping.m, axis=0), tiling.mapping.n, tiling.mapping.m)
    place_operands(a, packed, tiling)  # complains before the long build if the operands do not fit
    build_stce(machine)
    job = Job(a, packed, tiling)
    expected = simulate_product(tiling, a, packed)
    runs: list[Any] = []
    few = _seconds(lambda: runs.extend(run_products(machine, [job])))
    many = _seconds(lambda: runs.extend(run_products(machine, [job] * 4)))
    rtl = (many - few) / 3
    ours = _seconds(lambda: simulate_product(tiling, a, packed), repeats=5)
    if expected.y is None:
        raise RuntimeError("the simulator gave no values")
    equal = all((r.y.view(np.uint32) == expected.y.view(np.uint32)).all() and r.cycles == expected.cycles for r in runs)
    return {
        "values_vs_verilator": rtl / ours,
        "rtl_seconds": rtl,
        "values_seconds": ours,
        "rtl_config": array.name,
        "rtl_product": f"{m}x{k}x{n} {RTL_PATTERN}",
        "rtl_cycles": expected.cycles,
        "rtl_equal": equal,
    }


def _text(values: dict[str, Any]) -> str:
    exact = values["exact_gear"]
    rows = [
        (f"exact gear, {exact['cycles']} cycles", f"{exact['cycles_per_second']:,.0f} cycles/s", "at least 400,000"),
        ("peak memory", f"{values['peak_memory_mib']:.0f} MiB", "below 1024 MiB"),
    ]
    for name, row in values["scale_sim"].items():
        what = f"{name}: quick gear {row['seconds']:.2f} s, estimate {row['estimate_seconds'] * 1e3:.0f} ms"
        quoted = f"SCALE-Sim {row['scale_sim_quoted_seconds']} s (quoted)"
        rows.append((f"{what}, {quoted}", f"{row['times']:.0f} x", "at least 10 x"))
    if values["values_vs_verilator"] is not None:
        equal = "equal" if values["rtl_equal"] else "NOT EQUAL"
        times = f"RTL {values['rtl_seconds']:.2f} s, fast gear {values['values_seconds'] * 1e3:.1f} ms"
        what = (
            f"values, {values['rtl_config']}, {values['rtl_product']}, {values['rtl_cycles']} cycles: {times}, {equal}"
        )
        rows.append((what, f"{values['values_vs_verilator']:.1f} x", "at least 30 x"))
    return (
        table(("what", "measured", "goal"), rows)
        + "\nseconds of processor time of one process; against the RTL: of the clock"
        + f"\nlayers and the exact gear: {told(Source.MACHINE)}"
        + f"\nvalues run on the {told(Source.ARRAY)}"
    )


def _kernel_text(values: dict[str, Any]) -> str:
    """Return the table of the products and the line of the training step."""
    rows = [
        (
            f"{row['m']}x{row['k']}x{row['n']}",
            *(f"{row['gmacs_per_second'][name]:.1f}" for name in ("contract", "contract_2of8", "blas", "numpy")),
            f"{row['to_blas']:.2f} x",
            f"{row['to_numpy']:.1f} x",
            f"{row['sparse_to_dense']:.2f} x",
        )
        for row in values["products"]
    ]
    header = ("contract product", "GMAC/s", "2:8", "BLAS", "NumPy loop", "to BLAS", "to the loop", "2:8 to dense")
    step = values["step"]
    times = ", ".join(f"{name} {seconds * 1e3:.1f} ms" for name, seconds in step["seconds"].items())
    ratios = ", ".join(
        f"{step[f'to_{other}']:.2f} x {other} dense and {step[f'bdwp_to_{other}']:.2f} x with BDWP 2:8"
        for other in ("fast", "pytorch")
        if f"to_{other}" in step
    )
    parts = [table(header, rows), f"step of {step['network']}, batch {step['batch']}: {times}: contract takes {ratios}"]
    if not values["kernel"]:
        parts.append("no C kernel here: contract products ran in NumPy")
    return "\n".join([*parts, "one thread, processor time, the quickest of some turns"])


COMMAND = Command(
    summary="Measure the simulator: layers in the quick gear, the exact gear, values against the Verilated array.",
    example="nmsat bench --no-rtl --json",
    add_arguments=add_arguments,
    run=run,
)
