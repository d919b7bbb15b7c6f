"""Runs a sweep: every point by the estimate, in processes; the points of the fronts again by the quick gear.

A front is of one work (network, batch, method, pattern): the machines that no other beats in cycles, elements and block
RAM together.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from nmsat.algorithms.core.tape import Pattern
from nmsat.algorithms.core.vocabulary import TRAINED_NETWORKS
from nmsat.algorithms.training.workers import workers
from nmsat.dataflow.contract.machine_file import values
from nmsat.dataflow.cycles.buffers import block_totals, buffer_counts
from nmsat.dataflow.program.memory_plan import Batches, memory_plan
from nmsat.reports.work.progress import LOG, task
from nmsat.reports.work.timings import Wanted, time_all, version
from nmsat.sim.results.provenance import Source
from nmsat.sim.work.machine import machine_step
from nmsat.sim.work.timed import Estimator

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from nmsat.dataflow.contract.config import SatConfig
    from nmsat.dataflow.network.step import Step
    from nmsat.reports.work.sweep_journal import Journal
    from nmsat.reports.work.sweep_plan import Plan, Point
    from nmsat.sim.results.machine import MachineResult

RAM_KBIT: Final = {"bram36": 36, "uram": 288}
"""Kilobits of a block."""

MORE_SOURCES: Final = ("algorithms/core", "algorithms/methods", "algorithms/layers", "dataflow/network", "sim/work")
"""Folders that results of a sweep come from besides those of `reports.work.timings`."""

MOST_BROKEN: Final = 3
"""Times that workers may be killed until a sweep gives up."""


@cache
def sweep_version() -> str:
    """Return the SHA-256 of all sources that results of a sweep come from."""
    root = Path(__file__).resolve().parents[2]
    digest = hashlib.sha256(version().encode())
    for folder in MORE_SOURCES:
        for path in sorted((root / folder).rglob("*.py")):
            digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def run_sweep(plan: Plan, journal: Journal, processes: int, *, exact: bool) -> list[dict[str, Any]]:
    """Return the rows of all points in their order; what the journal holds is not done again."""
    _estimate_all(plan, journal, processes)
    rows = [_row(point) for point in plan.points]
    for key, group in _groups(plan).items():
        for point in group:
            rows[point.index] |= journal.get("estimated", key)[str(point.index)]
    for index in front_of(rows):
        rows[index]["front"] = True
    if exact:
        wanted = [plan.points[index] for index, row in enumerate(rows) if row["front"]]
        with task("front, by the quick gear", len(wanted), "point") as running:
            for point in wanted:
                running.now(f"{point.network}, {point.machine.name if point.machine else ''}")
                if not journal.has("exact", str(point.index)):
                    journal.put("exact", str(point.index), _exact(point, processes))
                rows[point.index] |= journal.get("exact", str(point.index))
                running.advance()
    return rows


def front_of(rows: Iterable[dict[str, Any]]) -> list[int]:
    """Return the indices of the points that no other of the same work beats; of equal ones the first."""
    works: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        if row["cycles"] is not None:
            works[tuple(row[name] for name in ("network", "batch", "method", "pattern"))].append(row)
    front = []
    for found in works.values():
        kept: list[tuple[int, int, int]] = []
        for row in sorted(found, key=lambda r: (r["elements"], r["ram_kbit"], r["cycles"], r["index"])):
            costs = (row["elements"], row["ram_kbit"], row["cycles"])
            if not any(all(a <= b for a, b in zip(other, costs, strict=True)) for other in kept):
                kept.append(costs)
                front.append(row["index"])
    return sorted(front)


def _groups(plan: Plan) -> dict[str, list[Point]]:
    """Return points that share a machine and a dense step, by a text."""
    groups: dict[str, list[Point]] = defaultdict(list)
    for point in plan.points:
        if point.machine is not None and not point.machine.planned:
            sizes = {name: value for name, value in values(point.machine).items() if name != "name"}
            groups[json.dumps([point.network, point.batch, sizes])].append(point)
    return groups


def _estimate_all(plan: Plan, journal: Journal, processes: int) -> None:
    todo = {key: group for key, group in _groups(plan).items() if not journal.has("estimated", key)}
    ready = sum(map(len, _groups(plan).values())) - sum(map(len, todo.values()))
    broken = 0

    def found(key: str, value: dict[str, dict[str, Any]]) -> None:
        journal.put("estimated", key, value)
        running.advance(len(todo.pop(key)))

    with task("estimating", len(plan.points), "point") as running:
        running.begin(len(plan.points) - sum(map(len, todo.values())) if ready else 0, len(plan.points))
        for key, group in list(todo.items()) if processes == 1 else ():
            found(key, estimate_group(group))
        while todo:
            try:
                with workers(min(processes, len(todo))) as pool:
                    pending = {pool.submit(estimate_group, group): key for key, group in todo.items()}
                    for done in as_completed(pending):
                        found(pending[done], done.result())
            except BrokenProcessPool:
                broken += 1
                if broken > MOST_BROKEN:
                    raise
                LOG.warning(
                    "a worker was killed; %d points are left and go on in new ones", sum(map(len, todo.values()))
                )


def estimate_group(points: Sequence[Point]) -> dict[str, dict[str, Any]]:
    """Return what the points take by the estimate, by index; they share machine, network and batch."""
    machine = points[0].machine
    assert machine is not None
    timer, found = Estimator(machine), {}
    dense = None
    for point in points:
        try:
            if dense is None:
                dense = machine_step(_step(point.network, point.batch, "dense", "dense"), timer)
            step = _step(*point.work)
            plan = memory_plan(step, machine, batches=Batches(point.batch))
            result = machine_step(step, timer)
        except ValueError as error:
            found[str(point.index)] = {"status": "error", "error": str(error)}
            continue
        totals = {"status": "estimated", "bound": step.bound, "memory_plan_bytes": sum(plan.values())}
        found[str(point.index)] = totals | _totals(result, dense)
    return found


def _exact(point: Point, processes: int) -> dict[str, Any]:
    machine = point.machine
    assert machine is not None
    wanted = [Wanted(_step(*point.work)), Wanted(_step(point.network, point.batch, "dense", "dense"))]
    try:
        result, dense = time_all(machine, wanted, lambda _: None, processes)
    except ValueError as error:
        return {"error": str(error)}
    found = {f"exact_{name}": value for name, value in _totals(result, dense).items()}
    return found | {"status": "exact", **{f"exact_bytes_{way}": count for way, count in result.bytes.items()}}


def _totals(result: MachineResult, dense: MachineResult) -> dict[str, Any]:
    return {
        "cycles": result.cycles,
        "dense_cycles": dense.cycles,
        "speedup": dense.cycles / result.cycles,
        "utilization": result.utilization,
        "seconds": result.seconds,
    }


@cache
def _step(network: str, batch: int, method: str, pattern: str) -> Step:
    """Return a training step, kept as long as the process is."""
    from nmsat.dataflow.network.models import load_model
    from nmsat.dataflow.network.readers.recorded import recorded_step
    from nmsat.dataflow.network.step import training_products

    chosen = None if pattern == "dense" else Pattern.parse(pattern)
    if network in TRAINED_NETWORKS:
        return recorded_step(network, method, chosen, batch)
    return training_products(load_model(network, batch), method, chosen)


def _row(point: Point) -> dict[str, Any]:
    """Return what is known of a point before it is run."""
    machine = point.machine
    row: dict[str, Any] = {name: getattr(point, name) for name in ("index", "config", *_WORK)}
    row |= {"source": Source.ESTIMATE.value, "front": False, "cycles": None, "planned": "", "error": point.error}
    if machine is None:
        return row | {"status": "error"} | dict(point.settings)
    blocks = block_totals(buffer_counts(machine))
    row |= {"machine": machine.name, "elements": machine.elements, "planned": "; ".join(machine.planned)}
    row |= {**blocks, "ram_kbit": sum(RAM_KBIT[kind] * count for kind, count in blocks.items())}
    row |= _fields(machine)
    return row | {"status": "planned" if machine.planned else ""}


_WORK: Final = ("network", "batch", "method", "pattern")


def _fields(machine: SatConfig) -> dict[str, Any]:
    found = {name: value for name, value in values(machine).items() if name != "name"}
    return {name: json.dumps(value) if isinstance(value, tuple) else value for name, value in found.items()}
