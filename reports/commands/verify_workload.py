"""`nmsat verify workload`: a sample of a method's products on the RTL, held against simulator and program."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from nmsat.reports.commands.base import Answer, Command, add_config, whole
from nmsat.reports.commands.workload_run import WORKLOAD, add_variant
from nmsat.reports.work.progress import task

if TYPE_CHECKING:
    import argparse

PRODUCTS: Final = 12
"""Products of one call unless asked otherwise."""

MAX_PRODUCTS: Final = 1000
"""Most products of one call."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("name", type=WORKLOAD, metavar="NAME", help="the workload; nmsat workload list names them")
    add_variant(parser)
    add_config(parser)
    parser.add_argument(
        "--products",
        type=_products,
        default=PRODUCTS,
        metavar="X",
        help="how many products run, one of each kind before a second of any (default: 12)",
    )


def run(options: argparse.Namespace) -> Answer:
    """Run the sample through RTL, simulator and program."""
    from nmsat.reports.work.workload import verify_text, workload_verify
    from nmsat.tb.run.runner import check_tools

    check_tools()
    with task(options.name) as running:
        values = workload_verify(options.name, options.variant, options.config, options.products, say=running.now)
    return Answer(values, verify_text(values), ok=values["match"])


def _products(text: str) -> int:
    return whole(text, 1, MAX_PRODUCTS)


COMMAND = Command(
    summary="Run a sample of a sparse method's products on the RTL and compare bits and cycles with the simulator.",
    example="nmsat verify workload granet --variant nm --config tiny --json",
    add_arguments=add_arguments,
    run=run,
)
