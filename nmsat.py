"""The front door: `nmsat COMMAND ...`.

Exit codes: 0 done; 1 a comparison or simulation failed; 2 the input cannot be used or the answer not be written, said
in one line; 130 interrupted; 143 terminated; 141 the reader of stdout went away.
With --json stdout carries one JSON object; everything else goes to stderr.

This module imports next to nothing: it comes before the handlers of signals (`reports.start`), and until they are set
Python answers Ctrl-C with a traceback.
"""

from __future__ import annotations

import os
import sys

# The folders beside this file are parts of this package: `nmsat.sim` is `sim/` (docs/architecture.md).
# Imports look at __path__, importlib.resources at the spec. An installation may hold a link to this file.
__path__ = [os.path.dirname(os.path.realpath(__file__))]  # noqa: PTH120
if __spec__ is not None:
    __spec__.submodule_search_locations = __path__

from nmsat.reports.version import VERSION

TYPE_CHECKING = False  # type checkers take the name for true; `typing` is left out as it takes its time
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Sequence
    from typing import Final

    from nmsat.reports.commands.base import Answer
    from nmsat.reports.commands.parser import Parser

__version__ = VERSION

OK: Final = 0
FAILED: Final = 1
BAD_INPUT: Final = 2

COMMANDS: Final[dict[str, str]] = {
    "bench": "nmsat.reports.commands.bench",
    "cache": "nmsat.reports.commands.cache",
    "card validate": "nmsat.reports.commands.card_validate",
    "compare": "nmsat.reports.commands.compare",
    "completion": "nmsat.reports.commands.completion",
    "config check": "nmsat.reports.commands.config_check",
    "config list": "nmsat.reports.commands.config_list",
    "config show": "nmsat.reports.commands.config_show",
    "demo": "nmsat.reports.commands.demo",
    "engines": "nmsat.reports.commands.engines",
    "gemm": "nmsat.reports.commands.gemm",
    "model": "nmsat.reports.commands.model",
    "paper": "nmsat.reports.commands.paper",
    "patterns": "nmsat.reports.commands.patterns",
    "program": "nmsat.reports.commands.program",
    "report": "nmsat.reports.commands.report",
    "rtl": "nmsat.reports.commands.rtl",
    "study": "nmsat.reports.commands.study",
    "study paper": "nmsat.reports.commands.study_paper",
    "sweep": "nmsat.reports.commands.sweep",
    "synth": "nmsat.reports.commands.synth",
    "train": "nmsat.reports.commands.train",
    "verify": "nmsat.reports.commands.verify",
    "verify fuzz": "nmsat.reports.commands.verify_fuzz",
    "verify gemm": "nmsat.reports.commands.verify_gemm",
    "verify workload": "nmsat.reports.commands.verify_workload",
    "vivado read": "nmsat.reports.commands.vivado_read",
    "workload list": "nmsat.reports.commands.workload_list",
    "workload run": "nmsat.reports.commands.workload_run",
    "workload table": "nmsat.reports.commands.workload_table",
}
"""Words of each command -> module that holds its COMMAND. Modules are imported when their command is used."""

GROUPS: Final[dict[str, str]] = {
    "card": "A machine on an FPGA card: validate.",
    "config": "Configurations of SAT, by name or as files: list, show, check.",
    "vivado": "What Vivado reports: read.",
    "workload": "Published sparse methods as workloads: list, run, table.",
}
"""Words that stand for their sub-commands alone -> summary."""

_HELP: Final = ("-h", "--help")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code."""
    from nmsat.reports.work.entry import guarded

    words = list(sys.argv[1:] if arguments is None else arguments)
    return guarded(lambda: _answer(words))


def _answer(words: list[str]) -> int:
    """Run one command; an error that has an exit code of its own is one line on stderr."""
    from nmsat.hw.parts.cache import CacheError
    from nmsat.hw.release.synth import SynthesisError
    from nmsat.reports.work.text import InputError
    from nmsat.tb.run.errors import BuildError, MissingToolError, SimulationError

    try:
        return _dispatch(words)
    except (InputError, MissingToolError, CacheError) as error:
        return _fail(error, BAD_INPUT)
    except (BuildError, SimulationError, SynthesisError) as error:
        return _fail(error, FAILED)
    except ImportError as error:
        from nmsat.reports.work.extras import explain

        if (text := explain(error)) is None:
            raise
        return _fail(InputError(text), BAD_INPUT)


def command_line(*, described: bool = True) -> Parser:
    """Return the parser of all commands; described: with the summaries that help and completion show."""
    from nmsat.reports.commands.parser import tree

    return tree(COMMANDS, GROUPS, described=described)


def parse(words: Sequence[str]) -> Namespace:
    """Return the options that `words` ask for: those of the command, `command` (None for a group), its `parser`, and
    `whole`, which makes the parser of all commands.

    Raises InputError for words that are no command, SystemExit after --help.
    """
    from nmsat.reports.work.text import InputError

    options = command_line(described=not words or any(word in _HELP for word in words)).parse_args(words)
    options.whole = command_line
    for name in ("json", "quiet", "verbose"):
        setattr(options, name, getattr(options, name, False))
    if options.quiet and options.verbose:
        raise InputError("--quiet and --verbose are both given; choose one of them")
    return options


def _dispatch(words: list[str]) -> int:
    import json

    if os.environ.get("NMSAT_METHODS"):
        from nmsat.reports.work.own_methods import read_methods

        read_methods()
    try:
        options = parse(words)
    except SystemExit as leaving:  # argparse leaves after --help
        return int(leaving.code or OK)
    if options.version:
        print(json.dumps({"version": VERSION}) if options.json else f"nmsat {VERSION}")
        return OK
    if options.command is None:
        # A group alone: the way to its help does not lead through words, so its summaries are not there yet.
        return _dispatch([*words, "--help"])
    return _run(options)


def _run(options: Namespace) -> int:
    from contextlib import redirect_stdout

    from nmsat.reports.work.progress import Voice, speak

    speak(Voice.QUIET if options.quiet else Voice.VERBOSE if options.verbose else Voice.NORMAL)
    # stdout belongs to the answer; whatever a library prints on the way is for stderr.
    with redirect_stdout(sys.stderr):
        answer = options.command.run(options)
    _print(answer, as_json=options.json)
    return OK if answer.ok else FAILED


def _print(answer: Answer, *, as_json: bool) -> None:
    import json

    from nmsat.reports.work.text import printable

    print(json.dumps(answer.values, indent=2, allow_nan=False) if as_json else printable(answer.text))


def _fail(error: Exception, code: int) -> int:
    from nmsat.reports.work.text import printable

    print(printable(f"nmsat: error: {error}"), file=sys.stderr)
    return code


if __name__ == "__main__":
    from nmsat.reports.start import main as start

    sys.exit(start())
