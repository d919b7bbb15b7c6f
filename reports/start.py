"""Where the command `nmsat` starts: the handlers of signals first, for the front door takes its time to import."""

from __future__ import annotations

from nmsat.reports.work.entry import install, left


def main() -> int:
    """Run the command line of this process and return its exit code."""
    install()
    from nmsat import main as front

    return left(front())
