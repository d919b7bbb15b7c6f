"""The work behind `nmsat workload list`, `nmsat workload run` and `nmsat verify workload`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from nmsat.algorithms.workloads.engine.registry import check_request, record, workload, workloads
from nmsat.dataflow.contract.config import preset
from nmsat.reports.work.extras import explain
from nmsat.reports.work.proof import Covered
from nmsat.reports.work.text import InputError, table
from nmsat.reports.work.timings import distinct_jobs, time_jobs
from nmsat.sim.array.fast import simulate_product
from nmsat.sim.results.provenance import Source, told, told_lines
from nmsat.sim.work.workload import check_values, simulate_tape
from nmsat.sim.work.workload_memory import simulate_memory, workload_jobs

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from nmsat.algorithms.workloads.engine.program import Program
    from nmsat.algorithms.workloads.engine.registry import Scale, Study, Variant, Workload
    from nmsat.dataflow.contract.config import SatConfig
    from nmsat.dataflow.program.jobs import Job
    from nmsat.dataflow.program.ways import Lowered
    from nmsat.sim.work.sample import Sample
    from nmsat.sim.work.workload import WorkloadResult
    from nmsat.sim.work.workload_memory import MemoryResult
    from nmsat.tb.array.products import Verdict

CONFIGS: Final[dict[str, str]] = {"small": "tiny", "paper": "vcu1525"}
"""Configuration of a scale unless another one is asked for."""


def known_workloads() -> dict[str, Workload]:
    """Return all workloads by name; InputError, in one line, for a module of theirs that is wrong.

    Where a package of an extra is missing, the ImportError that names it is raised as it is (`reports.work.extras`).
    """
    try:
        return workloads()
    except ImportError as error:
        if isinstance(error.__cause__, ImportError) and explain(error.__cause__) is not None:
            raise error.__cause__ from None
        raise InputError(f"{error}; mend it or take it away") from error


def workload_list() -> list[dict[str, Any]]:
    """Return all workloads as plain values."""
    return [
        {
            "name": item.name,
            "kind": item.kind,
            "title": item.title,
            "paper": item.source,
            "sparse": item.sparse,
            "document": None if item.document is None else vars(item.document),
            "variants": dict(item.variants),
            "quoted": item.quoted,
        }
        for item in known_workloads().values()
    ]


def workload_run(
    name: str,
    scale: Scale,
    variant: Variant,
    config: SatConfig | None = None,
    *,
    study: bool = True,
    say: Callable[[str], None] | None = None,
    processes: int = 1,
    estimate: bool = False,
) -> dict[str, Any]:
    """Run a workload and return everything found as plain values.

    processes: how many time its programs at once; estimate: its programs in closed form, without running them.

    At the scale 'small' the study runs first (about 10 s), its trained parameters are recorded with values, and every
    product is held against the simulator: `match`, `mismatches`. say: is told what comes next. Raises ValueError for an
    unknown name, scale or variant.
    """
    tell = say or _silent
    found = workload(name)
    check_request(scale, variant)
    config = preset(CONFIGS[scale]) if config is None else config
    begin = time.perf_counter()
    answer: Study | None = None
    if study and scale == "small":
        tell("solving its small problem (up to 20 s)")
        answer = found.solved(variant)
    tell("recording and scheduling its products")
    program = record(name, scale, variant, store=None if answer is None else answer.store)
    result = simulate_tape(program.tape, config)
    if program.values:
        tell(f"computing {len(program.tape.products)} products on the simulator")
    wrong = check_values(result) if program.values else []
    figures = result.record()
    return {
        "name": name,
        "kind": found.kind,
        "title": found.title,
        "paper": found.source,
        "quoted": found.quoted,
        "scale": scale,
        "variant": variant,
        "meaning": found.variants[variant],
        "config": config.name,
        "source": figures["cycles_source"],
        **figures,
        "with_memory": on_machine(program, result, tell, processes, estimate=estimate).record(),
        "host_kinds": result.host_kinds(),
        "items": [_item(item) for item in result.lowered],
        "study": None if answer is None else {"claim": answer.claim, "holds": answer.holds, **_plain(answer.measured)},
        "values": program.values,
        "match": not wrong,
        "mismatches": [vars(item) for item in wrong],
        "seconds": time.perf_counter() - begin,
    }


def _plain(measured: Mapping[str, Any]) -> dict[str, Any]:
    """Return numbers as JSON has them; one that is not finite as its text: nan, inf or -inf."""
    found = {key: value.item() if isinstance(value, np.generic) else value for key, value in measured.items()}
    return {k: str(v) if isinstance(v, float) and not np.isfinite(v) else v for k, v in found.items()}


def on_machine(
    program: Program,
    result: WorkloadResult,
    tell: Callable[[str], None],
    processes: int = 1,
    *,
    estimate: bool = False,
) -> MemoryResult:
    """Return a workload on the machine, each distinct program timed once and kept.

    tell: is told how far that is; estimate: by the closed form of the programs, none of which runs.
    """
    jobs = [job for dense in (False, True) for job in workload_jobs(program, result, dense=dense)]
    total, done = distinct_jobs(result.config, jobs), 0

    def told(job: Job) -> None:
        nonlocal done
        done += 1
        tell(f"program {done} of {total}: {job.name} {job.stage}")

    return simulate_memory(program, result, time_jobs(result.config, jobs, told, processes, estimate=estimate))


def workload_text(values: dict[str, Any]) -> str:
    """Return the result of `workload_run` for people."""
    ways = ", ".join(f"{way} {share:.0%}" for way, share in values["ways"].items())
    needed = f"{values['macs_true']:.4g} needed ({values['true_density']:.1%})"
    spent = f"{values['macs_spent']:.4g} spent ({values['cover_density']:.1%})"
    kinds = ", ".join(list(values["host_kinds"])[:4])
    memory = values["with_memory"]
    lines = [
        f"{values['title']} ({values['paper']})",
        f"{values['scale']}, {values['variant']}: {values['meaning']}; configuration {values['config']}",
        "",
        f"multiply-adds   {values['macs_full']:.4g} full, {needed}, {spent}",
        f"cycles          {values['cycles_dense']} dense, {values['cycles']} on SAT ({values['cycles_source']})",
        f"speed-up        {values['speedup']:.2f} of {values['speedup_ideal']:.2f} ideal",
        (
            f"with memory     {memory['cycles_dense']} dense, {memory['cycles']} on SAT, speed-up "
            f"{memory['speedup']:.2f} ({memory['source']})"
        ),
        f"ways            {ways} (of the needed multiply-adds)",
        f"on SAT          {values['sat_mac_share']:.1%} of all multiply-adds",
        f"host            {values['host_share']:.1%} of all operations: {kinds}",
    ]
    if values["values"]:
        wrong = [f"{m['product']} ({m['results']} results)" for m in values["mismatches"]]
        lines.append(f"values          {'equal to the program, bit for bit' if values['match'] else '; '.join(wrong)}")
    if values["study"] is not None:
        study = dict(values["study"])
        claim, holds = study.pop("claim"), study.pop("holds")
        lines += ["", f"study           {claim}: {'yes' if holds else 'NO'}"]
        lines += [f"  {key:<32}{number_text(value)}" for key, value in study.items()]
    lines += ["", f"the paper says (reference, not ours): {values['quoted']}", ""]
    lines += [told(Source(values["cycles_source"]))]
    lines += told_lines(Source(memory["source"]), memory["planned"])
    return "\n".join(lines)


def workload_verify(
    name: str,
    variant: Variant,
    config: SatConfig,
    count: int,
    *,
    say: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Run a sample of a workload's products on the RTL; hold it against simulator, reference and the program itself.

    count: how many products. Raises ValueError for an unknown name or variant, and what `tb.array.products` raises when
    tools are missing or a build fails.
    """
    from nmsat.sim.work.sample import sample_products
    from nmsat.tb.array.products import Job, bench_config, build_stce, verify_products

    tell, bench = say or _silent, bench_config(config)
    tell("recording its products")
    result = simulate_tape(record(name, "small", variant).tape, bench)
    samples = sample_products(result, bench, count)
    tell("compiling the RTL (the first time takes a minute)")
    build_stce(bench)
    tell(f"running {len(samples)} products on the RTL")
    verdicts = verify_products(bench, [Job(s.a, s.packed, s.tiling) for s in samples])
    checks = [_check(sample, verdict) for sample, verdict in zip(samples, verdicts, strict=True)]
    return {
        "name": name,
        "variant": variant,
        "config": config.name,
        "products": len(checks),
        "covered": Covered.of((check["match"], check["whole"], check["results"]) for check in checks).record(),
        "results": sum(check["results"] for check in checks),
        "results_of_program": sum(check["results_of_program"] for check in checks),
        "source": Source.ARRAY,
        "source_rtl": Source.ARRAY_RTL,
        "cycles_rtl": sum(check["cycles_rtl"] for check in checks),
        "cycles_sim": sum(check["cycles_sim"] for check in checks),
        "checks": checks,
        "match": all(check["match"] for check in checks),
    }


def verify_text(values: dict[str, Any]) -> str:
    """Return the result of `workload_verify` for people."""
    header = ("product", "stage", "way", "pattern", "M x K x N", "results", "cycles RTL", "simulator", "equal")
    rows = []
    for check in values["checks"]:
        shape = f"{check['m']} x {check['k']} x {check['n']}" + ("" if check["whole"] else " *")
        cells = (check["stage"], check["how"], check["pattern"], shape)
        numbers = (str(check["results"]), str(check["cycles_rtl"]), str(check["cycles_sim"]))
        rows.append((check["product"], *cells, *numbers, "yes" if check["match"] else "NO"))
    different = [f"{check['product']}: {text}" for check in values["checks"] for text in check["differences"]]
    equal = "equal" if values["match"] else "NOT equal"
    lines = [
        f"{values['name']}, {values['variant']}, configuration {values['config']}",
        "",
        table(header, rows),
        "",
        f"RTL and simulator {equal} in every bit and cycle; products compared (* in part): {values['covered']['text']}",
        f"{values['results_of_program']} of {values['results']} results held against the program as well",
    ]
    return "\n".join([*lines, *different])


def _check(sample: Sample, verdict: Verdict) -> dict[str, Any]:
    """Return one comparison as plain values; the program's own results were compared where the chain is whole."""
    differences = list(verdict.differences)
    if sample.y is not None:
        ours = simulate_product(sample.tiling, sample.a, sample.packed).y
        wrong = 0 if ours is None else int((ours.view(np.uint32) != sample.y.view(np.uint32)).sum())
        if ours is None or wrong:
            differences.append(f"{wrong} of {sample.y.size} results differ from those of the program")
    return {
        "product": sample.product,
        "stage": sample.stage,
        "how": sample.how,
        "pattern": sample.pattern,
        "m": sample.tiling.m,
        "k": sample.tiling.k,
        "n": sample.tiling.n,
        "whole": sample.whole,
        "cycles_rtl": verdict.cycles_rtl,
        "cycles_sim": verdict.cycles_sim,
        "results": verdict.outputs,
        "results_of_program": 0 if sample.y is None else sample.y.size,
        "match": not differences,
        "differences": differences,
    }


def _silent(_: str) -> None:
    """Say nothing."""


def _item(item: Lowered) -> dict[str, Any]:
    product = item.product
    return {
        "name": product.name,
        "stage": product.stage.value,
        "m": product.m,
        "k": product.k,
        "n": product.n,
        "count": product.count,
        "pattern": str(product.pattern or "dense"),
        "how": item.how.value,
        "macs_full": product.macs_full,
        "macs_true": product.macs_true,
        "macs_spent": item.macs,
        "cycles_dense": item.cycles_dense,
        "cycles": item.cycles,
    }


def number_text(value: float | str) -> str:
    """Return a measured number in four digits, or the text itself."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
