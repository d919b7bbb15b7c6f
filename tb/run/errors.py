"""What can go wrong between Verilog text and results; light to import, for the front door."""

from __future__ import annotations


class MissingToolError(RuntimeError):
    """A program that Verilator needs (C++ compiler, make, perl) is not installed."""


class BuildError(RuntimeError):
    """Verilator or the C++ compiler refused the design; the text ends with the last lines of their output."""


class SimulationError(RuntimeError):
    """A simulation ended without results, or `Results.check` found a failed test."""
