"""`nmsat config show`: a configuration as the TOML file that --config reads back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nmsat.dataflow.contract.machine_file import machine_text
from nmsat.reports.commands.base import Answer, Command, add_machine, board

if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_machine(parser)


def run(options: argparse.Namespace) -> Answer:
    """Return the file; with --json the fields with unit, meaning and range, and what follows from them."""
    from nmsat.reports.work.machines import machine_record

    text = machine_text(options.machine)
    values = machine_record(options.machine, board(options))
    return Answer({**values, "toml": text}, text.rstrip("\n"))


COMMAND = Command(
    summary="Print a configuration as a TOML file that --config reads back: every field with unit, meaning and range.",
    example="nmsat config show vcu1525 --set rows=16 --set name=half",
    add_arguments=add_arguments,
    run=run,
)
