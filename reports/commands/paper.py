"""`nmsat paper`: the five networks of the paper, three patterns, against dense training on the same machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from nmsat.algorithms.core.vocabulary import PAPER_NETWORKS
from nmsat.reports.commands.base import Answer, Command, Listed, Named, add_config, add_processes
from nmsat.reports.commands.model import batch
from nmsat.reports.commands.parser import again
from nmsat.reports.commands.report_option import STEP_FIGURES, add_report, reporting
from nmsat.reports.work.output import add_force
from nmsat.reports.work.progress import task
from nmsat.sim.results.provenance import Source

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from nmsat.reports.pages.report_page import Report
    from nmsat.reports.work.step_runs import NetworkRuns

BEFORE: Final = ("vcu1525", 512)
"""Configuration and batch of which there are figures of the schedule model."""

HOST_NOTE: Final = (
    "Each product and each update is a program of its own, run by the quick gear, which equals the exact one. What\n"
    "the host does (normalisation, pooling, softmax, loss, sums of bias gradients) is not in the figures."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("--batch", type=batch, default=512, metavar="B", help="batch size (default: 512)")
    add_config(parser, "vcu1525")
    parser.add_argument(
        "--networks",
        type=Listed(Named(network, lambda: PAPER_NETWORKS)),
        default=None,
        metavar="NAME,...",
        help=f"some of {', '.join(PAPER_NETWORKS)} (default: all)",
    )
    parser.add_argument(
        "--ablation", action="store_true", help="also the 2:8 steps with one thing switched off at a time"
    )
    parser.add_argument("--estimate", action="store_true", help="also how far the estimate of each product is off")
    add_processes(parser)
    add_report(parser)
    add_force(parser)


def network(text: str) -> str:
    """Read the name of one of the paper's networks."""
    if text not in PAPER_NETWORKS:
        raise ValueError(f"the network is {text!r}; it must be one of {', '.join(PAPER_NETWORKS)}")
    return text


def run(options: argparse.Namespace) -> Answer:
    """Time all steps."""
    from nmsat.reports.work.paper import goals, mean, report, row_of

    with reporting(options, "paper", STEP_FIGURES) as write:
        found = _runs(options)
        rows = [row_of(runs) for runs in found]
        values: dict[str, Any] = {
            "config": options.config.name,
            "batch": options.batch,
            "source": Source.MACHINE,
            "memory_channels": options.config.ports,
            "rows": rows,
            "speedup": mean([row["2:8"]["speedup"] for row in rows]),
            "bound": mean([row["2:8"]["bound"] for row in rows]),
            "dense_utilization": mean([row["dense_utilization"] for row in rows]),
            "ablation": _ablation(found),
            "estimate_error": _errors(options, found) if options.estimate else None,
            "before": (options.config.name, options.batch) == BEFORE,
        }
        values["goals"] = goals(values)
        write(lambda: _report(options, found))
    return Answer(values, f"{report(values)}\n\n{HOST_NOTE}")


def _runs(options: argparse.Namespace) -> list[NetworkRuns]:
    """Return the steps of all networks, dense and at all patterns."""
    from nmsat.algorithms.core.tape import Pattern
    from nmsat.reports.work.paper import SHARE
    from nmsat.reports.work.step_runs import network_runs

    names = tuple(name for name in PAPER_NETWORKS if name in (options.networks or PAPER_NETWORKS))
    patterns = [Pattern(*map(int, text.split(":"))) for text in SHARE]
    ablated = names if options.ablation else ()
    return network_runs(options.config, names, patterns, options.batch, ablated, options.processes, "paper")


def _ablation(found: Sequence[NetworkRuns]) -> dict[str, list[float]]:
    """Return by variant the speed-ups of the networks at 2:8, empty without an ablation."""
    dense = {runs.network: runs.dense.result.cycles for runs in found}
    return {
        variant: [dense[runs.network] / runs.ablated[variant].cycles for runs in found] for variant in found[0].ablated
    }


def _report(options: argparse.Namespace, found: list[NetworkRuns]) -> Report:
    from nmsat.reports.pages.full_report import steps_report

    title, batch = "nmsat: the networks of the paper", f"batch {options.batch}"
    return steps_report(found, batch, again(options), title, "not asked for (--ablation)")


def _errors(options: argparse.Namespace, found: Sequence[NetworkRuns]) -> dict[str, Any]:
    """Return how far the estimate is off, of all products of the steps."""
    from nmsat.reports.work.estimate_error import estimate_error, product_jobs
    from nmsat.reports.work.timings import Wanted

    wanted = {(run.network, run.pattern): Wanted(run.step) for runs in found for run in runs.all}
    jobs = product_jobs(options.config, wanted)
    with task("paper: the estimate", len(jobs), "program") as running:
        return estimate_error(options.config, jobs, lambda _: running.advance(), options.processes)


COMMAND = Command(
    summary="The five networks of the paper on SAT: speed-up of BDWP, bound, dense utilization, what is lost where.",
    example="nmsat paper --batch 512 --config vcu1525 --processes 2 --json",
    add_arguments=add_arguments,
    run=run,
)
