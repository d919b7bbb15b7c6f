"""Writes the reference of the documentation site from the code: `python .ci/reference.py FOLDER`.

Pages of commands, fields of configurations, instructions and the Python API, in Markdown. They are made whenever the
site is (`make docs`) and are not committed, so none can be stale. Runs in .venv: it asks the parser of the command line
and the tables of the contract. The page of the Python API names modules; mkdocstrings reads their source.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import sys
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import nmsat
from nmsat.algorithms.core.ranges import GROUP_SIZES
from nmsat.algorithms.core.vocabulary import METHODS, NETWORK_FILES
from nmsat.algorithms.training import config as training
from nmsat.dataflow.contract import isa, machine_file, ranges
from nmsat.dataflow.contract.config import NAMED, MemoryConfig, SatConfig
from nmsat.dataflow.network.models import MAX_BATCH
from nmsat.reports.commands.parser import GLOBAL, Parser, Subcommands
from nmsat.reports.work import sweep_schema as sweep

API: Final[dict[str, tuple[str, ...]]] = {
    "From a product to cycles": ("nmsat.sim.api", "nmsat.sim.results.rows", "nmsat.sim.results.machine"),
    "PyTorch": ("nmsat.algorithms.pytorch",),
    "Products, tapes and patterns": ("nmsat.algorithms.core.tape", "nmsat.algorithms.core.nm"),
    "Training": ("nmsat.algorithms.training.config", "nmsat.algorithms.training.train", "nmsat.algorithms.methods"),
    "Configuration": ("nmsat.dataflow.contract.config", "nmsat.dataflow.contract.machine_file"),
    "Networks": ("nmsat.dataflow.network.models", "nmsat.dataflow.network.step"),
    "Instructions and registers": ("nmsat.dataflow.contract.isa", "nmsat.dataflow.contract.registers"),
    "The machine": ("nmsat.sim.sat", "nmsat.sim.quick.gear", "nmsat.sim.work.timed", "nmsat.sim.work.machine"),
    "A card": ("nmsat.sim.card.driver",),
}
"""Heading -> modules whose public names are the Python API."""


TEXTS: Final = "or a list of them"
SPANS: Final = f"or a list of them, or a range {{ {', '.join(sweep.SPAN)} }} with one of the last two"
LISTS: Final = "or a list of such lists"
"""What may stand in place of one value in a sweep."""


def main(folder: Path) -> None:
    """Write all pages into a folder, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        (folder / name).write_text(text, encoding="utf-8")


def pages() -> dict[str, str]:
    """Return name of the file -> page."""
    return {
        "commands.md": commands(),
        "configuration.md": configuration(),
        "instructions.md": instructions(),
        "python.md": python(),
    }


def table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Return a table in Markdown."""
    lines = [header, ("---",) * len(header), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def plain(text: str) -> str:
    """Return text as Markdown that shows it unchanged, also in a cell of a table."""
    return re.sub(r"([\\|<>*_`\[\]])", r"\\\1", " ".join(text.split()))


# ------------------------------------------------------------------------------------------------------- commands


def parsers() -> dict[str, Parser]:
    """Return words of each command and group -> its parser, filled."""
    found: dict[str, Parser] = {}

    def walk(parser: Parser, words: str) -> None:
        parser.fill()
        if words:
            found[words] = parser
        for action in parser._actions:
            if isinstance(action, Subcommands):
                for name, child in action.choices.items():
                    walk(child, f"{words} {name}".strip())

    walk(nmsat.command_line(), "")
    return dict(sorted(found.items()))


def commands() -> str:
    """Return the page of all commands."""
    common = [row for action in nmsat.command_line()._actions if action.dest in GLOBAL for row in [option(action)]]
    parts = [
        "# Commands\n\nMade from the parser of the command line: `nmsat COMMAND --help` says the same at a terminal.\n",
        "Exit codes: [how to use results in a program](../howto/json.md).\n",
        "## Options of every command\n\n" + table(("option", "meaning"), common),
    ]
    return "\n".join(parts + [command(words, parser) for words, parser in parsers().items()])


def command(words: str, parser: Parser) -> str:
    """Return the section of a command: summary, usage, example, arguments."""
    if words not in nmsat.COMMANDS:
        return f"## nmsat {words}\n\n{plain(nmsat.GROUPS[words])}\n"
    known = import_module(nmsat.COMMANDS[words]).COMMAND
    own = [action for action in parser._actions if action.dest not in GLOBAL and not isinstance(action, Subcommands)]
    rows = [option(action, parser) for action in own]
    usage = " ".join(parser.format_usage().removeprefix("usage: ").split())
    text = f"## nmsat {words}\n\n{plain(known.summary)}\n\n```text\n{usage}\n```\n\nFor example\n\n"
    text += f"```sh\n{known.example}\n```\n"
    return text + (f"\n{table(('argument', 'meaning'), rows)}" if rows else "")


def option(action: argparse.Action, parser: argparse.ArgumentParser | None = None) -> tuple[str, str]:
    """Return the row of an argument: how it is written, what it means."""
    formatter = (parser or argparse.ArgumentParser(prog="nmsat"))._get_formatter()
    if action.option_strings:
        takes = f" {formatter._format_args(action, formatter._get_default_metavar_for_optional(action))}"
        written = ", ".join(action.option_strings) + ("" if action.nargs == 0 else takes)
    else:
        written = formatter._format_args(action, formatter._get_default_metavar_for_positional(action))
    return f"`{written.replace('|', '&#124;')}`", plain(formatter._expand_help(action) if action.help else "")


# -------------------------------------------------------------------------------------------------- configuration


def configuration() -> str:
    """Return the page of the fields of machines, training runs and sweeps."""
    presets = ", ".join(f"`{name}`" for name in NAMED)
    return "\n".join(
        [
            "# Fields of files\n\nMade from the tables that the code checks by.\n",
            f"## A machine\n\nA TOML file that every `--config` takes, or `--set FIELD=VALUE`. Named: {presets}.\n",
            table(("field", "unit", "default", "allowed", "in RTL", "meaning"), machine_rows()),
            "## A training run\n\nA TOML file that `nmsat train --config-file` takes. What it says:\n",
            table(("field", "default", "allowed"), training_rows()),
            plain((training.TrainConfig.__doc__ or "").partition("\n\n")[2]) + "\n",
            "## A sweep\n\nA TOML file that `nmsat sweep` takes ([sweeps](../sweeps.md#sweeps)).\n",
            table(("key", "default", "allowed"), sweep_rows()),
        ]
    )


def default(field: dataclasses.Field[Any]) -> str:
    """Return the default of a field, as TOML has it; '' without one."""
    if field.default is dataclasses.MISSING:
        return ""
    value = list(field.default) if isinstance(field.default, tuple) else field.default
    return "none" if value is None else f"`{json.dumps(value)}`"


def machine_rows() -> list[tuple[str, ...]]:
    """Return a row for each field of `SatConfig` and `MemoryConfig`, in their order."""
    known = {field.name: field for field in (*ranges.SAT_RANGES, *ranges.SAT_PLAIN)}
    rows = []
    for kind, prefix in ((SatConfig, ""), (MemoryConfig, "memory.")):
        told = known if not prefix else {field.name: field for field in ranges.MEMORY_RANGES}
        for field in dataclasses.fields(kind):
            if field.name == "memory":
                continue
            limit = told[field.name]
            built = ranges.listed(limit.built) if isinstance(limit, ranges.Range) and limit.built is not None else ""
            unit = limit.unit if isinstance(limit, ranges.Range) else ""
            rows.append((f"`{prefix}{field.name}`", unit, default(field), limit.allowed, built, plain(limit.what)))
    return rows


def training_rows() -> list[tuple[str, ...]]:
    """Return a row for each field of `TrainConfig`."""
    whole = {name: f"from {ranges.shown(low)} to {ranges.shown(high)}" for name, low, high in training.WHOLE_RANGES}
    numbers = {name: f"a number to {ranges.shown(high)}" for name, _, high in training.NUMBER_RANGES}
    allowed = whole | numbers
    fields = dataclasses.fields(training.TrainConfig)
    return [(f"`{field.name}`", default(field), allowed.get(field.name, "")) for field in fields]


def sweep_rows() -> list[tuple[str, ...]]:
    """Return a row for each key of a sweep's file: what its schema takes."""
    known = {
        "config": f"a preset or a machine's file; {TEXTS}",
        "network": f"a name of `nmsat model` or a file ({', '.join(NETWORK_FILES)}); {TEXTS}",
        "batch": f"from 1 to {ranges.shown(MAX_BATCH)}; {SPANS}",
        "method": f"{', '.join(METHODS)}; {TEXTS}",
        "pattern": f"N:M, M one of {', '.join(map(str, GROUP_SIZES))}; {TEXTS}",
    }
    fields = {**sweep.NUMBERS, **{name: machine_file.MACHINE_FIELDS[name] for name in machine_file.SLICES}}
    rows = [(f"`{key}`", "must be given" if value is None else f"`{json.dumps(value)}`", plain(known[key]))
            for key, value in sweep.WORK.items()]  # fmt: skip
    for name in sweep.SWEPT:
        several = LISTS if name in machine_file.SLICES else SPANS
        rows.append((f"`set.{name}`", "that of the machine", plain(f"{fields[name].allowed}; {several}")))
    for key, (low, high) in sweep.DRAW.items():
        usual = {"points": "all combinations", "seed": "`0`"}[key]
        rows.append((f"`random.{key}`", usual, f"from {ranges.shown(low)} to {ranges.shown(high)}"))
    return rows


# --------------------------------------------------------------------------------------------------- instructions


def instructions() -> str:
    """Return the page of all instructions: opcode, queue, fields with their bits."""
    introduction = (
        "# Instructions\n\nMade from the layout that assembler, simulator and circuit share. An instruction has "
        f"{isa.INSTRUCTION_BITS} bits, one beat of memory; what a field means in the machine stands on the page of its "
        "room ([the machine](../machine/index.md)).\n"
    )
    parts = [introduction]
    for opcode, layout in isa.INSTRUCTIONS.items():
        queue = f"queue {isa.QUEUE_OF[opcode].name}" if opcode in isa.QUEUE_OF else "the sequencer itself"
        rows, low = [], 0
        for field in layout.fields:
            rows.append((f"{low + field.bits - 1}:{low}", f"`{field.name}`", str(field.bits), plain(field.meaning)))
            low += field.bits
        head = f"## {opcode.name}\n\nOpcode {int(opcode)}, carried out by {queue}.\n"
        parts.append(f"{head}\n{table(('bits', 'field', 'width', 'meaning'), rows)}")
    errors = [(str(int(code)), f"`{code.name}`") for code in isa.ErrorCode]
    parts.append("## Error codes\n\nIn register `error_code`.\n\n" + table(("code", "name"), errors))
    return "\n".join(parts)


# --------------------------------------------------------------------------------------------------------- Python


def python() -> str:
    """Return the page of the Python API: a directive of mkdocstrings for each module."""
    introduction = (
        "# Python API\n\nEverything is imported as `nmsat.*`. These modules are for use from outside; before 1.0 a "
        "minor version may change them ([changes](../../CHANGELOG.md)). Others are the machine's own.\n"
    )
    parts = [introduction]
    for heading, modules in API.items():
        parts.append(f"## {heading}\n")
        parts += [f"::: {module}\n" for module in modules]
    return "\n".join(parts)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
