"""Work that is spread: over processes of this machine, or over the workers of a Dask cluster.

A task is a function at the top of a module, and one argument. Workers that are killed lose what they had in hand and
nothing else: it is done again, by new processes or by the workers that are left.
"""

from __future__ import annotations

import logging
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, TypeVar

from nmsat.algorithms.core.ranges import short
from nmsat.algorithms.training.workers import workers
from nmsat.reports.work.progress import LOG
from nmsat.reports.work.text import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

T = TypeVar("T")
R = TypeVar("R")

MOST_BROKEN: Final = 3
"""Times that workers may be killed until the work is given up."""

CONNECT_SECONDS: Final = 10
"""Time in which the scheduler of a cluster must answer."""


LOGGERS: Final = ("distributed", "distributed.client")
"""Logs of the library that have a level of their own."""

KEPT: Final = "what was finished is kept, and the same command goes on from there"
"""What to do when a cluster fails in the middle."""


class OtherCodeError(RuntimeError):
    """A worker has another version of the code."""


@dataclass(frozen=True)
class Where:
    """Where tasks run. processes: of this machine, 1: in this one; scheduler: address of Dask's, '' for none."""

    processes: int = 1
    scheduler: str = ""


def spread(
    where: Where,
    work: Callable[[T], R],
    todo: Mapping[str, T],
    found: Callable[[str, R], object],
    version: Callable[[], str],
) -> None:
    """Do all tasks, and hand over each result with its name as soon as it is there.

    version: tells the SHA-256 of the code, which that of workers elsewhere must be, too. Raises InputError where a
    cluster cannot be used, BrokenProcessPool if workers were killed more than `MOST_BROKEN` times.
    """
    if where.scheduler:
        _on_cluster(where.scheduler, work, todo, found, version)
    elif where.processes == 1:
        for name, task in todo.items():
            found(name, work(task))
    else:
        _in_processes(where.processes, work, dict(todo), found)


def _in_processes(
    processes: int, work: Callable[[T], R], left: dict[str, T], found: Callable[[str, R], object]
) -> None:
    broken = 0
    while left:
        try:
            with workers(min(processes, len(left))) as pool:
                pending = {pool.submit(work, task): name for name, task in left.items()}
                for done in as_completed(pending):
                    found(pending[done], done.result())
                    del left[pending[done]]
        except BrokenProcessPool:
            broken += 1
            if broken > MOST_BROKEN:
                raise
            LOG.warning("a worker was killed; %d tasks are left and go on in new ones", len(left))


def _on_cluster(
    address: str,
    work: Callable[[T], R],
    todo: Mapping[str, T],
    found: Callable[[str, R], object],
    version: Callable[[], str],
) -> None:
    for name, result in _results(address, (checked, (version, version()), work), todo):
        found(name, result)  # out here: what fails in it is nothing of the cluster


def _results(address: str, asked: tuple[Any, ...], todo: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the name of each task and its result as a cluster gives them. asked: function, arguments before the task.

    Raises InputError for all that goes wrong with the cluster or on a worker.
    """
    distributed: Any = import_module("distributed")  # by name: type checks do without the extra
    for logger in LOGGERS:  # what they tell with tracebacks is raised, too, and told in a line
        logging.getLogger(logger).setLevel(logging.CRITICAL)
    try:
        client = distributed.Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError) as error:
        raise InputError(f"scheduler is {address!r}; it cannot be reached: {error or 'no answer'}") from None
    try:
        with client, client.as_current():
            if not client.scheduler_info()["workers"]:
                LOG.warning("scheduler %s has no workers yet; the work begins when there is one", address)
            pending = {client.submit(*asked, task, pure=False): name for name, task in todo.items()}
            for done in distributed.as_completed(pending):
                yield pending[done], done.result()
    except OtherCodeError as error:
        raise InputError(f"scheduler is {address!r}; {error}") from None
    except ModuleNotFoundError as error:
        raise InputError(f"scheduler is {address!r}; a worker lacks a package: {error}") from None
    except distributed.KilledWorker as error:
        raise InputError(f"scheduler is {address!r}; workers died over and over: {error}; {KEPT}") from None
    except (OSError, distributed.CancelledError) as error:  # closed connections and time-outs are of OSError
        why = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"scheduler is {address!r}; it was lost, or a worker failed: {short(why)}; {KEPT}") from None


def checked(version: tuple[Callable[[], str], str], work: Callable[[T], R], task: T) -> R:
    """Do a task on a worker of a cluster; `OtherCodeError` if its code has another version than the one given."""
    tell, wanted = version
    if tell() != wanted:
        raise OtherCodeError("a worker has another version of nmsat than this one; install the same on both")
    return work(task)
