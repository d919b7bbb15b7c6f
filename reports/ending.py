"""Signals that end the command, and what is said of each. `reports.start` reads this before it sets the handlers."""

from __future__ import annotations

from _signal import SIGHUP, SIGINT, SIGTERM  # pyright: ignore[reportMissingImports]  # `signal` loads five others

TOLD = {SIGINT: "interrupted", SIGTERM: "terminated", SIGHUP: "terminal closed"}
