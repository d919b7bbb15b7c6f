"""Accuracies of `nmsat study` beside the cycles of a sweep: those of the same network, method and pattern."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from nmsat.algorithms.core.schema import read_text
from nmsat.reports.work.text import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

MAX_TABLE_BYTES: Final = 1 << 26
"""Largest table of accuracies."""


def read_accuracies(path: Path) -> dict[tuple[str, str, str], float]:
    """Return (network, method, pattern) -> mean accuracy of a table's plain runs. InputError if it is none."""
    try:
        content = read_text(path, MAX_TABLE_BYTES)
    except ValueError as error:
        raise InputError(f"file {error}") from None
    try:
        rows = json.loads(content)["rows"]
        plain = [row for row in rows if not row["variant"]]
        return {(row["network"], row["method"], row["pattern"]): float(row["accuracy"]) for row in plain}
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        raise InputError(f"file {str(path)!r} is no table of `nmsat study` (accuracy.json)") from None


def add_accuracies(rows: Sequence[dict[str, Any]], known: dict[tuple[str, str, str], float]) -> None:
    """Put the accuracy into each row whose training the table knows."""
    for row in rows:
        row["accuracy"] = known.get((row["network"], row["method"], row["pattern"]))
