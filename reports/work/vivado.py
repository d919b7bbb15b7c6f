"""Reports of Vivado as plain values: utilisation, hierarchy, timing, fan-out, power.

The layout is that of Vivado 2022.2 and of reports in public projects (UG906, UG907); no Vivado was at hand. What a
report does not hold is an error with the name of the file and what was looked for, never a figure left out: a timing
report that breaks off is one that lacks a path which its tables tell, or the pulse widths behind the paths of a clock.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from nmsat.reports.work.vivado_text import ReportError, read_amount, read_count, read_number, read_tables, row_cells
from nmsat.reports.work.vivado_timing import timing

if TYPE_CHECKING:
    from collections.abc import Callable
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

_NOTED: Final = re.compile(r"([^\s()]+)(?: *\(([^()]*)\))?")


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
    for found in read_tables(text):
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
        used, available = read_amount(row["Used"]), read_amount(row["Available"])
        values[name] = {"used": used, "available": available, "percent": 100 * used / available if available else 0.0}
    return values


def hierarchy(text: str) -> list[dict[str, Any]]:
    """Return the instances with their depth (0 the top), module and resources, in the order of the report.

    A column that is not of `COLUMNS` keeps its own name; one that is missing is an error.
    """
    found = next((table for table in read_tables(text) if table.columns[0] == "Instance"), None)
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
        values = {place: read_amount(row[column]) for column, place in places.items()}
        rows.append({"instance": name, "module": row["Module"].strip(), "depth": depth, **values})
    if not rows:
        raise ReportError("its table of instances is empty")
    return rows


def fanout(text: str) -> list[dict[str, Any]]:
    """Return nets with their fan-out and driver, the highest first."""
    found = next((table for table in read_tables(text) if "Fanout" in table.columns), None)
    if found is None:
        raise ReportError("no table of nets")
    nets = [
        {"net": row["Net Name"].strip(), "fanout": read_count(row["Fanout"]), "driver": row["Driver Type"].strip()}
        for row in found.rows("Net Name", "Driver Type")
    ]
    return sorted(nets, key=lambda net: -int(net["fanout"]))


def power(text: str) -> dict[str, Any]:
    """Return power in watts, the temperature, how sure Vivado is of them, and what it warns of in brackets behind one.

    A warning is the row and the words: 'Total On-Chip Power (W): Junction temp exceeded!'.
    """
    rows = [cells for cells in map(row_cells, text.splitlines()) if cells is not None and len(cells) == 2]
    cells = {row[0].strip(): row[1].strip() for row in rows}
    missing = [label for label in (*POWER.values(), "Confidence Level") if not cells.get(label)]
    if missing:
        raise ReportError(f"no row {', '.join(map(repr, missing))}")
    values: dict[str, Any] = {}
    warnings: list[str] = []
    for name, label in POWER.items():
        found = _NOTED.fullmatch(cells[label])
        values[name] = read_number(found[1] if found else cells[label])
        if found and found[2]:
            warnings.append(f"{label}: {found[2].strip()}")
    return {**values, "confidence": cells["Confidence Level"], "warnings": warnings}
