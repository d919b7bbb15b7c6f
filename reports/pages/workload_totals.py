"""Cycles of whole workloads on the machine: of programs that ran where that was waited for, else of the estimate.

At the sizes of the papers the programs of one workload run for seconds or for an hour. What they took is kept in
`workloads.json` beside the page. An entry holds the estimate of the day it was made and is taken while the estimate is
still that: who changes a program, a mapping or the machine's timing changes both.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final

from nmsat.reports.work.text import InputError
from nmsat.reports.work.workload import on_machine
from nmsat.sim.results.provenance import Source

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from pathlib import Path

    from nmsat.algorithms.workloads.engine.program import Program
    from nmsat.algorithms.workloads.engine.registry import Variant
    from nmsat.sim.work.workload import WorkloadResult

RECORD: Final = "workloads.json"
"""File of the entries, in the folder of the page."""


@dataclass(frozen=True)
class Totals:
    """cycles, cycles_dense: of all programs, as it runs and with nothing left out; source: what gave them."""

    cycles: int
    cycles_dense: int
    source: Source

    @property
    def speedup(self) -> float:
        """Cycles dense over cycles."""
        return self.cycles_dense / self.cycles


@dataclass(frozen=True)
class Entry:
    """What the programs of a workload took, and what the estimate said then; cycles, without and with sparsity."""

    cycles: int
    cycles_dense: int
    estimate: int
    estimate_dense: int


class KnownTotals:
    """The entries of a page. entries: by workload and variant; run: workloads whose programs are run if they have no
    entry."""

    def __init__(self, entries: dict[str, Entry], run: Collection[str] = ()) -> None:
        self._entries = entries
        self._run = run

    @classmethod
    def read(cls, folder: Path, run: Collection[str] = ()) -> KnownTotals:
        """Read what stands in a folder, nothing if it has no such file. Raises InputError for a damaged file."""
        path = folder / RECORD
        if not path.exists():
            return cls({}, run)
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            entries = {name: Entry(**{key: int(count) for key, count in row.items()}) for name, row in found.items()}
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise InputError(f"{path} is no record of workloads ({error}); delete it") from error
        return cls(entries, run)

    def text(self) -> str:
        """Return the file."""
        return json.dumps({name: asdict(entry) for name, entry in sorted(self._entries.items())}, indent=1) + "\n"

    def totals(
        self,
        name: str,
        variant: Variant,
        program: Program,
        result: WorkloadResult,
        tell: Callable[[str], None],
        processes: int = 1,
    ) -> Totals:
        """Return the cycles of a workload. result: of `simulate_tape`; tell: is told how far its programs are."""
        key = f"{name} {variant}"
        guess = on_machine(program, result, tell, processes, estimate=True)
        entry = self._entries.get(key)
        if entry is not None and (entry.estimate, entry.estimate_dense) != (guess.cycles, guess.cycles_dense):
            entry = None
        if entry is None and name in self._run:
            found = on_machine(program, result, tell, processes)
            entry = Entry(found.cycles, found.cycles_dense, guess.cycles, guess.cycles_dense)
        if entry is None:
            self._entries.pop(key, None)
            return Totals(guess.cycles, guess.cycles_dense, Source.ESTIMATE)
        self._entries[key] = entry
        return Totals(entry.cycles, entry.cycles_dense, Source.MACHINE)
