"""`nmsat workload run`: one sparse method on SAT, with values at small scale or at the sizes of its paper."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from nmsat.reports.commands.base import Answer, Command, Named, add_config, add_processes, check_built
from nmsat.reports.commands.parser import again
from nmsat.reports.commands.report_option import add_report, reporting
from nmsat.reports.work.output import add_force
from nmsat.reports.work.progress import task

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable

    from nmsat.reports.pages.report_page import Report


def _known(name: str) -> str:
    from nmsat.algorithms.workloads.engine.registry import workload
    from nmsat.reports.work.workload import known_workloads

    known_workloads()
    return workload(name).name


def _names() -> Iterable[str]:
    from nmsat.reports.work.workload import known_workloads

    return known_workloads()


WORKLOAD: Final = Named(_known, _names)
"""Reads the name of a workload."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("name", type=WORKLOAD, metavar="NAME", help="the workload; nmsat workload list names them")
    parser.add_argument(
        "--scale",
        choices=["small", "paper"],
        default="small",
        help="small: a problem solved now, with values; paper: the paper's sizes, shapes alone (default: small)",
    )
    add_variant(parser)
    add_config(parser, None, left_out="tiny at scale small, vcu1525 at scale paper")
    parser.add_argument(
        "--estimate",
        action="store_true",
        help="cycles with memory from a closed form, in seconds, instead of from programs that run",
    )
    add_processes(parser)
    add_report(parser)
    add_force(parser)


def add_variant(parser: argparse.ArgumentParser) -> None:
    """Add --variant."""
    parser.add_argument(
        "--variant",
        choices=["faithful", "nm"],
        default="faithful",
        help="faithful: as published; nm: our N:M form of the method (default: faithful)",
    )


def run(options: argparse.Namespace) -> Answer:
    """Run the workload; not ok when a value on the simulator differs from the program's."""
    from nmsat.reports.work.workload import workload_run, workload_text

    if options.config is not None:
        check_built(options.config)
    with reporting(options, "workload run", ("workload",)) as write, task(options.name) as running:
        values = workload_run(
            options.name,
            options.scale,
            options.variant,
            options.config,
            say=running.now,
            processes=options.processes,
            estimate=options.estimate,
        )
        write(lambda: _report(options, values))
    return Answer(values, workload_text(values), ok=values["match"])


def _report(options: argparse.Namespace, values: dict[str, Any]) -> Report:
    from nmsat.dataflow.contract.config import preset
    from nmsat.reports.pages.full_report import workload_report
    from nmsat.reports.work.workload import CONFIGS

    config = options.config or preset(CONFIGS[options.scale])
    return workload_report(values, config, again(options))


COMMAND = Command(
    summary="Run one sparse method on SAT: densities, cycles, speed-up, share of the host, and what it achieves.",
    example="nmsat workload run granet --scale paper --variant nm --json",
    add_arguments=add_arguments,
    run=run,
)
