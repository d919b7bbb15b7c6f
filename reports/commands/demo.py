"""`nmsat demo`: the whole idea end to end, with a report to read."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from nmsat.algorithms.core.tape import Pattern
from nmsat.reports.commands.base import SUMMARY, Answer, Command, add_config, folder, pattern, seed
from nmsat.reports.commands.parser import again
from nmsat.reports.work.output import add_force, output_folder
from nmsat.reports.work.progress import LOG
from nmsat.reports.work.text import table
from nmsat.sim.results.provenance import Source, told_lines

if TYPE_CHECKING:
    from nmsat.reports.work.records import DemoRecord


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_config(parser)
    parser.add_argument(
        "--pattern",
        metavar="N:M",
        type=_sparse,
        default=Pattern(2, 8),
        help="sparsity of BDWP: N of each M weights kept, M one of 2, 4, 8, 16 (default: 2:8)",
    )
    parser.add_argument("--seed", type=seed, default=0, help="seed of both training runs (default: 0)")
    parser.add_argument(
        "--out", type=folder, default=Path("out/demo"), metavar="DIR", help="folder of the report (default: out/demo)"
    )
    add_force(parser)


def run(options: argparse.Namespace) -> Answer:
    """Run the demo and write its folder."""
    from nmsat.reports.pages.demo_page import PAGE_FILES, page_files
    from nmsat.tb.run.runner import check_tools

    check_tools()
    with output_folder(options.out, "demo", [*PAGE_FILES, SUMMARY], force=options.force) as out:
        from nmsat.reports.work.demo import run_demo
        from nmsat.reports.work.records import summary

        record = run_demo(options.config, options.pattern, options.seed, command=again(options))
        values = summary(record)
        for name, text in page_files(record).items():
            out.write(name, text)
        out.write(SUMMARY, json.dumps(values, indent=2) + "\n")
    values["folder"] = str(options.out)
    for check in record.checks:
        if not check.match:
            LOG.error("mismatch in %s %s: %s", check.layer, check.stage, check.difference)
    return Answer(values, _text(record, options.out), ok=record.match)


def _text(record: DemoRecord, folder: Path) -> str:
    dense, sparse = record.runs
    rows = [
        (item.stage, f"{item.cycles_dense}", f"{item.cycles}", f"{item.speedup:.2f}x", f"{item.bound:.2f}x")
        for item in (*record.stages, record.total)
    ]
    equal = "equal" if record.match else "NOT equal"
    return "\n".join(
        [
            f"test accuracy: dense {dense.accuracy:.1%}, {sparse.label} {sparse.accuracy:.1%}",
            "",
            table(("cycles", "dense", sparse.label, "speed-up", "bound"), rows),
            "",
            *told_lines(Source.ARRAY, record.config.planned),
            f"RTL and simulator {equal} in every bit and cycle; products compared: {record.covered.text}",
            f"report: {folder / 'report.html'}",
        ]
    )


def _sparse(text: str) -> Pattern:
    chosen = pattern(text)
    if chosen is None or chosen.n == chosen.m:
        raise argparse.ArgumentTypeError(f"pattern is {text!r}; the demo compares with dense, choose N below M")
    return chosen


COMMAND = Command(
    summary="Train on digits dense and with BDWP, simulate a step on SAT, prove it on the RTL, write a report.",
    example="nmsat demo --config tiny --pattern 2:8 --out out/demo",
    add_arguments=add_arguments,
    run=run,
)
