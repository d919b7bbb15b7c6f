"""The tree of commands as argparse parsers: nested, one-line complaints, modules loaded when their command is used."""

from __future__ import annotations

import argparse
import textwrap
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, NoReturn

from nmsat.reports.commands.base import SetFields
from nmsat.reports.work.commandline import PROGRAM, Repeated, spell
from nmsat.reports.work.text import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from nmsat.reports.commands.base import Command

DESCRIPTION: Final = "N:M sparse training: algorithm, scheduler, simulator and RTL of the SAT accelerator."

GLOBAL: Final = ("help", "json", "quiet", "verbose", "version")
"""Options that every command has; they change what is said, not what is done."""


class Parser(argparse.ArgumentParser):
    """A parser that is filled when it is first used, and whose complaint is one line, an InputError.

    fill: adds what belongs to it, called once.
    """

    def __init__(self, *, fill: Callable[[Parser], None] | None = None, **options: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **options)
        self._fill = fill

    def fill(self) -> Parser:
        """Add what belongs to the parser, unless that has been done."""
        fill, self._fill = self._fill, None
        if fill is not None:
            fill(self)
        return self

    def parse_known_args(  # type: ignore[override] # argparse has overloads of it that say the same
        self, args: Any = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        """Parse; words that nobody knows are the fault of this command, not of the whole."""
        self.fill()
        found, extra = super().parse_known_args(args, namespace)
        if extra:
            self.error(f"unrecognized arguments: {' '.join(extra)}")
        for action in self._actions:
            if isinstance(action, SetFields):
                self._settle(action, found)
        return found, extra

    def _settle(self, settings: SetFields, found: argparse.Namespace) -> None:
        changes = next(action for action in self._actions if action.dest == settings.changes)
        for step, blamed in ((settings.check, changes), (settings.settle, settings)):
            try:
                step(found)
            except ValueError as error:
                self.error(str(argparse.ArgumentError(blamed, str(error))))

    def print_help(self, file: Any = None) -> None:
        """Print the help; argparse would not tell when the reader has gone away."""
        print(self.format_help(), file=file, end="")

    def error(self, message: str) -> NoReturn:
        """Raise InputError."""
        raise InputError(f"{message} (see {self.prog} --help)")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if isinstance(action, Subcommands) and value not in action.choices:
            asked = f"{self.prog} {value}".removeprefix(f"{PROGRAM} ")
            known = (f"{self.prog} {name}".removeprefix(f"{PROGRAM} ") for name in action.choices)
            raise InputError(f"command is {asked!r}; known commands: {', '.join(known)} (see {self.prog} --help)")
        if action.choices is not None and value not in action.choices:
            # In the words of Python 3.11; later versions quote no longer.
            known = ", ".join(map(repr, action.choices))
            raise argparse.ArgumentError(action, f"invalid choice: {value!r} (choose from {known})")


class Subcommands(argparse._SubParsersAction):
    """Sub-commands of a parser that may have options of its own: those may not stand before the sub-command."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        for action in parser._get_optional_actions():
            given = getattr(namespace, action.dest, action.default)
            if action.dest not in GLOBAL and given is not action.default:
                flag, name = action.option_strings[0], f"{parser.prog} {values[0]}"
                parser.error(f"{flag} stands before {values[0]!r}, which has its own options; write {name} ... {flag}")
        super().__call__(parser, namespace, values, option_string)


def tree(commands: Mapping[str, str], groups: Mapping[str, str], *, described: bool = True) -> Parser:
    """Return the parser of the whole command line.

    commands: words of each command -> module that holds its COMMAND; groups: words of those that only hold others ->
    summary. described: load all commands now for their summaries, as help and completion need; otherwise a command is
    loaded when it is used.
    """

    def fill(parser: Parser, name: str) -> None:
        below = [full for full in (*groups, *commands) if name == " ".join(full.split()[:-1])]
        if name in commands:
            _add_command(parser, load(commands[name]))
        else:
            example = load(commands[next(full for full in commands if full.startswith(name))]).example
            parser.description = groups.get(name, DESCRIPTION)
            parser.epilog = f"{parser.prog} COMMAND --help explains a command.\nexample:\n  {example}"
            parser.set_defaults(command=None, parser=parser)
        if below:
            found = parser.add_subparsers(title="commands", metavar="COMMAND", action=Subcommands, parser_class=Parser)
            for full in sorted(below):
                about: dict[str, Any] = {"help": groups.get(full) or load(commands[full]).summary} if described else {}
                found.add_parser(full.split()[-1], prog=f"{PROGRAM} {full}", fill=partial(fill, name=full), **about)
        add_global(parser)

    root = Parser(prog=PROGRAM, fill=partial(fill, name="")).fill()
    root.add_argument("--version", action="store_true", help="print the version and leave")
    return root


def add_global(parser: argparse.ArgumentParser) -> None:
    """Add the options that every command has. They may stand anywhere, so none has a default."""
    for flag, what in (
        ("--json", "print one JSON object on stdout"),
        ("--quiet", "no progress on stderr, only warnings and errors"),
        ("--verbose", "tell what is done and where files lie"),
    ):
        parser.add_argument(flag, action="store_true", default=argparse.SUPPRESS, help=what)


def load(module: str) -> Command:
    """Return the COMMAND of a module."""
    command: Command = import_module(module).COMMAND
    return command


def again(options: argparse.Namespace, **changed: object) -> str:
    """Return the command line that repeats a run exactly: all arguments, and all options that are not the defaults.

    options: as parsed; changed: values in place of those that were given, None for 'not given'.
    """
    parser: Parser = options.parser
    arguments, given = [], {}
    for action in parser._get_positional_actions():
        if not isinstance(action, Subcommands):
            arguments.append(getattr(options, action.dest))
    for action in parser._get_optional_actions():
        if action.dest in GLOBAL or isinstance(action, SetFields):  # the configuration itself knows what was set
            continue
        default = _default(action)
        value: Any = changed.get(action.dest, getattr(options, action.dest, default))
        if value != default:
            each = isinstance(action, argparse._AppendAction)
            given[action.option_strings[-1]] = Repeated(value) if each else value
    return spell(parser.prog.removeprefix(PROGRAM), arguments, given)


def _default(action: argparse.Action) -> Any:
    """Return the default as it is parsed: argparse passes texts through the type."""
    if isinstance(action.default, str) and callable(action.type):
        return action.type(action.default)
    return action.default


def _add_command(parser: Parser, command: Command) -> None:
    parser.description = textwrap.fill(command.summary, 80)
    parser.epilog = f"example:\n  {command.example}"
    command.add_arguments(parser)
    parser.set_defaults(command=command, parser=parser)
