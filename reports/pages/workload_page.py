"""The pages of all workloads: `nmsat workload table` writes them into `reports/tables`."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from nmsat.algorithms.core.tape import Stage
from nmsat.algorithms.workloads.engine.registry import VARIANTS, record, workload, workloads
from nmsat.dataflow.contract.config import preset
from nmsat.dataflow.program.ways import Options
from nmsat.reports.pages.workload_totals import KnownTotals, Totals
from nmsat.reports.work.commandline import spell
from nmsat.reports.work.text import InputError, prose
from nmsat.reports.work.workload import CONFIGS, number_text, workload_verify
from nmsat.sim.results.provenance import Source, planned_text, told
from nmsat.sim.work.workload import simulate_tape
from nmsat.tb.run.errors import SimulationError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from typing import TypeAlias

    from nmsat.algorithms.workloads.engine.registry import Scale, Variant
    from nmsat.dataflow.contract.config import SatConfig
    from nmsat.sim.work.workload import WorkloadResult

    Rows: TypeAlias = dict[tuple[str, str], list[tuple[str, str]]]
    """Rows of a table by their first two cells, each as (heading, cell) in its order."""

INTRODUCTION: Final = """\
Written by `nmsat workload table`; docs/workloads.md says what the columns mean. Full, and with it "dense", is the same
work with nothing left out: for experts all tokens through all experts, for attention all pairs (also those that a
causal mask hides), for Sparse-IFT the enlarged layer. Cycles are those of the {array}.
The columns "on the machine" and the speed-up behind it are of the programs of the products and of the weight updates,
with loads, stores and memory (docs/timing.md). Those "by" programs are of the {machine}. Where running them takes too
long they are of the {estimate}. `nmsat workload run` runs the programs of one workload."""

STUDIES_PAGE: Final = "workload_studies.md"
"""What the methods achieve on small problems: written in minutes."""

RTL_PAGE: Final = "workload_rtl.md"
"""What ran on the RTL: written in two minutes."""

RTL_INTRODUCTION: Final = """\
Written by `nmsat workload table --rtl`: up to {count} products of each workload at small scale, configuration {config},
of each kind (way, pattern, stage) one before a second of any. Every result is equal in its bits and leaves in the cycle
of the simulator of the array, operands on chip. Products are cut to 24 rows and columns; where the reduction is whole,
the results are also those of the NumPy program."""

RTL_COLUMNS: Final = ("products", "results", "results_of_program", "cycles_rtl", "cycles_sim")

LAID_OUT: Final = ("granet", "squarehead")
"""Whose trained masks are laid out in several ways on the page of studies."""

RTL_PRODUCTS: Final = 24
"""Products of each workload and variant for that page."""


def granet_progress(config: SatConfig) -> list[dict[str, Any]]:
    """Return cycles and speed-up of a GraNet step at the densities of its schedule (s_i = 0.5, 90 %)."""
    from nmsat.algorithms.workloads.engine.program import Program
    from nmsat.algorithms.workloads.methods.dropgrow import cubic_density
    from nmsat.algorithms.workloads.methods.granet import run

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
    from nmsat.algorithms.workloads.engine.program import Program
    from nmsat.algorithms.workloads.methods.moa import run
    from nmsat.algorithms.workloads.methods.moa_model import FULL

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
    from nmsat.algorithms.workloads.engine.program import Program
    from nmsat.algorithms.workloads.methods.sparse_ift import RESNET18_CIFAR, Family, Size, run

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
    tape = record(name, "small", variant, store=workload(name).solved(variant).store).tape
    choices = {"in place": Options(columns=False), "columns": Options(), "columns and rows": Options(rows=True)}
    found = {label: simulate_tape(tape, config, options) for label, options in choices.items()}
    cycles: dict[str, Any] = {label: result.cycles for label, result in found.items()}
    return {"name": name, "variant": variant, "dense": found["columns"].cycles_dense, **cycles}


def table(
    scale: Scale, config: SatConfig, known: KnownTotals, say: Callable[[str], None], processes: int, kept: Rows
) -> str:
    """Return the markdown table of all workloads at a scale.

    known: cycles of those whose programs ran; say: is told of each before it is scheduled; processes: how many time
    programs at once; kept: rows that are taken as they are.
    """
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
        "on the machine",
        "speed-up",
        "by",
        "MACs on SAT",
        "host share",
        "ways",
    )
    rows = []
    for name in workloads():
        for variant in VARIANTS:
            if (name, variant) in kept:
                rows.append(tuple(cell for _, cell in kept[(name, variant)]))
                continue
            say(f"{name} {variant}, {scale} scale")
            program = record(name, scale, variant)
            result = simulate_tape(program.tape, config)
            tell = partial(_tell, say, f"{name} {variant}, {scale} scale")
            found = known.totals(name, variant, program, result, tell, processes)
            rows.append((name, variant, *_cells(result, found)))
    return markdown(header, rows)


def _tell(say: Callable[[str], None], where: str, what: str) -> None:
    say(f"{where}, {what}")


def studies(say: Callable[[str], None], kept: Rows) -> str:
    """Return the markdown table of what each method did on its small problem. kept: rows that are taken as they are."""
    rows = []
    for name, item in workloads().items():
        for variant in VARIANTS:
            if (name, variant) in kept:
                rows.append(tuple(cell for _, cell in kept[(name, variant)]))
                continue
            say(f"{name} {variant}")
            study = item.solved(variant)
            numbers = ", ".join(f"{key} {number_text(value)}" for key, value in study.measured.items())
            rows.append((name, variant, study.claim, "yes" if study.holds else "no", numbers, item.quoted))
    return markdown(("workload", "variant", "claim in kind", "holds here", "measured", "paper (reference)"), rows)


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def machine_cells(page: str) -> dict[tuple[str, str], tuple[int, float, bool]]:
    """Return by workload and variant what `CYCLES_PAGE` tells of the machine at the sizes of the papers.

    Cycles, speed-up, and whether programs ran or it is the estimate. ValueError for a page that is none.
    """
    found = {}
    for key, cells in table_rows(page).items():
        at = [heading for heading, _ in cells].index("on the machine")
        cycles, speedup, by = (text for _, text in cells[at : at + 3])
        found[key] = (int(cycles.replace(" ", "")), float(speedup), by != str(Source.ESTIMATE))
    return found


def table_rows(text: str) -> Rows:
    """Return the rows of the first table of a page; ValueError if there is none, or one of its rows is damaged."""
    table = text[text.find("|") :].partition("\n\n")[0]
    header, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.strip().split("\n")]
    return {(row[0], row[1]): list(zip(header, row, strict=True)) for row in rows}


def _others(page: str, only: Collection[str]) -> Rows:
    """Return the rows of a page that are not of workloads in `only`, all of which it must have."""
    if not only:
        return {}
    try:
        found = table_rows(page)
    except (ValueError, IndexError) as error:
        raise InputError(f"--only renews rows of a page that is whole, and this one is not ({error})") from error
    kept = {key: row for key, row in found.items() if key[0] in workloads() and key[0] not in only}
    missing = [name for name in workloads() if name not in only and any((name, v) not in kept for v in VARIANTS)]
    if missing:
        raise InputError(f"the page has no row of {', '.join(missing)}; name them with --only, or leave it out")
    return kept


def cycles_page(
    known: KnownTotals,
    say: Callable[[str], None],
    processes: int = 1,
    only: Collection[str] = (),
    before: str = "",
) -> str:
    """Return the page of densities and cycles: both scales, GraNet's schedule, Sparse-IFT, MoA's attention.

    known: cycles of the workloads whose programs ran at the sizes of the papers; at small scale all of them are run.
    say: is told what comes next; processes: how many time programs at once; only, before: as of studies, where what
    stands behind both tables stays as well.
    """
    big, tiny = preset(CONFIGS["paper"]), preset(CONFIGS["small"])
    nothing = KnownTotals({}, workloads())
    if only:
        head, *sections = re.split(r"^(?=## )", before, flags=re.MULTILINE)
        if len(sections) < 2:
            raise InputError("--only renews rows of a page that is whole, and this one has no two tables")
        scales: tuple[tuple[Scale, SatConfig, KnownTotals], ...] = (("paper", big, known), ("small", tiny, nothing))
        for index, (scale, config, totals) in enumerate(scales):
            old = sections[index]
            new = table(scale, config, totals, say, processes, _others(old, only))
            sections[index] = old[: old.index("| workload")] + new + "\n\n"
        return head + "".join(sections)
    say("the schedule of GraNet")
    progress = [(f"{row['progress']:.0%}", f"{row['density']:.3f}", *_numbers(row)) for row in granet_progress(big)]
    say("attention of MoA")
    attention = causal_attention(big)
    say("Sparse-IFT")
    iso = iso_flop_cycles(big)
    planned = _planned(big, tiny)
    parts = [
        "# Sparse methods as workloads",
        prose(
            INTRODUCTION.format(array=told(Source.ARRAY), machine=told(Source.MACHINE), estimate=told(Source.ESTIMATE))
        ),
        *([planned] if planned else []),
        f"## At the scale of the papers, shapes only, {big.name}",
        table("paper", big, known, say, processes, {}),
        f"## At small scale, with values, {tiny.name}",
        "Without training; the trained runs are those of the studies.",
        table("small", tiny, nothing, say, processes, {}),
        f"## GraNet, a step at the densities of its schedule, {big.name}",
        markdown(("pruning done", "density", "true density", "cover", "speed-up", "ideal"), progress),
        f"## Sparse-IFT beside the network it replaces, ResNet-18, 75 %, {big.name}",
        markdown(
            ("network", "forward GMAC needed", "cycles forward", "cycles training step"),
            [(r["network"], f"{r['macs'] / 1e9:.4g}", _spaced(r["forward"]), _spaced(r["step"])) for r in iso],
        ),
        f"## MoA, attention products of one layer, {big.name}",
        markdown(tuple(attention), [tuple(_spaced(cycles) for cycles in attention.values())]),
    ]
    return "\n\n".join(parts) + "\n"


def _planned(*configs: SatConfig) -> str:
    """Return a paragraph on what of the configurations is planned and not built; '' if all is built."""
    found = {config.name: config.planned for config in configs}
    return " ".join(f"{name}: {planned_text(texts)}." for name, texts in found.items() if texts)


def studies_page(say: Callable[[str], None], only: Collection[str] = (), before: str = "") -> str:
    """Return the page of studies, and of what a layout of trained masks buys. say: is told of each study.

    only: workloads whose rows are renewed, all if there are none; before: the page with the rows of the others, which
    stay as they were measured. Raises InputError if it lacks one.
    """
    tiny = preset(CONFIGS["small"])
    found = studies(say, _others(before, only))
    if only and not {*LAID_OUT} & {*only}:
        return before[: before.index("| workload")] + found + "\n\n## " + before.partition("\n## ")[2]
    say("laying out trained masks of granet and squarehead (a minute)")
    gains = [permutation_gains(name, "faithful", tiny) for name in LAID_OUT]
    labels = ("dense", "in place", "columns", "columns and rows")
    parts = [
        "# Sparse methods on small problems",
        "Written by `nmsat workload table --studies`. Figures of the papers are quoted, not ours.",
        found,
        f"## Cycles of trained masks by layout of the weights, {tiny.name}",
        prose(f"Cycles of the {told(Source.ARRAY)}."),
        markdown(("workload", *labels), [(g["name"], *(_spaced(g[label]) for label in labels)) for g in gains]),
    ]
    return "\n\n".join(parts) + "\n"


def rtl_page(say: Callable[[str], None], only: Collection[str] = (), before: str = "") -> str:
    """Return the page of products that ran on the RTL. say: is told of each workload; only, before: as of studies.

    Raises SimulationError if one of them differs, and what `tb.array.products` raises when tools are missing or a build
    fails.
    """
    config = preset(CONFIGS["small"])
    rows, total = [], dict.fromkeys(RTL_COLUMNS, 0)
    kept = _others(before, only)
    for name in workloads():
        for variant in VARIANTS:
            if (name, variant) in kept:
                cells = tuple(cell for _, cell in kept[(name, variant)])
                rows.append(cells)
                counts = zip(RTL_COLUMNS, cells[3:], strict=True)
                total |= {key: total[key] + int(cell.replace(" ", "")) for key, cell in counts}
                continue
            say(f"{name} {variant}")
            found = workload_verify(name, variant, config, RTL_PRODUCTS)
            if not found["match"]:
                wrong = [check["product"] for check in found["checks"] if not check["match"]]
                options = {"--variant": variant, "--config": config, "--products": RTL_PRODUCTS}
                see = spell("verify workload", [name], options)
                raise SimulationError(f"{name} {variant}: {', '.join(wrong)} differ on the RTL; see {see}")
            kinds = {(check["how"], check["pattern"], check["stage"]) for check in found["checks"]}
            rows.append((name, variant, str(len(kinds)), *(_spaced(found[key]) for key in RTL_COLUMNS)))
            total = {key: total[key] + found[key] for key in RTL_COLUMNS}
    rows.append(("all", "", "", *(_spaced(count) for count in total.values())))
    header = (
        "workload",
        "variant",
        "kinds",
        "products",
        "results",
        "held against the program",
        "cycles RTL",
        "simulator",
    )
    parts = [
        "# Products of the workloads on the RTL",
        prose(RTL_INTRODUCTION.format(count=RTL_PRODUCTS, config=config.name)),
        markdown(header, rows),
    ]
    return "\n\n".join(parts) + "\n"


def _cells(result: WorkloadResult, memory: Totals) -> tuple[str, ...]:
    ways = ", ".join(f"{way} {share:.0%}" for way, share in result.ways().items() if share >= 0.005)
    return (
        f"{result.macs_full / 1e9:.4g}",
        f"{result.density:.3f}",
        f"{result.cover:.3f}",
        _spaced(result.cycles_dense),
        _spaced(result.cycles),
        f"{result.speedup:.2f}",
        f"{result.ideal:.2f}",
        _spaced(memory.cycles),
        f"{memory.speedup:.2f}",
        "programs" if memory.source is Source.MACHINE else str(memory.source),
        f"{result.sat_share:.1%}",
        f"{result.host_share:.1%}",
        ways,
    )


def _numbers(row: dict[str, Any]) -> tuple[str, ...]:
    keys = ("true_density", "cover_density", "speedup", "speedup_ideal")
    return tuple(f"{row[key]:.3f}" for key in keys)


def _spaced(cycles: int) -> str:
    return f"{cycles:,}".replace(",", " ")
