"""How the command `nmsat` ends when it is cut off: by a signal, by a reader that goes away, by a full disk.

Ctrl-C, SIGTERM and a terminal that goes away end the program at any time, without a traceback: at once while it starts
and while it leaves; by an exception while a command runs, so that everything half-made is removed on the way out. The
exit code is 128 + the number of the signal: 130 for Ctrl-C, 143 for SIGTERM.

This module is light on purpose: `reports.start` sets handlers that end the process before this one is read, and
`install` replaces them.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, NoReturn, TextIO, TypeVar, cast

from nmsat.algorithms.core.signals import must_wait
from nmsat.reports.ending import TOLD

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

BAD_INPUT: Final = 2
CLOSED_PIPE: Final = 141

_AGAIN_SECONDS: Final = 0.5
"""Until an exception is raised again: a library can swallow the first one, in `__del__` or in a callback of C."""


class Stopped(KeyboardInterrupt):
    """A signal asked the run to end."""


class _State:
    """raising: a command runs, so a signal becomes an exception; stopping: the first signal that came."""

    raising = False
    stopping: int | None = None


def install() -> None:
    """Set the handlers: from now on a signal ends the process."""
    for number in TOLD:
        # A shell starts background jobs with SIGINT ignored, nohup does so with SIGHUP: that stays as it is.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _end)
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123 # for the life of the process


def left(code: int) -> int:
    """Return the exit code of the front door, or end the process with it if a signal came: nothing is left to do."""
    if _State.stopping is not None:
        _leave(code)
    return code


def guarded(work: Callable[[], int]) -> int:
    """Return the exit code of `work`, which prints to stdout, or the code of the way in which it was cut off.

    A signal is one line and 128 + its number; a reader of stdout that went away is 141 without a word; a stdout that
    cannot be written (full disk, closed) is one line and 2.
    """
    if sys.stdout is None:
        return _fail("stdout is closed; the answer cannot be printed")
    before, watched = sys.stdout, _Watched(sys.stdout)
    sys.stdout = cast("TextIO", watched)
    _State.raising = True
    try:
        code = _code(work)
        if _State.stopping is not None:
            return _stopped()  # the exception became another one on its way, and that one an exit code
        sys.stdout.flush()
        return code if watched.error is None else _unsaid(watched.error)  # argparse swallows the error
    except BaseException as error:
        if _State.stopping is not None or isinstance(error, KeyboardInterrupt):
            return _stopped()
        if isinstance(error, OSError) and (error is watched.error or isinstance(error, BrokenPipeError)):
            return _unsaid(error)
        raise
    finally:
        _State.raising = False
        if sys.stdout is watched:
            sys.stdout = before


def _code(work: Callable[[], int]) -> int:
    try:
        return work()
    except SystemExit as leaving:  # argparse leaves so after --help
        if isinstance(leaving.code, int | None):
            return leaving.code or 0
        raise


class _Watched:
    """Stdout that remembers what went wrong with it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.error: OSError | None = None

    def write(self, text: str) -> int:
        return self._try(lambda: self._stream.write(text))

    def flush(self) -> None:
        self._try(self._stream.flush)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _try(self, work: Callable[[], T]) -> T:
        try:
            return work()
        except OSError as error:
            self.error = error
            raise


def _stopped() -> int:
    """Return the exit code after a signal, whatever exception it is by now: C code turns one into another."""
    _State.raising = False
    signal.setitimer(signal.ITIMER_REAL, 0)
    number = _State.stopping or signal.SIGINT
    _end_children()
    print(f"nmsat: {TOLD[number]}", file=sys.stderr)
    return 128 + number


def _unsaid(error: OSError) -> int:
    """Return the exit code for an answer that could not be printed."""
    with suppress(OSError, ValueError):  # the stdout of a test has no file
        # What is still in the buffer must go nowhere when Python flushes it on its way out.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if isinstance(error, BrokenPipeError):
        return CLOSED_PIPE  # the reader has seen enough (nmsat ... | head)
    return _fail(f"the answer cannot be written to stdout: {error.strerror or error}")


def _end(number: int, _: object) -> None:
    """Handle a signal of `TOLD`, and the timer that repeats it."""
    if must_wait(number):
        return
    if not _State.raising:
        _leave(128 + (_State.stopping or number), told=_State.stopping is not None)
    if _State.stopping is None:
        _State.stopping = number
        _be_quiet()
        signal.signal(signal.SIGALRM, _end)
        signal.setitimer(signal.ITIMER_REAL, _AGAIN_SECONDS, _AGAIN_SECONDS)
    elif number != signal.SIGALRM:
        return  # the end is under way: an impatient second signal must not cut the cleaning
    raise Stopped(TOLD[_State.stopping])


def _be_quiet() -> None:
    """Say nothing of exceptions that cannot be raised where they happen, nor of what the end leaves unused."""
    sys.unraisablehook = sys.excepthook = lambda *_: None
    for name, function in (("threading", "excepthook"), ("warnings", "showwarning")):
        if name in sys.modules:
            setattr(sys.modules[name], function, lambda *_, **__: None)


def _leave(code: int, *, told: bool = True) -> NoReturn:
    """End the process now: nothing is open, and what Python does on its way out can only be interrupted again."""
    if not told:
        os.write(2, f"nmsat: {TOLD[code - 128]}\n".encode())
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError, RuntimeError):  # the code says enough
            stream.flush()
    os._exit(code)


def _end_children() -> None:
    """End what libraries started and left running (the Yosys that writes Verilog); Linux tells who that is."""
    try:
        with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as file:  # noqa: PTH123
            children = [int(word) for word in file.read().split()]
    except OSError:
        return
    for child in children:
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGTERM)


def _fail(text: str) -> int:
    print(f"nmsat: error: {text}", file=sys.stderr)
    return BAD_INPUT
