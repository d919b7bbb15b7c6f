"""A step as a timeline in Chrome trace format, which Perfetto (ui.perfetto.dev) and chrome://tracing open."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from nmsat.sim.results.machine import MachineResult, MachineRow

ROWS = {"array": 1, "waits": 2, "memory": 3, "update engine": 4}


def trace_events(result: MachineResult) -> list[dict[str, Any]]:
    """Return the events of a step: one per product or update, and one per cause of waiting in it; in microseconds.

    Waits of a product are drawn together at its end: how many there are is exact, where they lie is not drawn. The same
    holds for the beats of its memory port.
    """
    scale = 1 / result.config.clock_mhz
    events: list[dict[str, Any]] = [
        {"ph": "M", "pid": 1, "tid": row, "name": "thread_name", "args": {"name": name}} for name, row in ROWS.items()
    ]
    for row in result.rows:
        events += _row_events(row, scale)
    return events


def write_trace(result: MachineResult, path: Path) -> None:
    """Write the timeline of a step as JSON."""
    origin = {"source": result.source, "planned": list(result.planned), "configuration": result.config.name}
    trace = {"traceEvents": trace_events(result), "displayTimeUnit": "ns", "otherData": origin}
    path.write_text(json.dumps(trace), encoding="utf-8")


def _row_events(row: MachineRow, scale: float) -> list[dict[str, Any]]:
    causes = row.causes
    args: dict[str, Any] = {cause: cycles for cause, cycles in causes.items() if cycles}
    args |= {"stage": row.stage, "programs": row.programs, **{f"bytes_{way}": size for way, size in row.bytes.items()}}
    if row.schedule:
        args["schedule"] = f"{row.schedule['dataflow']} {row.schedule['rectangle']}"
    where = "array" if row.shape is not None else "update engine"
    out = [_event(where, f"{row.stage} {row.name}", row.start, row.cycles, scale, args)]
    at = row.start + causes["steps"]
    for cause, cycles in causes.items():
        if cycles and cause not in ("steps", "update"):
            out.append(_event("waits", cause, at, cycles, scale, {}))
            at += cycles
    beats = max(row.counters["read_beats"], row.counters["write_beats"])
    if beats:
        out.append(_event("memory", row.name, row.start, beats, scale, {"share": beats / row.cycles}))
    return out


def _event(row: str, name: str, start: int, cycles: int, scale: float, args: dict[str, Any]) -> dict[str, Any]:
    return {
        "ph": "X",
        "pid": 1,
        "tid": ROWS[row],
        "name": name,
        "ts": start * scale,
        "dur": cycles * scale,
        "args": args,
    }
