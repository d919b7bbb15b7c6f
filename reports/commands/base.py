"""What every sub-command is made of: its description, and argument types that explain themselves."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from nmsat.algorithms.core.tape import Pattern
from nmsat.algorithms.core.vocabulary import METHODS, PAPER_NETWORKS, TRAINED_NETWORKS, method_facts, trained_network
from nmsat.dataflow.contract.config import NAMED
from nmsat.dataflow.contract.machine_file import (
    MACHINE_SUFFIX,
    changed,
    find_machine,
    flat,
    needs_name,
    parse_value,
)
from nmsat.hw.release.devices import DEVICES
from nmsat.reports.work.commandline import Setting, asked_for, remember
from nmsat.reports.work.text import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from nmsat.dataflow.contract.config import SatConfig

T = TypeVar("T")

MAX_SIZE: Final = 1 << 24
"""Largest M, K or N of a product on the command line."""

MAX_SEED: Final = (1 << 63) - 1
"""Largest seed on the command line."""

MAX_PROCESSES: Final = 64
"""Most of --processes."""

SUMMARY: Final = "summary.json"
"""The file of an output folder that holds the numbers."""


@dataclass(frozen=True)
class Answer:
    """What a command found.

    values: what --json prints, one object; text: the same for people; ok: False when a comparison failed (exit code 1).
    """

    values: dict[str, Any]
    text: str
    ok: bool = True


@dataclass(frozen=True)
class Command:
    """One sub-command: what it does, an example, its arguments, and the function behind it."""

    summary: str
    example: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], Answer]


def folder(text: str) -> Path:
    """Read the name of a folder; '' would be the working folder."""
    if not text:
        raise argparse.ArgumentTypeError("the value is ''; it must be the name of a folder (. is the working folder)")
    return Path(text)


def size(text: str) -> int:
    """Read M, K or N."""
    return whole(text, 1, MAX_SIZE)


def seed(text: str) -> int:
    """Read a seed."""
    return whole(text, 0, MAX_SEED)


def pattern(text: str) -> Pattern | None:
    """Read 'N:M' or 'dense' (None)."""
    try:
        return Pattern.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def sparse(text: str) -> Pattern:
    """Read 'N:M' of which something is pruned."""
    chosen = pattern(text)
    if chosen is None:
        raise argparse.ArgumentTypeError(f"pattern is {text!r}; write N:M such as 2:8 (dense is a method)")
    return chosen


@dataclass(frozen=True)
class Named(Generic[T]):
    """An argument type whose values have names: error messages and completion know them.

    read: gives the value, or ValueError with all that is to be said; names: what completion offers.
    """

    read: Callable[[str], T]
    names: Callable[[], Iterable[str]]

    def __call__(self, text: str) -> T:
        """Read one name."""
        try:
            return self.read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None


@dataclass(frozen=True)
class Listed(Generic[T]):
    """An argument type that reads values with commas between them."""

    one: Callable[[str], T]

    def __call__(self, text: str) -> list[T]:
        """Read all; an empty list is none."""
        found = [self.one(item) for item in text.split(",") if item]
        if not found:
            raise argparse.ArgumentTypeError(f"the value is {text!r}; it must be one or more, with commas between them")
        return found


def _method(name: str) -> str:
    method_facts(name)
    return name


def _network(name: str) -> str:
    if name not in PAPER_NETWORKS:  # these train on --data, which is looked at later
        trained_network(name)
    return name


def _config(text: str) -> SatConfig:
    found = find_machine(text, named=False)  # --set may give it another name: `SetFields.check` looks at it
    if text.lower().endswith(MACHINE_SUFFIX):
        remember(found, text)
    return found


config: Final = Named(_config, lambda: NAMED)
"""Reads the name of a configuration, or its file."""

method: Final = Named(_method, lambda: METHODS)
"""Reads the name of a training method."""

network: Final = Named(_network, lambda: (*TRAINED_NETWORKS, *PAPER_NETWORKS))
"""Reads the name of a network that trains here, those of the paper on --data alone."""


def add_shape(parser: argparse.ArgumentParser, *, optional: bool = False) -> None:
    """Add M, K, N, --pattern, --config, --dataflow and --seed: one product Y[M, N] = A[M, K] @ W[K, N].

    optional: M, K and N may be left out.
    """
    for name, what in (
        ("m", "rows of A and Y"),
        ("k", "length of the reduction: columns of A, rows of W"),
        ("n", "columns of W and Y"),
    ):
        parser.add_argument(name, metavar=name.upper(), type=size, nargs="?" if optional else None, help=what)
    parser.add_argument(
        "--pattern",
        metavar="N:M",
        type=pattern,
        default=None,
        help="sparsity of W along K: N of each M kept, M one of 2, 4, 8, 16; or dense (default: dense)",
    )
    add_config(parser)
    parser.add_argument(
        "--dataflow",
        choices=["os", "ws"],
        default=None,
        help="output stationary or weight stationary (default: what takes fewer cycles)",
    )
    parser.add_argument("--seed", type=seed, default=0, help="seed of the random operands (default: 0)")


def add_processes(parser: argparse.ArgumentParser) -> None:
    """Add --processes, for commands that time many programs."""
    parser.add_argument(
        "--processes",
        type=lambda text: whole(text, 1, MAX_PROCESSES),
        default=1,
        metavar="P",
        help="programs that are timed at once (default: 1); each takes up to a gigabyte",
    )


def add_config(
    parser: argparse.ArgumentParser,
    default: str | None = "tiny",
    flag: str = "--config",
    what: str = "configuration of SAT",
    left_out: str = "",
) -> None:
    """Add --config, or another option that names a configuration, and --set, which changes fields of it.

    default: the configuration unless one is named, None if the command decides, which left_out then says.
    """
    parser.add_argument(
        flag,
        type=config,
        default=default,
        metavar="NAME_OR_FILE",
        help=f"{what}: a name (nmsat config list) or a TOML file (nmsat config show) (default: {left_out or default})",
    )
    add_settings(parser, flag.removeprefix("--").replace("-", "_"))


def add_settings(parser: argparse.ArgumentParser, dest: str) -> None:
    """Add --set; dest: of the configuration that it changes."""
    action = parser.add_argument(
        "--set",
        action=SetFields,
        type=setting,
        default=[],
        metavar="FIELD=VALUE",
        help="change a field of the configuration, such as rows=16 or memory.latency_ns=90; may be repeated",
    )
    assert isinstance(action, SetFields)
    action.changes = dest


def add_layer_patterns(parser: argparse.ArgumentParser, dest: str) -> None:
    """Add --layer-patterns, as `nmsat patterns` writes them."""
    parser.add_argument(
        "--layer-patterns",
        type=layer_patterns,
        default=None,
        dest=dest,
        metavar="TEXT_OR_FILE",
        help="N:M by layer, such as conv2@2:4+res1a@2:16~2:8+rest@2:8 (FF~BP), or a file of nmsat patterns --out",
    )


def layer_patterns(text: str) -> str:
    """Read patterns by layer, or the file that holds them; the same text in the end."""
    from nmsat.algorithms.methods.patterns import AT, parse_patterns, write_patterns

    written = text
    if AT not in text:
        try:
            written = Path(text).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = f"{text!r} is no patterns (LAYER@N:M) and no file of them: {error}"
            raise argparse.ArgumentTypeError(reason) from None
    try:
        return write_patterns(parse_patterns(written))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def add_machine(parser: argparse.ArgumentParser) -> None:
    """Add a configuration as an argument, --set and --device."""
    parser.add_argument("machine", type=config, metavar="NAME_OR_FILE", help="a name, or a TOML file")
    parser.add_argument(
        "--device",
        type=Named(str, lambda: DEVICES),
        choices=list(DEVICES),
        default=None,
        help="board whose resources are told (default: the one it is named after, else vcu1525)",
    )
    add_settings(parser, "machine")


def board(options: argparse.Namespace) -> str:
    """Return the board of `add_machine`."""
    from nmsat.reports.work.machines import board_of

    return board_of(options.machine, options.device)


def setting(text: str) -> Setting:
    """Read FIELD=VALUE; the value as it is written in TOML."""
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"the value is {text!r}; write FIELD=VALUE such as rows=16")
    return Setting(name, value)


class SetFields(argparse._AppendAction):
    """--set: once all options are known, the configuration is replaced by the changed one.

    changes: where the namespace holds the configuration.
    """

    changes = ""

    def check(self, options: argparse.Namespace) -> None:
        """Raise ValueError for a file with the name of a preset and other values, which is given no other name."""
        settings: list[Setting] = getattr(options, self.dest, [])
        config: SatConfig | None = getattr(options, self.changes, None)
        if config is None or isinstance(config, str) or any(name == "name" for name, _ in settings):
            return
        if needs_name(config):
            try:
                find_machine(asked_for(config)[0])
            except ValueError as error:  # with file and line
                raise ValueError(f"{error}; or give --set name=NAME") from None

    def settle(self, options: argparse.Namespace) -> None:
        """Change the configuration, once; ValueError for a field that may not be so."""
        settings: list[Setting] = getattr(options, self.dest, [])
        before: SatConfig | None = getattr(options, self.changes, None)
        if not settings or isinstance(before, str):  # the latter: not parsed, as with a group alone
            return
        if before is None:
            raise ValueError("--set is given without --config; name the configuration that it changes")
        named = [field for name, value in settings for field in flat({name: parse_value(value)})]
        twice = [name for name in dict.fromkeys(named) if named.count(name) > 1]
        if twice:
            raise ValueError(f"{twice[0]} is given {named.count(twice[0])} times; give each field once")
        after = changed(before, {name: parse_value(value) for name, value in settings})
        if after != before:
            remember(after, asked_for(before)[0], settings)
        setattr(options, self.changes, after)


def whole(text: str, low: int, high: int) -> int:
    """Read a whole number from low to high."""
    try:
        value = int(text)
    except ValueError:
        value = low - 1
    if not low <= value <= high:
        raise argparse.ArgumentTypeError(f"the value is {text!r}; it must be a whole number from {low} to {high}")
    return value


def check_built(config: SatConfig, *, transposes: bool = False) -> None:
    """Raise InputError unless the machine can be built around this configuration; before any work starts.

    transposes: it has to read operands transposed, too.
    """
    from nmsat.dataflow.contract.legal import check_machine, check_transposes

    try:
        check_machine(config)
        if transposes:
            check_transposes(config)
    except ValueError as error:
        raise InputError(str(error)) from None
