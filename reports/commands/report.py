"""`nmsat report`: one page of everything that is known of a machine, with the files of every figure beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from nmsat.algorithms.core.vocabulary import PAPER_NETWORKS
from nmsat.reports.commands.base import (
    SUMMARY,
    Answer,
    Command,
    Listed,
    Named,
    add_config,
    add_processes,
    folder,
    sparse,
)
from nmsat.reports.commands.model import batch
from nmsat.reports.commands.paper import network
from nmsat.reports.commands.parser import again
from nmsat.reports.commands.report_option import need_pictures
from nmsat.reports.work.output import add_force, output_folder
from nmsat.reports.work.text import table

if TYPE_CHECKING:
    import argparse

FOLDER: Final = Path("out/report")
"""Where the report goes unless it is said."""

PATTERNS: Final = "2:4,2:8,2:16"
"""Patterns of the sparse steps unless they are said."""

ABLATED: Final = ("resnet9", "vgg19")
"""Networks of the ablation: those whose programs run quickest."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("--out", metavar="DIR", type=folder, default=FOLDER, help=f"folder (default: {FOLDER})")
    parser.add_argument(
        "--networks",
        type=Listed(Named(network, lambda: PAPER_NETWORKS)),
        default=",".join(PAPER_NETWORKS),
        metavar="NAME,...",
        help=f"some of {', '.join(PAPER_NETWORKS)} (default: all)",
    )
    parser.add_argument(
        "--patterns",
        type=Listed(sparse),
        default=PATTERNS,
        metavar="N:M,...",
        help=f"patterns of the sparse steps (default: {PATTERNS})",
    )
    parser.add_argument("--batch", type=batch, default=512, metavar="B", help="batch size (default: 512)")
    add_config(parser, "vcu1525")
    parser.add_argument("--no-ablation", action="store_true", help=f"leave out the ablation of {' and '.join(ABLATED)}")
    parser.add_argument(
        "--records",
        metavar="DIR",
        type=folder,
        default=None,
        help="folder with accuracy.json (nmsat study), synth_NAME.json (nmsat synth) and workloads.json (nmsat "
        "workload table) of your own (default: those of nmsat)",
    )
    add_processes(parser)
    add_force(parser)


def run(options: argparse.Namespace) -> Answer:
    """Time what is not known yet, draw everything, write it."""
    need_pictures()
    from nmsat.reports.pages.full_report import FIGURES, full_report
    from nmsat.reports.pages.report_page import file_names
    from nmsat.reports.work.committed import read_records
    from nmsat.reports.work.step_runs import network_runs

    networks = tuple(name for name in PAPER_NETWORKS if name in options.networks)
    patterns = list(dict.fromkeys(options.patterns))
    records = read_records(options.config, options.records)
    with output_folder(options.out, "report", [SUMMARY, *file_names(FIGURES)], force=options.force) as out:
        ablated = () if options.no_ablation else tuple(name for name in networks if name in ABLATED)
        found = network_runs(options.config, networks, patterns, options.batch, ablated, options.processes)
        report = full_report(found, records, options.batch, again(options))
        for name, content in report.files().items():
            out.write(name, content)
        values = report.record()
        out.write(SUMMARY, json.dumps(values, indent=1, allow_nan=False) + "\n")
    files = [str(options.out / name) for name in (*report.files(), SUMMARY)]
    return Answer({**values, "files": files}, _text(values, files))


def _text(values: dict[str, Any], files: list[str]) -> str:
    rows = [
        (name, ", ".join(figure["standing"]), str(len(figure["rows"])), figure["title"])
        for name, figure in values["figures"].items()
    ]
    lines = [f"left out: {line}" for line in values["missing"]]
    return "\n".join([table(("figure", "standing", "rows", "title"), rows), "", *lines, f"report: {files[0]}"])


COMMAND = Command(
    summary="One page of everything that is known of a machine: speed-up, stages, ablation, where cycles go, roofline, "
    "resources, energy, other accelerators, accuracy, workloads; each figure also as SVG, PNG, CSV and JSON.",
    example="nmsat report --networks resnet9,vgg19 --out out/report --processes 2",
    add_arguments=add_arguments,
    run=run,
)
