"""`nmsat verify fuzz`: damaged programs on the RTL; each must end, and none may touch what it was not given."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nmsat.reports.commands.base import Answer, Command, check_built
from nmsat.reports.commands.verify import add_runs

if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_runs(parser, "--programs", 200, "damaged programs")


def run(options: argparse.Namespace) -> Answer:
    """Run the programs."""
    from nmsat.reports.work.verify import verify_fuzz

    check_built(options.config, transposes=True)
    verdict = verify_fuzz(options.config, options.programs, options.seed)
    values: dict[str, Any] = {
        "programs": verdict.programs,
        "well_formed": verdict.compared,
        "mismatches": verdict.mismatches,
        "ends": verdict.ends,
        "config": options.config.name,
        "seed": options.seed,
        "differences": list(verdict.wrong),
    }
    return Answer(values, _text(values), ok=verdict.mismatches == 0)


def _text(values: dict[str, Any]) -> str:
    first, count = values["seed"], values["programs"]
    ends = ", ".join(f"{name.lower() if name != 'NONE' else 'done'} {n}" for name, n in sorted(values["ends"].items()))
    lines = [
        f"configuration {values['config']}, seeds {first} to {first + count - 1}: {count} damaged programs",
        f"ended: {ends}",
        f"well-formed all the same, memory held to the simulator's: {values['well_formed']}",
        f"accesses outside regions, writes to what is read only, runs without end, differences: {values['mismatches']}",
    ]
    return "\n".join([*lines, *values["differences"]])


COMMAND = Command(
    summary="Run damaged programs on the RTL: every run ends in done or an error, nothing outside its regions changes.",
    example="nmsat verify fuzz --programs 500 --seed 3 --config tiny",
    add_arguments=add_arguments,
    run=run,
)
