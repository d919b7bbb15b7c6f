"""`nmsat config check`: whether a configuration can be used, what follows from it, and what it takes of a board."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nmsat.reports.commands.base import Answer, Command, add_machine, board
from nmsat.reports.work.text import table

if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_machine(parser)


def run(options: argparse.Namespace) -> Answer:
    """Return fields, sizes and resources. What is no configuration was refused with the options."""
    from nmsat.reports.work.machines import machine_record

    values = machine_record(options.machine, board(options))
    return Answer(values, _text(values))


def _text(values: dict[str, Any]) -> str:
    fields = [(f["name"], _value(f["value"]), f.get("unit", ""), f["what"]) for f in values["fields"]]
    widths = [max(len(row[place]) for row in fields) for place in range(3)]
    shown = ["  ".join([*(c.ljust(w) for c, w in zip(row[:3], widths, strict=True)), row[3]]) for row in fields]
    derived = table(("derived", "value"), [(n.replace("_", " "), f"{v:,.6g}") for n, v in values["derived"].items()])
    buffers = table(
        ("buffer", "memories", "entries", "bits", "blocks"),
        [
            (b["name"], str(b["memories"]), str(b["entries"]), str(b["bits"]), f"{b['blocks']} {b['block']}")
            for b in values["buffers"]
        ],
    )
    uses = table(
        (f"of {values['device']} ({values['part']})", "used", "has"),
        [(kind, f"{used:,}", f"{values['has'][kind]:,}") for kind, used in values["uses"].items()],
    )
    return "\n\n".join(["\n".join(shown), derived, buffers, uses, "\n".join(_verdict(values))])


def _verdict(values: dict[str, Any]) -> list[str]:
    built = f"no: {values['refused']}" if values["refused"] else "yes: simulator and RTL take it"
    memory = "; ".join(values["memory_planned"])
    return [
        f"in RTL        {built}",
        *([f"memory        {memory}; the machine runs behind one channel a port"] if memory else []),
        f"fits          {'yes' if values['fits'] else 'no'}, by the estimate (at most 80 % of the LUTs)",
        f"estimate      {values['estimate_note']}",
    ]


def _value(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(list(value) if isinstance(value, tuple) else value)


COMMAND = Command(
    summary="Check a configuration: fields with unit and meaning, derived sizes, block RAM, what the RTL supports.",
    example="nmsat config check kv260 --device kv260",
    add_arguments=add_arguments,
    run=run,
)
