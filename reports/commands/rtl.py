"""`nmsat rtl`: write the Verilog of a configuration."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from nmsat.reports.commands.base import SUMMARY, Answer, Command, add_config
from nmsat.reports.work.output import add_force, output_folder
from nmsat.reports.work.progress import task
from nmsat.reports.work.text import table

if TYPE_CHECKING:
    import argparse

FILE_LIST = "files.f"
"""List of the Verilog files in the order in which tools read them."""

OUTPUTS: Final = ("sat*.v", FILE_LIST, SUMMARY)
"""Names that the command may write; which leaves there are is known once the circuit has been elaborated."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_config(parser)
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="folder to write the Verilog to")
    add_force(parser)


def run(options: argparse.Namespace) -> Answer:
    """Generate all tops and write them with a file list and a summary of ports and parameters."""
    from nmsat.hw.parts.verilog import read_ports
    from nmsat.hw.release.tops import TOPS, rtl_files

    with output_folder(options.out, "rtl", OUTPUTS, force=options.force) as out:
        with task("writing Verilog", len(TOPS), "top") as running:

            def writing(top: str) -> None:
                running.begin(list(TOPS).index(top), len(TOPS))
                running.now(top)

            files = rtl_files(options.config, told=writing)
        for name, text in files.items():
            out.write(name, text)
        out.write(FILE_LIST, "".join(f"{name}\n" for name in files))
        values: dict[str, Any] = {
            "config": dataclasses.asdict(options.config),
            "tops": {top: [dataclasses.asdict(port) for port in read_ports(files[f"{top}.v"], top)] for top in TOPS},
            "files": {name: hashlib.sha256(text.encode()).hexdigest() for name, text in files.items()},
        }
        out.write(SUMMARY, json.dumps(values, indent=1) + "\n")
    return Answer({**values, "out": str(options.out)}, _text(options, files))


def _text(options: argparse.Namespace, files: dict[str, str]) -> str:
    rows = [
        (name, str(len(re.findall(r"^module ", text, re.MULTILINE))), f"{len(text) / 1024:.1f}")
        for name, text in files.items()
    ]
    total = sum(len(text) for text in files.values()) / 1024
    return "\n".join(
        [
            table(("file", "modules", "KiB"), [*rows, ("total", "", f"{total:.1f}")]),
            f"configuration {options.config.name}: written to {options.out}, in the order of {options.out / FILE_LIST}",
        ]
    )


COMMAND = Command(
    summary="Write the Verilog of a configuration: the machine with its AXI ports, every engine, every leaf once.",
    example="nmsat rtl --config vcu1525 --out out/rtl",
    add_arguments=add_arguments,
    run=run,
)
