"""What make test and make regression say at their end: a table by room, a record, how a failure is repeated."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

OUTCOMES: Final = ("passed", "failed", "error", "skipped")
"""What can come of a test; error: of what it needs."""


class Report(Protocol):
    """What pytest tells of a test."""

    nodeid: str
    duration: float


def counted(stats: Mapping[str, Sequence[Any]]) -> dict[str, dict[str, float]]:
    """Return room -> outcome -> tests, with `seconds` of the room; stats: as pytest's terminal has them."""
    rooms: dict[str, Counter[str]] = defaultdict(Counter)
    for outcome in OUTCOMES:
        for report in stats.get(outcome, ()):
            rooms[_room(report.nodeid)][outcome] += 1
    seconds: dict[str, float] = defaultdict(float)
    for outcome in (*OUTCOMES, ""):
        for report in stats.get(outcome, ()):
            seconds[_room(report.nodeid)] += getattr(report, "duration", 0.0)
    return {
        room: {**{name: float(rooms[room][name]) for name in OUTCOMES}, "seconds": seconds[room]}
        for room in sorted(rooms)
    }


def again(nodeid: str) -> str:
    """Return the command that runs a test alone, with its parameters."""
    return f"make test TEST='{nodeid.rpartition('::')[2]}'"


def record(stats: Mapping[str, Sequence[Any]], long: bool) -> dict[str, Any]:
    """Return what the tier writes."""
    wrong = [report.nodeid for outcome in ("failed", "error") for report in stats.get(outcome, ())]
    return {
        "tier": "regression" if long else "test",
        "seeds": "fixed: each is written in its test or stands in its name",
        "rooms": counted(stats),
        "failures": [{"test": nodeid, "repeat": again(nodeid)} for nodeid in wrong],
    }


def table(found: Mapping[str, Any]) -> str:
    """Return one line per room, and one per failure with the command that repeats it."""
    lines = [f"{'room':14}" + "".join(f"{name:>9}" for name in (*OUTCOMES, "seconds"))]
    for room, counts in found["rooms"].items():
        lines.append(f"{room:14}" + "".join(f"{counts[name]:9.0f}" for name in (*OUTCOMES, "seconds")))
    lines += [f"FAILED {failure['test']}; again: {failure['repeat']}" for failure in found["failures"]]
    return "\n".join([*lines, f"seeds: {found['seeds']}"])


def _room(nodeid: str) -> str:
    """Return the folder of a test below tests/, or its file if it lies in none."""
    parts = nodeid.partition("::")[0].removeprefix("tests/").split("/")
    return parts[0].removesuffix(".py")
