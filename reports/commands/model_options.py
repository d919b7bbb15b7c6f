"""Options of `nmsat model` that say how a file is read and what single layers get."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Final

from nmsat.algorithms.core.vocabulary import NETWORK_FILES, NETWORKS, RENAMED
from nmsat.reports.commands.base import MAX_SIZE, add_layer_patterns, sparse, whole
from nmsat.reports.work.commandline import Setting
from nmsat.reports.work.text import InputError

if TYPE_CHECKING:
    from nmsat.algorithms.core.tape import Pattern
    from nmsat.dataflow.network.choice import Choice


KNOWN: Final = f"{', '.join(NETWORKS)}, {', '.join(NETWORK_FILES.values())}"
"""What can stand for a network."""


def check_files(options: argparse.Namespace) -> None:
    """Raise InputError for a model that is neither a name nor such a file, and for files that cannot be read."""
    named = options.model in NETWORKS or options.model in RENAMED
    if not named and Path(options.model).suffix.lower() not in NETWORK_FILES:
        raise InputError(f"model is {options.model!r}; it must be one of {KNOWN}")
    asked = {"model": None if named else options.model, "--masks": options.masks, "--layers": options.layers}
    for name, path in asked.items():
        if path is None:
            continue
        try:
            if Path(path).is_file():  # a reader says best what is no file
                with Path(path).open("rb"):
                    pass
        except OSError as error:
            raise InputError(f"{name} is {str(path)!r}; it cannot be read: {error.strerror or error}") from None


def add_file_options(parser: argparse.ArgumentParser) -> None:
    """Add what only ONNX files have: open sizes, the batch dimension, unknown operators."""
    parser.add_argument(
        "--size",
        type=named_size,
        action="append",
        default=[],
        metavar="NAME=N",
        help="size of an open dimension of an ONNX file, by name or as INPUT:AXIS; may be repeated",
    )
    parser.add_argument(
        "--batch-dim",
        type=lambda text: whole(text, 0, 7),
        default=None,
        metavar="D",
        help="dimension of the inputs of an ONNX file that is the batch (default: 0, or what the file says)",
    )
    parser.add_argument("--strict", action="store_true", help="refuse operators of an ONNX file whose cost is unknown")


def add_layer_options(parser: argparse.ArgumentParser) -> None:
    """Add what single layers get."""
    parser.add_argument(
        "--pattern",
        type=layer_pattern,
        action="append",
        default=[],
        metavar="[NAME=]N:M",
        help="sparsity (default: 2:8); with the name of a layer, or a glob, that of the layer; may be repeated",
    )
    add_layer_patterns(parser, "layer_patterns")
    parser.add_argument(
        "--dense", action="append", default=[], metavar="NAME", help="layer, or glob, that stays dense; may be repeated"
    )
    parser.add_argument(
        "--layers", type=Path, default=None, metavar="FILE", help="both as a TOML file: dense = [...] and [pattern]"
    )
    parser.add_argument(
        "--prune-all", action="store_true", help="prune also layers that N:M makes slower (default: they stay dense)"
    )
    parser.add_argument("--inference", action="store_true", help="the forward pass alone")


def named_size(text: str) -> Setting:
    """Read NAME=N."""
    name, equals, number = text.rpartition("=")
    if not equals or not name:
        raise argparse.ArgumentTypeError(f"the value is {text!r}; write NAME=N such as seq=128")
    return Setting(name, whole(number, 1, MAX_SIZE))


def layer_pattern(text: str) -> Setting:
    """Read N:M or NAME=N:M; the name is '' for all layers."""
    name, _, pattern = text.rpartition("=")
    return Setting(name, sparse(pattern))


def pattern_of_all(options: argparse.Namespace) -> Pattern | None:
    """Return the pattern that was given without a name, None if there is none. InputError for two."""
    given = [pattern for name, pattern in options.pattern if not name]
    if len(given) > 1:
        raise InputError(
            f"--pattern is given {len(given)} times without the name of a layer: {', '.join(map(str, given))}"
        )
    return given[0] if given else None


def choice(options: argparse.Namespace) -> Choice:
    """Return what single layers get: the file's wishes, then those of the command line."""
    from nmsat.dataflow.network.choice import Choice, read_choice

    wishes = read_choice(options.layers).wishes if options.layers else ()
    named = ((name, pattern) for name, pattern in options.pattern if name)
    return Choice((*wishes, *((name, None) for name in options.dense), *named))


def asked_layers(options: argparse.Namespace) -> str:
    """Return the first option that speaks of single layers, '' if none does."""
    given = {"--pattern NAME=N:M": any(name for name, _ in options.pattern), "--dense": bool(options.dense)}
    given |= {"--layers": options.layers is not None, "--prune-all": options.prune_all}
    given |= {"--layer-patterns": options.layer_patterns is not None}
    return next((name for name, asked in given.items() if asked), "")


def asked_file(options: argparse.Namespace) -> str:
    """Return the first option that only ONNX files have, '' if there is none."""
    given = {"--size": bool(options.size), "--batch-dim": options.batch_dim is not None, "--strict": options.strict}
    return next((name for name, asked in given.items() if asked), "")
