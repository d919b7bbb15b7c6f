"""A step as a timeline in Chrome trace format, which Perfetto (ui.perfetto.dev) and chrome://tracing open."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from nmsat.sim.schedule.machine import Span
    from nmsat.sim.schedule.step import StepResult

ROWS = {"array": 1, "waits": 2, "memory": 3, "update engine": 4}


def trace_events(result: StepResult) -> list[dict[str, Any]]:
    """Return the events of a step: one per product, per cause of waiting in it, per update; times in microseconds.

    Waits of a product are drawn together at its end: how many there are is exact, where they lie is not drawn.
    """
    scale = 1 / result.config.clock_mhz
    events: list[dict[str, Any]] = [
        {"ph": "M", "pid": 1, "tid": row, "name": "thread_name", "args": {"name": name}} for name, row in ROWS.items()
    ]
    for span in result.run.spans:
        events += _span_events(span, scale)
    for update in result.run.updates:
        args = {"beats": update.beats, "bytes": update.bytes}
        name = f"{update.stage} {update.name}"
        events.append(_event("update engine", name, update.start, update.end - update.start, scale, args))
    return events


def write_trace(result: StepResult, path: Path) -> None:
    """Write the timeline of a step as JSON."""
    origin = {"source": result.source, "planned": list(result.planned), "configuration": result.config.name}
    trace = {"traceEvents": trace_events(result), "displayTimeUnit": "ns", "otherData": origin}
    path.write_text(json.dumps(trace), encoding="utf-8")


def _span_events(span: Span, scale: float) -> list[dict[str, Any]]:
    args: dict[str, Any] = {cause: cycles for cause, cycles in span.causes.items() if cycles}
    if span.run:
        args |= {"stage": span.stage, "schedule": f"{span.run.mapping.name} {span.run.mapping.a}x{span.run.mapping.b}"}
    out = [_event("array", f"{span.stage} {span.name}", span.start, span.cycles, scale, args)]
    at = span.start + span.causes["steps"]
    for cause, cycles in span.causes.items():
        if cycles and cause != "steps":
            out.append(_event("waits", cause, at, cycles, scale, {}))
            at += cycles
    if span.memory_busy:
        share = {"share": span.memory_busy / span.cycles}
        out.append(_event("memory", span.name, span.start, span.memory_busy, scale, share))
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
