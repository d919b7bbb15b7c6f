"""Reports of Vivado as plain values: utilisation, hierarchy, timing, fan-out, power.

The layout is that of Vivado 2022.2 and of reports in public projects (UG906, UG907); no Vivado was at hand. What a
report does not hold is an error with the name of the file and what was looked for, never a figure left out.
"""

from __future__ import annotations

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

_HEADER: Final = re.compile(r"^\| (Tool Version|Command|Design|Device|Design State) +: *(.*?) *\|?$", re.MULTILINE)
_SUMMARY: Final = re.compile(r"^ +WNS\(ns\) +TNS\(ns\).*\n[ -]+\n(.*)$", re.MULTILINE)
_CLOCK: Final = re.compile(r"^ *(\S+) +\{[\d. ]+\} +([\d.]+) +([\d.]+) *$", re.MULTILINE)
_PATH: Final = re.compile(
    r"^Slack \(\w+\) *: +(-?[\d.]+)ns.*?^ +Source: +(\S+).*?^ +Destination: +(\S+).*?^ +Path Type: +(\w+)"
    r".*?^ +Data Path Delay: +([\d.]+)ns.*?^ +Logic Levels: +(\d+)",
    re.MULTILINE | re.DOTALL,
)


class ReportError(ValueError):
    """A report is not what it should be."""


@dataclass(frozen=True)
class _Table:
    """A table with its header row."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


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
    found = {name: value.strip() for name, value in _HEADER.findall(text)}
    missing = [name for name in ("Tool Version", "Design", "Device", "Design State") if name not in found]
    if missing:
        raise ReportError(f"its head has no {', '.join(missing)}")
    keys = {"tool": "Tool Version", "design": "Design", "device": "Device", "state": "Design State"}
    return {key: found[name] for key, name in keys.items()}


def utilization(text: str) -> dict[str, dict[str, float]]:
    """Return name of a resource -> used, available, percent."""
    sites: dict[str, tuple[str, ...]] = {}
    for found in _tables(text):
        if found.columns[0] == "Site Type":
            for row in found.rows:
                sites.setdefault(row[0].strip().rstrip("*"), row[1:])
    values: dict[str, dict[str, float]] = {}
    for name, wanted in SITES.items():
        cells = next((sites[site] for site in wanted if site in sites), None)
        if cells is None:
            if name in OPTIONAL:
                continue
            raise ReportError(f"no row {' or '.join(map(repr, wanted))}")
        used, available = _number(cells[0]), _number(cells[-2])
        values[name] = {"used": used, "available": available, "percent": 100 * used / available if available else 0.0}
    return values


def hierarchy(text: str) -> list[dict[str, Any]]:
    """Return the instances with their depth (0 the top), module and resources, in the order of the report."""
    found = next((table for table in _tables(text) if table.columns[0] == "Instance"), None)
    if found is None:
        raise ReportError("no table of instances")
    rows: list[dict[str, Any]] = []
    for row in found.rows:
        name = row[0].strip()
        if name.startswith("("):
            continue  # what is in a module itself, beside its instances
        values = {COLUMNS[c]: _number(cell) for c, cell in zip(found.columns, row, strict=True) if c in COLUMNS}
        depth = (len(row[0]) - len(row[0].lstrip())) // 2
        rows.append({"instance": name, "module": row[1].strip(), "depth": depth, **values})
    return rows


def timing(text: str) -> dict[str, Any]:
    """Return slacks, failing endpoints, clocks with what they would reach, and the worst paths with their levels."""
    summary = _SUMMARY.search(text)
    if summary is None:
        raise ReportError("no design timing summary")
    cells = summary[1].split()
    if len(cells) != 12:
        raise ReportError(f"its summary has {len(cells)} figures, not 12")
    if cells[0] == "NA":
        raise ReportError("no path is constrained (WNS is NA); clock.xdc was not read")
    setup, hold, pulse = _number(cells[0]), _number(cells[4]), _number(cells[8])
    clocks = {name: (float(period), float(rate)) for name, period, rate in _CLOCK.findall(text)}
    if not clocks:
        raise ReportError("no clock")
    paths = [
        {
            "slack_ns": float(slack),
            "source": source,
            "destination": target,
            "type": kind.lower(),
            "delay_ns": float(delay),
            "levels": int(levels),
        }
        for slack, source, target, kind, delay, levels in _PATH.findall(text)
    ]
    return {
        "wns_ns": setup,
        "tns_ns": _number(cells[1]),
        "failing_endpoints": int(cells[2]),
        "whs_ns": hold,
        "wpws_ns": pulse,
        "met": min(setup, hold, pulse) >= 0,
        "clocks": {
            name: {"period_ns": period, "mhz": rate, "reached_mhz": 1000 / (period - setup)}
            for name, (period, rate) in clocks.items()
        },
        "paths": paths,
    }


def fanout(text: str) -> list[dict[str, Any]]:
    """Return nets with their fan-out and driver, the highest first."""
    found = next((table for table in _tables(text) if "Fanout" in table.columns), None)
    if found is None:
        raise ReportError("no table of nets")
    places = [found.columns.index(name) for name in ("Net Name", "Fanout", "Driver Type")]
    rows = [tuple(row[place].strip() for place in places) for row in found.rows]
    nets = [{"net": net, "fanout": int(_number(count)), "driver": driver} for net, count, driver in rows]
    return sorted(nets, key=lambda net: -int(net["fanout"]))


def power(text: str) -> dict[str, Any]:
    """Return power in watts, the temperature, and how sure Vivado is of them."""
    cells = {row[0].strip(): row[1].strip() for row in _rows(text) if len(row) == 2}
    missing = [label for label in (*POWER.values(), "Confidence Level") if label not in cells]
    if missing:
        raise ReportError(f"no row {', '.join(map(repr, missing))}")
    return {name: _number(cells[label]) for name, label in POWER.items()} | {"confidence": cells["Confidence Level"]}


def _rows(text: str) -> Iterator[tuple[str, ...]]:
    """Yield the cells of each line of a table, with a space of the frame taken off on either side."""
    for line in text.splitlines():
        if line.startswith("|") and line.rstrip().endswith("|"):
            yield tuple(cell.removeprefix(" ").removesuffix(" ") for cell in line.strip()[1:-1].split("|"))


def _tables(text: str) -> Iterator[_Table]:
    """Yield the tables: a frame, a row of names, a frame, rows, a frame."""
    lines = text.splitlines()
    frames = [number for number, line in enumerate(lines) if re.fullmatch(r"\+(-+\+)+ *", line)]
    for first, second, last in zip(frames, frames[1:], frames[2:], strict=False):
        if second != first + 2:
            continue
        (names,) = _rows(lines[first + 1]) if "|" in lines[first + 1] else ((),)
        rows = tuple(_rows("\n".join(lines[second + 1 : last])))
        yield _Table(tuple(name.strip() for name in names), rows)


def _number(cell: str) -> float:
    try:
        value = float(cell.strip().lstrip("<").replace(",", ""))
    except ValueError:
        raise ReportError(f"a figure is {cell.strip()!r}") from None
    return int(value) if value.is_integer() else value
