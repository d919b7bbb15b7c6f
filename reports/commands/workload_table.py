"""`nmsat workload table`: densities, cycles and shares of all workloads as pages of markdown."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from nmsat.reports.commands.base import Answer, Command, InputError
from nmsat.reports.commands.workload_run import say

if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("reports/tables"),
        metavar="DIR",
        help="folder of the pages (default: reports/tables)",
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


def run(options: argparse.Namespace) -> Answer:
    """Write workloads.md and, if asked, workload_studies.md and workload_rtl.md."""
    from nmsat.reports.pages.workload_page import (
        CYCLES_PAGE,
        RTL_PAGE,
        STUDIES_PAGE,
        cycles_page,
        rtl_page,
        studies_page,
    )
    from nmsat.tb.run.runner import check_tools

    if options.rtl:
        check_tools()
    _check_folder(options.out)
    say("scheduling all workloads at both scales (half a minute)")
    pages = {CYCLES_PAGE: cycles_page()}
    if options.studies:
        pages[STUDIES_PAGE] = studies_page(say)
    if options.rtl:
        pages[RTL_PAGE] = rtl_page(say)
    for name, text in pages.items():
        (options.out / name).write_text(text, encoding="utf-8")
    files = [str(options.out / name) for name in pages]
    return Answer({"files": files}, "\n".join(f"wrote {file}" for file in files))


def _check_folder(folder: Path) -> None:
    """Make the folder before the work begins; InputError if that cannot be done."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(f"output folder is {str(folder)!r}; it cannot be written: {reason}; choose another") from None


COMMAND = Command(
    summary="Write the tables of all workloads: density, cover, cycles, speed-up, share of the host, at both scales.",
    example="nmsat workload table --out reports/tables --studies",
    add_arguments=add_arguments,
    run=run,
)
