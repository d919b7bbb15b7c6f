"""Worker processes that end when their parent does, and leave nothing half-written."""

from __future__ import annotations

import os
import signal
import threading
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import active_children, get_context, parent_process
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Final

from nmsat.algorithms.core.signals import held, must_wait

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PATIENCE_SECONDS: Final = 5.0
"""Time that a worker has to clean up before it is killed."""

_TERMINATED: Final = 128 + signal.SIGTERM

_busy = False


@contextmanager
def workers(processes: int, modules: Sequence[str] = ()) -> Iterator[ProcessPoolExecutor]:
    """Give a pool of processes; whatever cuts the block off ends them, with the work that they have in hand.

    modules: imported once, by a process that the first of such pools starts and that ends with this one; the workers
    of all such pools are its copies and start quickly. Without any each worker starts as a Python of its own.
    """
    before = set(active_children())
    context = get_context("forkserver" if modules else "spawn")
    if modules:
        context.set_forkserver_preload(list(modules))
    # Ctrl-C on a terminal reaches the workers as well: they leave it to their parent.
    pool = ProcessPoolExecutor(processes, context, initializer=_obey, initargs=(dict(os.environ),))
    try:
        yield pool
        pool.shutdown()
    except BaseException:
        with held():
            mine = [child for child in active_children() if child not in before]
            # The pool's own thread lasts as long as a worker; what it holds, semaphores too, goes with it.
            closing = threading.Thread(target=pool.shutdown, kwargs={"cancel_futures": True})
            closing.start()
            for child in mine:
                child.terminate()
            for child in mine:
                child.join(PATIENCE_SECONDS)
                if child.is_alive():
                    child.kill()
                    child.join()
            closing.join()
        raise


@contextmanager
def interruptible() -> Iterator[None]:
    """Let the end of this worker wait until the block has cleaned up."""
    global _busy  # noqa: PLW0603 # a worker does one thing at a time
    _busy = True
    try:
        yield
    except KeyboardInterrupt:
        os._exit(_TERMINATED)
    finally:
        _busy = False


def _obey(variables: dict[str, str]) -> None:
    os.environ.clear()  # a copy has those of the day on which the first was made
    os.environ.update(variables)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end)
    threading.Thread(target=_follow_parent, daemon=True).start()


def _follow_parent() -> None:
    """End this worker when its parent was killed: it would wait for work for ever."""
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)


def _end(number: int, _: object) -> None:
    if must_wait(number):
        return
    if _busy:
        raise KeyboardInterrupt
    os._exit(_TERMINATED)
