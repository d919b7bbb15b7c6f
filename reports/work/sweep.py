"""Runs a sweep: every point by the estimate, in processes; by the quick gear what may be on a front (`sweep_front`)."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from nmsat.dataflow.contract.machine_file import toml, values
from nmsat.dataflow.cycles.buffers import block_totals, buffer_counts
from nmsat.dataflow.program.memory_plan import Batches, memory_plan
from nmsat.reports.work.area import machine_area
from nmsat.reports.work.progress import task
from nmsat.reports.work.spread import spread
from nmsat.reports.work.sweep_front import exact_cycles, front_of, next_points
from nmsat.reports.work.sweep_networks import work_step
from nmsat.reports.work.timings import Wanted, time_all, version
from nmsat.sim.results.energy import step_energy
from nmsat.sim.results.machine import roofline
from nmsat.sim.results.provenance import Source
from nmsat.sim.work.machine import machine_step
from nmsat.sim.work.timed import Estimator

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from nmsat.dataflow.contract.config import SatConfig
    from nmsat.reports.work.spread import Where
    from nmsat.reports.work.sweep_journal import Journal
    from nmsat.reports.work.sweep_plan import Plan, Point
    from nmsat.sim.results.machine import MachineResult

RAM_KBIT: Final = {"bram36": 36, "uram": 288}
"""Kilobits of a block."""

MORE_SOURCES: Final = (
    *("algorithms/core", "algorithms/methods", "algorithms/layers", "dataflow/network", "sim/results", "sim/work"),
    *("reports/work/sweep.py", "reports/work/sweep_networks.py"),
)
"""Folders and modules that results of a sweep come from besides those of `reports.work.timings`."""

@cache
def sweep_version() -> str:
    """Return the SHA-256 of all sources that results of a sweep come from."""
    root = Path(__file__).resolve().parents[2]
    digest = hashlib.sha256(version().encode())
    for name in MORE_SOURCES:
        place = root / name
        for path in [place] if place.suffix else sorted(place.rglob("*.py")):
            digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def run_sweep(plan: Plan, journal: Journal, where: Where, *, exact: bool) -> list[dict[str, Any]]:
    """Return the rows of all points in their order; what the journal holds is not done again."""
    groups = _groups(plan)
    _estimate_all(plan, groups, journal, where)
    rows = [_row(point) for point in plan.points]
    for key, group in groups.items():
        for point in group:
            rows[point.index] |= journal.get("estimated", key)[str(point.index)]
    if exact:
        _refine(plan, rows, journal, where)
    for index in front_of(rows, exact_cycles) if exact else front_of(rows):
        rows[index]["front"] = True
    return rows


def _refine(plan: Plan, rows: list[dict[str, Any]], journal: Journal, where: Where) -> None:
    """Run exactly, in rounds, what may be on a front, and put it into the rows.

    What a round runs follows from whole rounds before it alone, so a sweep that was killed takes the same ways.
    """
    ran: set[int] = set()
    while now := next_points(rows, ran).now:
        _run_exactly([plan.points[index] for index in now], journal, where)
        for index in now:
            rows[index] |= journal.get("exact", str(index))
        ran.update(now)


def _groups(plan: Plan) -> dict[str, list[Point]]:
    """Return points that share a machine and a dense step, by a text."""
    groups: dict[str, list[Point]] = defaultdict(list)
    for point in plan.points:
        if point.machine is not None and not point.machine.planned:
            sizes = {name: value for name, value in values(point.machine).items() if name != "name"}
            groups[json.dumps([point.network, point.batch, sizes])].append(point)
    return groups


def _estimate_all(plan: Plan, groups: Mapping[str, list[Point]], journal: Journal, where: Where) -> None:
    todo = {key: group for key, group in groups.items() if not journal.has("estimated", key)}
    left = sum(map(len, todo.values()))

    def found(key: str, value: dict[str, dict[str, Any]]) -> None:
        journal.put("estimated", key, value)
        running.advance(len(todo[key]))

    with task("estimating", len(plan.points), "point") as running:
        running.begin(len(plan.points) - left, len(plan.points))
        spread(where, estimate_group, todo, found, sweep_version)


def _run_exactly(points: Sequence[Point], journal: Journal, where: Where) -> None:
    """Run points by the quick gear: on a cluster one a worker, here the programs of one in all processes."""
    todo = {str(point.index): point for point in points if not journal.has("exact", str(point.index))}

    def found(key: str, value: dict[str, Any]) -> None:
        journal.put("exact", key, value)
        running.advance()

    with task("what may be on a front, by the quick gear", len(points), "point") as running:
        running.begin(len(points) - len(todo), len(points))
        if where.scheduler:
            spread(where, exact_point, todo, found, sweep_version)
            return
        for key, point in todo.items():
            running.now(f"{point.network}, {point.machine.name if point.machine else ''}")
            found(key, exact_point(point, where.processes))


def estimate_group(points: Sequence[Point]) -> dict[str, dict[str, Any]]:
    """Return what the points take by the estimate, by index; they share machine, network and batch."""
    machine = points[0].machine
    assert machine is not None
    timer, found = Estimator(machine), {}
    dense = None
    for point in points:
        try:
            if dense is None:
                dense = machine_step(work_step(point.network, point.batch, "dense", "dense", point.content), timer)
            step = work_step(*point.work, point.content)
            plan = memory_plan(step, machine, batches=Batches(point.batch))
            result = machine_step(step, timer)
        except ValueError as error:
            found[str(point.index)] = {"status": "error", "error": str(error)}
            continue
        totals = {"status": "estimated", "bound": step.bound, "memory_plan_bytes": sum(plan.values())}
        found[str(point.index)] = totals | _totals(result, dense)
    return found


def exact_point(point: Point, processes: int = 1) -> dict[str, Any]:
    """Return what a point takes by the quick gear: cycles, their causes, bytes, modelled energy."""
    machine = point.machine
    assert machine is not None
    steps = (point.work, (point.network, point.batch, "dense", "dense"))
    wanted = [Wanted(work_step(*work, point.content)) for work in steps]
    try:
        result, dense = time_all(machine, wanted, lambda _: None, processes)
    except ValueError as error:
        return {"status": "error", "error": str(error)}
    found = {f"exact_{name}": value for name, value in _totals(result, dense).items()}
    found |= {f"exact_bytes_{way}": count for way, count in result.bytes.items()}
    found |= {f"exact_cause_{cause.replace(' ', '_')}": cycles for cause, cycles in result.causes.items()}
    energy = step_energy(result, sum(update.elements for update in wanted[0].step.updates))
    _, most, _ = roofline(machine, result.macs, sum(result.bytes.values()))
    found |= {"exact_macs": result.macs, "exact_roofline": most / machine.elements}
    return found | {"status": "exact", "modelled_joule": energy.total}


def _totals(result: MachineResult, dense: MachineResult) -> dict[str, Any]:
    return {
        "cycles": result.cycles,
        "dense_cycles": dense.cycles,
        "speedup": dense.cycles / result.cycles,
        "utilization": result.utilization,
        "seconds": result.seconds,
    }


def _row(point: Point) -> dict[str, Any]:
    """Return what is known of a point before it is run."""
    machine = point.machine
    row: dict[str, Any] = {name: getattr(point, name) for name in ("index", "config", *_WORK)}
    row |= {"source": Source.ESTIMATE.value, "front": False, "cycles": None, "planned": "", "error": point.error}
    if machine is None:
        return row | {"status": "error"} | {name: _cell(value) for name, value in point.settings}
    row |= {"machine": machine.name, "planned": "; ".join(machine.planned), **_area(machine), **_fields(machine)}
    return row | {"status": "planned" if machine.planned else ""}


_WORK: Final = ("network", "batch", "method", "pattern")


@cache
def _area(machine: SatConfig) -> dict[str, int]:
    """Return what a machine takes by the estimate of `reports.work.machines`: elements alone, and all buffers."""
    blocks = block_totals(buffer_counts(machine))
    ram = sum(RAM_KBIT[kind] * count for kind, count in blocks.items())
    area = machine_area(machine)
    return {"elements": machine.elements, "lut": area.lut, "dsp": area.dsp, **blocks, "ram_kbit": ram}


def _fields(machine: SatConfig) -> dict[str, Any]:
    return {name: _cell(value) for name, value in values(machine).items() if name != "name"}


def _cell(value: Any) -> Any:
    """Return a value of a field as the table holds it: slices as text such as '[8, 16]', so that it can be grouped."""
    return toml(value) if isinstance(value, tuple) else value
