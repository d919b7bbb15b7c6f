"""Signals that end a run, kept waiting while something must not be cut in two.

The handlers are the front door's (`reports.work.entry`); without them nothing is held, and Python's own rules apply.
"""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_depth = 0
_waiting: int | None = None


@contextmanager
def held() -> Iterator[None]:
    """Let signals that end the run wait until the block is over; for a few system calls, not for work.

    Python runs handlers in the main thread alone, so in other threads there is nothing to hold.
    """
    global _depth, _waiting  # noqa: PLW0603 # one process has one set of signals
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _depth += 1
    try:
        yield
    finally:
        _depth -= 1
        number = _waiting
        if _depth == 0 and number is not None:
            _waiting = None
            signal.raise_signal(number)


def must_wait(number: int) -> bool:
    """Tell a handler whether signal `number` came inside a `held` block; it is raised again when the block is over."""
    global _waiting  # noqa: PLW0603
    if _depth:
        _waiting = number
    return _depth > 0
