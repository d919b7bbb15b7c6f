"""How a program of the machine ended."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ProgramRun:
    """A program that has run: cycles, the flag of infinite or NaN gradients, counters by name."""

    cycles: int
    special: bool
    counters: dict[str, int]
