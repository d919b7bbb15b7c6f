"""`nmsat completion`: a script that lets a shell complete commands, options and names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from nmsat.reports.commands.base import Answer, Command, Listed, Named, folder
from nmsat.reports.commands.parser import Subcommands

if TYPE_CHECKING:
    import argparse

    from nmsat.reports.commands.parser import Parser

SHELLS: Final = ("bash", "zsh", "fish")

FILES_TOO: Final = "NAME_OR_FILE"
"""Metavar of an argument that is a name or a file."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("shell", choices=SHELLS, help="the shell that the script is for")


def run(options: argparse.Namespace) -> Answer:
    """Write the script of the whole command line, whose parser options.whole makes."""
    script = completion_script(options.whole(), options.shell)
    return Answer({"shell": options.shell, "script": script}, script.rstrip("\n"))


def completion_script(parser: Parser, shell: str) -> str:
    """Return a script that completes the command line of `parser`; nothing of nmsat runs while it completes."""
    import shtab

    _offer(parser.fill())
    return shtab.complete(parser, shell)


def _offer(parser: Parser) -> None:
    """Tell shtab what may stand for each argument of a parser and of all below it."""
    import shtab

    for action in (*parser._get_positional_actions(), *parser._get_optional_actions()):
        if isinstance(action, Subcommands):
            for child in action.choices.values():
                _offer(child.fill())
        elif action.type in (Path, folder):
            _complete(action, shtab.DIRECTORY if action.metavar == "DIR" else shtab.FILE)
        elif isinstance(action.type, Named | Listed):
            named = action.type.one if isinstance(action.type, Listed) else action.type
            if isinstance(named, Named):
                names = [str(name) for name in named.names()]
                if action.metavar == FILES_TOO:
                    _complete(action, _names_and_files(action.dest, names))
                else:
                    action.choices = names


def _complete(action: argparse.Action, what: Any) -> None:
    """Set the attribute that shtab reads."""
    vars(action)["complete"] = what


def _names_and_files(what: str, names: list[str]) -> dict[str, Any]:
    """Return completion by names and by files, in the words of each shell."""
    words, function = " ".join(names), f"_nmsat_{what}_or_file"
    return {
        "bash": function,
        "zsh": function,
        "fish": f"(printf '%s\\n' {words}; __fish_complete_path (commandline -ct))",
        "preamble": {
            "bash": f'{function}() {{ compgen -W "{words}" -- "$1"; compgen -f -- "$1"; }}\n',
            "zsh": f"{function}() {{ compadd {words}; _files; }}\n",
        },
    }


COMMAND = Command(
    summary="Print a script by which bash, zsh or fish complete commands, options and names.",
    example="nmsat completion bash",
    add_arguments=add_arguments,
    run=run,
)
