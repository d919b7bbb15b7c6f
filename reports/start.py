"""Where the command `nmsat` starts: the handlers of signals first, for the front door takes its time to import."""

from __future__ import annotations

import os
from _signal import (  # pyright: ignore[reportMissingImports]  # built in; module `signal` loads five others
    SIG_IGN,
    getsignal,
    signal,
)

from nmsat.reports.ending import TOLD

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


def main() -> int:
    """Run the command line of this process and return its exit code."""
    for number in TOLD:
        # What a shell ignores for a job in the background stays ignored.
        if getsignal(number) != SIG_IGN:
            signal(number, _leave)
    from nmsat.reports.work.entry import install, left

    install()
    from nmsat import main as front

    return left(front())


def _leave(number: int, _: object) -> NoReturn:
    """End the process: nothing is open yet."""
    os.write(2, f"nmsat: {TOLD[number]}\n".encode())
    os._exit(128 + number)
