"""The work behind `nmsat workload`, and the table of all workloads (`python -m reports.workloads`)."""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from algorithms.tape import Stage
from algorithms.workloads.registry import SCALES, VARIANTS, check_request, record, workload, workloads
from dataflow.config import preset
from dataflow.lowering import Options
from sim.workload import check_values, simulate_tape

if TYPE_CHECKING:
    from collections.abc import Sequence

    from algorithms.workloads.registry import Scale, Study, Variant
    from dataflow.config import SatConfig
    from dataflow.lowering import Lowered
    from sim.workload import WorkloadResult

CONFIGS: Final[dict[str, str]] = {"small": "tiny", "paper": "vcu1525"}
"""Configuration of a scale unless another one is asked for."""

INTRODUCTION: Final = """\
Written by `python -m reports.workloads`; docs/workloads.md says what the columns mean. Cycles are those of the array
with its operands on chip. Full, and with it "dense", is the same work with nothing left out: for experts all tokens
through all experts, for attention all pairs (also those that a causal mask hides), for Sparse-IFT the enlarged
layer."""

TABLE: Final = Path("reports") / "tables" / "workloads.md"
"""Where the table of all workloads is kept."""


def workload_list() -> list[dict[str, Any]]:
    """Return all workloads as plain values."""
    return [
        {
            "name": item.name,
            "title": item.title,
            "source": item.source,
            "sparse": item.sparse,
            "variants": dict(item.variants),
            "quoted": item.quoted,
        }
        for item in workloads().values()
    ]


def workload_run(
    name: str, scale: Scale, variant: Variant, config: SatConfig | None = None, *, study: bool = True
) -> dict[str, Any]:
    """Run a workload and return everything found as plain values.

    At the scale 'small' the study runs first (about 10 s), its trained parameters are recorded with values, and every
    product is held against the simulator: `match`, `mismatches`. Raises ValueError for an unknown name, scale or
    variant.
    """
    found = workload(name)
    check_request(scale, variant)
    config = preset(CONFIGS[scale]) if config is None else config
    begin = time.perf_counter()
    answer: Study | None = found.study(variant) if study and scale == "small" else None
    program = record(name, scale, variant, store=None if answer is None else answer.store)
    result = simulate_tape(program.tape, config)
    wrong = check_values(result) if program.values else []
    return {
        "name": name,
        "title": found.title,
        "source": found.source,
        "quoted": found.quoted,
        "scale": scale,
        "variant": variant,
        "meaning": found.variants[variant],
        "config": config.name,
        **result.record(),
        "host_kinds": result.host_kinds(),
        "items": [_item(item) for item in result.lowered],
        "study": None if answer is None else {"claim": answer.claim, "holds": answer.holds, **answer.measured},
        "values": program.values,
        "match": not wrong,
        "mismatches": [vars(item) for item in wrong],
        "seconds": time.perf_counter() - begin,
    }


def workload_text(values: dict[str, Any]) -> str:
    """Return the result of `workload_run` for people."""
    ways = ", ".join(f"{way} {share:.0%}" for way, share in values["ways"].items())
    needed = f"{values['macs_true']:.4g} needed ({values['true_density']:.1%})"
    spent = f"{values['macs_spent']:.4g} spent ({values['cover_density']:.1%})"
    kinds = ", ".join(list(values["host_kinds"])[:4])
    lines = [
        f"{values['title']} ({values['source']})",
        f"{values['scale']}, {values['variant']}: {values['meaning']}; configuration {values['config']}",
        "",
        f"multiply-adds   {values['macs_full']:.4g} full, {needed}, {spent}",
        f"cycles          {values['cycles_dense']} dense, {values['cycles']} on SAT",
        f"speed-up        {values['speedup']:.2f} of {values['speedup_ideal']:.2f} ideal",
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
        lines += [f"  {key:<32}{_number(value)}" for key, value in study.items()]
    lines += ["", f"the paper says (reference, not ours): {values['quoted']}"]
    return "\n".join(lines)


def workload_verify(name: str, variant: Variant, config: SatConfig, count: int = 6) -> dict[str, Any]:
    """Run a sample of a workload's products on the RTL and hold it against simulator and program.

    Raises what `tb.stce` raises when tools are missing or a build fails.
    """
    from sim.workload_sample import sample_products
    from tb.stce import Job, bench_config, verify_products

    bench = bench_config(config)
    result = simulate_tape(record(name, "small", variant).tape, bench)
    samples = sample_products(result, bench, count)
    verdicts = verify_products(bench, [Job(s.a, s.packed, s.tiling) for s in samples])
    checks = [
        {
            "product": s.product,
            "stage": s.stage,
            "how": s.how,
            "pattern": s.pattern,
            "m": s.tiling.m,
            "k": s.tiling.k,
            "n": s.tiling.n,
            "whole": s.whole,
            "cycles_rtl": v.cycles_rtl,
            "cycles_sim": v.cycles_sim,
            "results": v.outputs,
            "match": v.match,
            "differences": list(v.differences),
        }
        for s, v in zip(samples, verdicts, strict=True)
    ]
    return {
        "name": name,
        "variant": variant,
        "config": config.name,
        "checks": checks,
        "match": all(check["match"] for check in checks),
    }


def granet_progress(config: SatConfig) -> list[dict[str, Any]]:
    """Return cycles and speed-up of a GraNet step at the densities of its schedule (s_i = 0.5, 90 %)."""
    from algorithms.workloads.dropgrow import cubic_density
    from algorithms.workloads.granet import run
    from algorithms.workloads.program import Program

    rows, size = [], workload("granet").sizes["paper"]
    for quarter in range(5):
        density = cubic_density(quarter, 0, 4, 0.5, 0.1)
        program = Program(values=False)
        run(program, replace(size, density=density), "faithful")
        result = simulate_tape(program.tape, config)
        rows.append({"progress": quarter / 4, "density": density, **result.record()})
    return rows


def causal_attention(config: SatConfig) -> dict[str, int]:
    """Return the cycles of MoA's attention products: all pairs, causal blocks only, and MoA's plan."""
    from algorithms.workloads.moa import FULL, run
    from algorithms.workloads.program import Program

    size = workload("moa").sizes["paper"]
    found = {}
    for label, plan in (("causal", ((FULL, size.heads),)), ("MoA", size.plan)):
        program = Program(values=False)
        run(program, replace(size, plan=plan, layers=1), "faithful")
        result = simulate_tape(program.tape, config)
        attention = [item for item in result.lowered if item.product.sparsity is not None]
        found["all pairs"] = sum(item.cycles_dense for item in attention)
        found[label] = sum(item.cycles for item in attention)
    return found


def iso_flop_cycles(config: SatConfig) -> list[dict[str, Any]]:
    """Return cycles of ResNet-18 and of its Sparse-IFT forms at s = 0.75: forward pass and whole training step."""
    from algorithms.workloads.program import Program
    from algorithms.workloads.sparse_ift import RESNET18_CIFAR, Family, Size, run

    families: tuple[Family, ...] = ("wide", "parallel", "factorized", "doped")
    # One branch at density 1 is the network itself.
    dense = Size(network=RESNET18_CIFAR, family="parallel", sparsity=0.0)
    cases: list[tuple[str, Size, Variant]] = [("dense", dense, "faithful")]
    for family in families:
        size = Size(network=RESNET18_CIFAR, family=family)
        cases.append((f"{family}, faithful", size, "faithful"))
        cases.append((f"{family}, nm", size, "nm"))
    rows = []
    for label, size, variant in cases:
        program = Program(values=False)
        run(program, size, variant)
        result = simulate_tape(program.tape, config)
        forward = [item for item in result.lowered if item.product.stage is Stage.FF]
        macs = sum(item.product.macs_true for item in forward)
        row = {"network": label, "forward": sum(item.cycles for item in forward), "step": result.cycles, "macs": macs}
        rows.append(row)
    return rows


def permutation_gains(name: str, variant: Variant, config: SatConfig) -> dict[str, Any]:
    """Return the cycles of a trained small workload: columns in place, put together, rows reordered besides."""
    tape = record(name, "small", variant, store=workload(name).study(variant).store).tape
    choices = {"in place": Options(columns=False), "columns": Options(), "columns and rows": Options(rows=True)}
    found = {label: simulate_tape(tape, config, options) for label, options in choices.items()}
    cycles: dict[str, Any] = {label: result.cycles for label, result in found.items()}
    return {"name": name, "variant": variant, "dense": found["columns"].cycles_dense, **cycles}


def table(scale: Scale, config: SatConfig) -> str:
    """Return the markdown table of all workloads at a scale."""
    header = (
        "workload",
        "variant",
        "GMAC full",
        "true density",
        "cover",
        "cycles dense",
        "cycles SAT",
        "speed-up",
        "ideal",
        "MACs on SAT",
        "host share",
        "ways",
    )
    rows = []
    for name in workloads():
        for variant in VARIANTS:
            result = simulate_tape(record(name, scale, variant).tape, config)
            rows.append((name, variant, *_cells(result)))
    return markdown(header, rows)


def studies() -> str:
    """Return the markdown table of what each method did on its small problem."""
    rows = []
    for name, item in workloads().items():
        for variant in VARIANTS:
            study = item.study(variant)
            numbers = ", ".join(f"{key} {_number(value)}" for key, value in study.measured.items())
            rows.append((name, variant, study.claim, "yes" if study.holds else "no", numbers, item.quoted))
            print(f"{name} {variant}: {'holds' if study.holds else 'does not hold'}", file=sys.stderr)
    return markdown(("workload", "variant", "claim in kind", "holds here", "measured", "paper (reference)"), rows)


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def page() -> str:
    """Return the whole page: both scales, the schedule of GraNet, permutations, studies."""
    big, tiny = preset(CONFIGS["paper"]), preset(CONFIGS["small"])
    progress = [(f"{row['progress']:.0%}", f"{row['density']:.3f}", *_numbers(row)) for row in granet_progress(big)]
    gains = [permutation_gains(name, "faithful", tiny) for name in ("granet", "squarehead")]
    labels = ("dense", "in place", "columns", "columns and rows")
    attention, iso = causal_attention(big), iso_flop_cycles(big)
    return "\n\n".join(
        [
            "# Sparse methods as workloads",
            INTRODUCTION,
            f"## At the scale of the papers, shapes only, {big.name}",
            table("paper", big),
            f"## At small scale, with values, {tiny.name}",
            "Without training: the trained runs are those of the studies below.",
            table("small", tiny),
            f"## GraNet, a step at the densities of its schedule, {big.name}",
            markdown(("pruning done", "density", "true density", "cover", "speed-up", "ideal"), progress),
            f"## Sparse-IFT beside the network it replaces, ResNet-18, 75 %, {big.name}",
            markdown(
                ("network", "forward GMAC needed", "cycles forward", "cycles training step"),
                [(r["network"], f"{r['macs'] / 1e9:.4g}", _spaced(r["forward"]), _spaced(r["step"])) for r in iso],
            ),
            f"## MoA, attention products of one layer, {big.name}",
            markdown(tuple(attention), [tuple(_spaced(cycles) for cycles in attention.values())]),
            f"## What a layout of the weights buys, trained masks, {tiny.name}",
            markdown(("workload", *labels), [(str(g["name"]), *(str(g[label]) for label in labels)) for g in gains]),
            "## Studies",
            studies(),
        ]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page."""
    parser = argparse.ArgumentParser(
        prog="python -m reports.workloads", description="Write the table of all workloads."
    )
    parser.add_argument("--out", type=Path, default=TABLE, help=f"file to write (default: {TABLE})")
    options = parser.parse_args(arguments)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(page() + "\n", encoding="utf-8")
    print(f"wrote {options.out}", file=sys.stderr)
    return 0


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


def _cells(result: WorkloadResult) -> tuple[str, ...]:
    ways = ", ".join(f"{way} {share:.0%}" for way, share in result.ways().items() if share >= 0.005)
    return (
        f"{result.macs_full / 1e9:.4g}",
        f"{result.density:.3f}",
        f"{result.cover:.3f}",
        _spaced(result.cycles_dense),
        _spaced(result.cycles),
        f"{result.speedup:.2f}",
        f"{result.ideal:.2f}",
        f"{result.sat_share:.1%}",
        f"{result.host_share:.1%}",
        ways,
    )


def _numbers(row: dict[str, Any]) -> tuple[str, ...]:
    keys = ("true_density", "cover_density", "speedup", "speedup_ideal")
    return tuple(f"{row[key]:.3f}" for key in keys)


def _spaced(cycles: int) -> str:
    return f"{cycles:,}".replace(",", " ")


def _number(value: float | str) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


__all__ = ["SCALES", "VARIANTS", "page", "table", "workload_list", "workload_run", "workload_text", "workload_verify"]


if __name__ == "__main__":
    sys.exit(main())
