"""`nmsat paper`: the five networks of the paper, three patterns, against dense training on the same machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from nmsat.algorithms.core.vocabulary import PAPER_NETWORKS
from nmsat.reports.commands.base import Answer, Command, Listed, Named, add_config, add_processes
from nmsat.reports.commands.model import batch
from nmsat.reports.work.progress import task
from nmsat.reports.work.text import InputError
from nmsat.sim.results.provenance import Source

if TYPE_CHECKING:
    import argparse

    from nmsat.dataflow.network.step import Step
    from nmsat.dataflow.program.jobs import Job
    from nmsat.sim.results.machine import MachineResult

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


def network(text: str) -> str:
    """Read the name of one of the paper's networks."""
    if text not in PAPER_NETWORKS:
        raise ValueError(f"the network is {text!r}; it must be one of {', '.join(PAPER_NETWORKS)}")
    return text


def run(options: argparse.Namespace) -> Answer:
    """Time all steps."""
    from nmsat.reports.work.paper import goals, mean, report, row_of

    names = tuple(name for name in PAPER_NETWORKS if name in (options.networks or PAPER_NETWORKS))
    steps = {name: _steps(name, options.batch) for name in names}
    results, ablation = _results(options, steps)
    rows = [row_of(name, steps[name], results[name]) for name in names]
    values: dict[str, Any] = {
        "config": options.config.name,
        "batch": options.batch,
        "source": Source.MACHINE,
        "memory_channels": options.config.ports,
        "rows": rows,
        "speedup": mean([row["2:8"]["speedup"] for row in rows]),
        "bound": mean([row["2:8"]["bound"] for row in rows]),
        "dense_utilization": mean([row["dense_utilization"] for row in rows]),
        "ablation": ablation,
        "estimate_error": _errors(options, steps) if options.estimate else None,
        "before": (options.config.name, options.batch) == BEFORE,
    }
    values["goals"] = goals(values)
    return Answer(values, f"{report(values)}\n\n{HOST_NOTE}")


def _steps(name: str, size: int) -> dict[str, Step]:
    """Return the steps of a network by 'dense' and pattern."""
    from nmsat.algorithms.core.tape import Pattern
    from nmsat.dataflow.network.models import load_model
    from nmsat.dataflow.network.step import training_products
    from nmsat.reports.work.paper import SHARE

    layers = load_model(name, size)
    sparse = {text: training_products(layers, "bdwp", Pattern.parse(text)) for text in SHARE}
    return {"dense": training_products(layers, "dense"), **sparse}


def _results(
    options: argparse.Namespace, steps: dict[str, dict[str, Step]]
) -> tuple[dict[str, dict[str, MachineResult]], dict[str, list[float]]]:
    """Return what all steps take, and by variant of the ablation the speed-ups at 2:8 of the networks."""
    from nmsat.reports.work.timings import Wanted, distinct, time_all
    from nmsat.sim.work.ablation import VARIANTS

    variants = VARIANTS if options.ablation else {}
    plain = [Wanted(step) for found in steps.values() for step in found.values()]
    others = [Wanted(found["2:8"], switches) for switches in variants.values() for found in steps.values()]
    try:
        with task("paper", distinct(options.config, [*plain, *others]), "program") as running:

            def told(job: Job) -> None:
                running.now(f"{job.name} {job.stage}")
                running.advance()

            timed = iter(time_all(options.config, [*plain, *others], told, options.processes))
    except ValueError as error:
        raise InputError(str(error)) from None
    results = {name: {text: next(timed) for text in found} for name, found in steps.items()}
    speedups = {variant: [results[name]["dense"].cycles / next(timed).cycles for name in steps] for variant in variants}
    return results, speedups


def _errors(options: argparse.Namespace, steps: dict[str, dict[str, Step]]) -> dict[str, Any]:
    """Return how far the estimate is off, of all products of the steps."""
    from nmsat.reports.work.estimate_error import estimate_error, product_jobs
    from nmsat.reports.work.timings import Wanted

    wanted = {(name, text): Wanted(step) for name, found in steps.items() for text, step in found.items()}
    jobs = product_jobs(options.config, wanted)
    with task("paper: the estimate", len(jobs), "program") as running:
        return estimate_error(options.config, jobs, lambda _: running.advance(), options.processes)


COMMAND = Command(
    summary="The five networks of the paper on SAT: speed-up of BDWP, bound, dense utilization, what is lost where.",
    example="nmsat paper --batch 512 --config vcu1525 --processes 2 --json",
    add_arguments=add_arguments,
    run=run,
)
