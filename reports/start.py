"""Where the command `nmsat` starts: the handlers of signals first, for the front door takes its time to import."""

from __future__ import annotations

import os
from _signal import SIG_IGN, SIGHUP, SIGINT, SIGTERM, getsignal, signal  # built in; module `signal` loads five others

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

_TOLD = {SIGINT: b"interrupted", SIGTERM: b"terminated", SIGHUP: b"terminal closed"}


def main() -> int:
    """Run the command line of this process and return its exit code."""
    for number in _TOLD:
        # What a shell ignores for a job in the background stays ignored.
        if getsignal(number) != SIG_IGN:
            signal(number, _leave)
    from nmsat.reports.work.entry import install, left

    install()
    from nmsat import main as front

    return left(front())


def _leave(number: int, _: object) -> NoReturn:
    """End the process: nothing is open yet."""
    os.write(2, b"nmsat: " + _TOLD[number] + b"\n")
    os._exit(128 + number)
