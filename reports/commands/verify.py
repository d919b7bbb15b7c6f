"""`nmsat verify`: random programs through the whole machine, RTL against simulator."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from nmsat.reports.commands.base import Answer, Command, add_config, check_built, seed, whole
from nmsat.sim.results.provenance import Source

if TYPE_CHECKING:
    import argparse


MAX_JOBS: Final = 1_000_000
"""Most jobs of one command."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_runs(parser, "--jobs", 30, "random programs")


def add_runs(parser: argparse.ArgumentParser, flag: str, default: int, what: str) -> None:
    """Add how many runs, the seed of the first, and --config."""
    number = f"how many {what} (default: {default})"
    parser.add_argument(flag, type=jobs, default=default, metavar=flag[2].upper(), help=number)
    parser.add_argument("--seed", type=seed, default=0, metavar="S", help="seed of the first; the next has one more")
    add_config(parser)


def jobs(text: str) -> int:
    """Read a number of jobs."""
    return whole(text, 1, MAX_JOBS)


def run(options: argparse.Namespace) -> Answer:
    """Run the jobs."""
    from nmsat.reports.work.verify import verify_jobs

    check_built(options.config, transposes=True)
    verdict = verify_jobs(options.config, options.jobs, options.seed)
    values: dict[str, Any] = {
        "jobs": verdict.jobs,
        "mismatches": verdict.mismatches,
        "random_memory_jobs": verdict.random_jobs,
        "cycles": verdict.cycles,
        "source": Source.RTL,
        "config": options.config.name,
        "seed": options.seed,
        "differences": list(verdict.wrong),
    }
    return Answer(values, _text(values), ok=verdict.mismatches == 0)


def _text(values: dict[str, Any]) -> str:
    first, count = values["seed"], values["jobs"]
    lines = [
        (
            f"configuration {values['config']}, seeds {first} to {first + count - 1}: {count} random programs, "
            f"{values['cycles']} cycles on the RTL"
        ),
        (
            "memory, cycles, counters and flags against the simulator, and the values of "
            f"{values['random_memory_jobs']} programs again behind a memory of random latency and back-pressure"
        ),
        f"mismatches: {values['mismatches']}",
    ]
    return "\n".join([*lines, *values["differences"]])


COMMAND = Command(
    summary="Run random programs on the RTL of the whole machine and compare memory, cycles and counters.",
    example="nmsat verify --jobs 100 --seed 7 --config tiny",
    add_arguments=add_arguments,
    run=run,
)
