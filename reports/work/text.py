"""What every command says in text: tables, and the one line for input that cannot be used."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence


OPERAND_KINDS: Final = ("finite", "all")
"""Random operands: finite numbers; infinities, NaN, zeros, overflow and cancellation as well."""


class InputError(Exception):
    """The user asked for something that cannot be done; the text says what, the value, and what is allowed."""


def prose(text: str, *, bullet: bool = False) -> str:
    """Return a paragraph, or a point of a list, in lines of less than 120 characters; words stay whole."""
    first, rest = ("- ", "  ") if bullet else ("", "")
    return textwrap.fill(
        " ".join(text.split()),
        119,
        initial_indent=first,
        subsequent_indent=rest,
        break_long_words=False,
        break_on_hyphens=False,
    )


def printable(text: str) -> str:
    """Return text without anything that a terminal would obey: control characters as they are written in Python."""
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)


def table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """Return rows in columns: the first left, the others right aligned."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = []
    for row in [header, *rows]:
        first, *others = zip(row, widths, strict=True)
        cells = [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])
