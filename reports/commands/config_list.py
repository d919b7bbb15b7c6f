"""`nmsat config list`: the configurations that have a name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from nmsat.dataflow.contract.config import CARDS, NAMED
from nmsat.reports.commands.base import Answer, Command
from nmsat.reports.work.text import table

if TYPE_CHECKING:
    import argparse

NOTE: Final = (
    "Each also with -2 or -4 behind its name for so many memory ports. Those with * are the largest that fit a board\n"
    "by an estimate, with at most 80 % of its LUTs; none was placed."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command: none."""
    del parser


def run(options: argparse.Namespace) -> Answer:
    """Return all named configurations."""
    del options
    from nmsat.reports.work.machines import board_of, machine_record

    found = [machine_record(config, board_of(config, None)) for config in NAMED.values()]
    return Answer({"configs": found, "estimated": list(CARDS)}, f"{_text(found)}\n\n{NOTE}")


def _text(found: list[dict[str, Any]]) -> str:
    rows = []
    for record in found:
        fields = {field["name"]: field["value"] for field in record["fields"]}
        name = record["config"] + (" *" if record["config"] in CARDS else "")
        sizes = (f"{fields['rows']} x {fields['columns']}", str(fields["act_lanes"]), str(fields["ports"]))
        uses, has = record["uses"], record["has"]
        blocks = (f"{uses[kind]} of {has[kind]}" for kind in ("bram36", "uram"))
        rows.append((name, *sizes, f"{fields['clock_mhz']:g}", *blocks, f"{uses['lut'] / has['lut']:.0%}"))
    header = ("name", "elements", "lanes", "ports", "MHz", "BRAM36", "URAM", "LUT")
    return table(header, rows)


COMMAND = Command(
    summary="List the configurations of SAT that have a name, with their sizes and block RAM.",
    example="nmsat config list --json",
    add_arguments=add_arguments,
    run=run,
)
