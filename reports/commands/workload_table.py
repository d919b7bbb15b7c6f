"""`nmsat workload table`: densities, cycles and shares of all workloads as pages of markdown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nmsat.reports.commands.base import Answer, Command, Listed, add_processes, folder
from nmsat.reports.commands.parser import again
from nmsat.reports.commands.report_option import add_report, check_apart, reporting
from nmsat.reports.commands.workload_run import WORKLOAD
from nmsat.reports.work.output import add_force, output_folder
from nmsat.reports.work.progress import task

if TYPE_CHECKING:
    import argparse

    from nmsat.reports.pages.report_page import Report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument(
        "--out",
        type=folder,
        default=Path("reports/tables"),
        metavar="DIR",
        help="folder of the pages (default: reports/tables)",
    )
    parser.add_argument(
        "--exact",
        type=Listed(WORKLOAD),
        default=[],
        metavar="NAME,...",
        help="workloads whose programs are run at the sizes of their papers, each for seconds to an hour; of the "
        "others those that ran before and have not changed are taken, or the estimate",
    )
    parser.add_argument(
        "--studies",
        action="store_true",
        help="write the page of studies as well: every method on its small problem, about five minutes",
    )
    parser.add_argument(
        "--rtl",
        action="store_true",
        help="write the page of RTL runs as well: products of every method on the RTL, about two minutes",
    )
    parser.add_argument(
        "--only",
        type=Listed(WORKLOAD),
        default=[],
        metavar="NAME,...",
        help="renew the rows of these workloads alone, on every page that is written; all others stay as they are",
    )
    add_processes(parser)
    add_report(parser)
    add_force(parser)


def run(options: argparse.Namespace) -> Answer:
    """Write workloads.md and, if asked, workload_studies.md and workload_rtl.md."""
    from nmsat.reports.pages.workload_page import RTL_PAGE, STUDIES_PAGE, cycles_page, rtl_page, studies_page
    from nmsat.reports.pages.workload_totals import RECORD, KnownTotals
    from nmsat.reports.work.committed import CYCLES_PAGE
    from nmsat.tb.run.runner import check_tools

    if options.rtl:
        check_tools()
    check_apart(options, options.out, "--out", RECORD)
    before = {name: _before(options.out / name, options.only) for name in (CYCLES_PAGE, STUDIES_PAGE, RTL_PAGE)}
    known = KnownTotals.read(options.out, options.exact)
    wanted = {CYCLES_PAGE: True, RECORD: True, STUDIES_PAGE: options.studies, RTL_PAGE: options.rtl}
    names = [name for name, asked in wanted.items() if asked]
    # Pages that were not asked for now took minutes when they were: they stay.
    with (
        output_folder(options.out, "workload table", names, force=options.force, keep=True) as out,
        reporting(options, "workload table", ("workloads",)) as draw,
    ):
        with task("scheduling all workloads at both scales") as running:
            page = cycles_page(known, running.now, options.processes, options.only, before[CYCLES_PAGE])
            out.write(CYCLES_PAGE, page)
            out.write(RECORD, known.text())
        draw(lambda: _report(options, json.loads(known.text()), page))
        if options.studies:
            with task("solving small problems") as running:
                out.write(STUDIES_PAGE, studies_page(running.now, options.only, before[STUDIES_PAGE]))
        if options.rtl:
            with task("running products on the RTL") as running:
                out.write(RTL_PAGE, rtl_page(running.now, options.only, before[RTL_PAGE]))
    files = [str(options.out / name) for name in names]
    return Answer({"files": files}, "\n".join(f"wrote {file}" for file in files))


def _report(options: argparse.Namespace, record: dict[str, Any], page: str) -> Report:
    from nmsat.reports.pages.full_report import workloads_report

    return workloads_report(record, page, again(options))


def _before(path: Path, only: list[str]) -> str:
    """Return the page whose rows stay, '' if none do or there is no such page."""
    return path.read_text(encoding="utf-8") if only and path.exists() else ""


COMMAND = Command(
    summary="Write the tables of all workloads: density, cover, cycles, speed-up, share of the host, at both scales.",
    example="nmsat workload table --out reports/tables --studies",
    add_arguments=add_arguments,
    run=run,
)
