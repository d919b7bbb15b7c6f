"""`nmsat vivado read`: the reports of an out-of-context run as JSON and as a table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from nmsat.reports.commands.base import Answer, Command
from nmsat.reports.work.text import InputError, table

if TYPE_CHECKING:
    import argparse

TOLD = 5
"""Paths and nets that the text names."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("folder", metavar="DIR", type=Path, help="folder that out_of_context.tcl wrote its reports to")


def run(options: argparse.Namespace) -> Answer:
    """Read all reports of the folder."""
    from nmsat.reports.work.vivado import read_reports
    from nmsat.reports.work.vivado_text import ReportError

    try:
        values = read_reports(options.folder)
    except ReportError as error:
        raise InputError(str(error)) from None
    except OSError as error:
        raise InputError(f"folder is {str(options.folder)!r}; it cannot be read: {error.strerror or error}") from None
    return Answer(values, "\n\n".join(_text(step, found) for step, found in values.items()))


def _text(step: str, values: dict[str, Any]) -> str:
    used = [
        (name, f"{found['used']:,}", f"{found['available']:,}", f"{found['percent']:.1f} %")
        for name, found in values["utilization"].items()
    ]
    lines = [f"{step}: {values['design']} on {values['device']}, {values['state']}, {values['tool']}"]
    lines += ["", table(("resource", "used", "of", "share"), used)]
    if (timing := values["timing"]) is not None:
        clocks = ", ".join(f"{name} {_reached(found['reached_mhz'])}" for name, found in timing["clocks"].items())
        verdict = "met" if timing["met"] else f"NOT met at {timing['failing_endpoints']} endpoints"
        lines += ["", f"timing {verdict}: WNS {timing['wns_ns']} ns, WHS {timing['whs_ns']} ns; reached: {clocks}"]
        lines += [
            f"  {path['slack_ns']} ns, {path['levels']} levels: {path['source']} -> {path['destination']}"
            for path in timing["paths"][:TOLD]
        ]
    if (nets := values["fanout"]) is not None:
        lines += ["fan-out: " + ", ".join(f"{net['net']} {net['fanout']}" for net in nets[:TOLD])]
    if (power := values["power"]) is not None:
        lines += [
            f"power {power['total_w']} W, of it static {power['static_w']} W; confidence {power['confidence'].lower()}"
        ]
        lines += [f"  WARNING of Vivado: {warning}" for warning in power["warnings"]]
    return "\n".join(lines)


def _reached(mhz: float | None) -> str:
    return "no path" if mhz is None else f"{mhz:.0f} MHz"


COMMAND = Command(
    summary="Read the reports that out_of_context.tcl lets Vivado write: resources, timing, fan-out, power.",
    example="nmsat vivado read out/rtl/out_of_context --json",
    add_arguments=add_arguments,
    run=run,
)
