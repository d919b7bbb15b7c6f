"""Reports of Vivado as plain values: utilisation, hierarchy, timing, fan-out, power.

The layout is that of Vivado 2022.2 and of reports in public projects (UG906, UG907); no Vivado was at hand. What a
report does not hold is an error with the name of the file and what was looked for, never a figure left out: a timing
report that breaks off is one that lacks a path which its tables tell, or the pulse widths behind the paths of a clock.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

STEPS: Final = ("synth", "route")
"""Steps that `out_of_context.tcl` reports on, in order."""

SITES: Final = {
    "luts": ("CLB LUTs", "Slice LUTs"),
    "logic_luts": ("LUT as Logic",),
    "memory_luts": ("LUT as Memory",),
    "flip_flops": ("CLB Registers", "Slice Registers"),
    "block_ram_tiles": ("Block RAM Tile",),
    "ultra_rams": ("URAM",),
    "dsp": ("DSPs",),
}
"""Name -> site types in a report: those of UltraScale and of the 7 series. UltraRAM is not in every device."""

OPTIONAL: Final = ("ultra_rams",)

COLUMNS: Final = {
    "Total LUTs": "luts",
    "Logic LUTs": "logic_luts",
    "LUTRAMs": "lut_rams",
    "SRLs": "shift_luts",
    "FFs": "flip_flops",
    "RAMB36": "ramb36",
    "RAMB18": "ramb18",
    "URAM": "ultra_rams",
    "DSP Blocks": "dsp",
    "DSP48 Blocks": "dsp",
}
"""Column of the hierarchy -> name."""

POWER: Final = {
    "total_w": "Total On-Chip Power (W)",
    "dynamic_w": "Dynamic (W)",
    "static_w": "Device Static (W)",
    "junction_c": "Junction Temperature (C)",
}

PATH_FIELDS: Final = ("Source", "Destination", "Path Group", "Path Type", "Data Path Delay", "Logic Levels")
"""What is read of a path, beside its slack."""

_FIGURE: Final = re.compile(r"-?[0-9]+(\.[0-9]+)?")
_FRAME: Final = re.compile(r"\+(-+\+)+ *")
_FIELD: Final = re.compile(rf" +({'|'.join(PATH_FIELDS)}):(.*)")
_SLACK: Final = re.compile(r"Slack(?: *\([^()]*\))? *:(.*)")
_NOTED: Final = re.compile(r"([^\s()]+)(?: *\(([^()]*)\))?")
_PULSES: Final = "Pulse Width Checks"
_CLOCK_NAME: Final = re.compile(r"Clock Name: +(\S+) *")
_CLOCK: Final = re.compile(r" *(\S+) +\{[^{}]*\} +(\S+) +(\S+) *")

MAX_FIGURE: Final = 10.0**15
"""Largest figure that is believed; no resource, slack, count or power comes near it."""

FINEST_NS: Final = 0.001
"""Step of the slacks and periods in a report."""

SUMMARY_FIGURES: Final = 12
"""Worst slack, total slack, failing and all endpoints, for setup, hold and pulse width."""

HOLD_AT: Final = 4
"""Place of the worst hold slack among them."""

PULSE_FIGURES: Final = 4
"""Those of a clock without a path: pulse width alone."""


_Slacks = dict[str, tuple[float | None, float | None]]
"""Clock -> worst setup and hold slack, None where it has no path."""


class ReportError(ValueError):
    """A report is not what it should be."""


@dataclass(frozen=True)
class _Table:
    """A table: names of its columns, and the lines between the frames as they are."""

    columns: tuple[str, ...]
    lines: tuple[str, ...]

    def rows(self, *needed: str) -> Iterator[dict[str, str]]:
        """Yield column -> cell of each row; ReportError if a column that is needed is missing, or a row is damaged."""
        missing = [name for name in needed if name not in self.columns]
        if missing:
            raise ReportError(f"its table of {self.columns[0]!r} has no column {', '.join(map(repr, missing))}")
        if len(set(self.columns)) < len(self.columns):
            raise ReportError(f"its table of {self.columns[0]!r} has a column twice")
        for line in self.lines:
            cells = _cells(line)
            if cells is None or len(cells) != len(self.columns):
                raise ReportError(
                    f"a row is {_short(line)}; its table of {self.columns[0]!r} has {len(self.columns)} columns"
                )
            yield dict(zip(self.columns, cells, strict=True))


def read_reports(folder: Path) -> dict[str, Any]:
    """Return step -> what its reports say, for the steps that are there; ReportError if there is none or one is broken.

    Each step has utilisation; the other reports are None where the file is missing.
    """
    found = {step: _step(folder, step) for step in STEPS if (folder / f"{step}_utilization.rpt").exists()}
    if not found:
        names = " or ".join(f"{step}_utilization.rpt" for step in STEPS)
        raise ReportError(f"folder {str(folder)!r} holds no {names}; out_of_context.tcl writes them")
    return found


def _step(folder: Path, step: str) -> dict[str, Any]:
    readers: dict[str, Callable[[str], Any]] = {
        "utilization": utilization,
        "hierarchy": hierarchy,
        "timing": timing,
        "fanout": fanout,
        "power": power,
    }
    values: dict[str, Any] = {}
    for kind, reader in readers.items():
        path = folder / f"{step}_{kind}.rpt"
        if not path.exists():
            values[kind] = None
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        try:
            values[kind] = reader(text)
        except ReportError as error:
            raise ReportError(f"report {str(path)!r}: {error}") from None
        if kind == "utilization":
            values |= header(text)
    return values


def header(text: str) -> dict[str, str]:
    """Return tool, device, design and state as the head of a report says them."""
    keys = {"tool": "Tool Version", "design": "Design", "device": "Device", "state": "Design State"}
    found: dict[str, str] = {}
    for line in text.splitlines():
        name, colon, value = line.removeprefix("| ").partition(":")
        if line.startswith("| ") and colon:
            found.setdefault(name.strip(), value.strip().removesuffix("|").strip())
    missing = [name for name in keys.values() if not found.get(name)]
    if missing:
        raise ReportError(f"its head has no {', '.join(missing)}")
    return {key: found[name] for key, name in keys.items()}


def utilization(text: str) -> dict[str, dict[str, float]]:
    """Return name of a resource -> used, available, percent."""
    sites: dict[str, dict[str, str]] = {}
    for found in _tables(text):
        if found.columns[0] == "Site Type" and {"Used", "Available"} <= set(found.columns):
            for row in found.rows():
                sites.setdefault(row["Site Type"].strip().rstrip("*"), row)
    values: dict[str, dict[str, float]] = {}
    for name, wanted in SITES.items():
        row = next((sites[site] for site in wanted if site in sites), None)
        if row is None:
            if name in OPTIONAL:
                continue
            raise ReportError(f"no row {' or '.join(map(repr, wanted))} with Used and Available")
        used, available = _amount(row["Used"]), _amount(row["Available"])
        values[name] = {"used": used, "available": available, "percent": 100 * used / available if available else 0.0}
    return values


def hierarchy(text: str) -> list[dict[str, Any]]:
    """Return the instances with their depth (0 the top), module and resources, in the order of the report.

    A column that is not of `COLUMNS` keeps its own name; one that is missing is an error.
    """
    found = next((table for table in _tables(text) if table.columns[0] == "Instance"), None)
    if found is None:
        raise ReportError("no table of instances")
    places = {column: COLUMNS.get(column, column) for column in found.columns if column not in ("Instance", "Module")}
    missing = set(COLUMNS.values()) - set(places.values()) - set(OPTIONAL)
    if missing:
        names = [column for column, name in COLUMNS.items() if name in missing]
        raise ReportError(f"its table of instances has no column {' or '.join(map(repr, names))}")
    rows: list[dict[str, Any]] = []
    for row in found.rows("Module"):
        name = row["Instance"].strip()
        if name.startswith("("):
            continue  # what is in a module itself, beside its instances
        depth = (len(row["Instance"]) - len(row["Instance"].lstrip())) // 2
        values = {place: _amount(row[column]) for column, place in places.items()}
        rows.append({"instance": name, "module": row["Module"].strip(), "depth": depth, **values})
    if not rows:
        raise ReportError("its table of instances is empty")
    return rows


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
    setup, hold, pulse = _number(cells[0]), _number(cells[HOLD_AT]), _number(cells[8])
    slacks, paths = _slacks(lines), list(_paths(lines))
    clocks = _clocks(lines, slacks)
    _check_whole(lines, slacks, paths)
    return {
        "wns_ns": setup,
        "tns_ns": _number(cells[1]),
        "failing_endpoints": _count(cells[2]),
        "whs_ns": hold,
        "wpws_ns": pulse,
        "met": min(setup, hold, pulse) >= 0,
        "clocks": clocks,
        "paths": paths,
    }


def _check_whole(lines: list[str], slacks: _Slacks, paths: list[dict[str, Any]]) -> None:
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


def _clocks(lines: list[str], slacks: _Slacks) -> dict[str, dict[str, float | None]]:
    """Return clock -> period, rate and what it would reach."""
    periods: dict[str, tuple[float, float]] = {}
    for line in _listed(lines, "Clock", "Waveform(ns)"):
        found = _CLOCK.fullmatch(line)
        if found is None:
            raise ReportError(f"no clock with waveform, period and frequency in {_short(line)}")
        period, rate = _number(found[2]), _number(found[3])
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


def _slacks(lines: list[str]) -> _Slacks:
    """Return what the Intra Clock Table says of the paths within each clock."""
    slacks: _Slacks = {}
    for line in _listed(lines, "Clock", "WNS(ns)"):
        name, *cells = line.split()
        if len(cells) not in (PULSE_FIGURES, SUMMARY_FIGURES) or name in slacks:
            raise ReportError(f"a row of the Intra Clock Table is {_short(line)}")
        figures = [_number(cell) for cell in cells]
        slacks[name] = (figures[0], figures[HOLD_AT]) if len(cells) == SUMMARY_FIGURES else (None, None)
    return slacks


def _listed(lines: list[str], *names: str) -> Iterator[str]:
    """Yield the lines below the first head that begins with these names and its dashes, up to an empty one."""
    for number, line in enumerate(lines):
        words = line.split(None, len(names))
        if tuple(words[: len(names)]) != names:
            continue
        if number + 1 == len(lines) or not lines[number + 1].strip() or set(lines[number + 1]) - set(" -"):
            raise ReportError(f"no line of dashes below {_short(line)}")
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
                raise ReportError(f"a path has no line 'Slack': {_short(line)} belongs to none, or stands twice in one")
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
        raise ReportError(f"the path of slack {_short(slack)} has no {', '.join(missing)}")
    yield {
        "slack_ns": _nanoseconds((slack.split() or [""])[0]),
        "source": words["Source"],
        "destination": words["Destination"],
        "group": words["Path Group"],
        "type": words["Path Type"].lower(),
        "delay_ns": _nanoseconds(words["Data Path Delay"]),
        "levels": _count(words["Logic Levels"]),
    }


def fanout(text: str) -> list[dict[str, Any]]:
    """Return nets with their fan-out and driver, the highest first."""
    found = next((table for table in _tables(text) if "Fanout" in table.columns), None)
    if found is None:
        raise ReportError("no table of nets")
    nets = [
        {"net": row["Net Name"].strip(), "fanout": _count(row["Fanout"]), "driver": row["Driver Type"].strip()}
        for row in found.rows("Net Name", "Driver Type")
    ]
    return sorted(nets, key=lambda net: -int(net["fanout"]))


def power(text: str) -> dict[str, Any]:
    """Return power in watts, the temperature, how sure Vivado is of them, and what it warns of in brackets behind one.

    A warning is the row and the words: 'Total On-Chip Power (W): Junction temp exceeded!'.
    """
    rows = [cells for cells in map(_cells, text.splitlines()) if cells is not None and len(cells) == 2]
    cells = {row[0].strip(): row[1].strip() for row in rows}
    missing = [label for label in (*POWER.values(), "Confidence Level") if not cells.get(label)]
    if missing:
        raise ReportError(f"no row {', '.join(map(repr, missing))}")
    values: dict[str, Any] = {}
    warnings: list[str] = []
    for name, label in POWER.items():
        found = _NOTED.fullmatch(cells[label])
        values[name] = _number(found[1] if found else cells[label])
        if found and found[2]:
            warnings.append(f"{label}: {found[2].strip()}")
    return {**values, "confidence": cells["Confidence Level"], "warnings": warnings}


def _cells(line: str) -> tuple[str, ...] | None:
    """Return the cells of a line of a table, a space of the frame taken off on either side; None if it is none."""
    line = line.rstrip()
    if len(line) < 2 or line[0] != "|" or line[-1] != "|":
        return None
    return tuple(cell.removeprefix(" ").removesuffix(" ") for cell in line[1:-1].split("|"))


def _tables(text: str) -> Iterator[_Table]:
    """Yield the tables: a frame, a row of names, a frame, rows, a frame."""
    lines = text.splitlines()
    frames = [number for number, line in enumerate(lines) if _FRAME.fullmatch(line)]
    for first, second, last in zip(frames, frames[1:], frames[2:], strict=False):
        names = _cells(lines[first + 1])
        if second == first + 2 and names is not None:
            yield _Table(tuple(name.strip() for name in names), tuple(lines[second + 1 : last]))


def _short(line: str) -> str:
    """Return a line as an error shows it."""
    line = " ".join(line.split())
    return repr(line if len(line) <= 60 else f"{line[:57]}...")


def _number(cell: str) -> float:
    figure = cell.strip().removeprefix("<").replace(",", "")
    value = float(figure) if _FIGURE.fullmatch(figure) else math.nan
    if not abs(value) <= MAX_FIGURE:
        raise ReportError(f"a figure is {_short(cell)}")
    return int(value) if value.is_integer() else value


def _amount(cell: str) -> float:
    value = _number(cell)
    if value < 0:
        raise ReportError(f"an amount is {_short(cell)}, below 0")
    return value


def _count(cell: str) -> int:
    value = _amount(cell)
    if not isinstance(value, int):
        raise ReportError(f"a count is {_short(cell)}, no whole number")
    return value


def _nanoseconds(word: str) -> float:
    """Return a time such as '-1.250ns'."""
    if not word.endswith("ns"):
        raise ReportError(f"a time is {_short(word)}, not in ns")
    return float(_number(word.removesuffix("ns")))
