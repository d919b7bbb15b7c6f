"""Icarus Verilog as a second simulator: four-valued, from the same text without any initial value.

A register or an entry of a memory is X there until it is reset or written, so a bench that reads one fails.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import TYPE_CHECKING, Final

from cocotb_tools.runner import Icarus

from nmsat.tb.run.errors import BuildError, MissingToolError
from nmsat.tb.run.process import Logged

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

PROGRAMS: Final = ("iverilog", "vvp")
"""What Icarus Verilog consists of."""

MODEL: Final = "sim.vvp"
"""File of a compiled design."""

_REGISTER: Final = re.compile(
    r"^(  (?:output )?reg (?:signed )?(?:\[\d+:\d+\] )?(?!\\\$auto\$)\S+) += \S+;$", re.MULTILINE
)
_MEMORY: Final = re.compile(
    r"^  initial begin\n(?:    .*\n)*?  end$\n|^  integer \S+_entry;\n  initial\n    for .*\n      .*;\n", re.MULTILINE
)
_LEFT: Final = re.compile(r"^.*\binitial\b(?!.*\$auto\$).*$|^ *(?:output )?reg (?!.*\$auto\$)[^;=]*=.*$", re.MULTILINE)


class IcarusRunner(Logged, Icarus):
    """cocotb's Icarus runner with a log file for all output."""

    def __init__(self, timeout_s: float | None = None) -> None:
        super().__init__()
        self._timeout_s = timeout_s
        self.log.setLevel("CRITICAL")

    def _test_command(self) -> list[list[str]]:
        self.waves = False  # cocotb lets the environment decide
        return super()._test_command()


def find_icarus() -> str:
    """Return the path of the compiler; MissingToolError unless both programs are there."""
    found = [shutil.which(name) for name in PROGRAMS]
    for name, path in zip(PROGRAMS, found, strict=True):
        if path is None:
            raise MissingToolError(f"Icarus Verilog: {name!r} not found in PATH; install it (Debian: iverilog)")
    return str(found[0])


def icarus_version() -> str:
    """Return what the compiler says of itself, such as 'Icarus Verilog version 11.0 (stable)'."""
    done = subprocess.run([find_icarus(), "-V"], capture_output=True, text=True, check=False)
    return done.stdout.partition("\n")[0].removesuffix(" ()")


def without_initial_values(text: str) -> str:
    """Return Verilog that `hw.parts.verilog.emit` wrote, without initial values of registers and memories.

    What Yosys adds so that combinational blocks run once at the start stays. ValueError if a value is left.
    """
    found = _MEMORY.sub("", _REGISTER.sub(r"\1 ;", text))
    left = _LEFT.search(found)
    if left is not None:
        raise ValueError(f"line {left[0].strip()!r} still gives an initial value")
    return found


def compile_icarus(sources: Mapping[str, str], top: str, folder: Path) -> None:
    """Compile module `top` into `folder`, without its initial values; MissingToolError, BuildError."""
    compiler = find_icarus()
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in sources.items():
        (folder / name).write_text(without_initial_values(text), encoding="utf-8")
    (folder / "cmds.f").write_text("+timescale+1ns/1ps\n", encoding="utf-8")
    command = [compiler, "-g2012", "-s", top, "-o", MODEL, "-f", "cmds.f", *sources]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BuildError(f"building {top!r} with Icarus Verilog failed:\n{_last_lines(done.stderr)}")


def _last_lines(text: str, count: int = 20) -> str:
    lines: Sequence[str] = text.splitlines()
    return "\n".join(lines[-count:])
