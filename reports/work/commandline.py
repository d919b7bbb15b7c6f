"""Commands as people type them: printed so that they can be pasted into a shell and repeat a run."""

from __future__ import annotations

import shlex
from contextlib import suppress
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from nmsat.algorithms.core.tape import Pattern
from nmsat.dataflow.contract.config import SatConfig, preset

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PROGRAM: Final = "nmsat"
"""Name of the front door."""

TRAIN_MACHINE: Final = "small"
"""Configuration whose cycles per step `train` and `study` tell unless another one is asked for."""


class Setting(NamedTuple):
    """What is given as NAME=VALUE, or as VALUE alone with an empty name."""

    name: str
    value: Any


_asked: Final[dict[SatConfig, tuple[str, tuple[Setting, ...]]]] = {}
"""Configurations that this process was asked for by more than the name of a preset: how."""


def remember(config: SatConfig, text: str, settings: Sequence[Setting] = ()) -> None:
    """Take note of how a configuration was asked for, so that `spell` can say it: the value of --config, and --set."""
    _asked[config] = text, tuple(settings)


def asked_for(config: SatConfig) -> tuple[str, tuple[Setting, ...]]:
    """Return the value of --config, and those of --set, that give a configuration."""
    with suppress(ValueError):
        if preset(config.name) == config:  # its name is enough, however it was asked for
            return config.name, ()
    return _asked.get(config, (config.name, ()))


def config_words(config: SatConfig, flag: str = "--config") -> list[str]:
    """Return the words that ask for a configuration."""
    return [flag, word(config), *_set_words(config)]


def _set_words(config: SatConfig) -> list[str]:
    return [part for setting in asked_for(config)[1] for part in ("--set", word(setting))]


class Repeated(list[Any]):
    """Values of an option that is given once for each."""


def spell(command: str, arguments: Sequence[object] = (), options: Mapping[str, object] | None = None) -> str:
    """Return a command line, quoted for a shell.

    command: its words, such as 'verify gemm'; arguments: positional values in order; options: '--name' -> value, True
    for one without a value, `Repeated` for one given several times. Raises TypeError for a value that has no text on
    the command line.
    """
    words = [PROGRAM, *command.split()]
    for name, value in (options or {}).items():
        if value is True:
            words.append(name)
            continue
        if isinstance(value, SatConfig):
            words += config_words(value, name)
            continue
        for text in map(word, value if isinstance(value, Repeated) else [value]):
            # A value that looks like an option needs the form with '='.
            words += [f"{name}={text}"] if text.startswith("-") else [name, text]
    texts = [word(value) for value in arguments]
    words += [part for value in arguments if isinstance(value, SatConfig) for part in _set_words(value)]
    if any(text.startswith("-") for text in texts):
        words.append("--")
    return shlex.join([*words, *texts])


def word(value: object) -> str:
    """Return the text that is read back as `value`; TypeError if there is none."""
    match value:
        case None:
            return "dense"  # what `--pattern` makes of it
        case SatConfig():
            return asked_for(value)[0]
        case Setting(name, given):
            return f"{name}={word(given)}" if name else word(given)
        case list() | tuple():
            return ",".join(map(word, value))
        case str() | int() | float() | PurePath() | Pattern():
            return str(value)
    raise TypeError(f"value is {value!r}; it has no form on the command line")
