"""What every sub-command is made of: its description, and argument types that explain themselves."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from nmsat.algorithms.core.tape import Pattern
from nmsat.dataflow.contract.config import SatConfig, preset

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

MAX_SIZE: Final = 1 << 24
"""Largest M, K or N of a product on the command line."""

MAX_SEED: Final = (1 << 63) - 1
"""Largest seed on the command line."""

SUMMARY: Final = "summary.json"
"""The file of an output folder that holds the numbers."""


class InputError(Exception):
    """The user asked for something that cannot be done; the text says what, the value, and what is allowed."""


@dataclass(frozen=True)
class Answer:
    """What a command found.

    values: what --json prints, an object or a list of objects; text: the same for people; ok: False when a comparison
    failed (exit code 1).
    """

    values: dict[str, Any] | list[dict[str, Any]]
    text: str
    ok: bool = True


@dataclass(frozen=True)
class Command:
    """One sub-command: what it does, an example, its arguments, and the function behind it."""

    summary: str
    example: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], Answer]


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


def config(text: str) -> SatConfig:
    """Read the name of a configuration."""
    try:
        return preset(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def add_shape(parser: argparse.ArgumentParser) -> None:
    """Add M, K, N, --pattern, --config, --dataflow and --seed: one product Y[M, N] = A[M, K] @ W[K, N]."""
    parser.add_argument("m", metavar="M", type=size, help="rows of A and Y")
    parser.add_argument("k", metavar="K", type=size, help="length of the reduction: columns of A, rows of W")
    parser.add_argument("n", metavar="N", type=size, help="columns of W and Y")
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


def add_config(parser: argparse.ArgumentParser) -> None:
    """Add --config."""
    parser.add_argument(
        "--config",
        type=config,
        default=preset("tiny"),
        metavar="NAME",
        help="configuration of SAT: tiny (4 x 4 elements), small (8 x 8) or vcu1525 (32 x 32) (default: tiny)",
    )


def table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """Return rows in columns: the first left, the others right aligned."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = []
    for row in [header, *rows]:
        first, *others = zip(row, widths, strict=True)
        cells = [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def whole(text: str, low: int, high: int) -> int:
    """Read a whole number from low to high."""
    try:
        value = int(text)
    except ValueError:
        value = low - 1
    if not low <= value <= high:
        raise argparse.ArgumentTypeError(f"the value is {text!r}; it must be a whole number from {low} to {high}")
    return value
