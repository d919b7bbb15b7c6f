"""`nmsat workload run`: one sparse method on SAT, with values at small scale or at the sizes of its paper."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from nmsat.reports.commands.base import Answer, Command, config
from nmsat.reports.work.text import InputError

if TYPE_CHECKING:
    import argparse

    from nmsat.algorithms.workloads.engine.registry import Workload


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("name", metavar="NAME", help="the workload; nmsat workload list names them")
    parser.add_argument(
        "--scale",
        choices=["small", "paper"],
        default="small",
        help="small: a problem solved now, with values; paper: the paper's sizes, shapes alone (default: small)",
    )
    add_variant(parser)
    parser.add_argument(
        "--config",
        type=config,
        default=None,
        metavar="NAME",
        help="tiny, small or vcu1525 (default: tiny at scale small, vcu1525 at scale paper)",
    )


def add_variant(parser: argparse.ArgumentParser) -> None:
    """Add --variant."""
    parser.add_argument(
        "--variant",
        choices=["faithful", "nm"],
        default="faithful",
        help="faithful: as published; nm: our N:M form of the method (default: faithful)",
    )


def known(name: str) -> Workload:
    """Return the workload called `name`; InputError lists the known ones."""
    from nmsat.algorithms.workloads.engine.registry import workload

    try:
        return workload(name)
    except ValueError as error:
        raise InputError(str(error)) from None


def say(text: str) -> None:
    """Tell on stderr what takes the time."""
    print(f"nmsat: {text}", file=sys.stderr, flush=True)


def run(options: argparse.Namespace) -> Answer:
    """Run the workload; not ok when a value on the simulator differs from the program's."""
    from nmsat.reports.work.workload import workload_run, workload_text

    known(options.name)
    values = workload_run(options.name, options.scale, options.variant, options.config, say=say)
    return Answer(values, workload_text(values), ok=values["match"])


COMMAND = Command(
    summary="Run one sparse method on SAT: densities, cycles, speed-up, share of the host, and what it achieves.",
    example="nmsat workload run granet --scale paper --variant nm --json",
    add_arguments=add_arguments,
    run=run,
)
