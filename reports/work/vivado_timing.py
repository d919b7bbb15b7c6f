"""The timing summary of Vivado as plain values; a report that breaks off is refused (`reports.work.vivado`)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from nmsat.reports.work.vivado_text import ReportError, read_count, read_number, shortened

if TYPE_CHECKING:
    from collections.abc import Iterator

PATH_FIELDS: Final = ("Source", "Destination", "Path Group", "Path Type", "Data Path Delay", "Logic Levels")
"""What is read of a path, beside its slack."""

_FIELD: Final = re.compile(rf" +({'|'.join(PATH_FIELDS)}):(.*)")
_SLACK: Final = re.compile(r"Slack(?: *\([^()]*\))? *:(.*)")
_PULSES: Final = "Pulse Width Checks"
_CLOCK_NAME: Final = re.compile(r"Clock Name: +(\S+) *")
_CLOCK: Final = re.compile(r" *(\S+) +\{[^{}]*\} +(\S+) +(\S+) *")

FINEST_NS: Final = 0.001
"""Step of the slacks and periods in a report."""

SUMMARY_FIGURES: Final = 12
"""Worst slack, total slack, failing and all endpoints, for setup, hold and pulse width."""

HOLD_AT: Final = 4
"""Place of the worst hold slack among them."""

PULSE_FIGURES: Final = 4
"""Those of a clock without a path: pulse width alone."""

Slacks = dict[str, tuple[float | None, float | None]]
"""Clock -> worst setup and hold slack, None where it has no path."""


def timing(text: str) -> dict[str, Any]:
    """Return slacks, failing endpoints, clocks with what they would reach, and the worst paths with their levels.

    What a clock would reach is by the worst slack of the paths within it, None if it has none.
    """
    lines = text.splitlines()
    summary = next(_listed(lines, "WNS(ns)"), None)
    if summary is None:
        raise ReportError("no design timing summary")
    cells = summary.split()
    if len(cells) != SUMMARY_FIGURES:
        raise ReportError(f"its summary has {len(cells)} figures, not {SUMMARY_FIGURES}")
    if cells[0] == "NA":
        raise ReportError("no path is constrained (WNS is NA); clock.xdc was not read")
    setup, hold, pulse = read_number(cells[0]), read_number(cells[HOLD_AT]), read_number(cells[8])
    slacks, paths = _slacks(lines), list(_paths(lines))
    clocks = _clocks(lines, slacks)
    _check_whole(lines, slacks, paths)
    return {
        "wns_ns": setup,
        "tns_ns": read_number(cells[1]),
        "failing_endpoints": read_count(cells[2]),
        "whs_ns": hold,
        "wpws_ns": pulse,
        "met": min(setup, hold, pulse) >= 0,
        "clocks": clocks,
        "paths": paths,
    }


def _check_whole(lines: list[str], slacks: Slacks, paths: list[dict[str, Any]]) -> None:
    """Raise ReportError unless each clock has the worst paths of its row, and pulse widths, which stand behind them."""
    found = {(path["group"], path["type"], path["slack_ns"]) for path in paths}
    ends = _pulse_clocks(lines)
    for clock, (setup, hold) in slacks.items():
        for kind, slack in (("setup", setup), ("hold", hold)):
            if slack is not None and (clock, kind, slack) not in found:
                raise ReportError(f"clock {clock!r} has no {kind} path of {slack} ns, its worst slack; is it cut off?")
        if clock not in ends:
            raise ReportError(f"clock {clock!r} has no {_PULSES!r} behind its paths; is the report cut off?")


def _pulse_clocks(lines: list[str]) -> set[str]:
    """Return the clocks whose pulse widths are told: the line below the dashes below the head."""
    named = (
        _CLOCK_NAME.fullmatch(lines[number + 2])
        for number, line in enumerate(lines[:-2])
        if line.strip() == _PULSES
    )
    return {clock[1] for clock in named if clock is not None}


def _clocks(lines: list[str], slacks: Slacks) -> dict[str, dict[str, float | None]]:
    """Return clock -> period, rate and what it would reach."""
    periods: dict[str, tuple[float, float]] = {}
    for line in _listed(lines, "Clock", "Waveform(ns)"):
        found = _CLOCK.fullmatch(line)
        if found is None:
            raise ReportError(f"no clock with waveform, period and frequency in {shortened(line)}")
        period, rate = read_number(found[2]), read_number(found[3])
        if found[1] in periods or min(period, rate) <= 0:
            raise ReportError(f"clock {found[1]!r} stands twice, or its period or frequency is not above 0")
        periods[found[1]] = period, rate
    if not periods:
        raise ReportError("no clock")
    values: dict[str, dict[str, float | None]] = {}
    for name, (period, rate) in periods.items():
        if name not in slacks:
            raise ReportError(f"clock {name!r} has no row in an Intra Clock Table, so no WNS; is the report cut off?")
        reached = _reached(name, period, slacks[name][0])
        values[name] = {"period_ns": float(period), "mhz": float(rate), "reached_mhz": reached}
    return values


def _reached(clock: str, period: float, slack: float | None) -> float | None:
    if slack is None:
        return None
    if period - slack < FINEST_NS:
        raise ReportError(f"WNS of clock {clock!r} is {slack} ns; it has to be below the period, {period} ns")
    return 1000 / (period - slack)


def _slacks(lines: list[str]) -> Slacks:
    """Return what the Intra Clock Table says of the paths within each clock."""
    slacks: Slacks = {}
    for line in _listed(lines, "Clock", "WNS(ns)"):
        name, *cells = line.split()
        if len(cells) not in (PULSE_FIGURES, SUMMARY_FIGURES) or name in slacks:
            raise ReportError(f"a row of the Intra Clock Table is {shortened(line)}")
        figures = [read_number(cell) for cell in cells]
        slacks[name] = (figures[0], figures[HOLD_AT]) if len(cells) == SUMMARY_FIGURES else (None, None)
    return slacks


def _listed(lines: list[str], *names: str) -> Iterator[str]:
    """Yield the lines below the first head that begins with these names and its dashes, up to an empty one."""
    for number, line in enumerate(lines):
        words = line.split(None, len(names))
        if tuple(words[: len(names)]) != names:
            continue
        if number + 1 == len(lines) or not lines[number + 1].strip() or set(lines[number + 1]) - set(" -"):
            raise ReportError(f"no line of dashes below {shortened(line)}")
        for row in lines[number + 2 :]:
            if not row.strip():
                return
            yield row
        return


def _paths(lines: list[str]) -> Iterator[dict[str, Any]]:
    """Yield the constrained paths. What belongs to one stands between its slack and the next."""
    slack: str | None = None
    fields: dict[str, str] = {}
    for line in lines:
        start, field = _SLACK.match(line), _FIELD.match(line)
        if start is not None:
            if slack is not None:
                yield from _path(slack, fields)
            slack, fields = start[1].strip(), {}
        elif field is not None:
            if slack is None or field[1] in fields:
                what = f"{shortened(line)} belongs to none, or stands twice in one"
                raise ReportError(f"a path has no line 'Slack': {what}")
            fields[field[1]] = field[2].strip()
    if slack is not None:
        yield from _path(slack, fields)


def _path(slack: str, fields: dict[str, str]) -> Iterator[dict[str, Any]]:
    """Yield a path, none if it is unconstrained (its slack is 'inf')."""
    if slack.split()[:1] == ["inf"]:
        return
    words = {name: (fields.get(name, "").split() or [""])[0] for name in PATH_FIELDS}
    missing = [name for name in PATH_FIELDS if not words[name]]
    if missing:
        raise ReportError(f"the path of slack {shortened(slack)} has no {', '.join(missing)}")
    yield {
        "slack_ns": _nanoseconds((slack.split() or [""])[0]),
        "source": words["Source"],
        "destination": words["Destination"],
        "group": words["Path Group"],
        "type": words["Path Type"].lower(),
        "delay_ns": _nanoseconds(words["Data Path Delay"]),
        "levels": read_count(words["Logic Levels"]),
    }


def _nanoseconds(word: str) -> float:
    """Return a time such as '-1.250ns'."""
    if not word.endswith("ns"):
        raise ReportError(f"a time is {shortened(word)}, not in ns")
    return float(read_number(word.removesuffix("ns")))
