"""The front door: `nmsat COMMAND ...`.

Exit codes: 0 done; 1 a comparison or simulation failed; 2 the input cannot be used, said in one line; 130 interrupted;
141 the reader of stdout went away.
With --json stdout carries one JSON object (a list of them for lists); everything else goes to stderr.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import textwrap
from contextlib import redirect_stdout
from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Final, NoReturn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nmsat.reports.commands.base import Answer, Command

OK: Final = 0
FAILED: Final = 1
BAD_INPUT: Final = 2
INTERRUPTED: Final = 130
CLOSED_PIPE: Final = 141

COMMANDS: Final[dict[str, str]] = {
    "bench": "nmsat.reports.commands.bench",
    "demo": "nmsat.reports.commands.demo",
    "engines": "nmsat.reports.commands.engines",
    "gemm": "nmsat.reports.commands.gemm",
    "model": "nmsat.reports.commands.model",
    "paper": "nmsat.reports.commands.paper",
    "program": "nmsat.reports.commands.program",
    "rtl": "nmsat.reports.commands.rtl",
    "study": "nmsat.reports.commands.study",
    "train": "nmsat.reports.commands.train",
    "verify": "nmsat.reports.commands.verify",
    "verify fuzz": "nmsat.reports.commands.verify_fuzz",
    "verify gemm": "nmsat.reports.commands.verify_gemm",
    "verify workload": "nmsat.reports.commands.verify_workload",
    "workload list": "nmsat.reports.commands.workload_list",
    "workload run": "nmsat.reports.commands.workload_run",
    "workload table": "nmsat.reports.commands.workload_table",
}
"""Words of each command -> module that holds its COMMAND. Modules are imported when their command is used."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    from nmsat.reports.commands.base import InputError
    from nmsat.tb.run.errors import BuildError, MissingToolError, SimulationError

    try:
        code = _dispatch(words)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # The reader has seen enough (nmsat ... | head); Python must not try to flush again on its way out.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return CLOSED_PIPE
    except (InputError, MissingToolError) as error:
        return _fail(error, BAD_INPUT)
    except (BuildError, SimulationError) as error:
        return _fail(error, FAILED)
    except ImportError as error:
        from nmsat.reports.work.extras import explain

        if (text := explain(error)) is None:
            raise
        return _fail(InputError(text), BAD_INPUT)
    except KeyboardInterrupt:
        print("nmsat: interrupted", file=sys.stderr)
        return INTERRUPTED


class _Parser(argparse.ArgumentParser):
    """A parser whose complaint is one line, given by `main`."""

    def error(self, message: str) -> NoReturn:
        from nmsat.reports.commands.base import InputError

        raise InputError(f"{message} (see {self.prog} --help)")


def _dispatch(words: list[str]) -> int:
    from nmsat.reports.commands.base import InputError

    matches = [name for name in COMMANDS if words[: len(name.split())] == name.split()]
    if matches:
        name = max(matches, key=len)
        return _run(name, words[len(name.split()) :])
    if words[:1] == ["--version"]:
        print(f"nmsat {version('nmsat')}")
        return OK
    group = [name for name in COMMANDS if words and name.startswith(f"{words[0]} ")]
    if not words or words[0] in ("-h", "--help") or (group and words[1:] in ([], ["-h"], ["--help"])):
        print(_overview(group or list(COMMANDS)))
        return OK
    asked = " ".join(words[: 2 if group else 1])
    raise InputError(f"command is {asked!r}; known commands: {', '.join(group or COMMANDS)} (see nmsat --help)")


def _run(name: str, words: list[str]) -> int:
    command = _load(name)
    parser = _Parser(
        prog=f"nmsat {name}",
        description=textwrap.fill(command.summary, 80),
        epilog=f"example:\n  {command.example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    command.add_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print JSON on stdout")
    options = parser.parse_args(words)
    # stdout belongs to the answer; whatever a library prints on the way is for stderr.
    with redirect_stdout(sys.stderr):
        answer = command.run(options)
    _print(answer, as_json=options.json)
    return OK if answer.ok else FAILED


def _print(answer: Answer, *, as_json: bool) -> None:
    print(json.dumps(answer.values, indent=2, allow_nan=False) if as_json else answer.text)


def _overview(names: list[str]) -> str:
    width = max(len(name) for name in names)
    lines = [f"  {name:<{width}}  {_load(name).summary}" for name in names]
    return "\n".join(
        [
            "usage: nmsat COMMAND ... [--json]",
            "",
            "N:M sparse training: algorithm, scheduler, simulator and RTL of the SAT accelerator.",
            "",
            "commands:",
            *lines,
            "",
            "nmsat COMMAND --help explains a command, nmsat --version prints the version.",
            f"example: {_load(names[0]).example}",
        ]
    )


def _load(name: str) -> Command:
    command: Command = import_module(COMMANDS[name]).COMMAND
    return command


def _fail(error: Exception, code: int) -> int:
    print(f"nmsat: error: {error}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
