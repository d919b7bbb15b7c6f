"""What long work says on stderr: a bar on a terminal, a line every ten seconds without one, nothing when quiet.

    with task("paper", total=20, unit="step") as running:
        for step in steps:
            running.now(step.name)
            ...
            running.advance()

What is done once before the work goes on, such as compiling, is a task of its own `aside`: the time left of the tasks
around it is reckoned without it.

Notes go through `logging`: LOG.warning is always said, LOG.info unless quiet, LOG.debug when verbose. Rooms below
`reports` log to `logging.getLogger("nmsat.ROOM")` and know nothing of this module.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from contextlib import contextmanager
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, TypeVar

from nmsat.reports.work.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from tqdm import tqdm

T = TypeVar("T")

LOG: Final = logging.getLogger("nmsat")
"""Where everything is said; its handler writes to stderr."""

INTERVAL: Final = 10.0
"""Seconds between the lines of a task where stderr is no terminal."""

REDRAW: Final = 1.0
"""Seconds after which a bar is drawn anew, so that its clock runs while a step takes long."""

UNKNOWN_TOTAL: Final = "{desc}: {elapsed} {postfix}"
"""How tqdm shows a task whose length nobody knows."""


class Voice(Enum):
    """How much is said."""

    QUIET = logging.WARNING
    NORMAL = logging.INFO
    VERBOSE = logging.DEBUG


_running: Final[list[Task]] = []
"""Tasks under way, the innermost last: that one is shown."""

_lock: Final = threading.RLock()


class Task:
    """Work under way. `task` makes it; its methods may be called from any thread.

    label: what is done; total: in units, None if unknown; done: units so far.
    """

    def __init__(self, label: str, total: int | None, unit: str) -> None:
        self.label = printable(label)
        self.total = total
        self.unit = unit
        self.done = 0
        self._first = 0
        self._part = ""
        self._shown = ""
        self._start = time.monotonic()
        self._aside = 0.0
        self._bar: tqdm[Any] | None = None

    def begin(self, done: int, total: int) -> None:
        """Tell the length of the work once it is known, and how much of it an earlier run did."""
        with _lock:
            self.done = self._first = done
            self.total = total
            if self._bar is not None:
                self._bar.bar_format = None
                self._bar.total, self._bar.initial, self._bar.n = total, done, done

    def now(self, part: str) -> None:
        """Tell which part is being done."""
        LOG.debug("%s: %s", self.label, part)
        with _lock:
            self._part = part
            if self._bar is not None:
                self._bar.set_description_str(f"{self.label}: {part}", refresh=True)

    def advance(self, count: int = 1, shown: Mapping[str, str] | None = None) -> None:
        """Take note that `count` units are done; shown: values worth seeing beside, such as {"loss": "0.12"}."""
        with _lock:
            self.done += count
            self._shown = ", ".join(f"{name} {value}" for name, value in (shown or {}).items())
            if self._bar is not None:
                self._bar.set_postfix_str(self._shown, refresh=False)
                self._bar.update(count)

    def line(self) -> str:
        """Return how far the work is, in one line."""
        seconds = time.monotonic() - self._start
        parts = [self.label + (f": {self._part}" if self._part else "")]
        if self.total:
            parts.append(f"{self.done} of {self.total}" + (f" {self.unit}s" if self.unit else ""))
        parts.append(f"{_clock(seconds)} so far")
        if self.total and self.done > self._first:
            left = (seconds - self._aside) * (self.total - self.done) / (self.done - self._first)
            parts.append(f"about {_clock(left)} left")
        return ", ".join([*parts, self._shown] if self._shown else parts)

    def _leave_out(self, seconds: float) -> None:
        """Take note of time that says nothing of how long the rest takes."""
        self._aside += seconds
        if self._bar is not None:
            self._bar.last_print_t += seconds  # where the next update counts from

    def _draw(self) -> None:
        from tqdm import tqdm

        shape = None if self.total else UNKNOWN_TOTAL
        unit = self.unit or "it"
        self._bar = tqdm(total=self.total, desc=self.label, unit=unit, bar_format=shape, leave=False, file=sys.stderr)

    def _erase(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _tick(self) -> None:
        """Show the task again, if it is the innermost."""
        with _lock:
            if not _running or _running[-1] is not self:
                return
            if self._bar is not None:
                self._bar.refresh()
            else:
                LOG.info("%s", self.line())


@contextmanager
def task(label: str, total: int | None = None, unit: str = "", *, aside: bool = False) -> Iterator[Task]:
    """Show that something is being done, until the block ends.

    label: what, in a few words; total: its length in units, None if it is not known; unit: singular of what is counted;
    aside: whether it is no part of what the tasks around it count.
    """
    running, over = Task(label, total, unit), threading.Event()
    LOG.debug("%s: begins", label)
    watch = None
    if LOG.isEnabledFor(logging.INFO):
        terminal = _terminal()
        if terminal:
            running._draw()
        watch = threading.Thread(target=_follow, args=(running, over, REDRAW if terminal else INTERVAL), daemon=True)
        watch.start()
    with _lock:
        _running.append(running)
    try:
        yield running
    finally:
        over.set()
        if watch is not None:
            watch.join()
        with _lock:
            _running.remove(running)
            running._erase()
            for outer in _running if aside else ():
                outer._leave_out(time.monotonic() - running._start)
        LOG.debug("%s: %s", label, _clock(time.monotonic() - running._start))


def each(items: Sequence[T], label: str, unit: str = "", name: Callable[[T], str] = str) -> Iterator[T]:
    """Yield the items and show how many of them are done and which one is being done; name: what it is called."""
    with task(label, len(items), unit) as running:
        for item in items:
            running.now(name(item))
            yield item
            running.advance()


def _follow(running: Task, over: threading.Event, interval: float) -> None:
    while not over.wait(interval):
        running._tick()


def speak(voice: Voice) -> None:
    """Choose how much is said from now on, on what sys.stderr is at that time."""
    LOG.setLevel(voice.value)
    LOG.propagate = False
    if not any(isinstance(handler, _Stderr) for handler in LOG.handlers):
        LOG.addHandler(_Stderr())


class _Stderr(logging.Handler):
    """Writes records to the stderr of the moment, above a bar if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        mark = "note: " if record.levelno == logging.WARNING else ""
        text = printable(f"nmsat: {mark}{record.getMessage()}\n")
        with _lock:
            drawn = [running._bar for running in _running if running._bar is not None]
            for bar in drawn:
                bar.clear()
            sys.stderr.write(text)
            sys.stderr.flush()
            for bar in drawn:
                bar.refresh()


def _terminal() -> bool:
    """Whether stderr is a terminal that can go back in its line."""
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


def _clock(seconds: float) -> str:
    """Return a duration as people say it."""
    whole = round(seconds)
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
