"""What all tests share: the command line in this process."""

from __future__ import annotations

import ctypes
import difflib
import json
import os
import re
import signal
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

import nmsat
from nmsat.dataflow.contract.isa import ErrorCode
from nmsat.reports.work import progress
from nmsat.reports.work.extras import missing
from nmsat.sim.work.timed import Memory
from tests import tier

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from nmsat.dataflow.program.product import Cut


os.environ.setdefault("NMSAT_ENGINES", "python")
"""Faults are planted in the engines of the source, and no test waits for a build: tests/machine/test_compiled.py."""

# How long an example takes says more of the machine than of the code.
settings.register_profile("nmsat", deadline=None)
settings.load_profile("nmsat")

SEEN = pytest.StashKey[set[str]]()
"""Names of all tests, when one is asked for by its name."""


@dataclass(frozen=True)
class Outcome:
    """Exit code and texts of one call."""

    code: int
    out: str
    err: str


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let `make test TEST=name` name a test, and `make test-torch` ask for all."""
    parser.addoption("--name", metavar="NAME", help="run the tests of this name only, with all their parameters")
    parser.addoption("--no-skip", action="store_true", help="a test or file that is skipped has failed")
    parser.addoption("--record", metavar="FILE", help="print a table by room at the end and write it here")


def _fail(report: pytest.CollectReport | pytest.TestReport) -> None:
    """Turn a skip into a failure that tells why it was skipped."""
    why = report.longrepr[-1] if isinstance(report.longrepr, tuple) else report.longrepr
    report.outcome, report.longrepr = "failed", f"none may be skipped here: {why}"


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Let a file that is skipped whole fail, where none may be."""
    report = yield
    if report.skipped and collector.config.getoption("--no-skip"):
        _fail(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Let a test that is skipped fail, where none may be."""
    report = yield
    if report.skipped and item.config.getoption("--no-skip"):
        _fail(report)
    return report


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Read no file that cannot hold the test of the name that was asked for: reading all takes a while."""
    name = config.getoption("--name")
    if name is None or collection_path.suffix != ".py":
        return None
    tests = set(re.findall(r"^ *(?:async )?def (test_\w+)", collection_path.read_text(encoding="utf-8"), re.MULTILINE))
    config.stash.setdefault(SEEN, set()).update(tests)
    return None if name.partition("[")[0] in tests else True


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print and write what a tier says at its end."""
    file = config.getoption("--record")
    if file is None:
        return
    found = tier.record(terminalreporter.stats, long=config.getoption("-m") == "long")
    terminalreporter.write_line(tier.table(found))
    path = Path(file)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the tests of the name that was asked for."""
    name = config.getoption("--name")
    if name is None:
        return
    found = {item.name for item in items}
    items[:] = [item for item in items if name in (item.name, item.name.partition("[")[0])]
    if not items:
        close = difflib.get_close_matches(name, sorted(found | config.stash.get(SEEN, set())), 5, 0.5)
        raise pytest.UsageError(f"no test is called {name!r}; close to it: {', '.join(close) or 'none'}")


def pytest_configure() -> None:
    """Stop before anything runs if packages of the tests are not installed; let Ctrl-C reach what tests start."""
    # A shell starts background jobs with SIGINT ignored, and what we start would inherit that.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if lacking := missing("", "rtl", "report", "onnx", "test"):
        pytest.exit(f"not installed: {', '.join(lacking)}; pip install nmsat[rtl,report,onnx,test]", returncode=2)


@pytest.fixture
def call(
    capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], Outcome]:
    """Return a function that runs `nmsat` with a line of arguments.

    Multiply-adds stand for cycles (`estimated`) unless the test is marked `exact`.
    """
    if not request.node.get_closest_marker("exact") and "estimated" not in request.fixturenames:
        monkeypatch.setattr("nmsat.reports.work.timings.Timings", Memory)
        stand_in(monkeypatch)

    def run(line: str) -> Outcome:
        capsys.readouterr()
        try:
            code = nmsat.main(line.split())
        except SystemExit as leaving:  # argparse leaves after --help
            code = int(leaving.code or 0)
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run


_READ_ANYTHING = (1 << 1) | (1 << 2)  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH: what lets root read a folder of mode 0


@pytest.fixture
def unreadable() -> Iterator[Callable[[Path], None]]:
    """Return a function that makes a file or folder unreadable until the test ends, for root too."""
    header = struct.pack("Ii", 0x20080522, 0)
    before = ctypes.create_string_buffer(24)
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.capget(header, before) == 0
    effective, *rest = struct.unpack("6I", before.raw)
    assert libc.capset(header, struct.pack("6I", effective & ~_READ_ANYTHING, *rest)) == 0
    closed: list[Path] = []

    def close(path: Path) -> None:
        path.chmod(0)
        closed.append(path)

    try:
        yield close
    finally:
        libc.capset(header, before.raw)
        for path in closed:
            path.chmod(0o700)


@pytest.fixture
def estimated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let multiply-adds stand for cycles where those are not what is tested: in an instant, no chooser, no gear."""
    monkeypatch.setenv("NMSAT_BUILD_DIR", str(tmp_path / "caches"))  # nobody else may find these
    stand_in(monkeypatch)


def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put something in the place of chooser and quick gear that takes no time."""
    from nmsat.dataflow.contract.registers import COUNTERS
    from nmsat.dataflow.program import jobs, pieces
    from nmsat.dataflow.program.jobs import JobRun, UpdateRun
    from nmsat.sim.parts.outcome import Report
    from nmsat.sim.work import timed

    def work(cut: Cut) -> int:
        return cut.code.m * cut.code.n * -(-cut.code.k * cut.mapping.n // cut.mapping.m)

    def time_run(_: object, run: JobRun | UpdateRun) -> Report:
        counters = dict.fromkeys(COUNTERS, 0)
        if isinstance(run, JobRun):
            cycles = sum(2 * work(cut) // cut.config.elements + 1 for cut in run.cuts)
            counters |= {"compute_busy": cycles, "steps": cycles // 2, "wait_drain": cycles // 10}
        else:
            cycles = run.job.k * run.job.n // 16
            counters["update_busy"] = cycles
        return Report(counters | {"cycles": cycles}, ErrorCode.NONE, 0, False, False)

    monkeypatch.setattr(jobs, "fastest", lambda cuts: min(cuts, key=work))
    monkeypatch.setattr(jobs, "estimate_program", lambda cuts: sum(map(work, cuts)))
    monkeypatch.setattr(pieces, "_estimated", lambda asked: sum(p.macs_kept for p in asked.job.products))
    monkeypatch.setattr(timed, "time_run", time_run)


@pytest.fixture
def little_to_measure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `bench` measure next to nothing, where its figures are not what is tested."""
    from nmsat.algorithms.core.tape import Product, Stage
    from nmsat.reports.work import bench, kernel_speed

    def here(rounds: bench.Rounds, name: str, mode: str, products: tuple[Product, ...]) -> float:
        seconds, cycles = bench._gear(mode, products)
        rounds.facts[name] = {"cycles": cycles} if mode != "estimate" else {}
        return seconds

    monkeypatch.setattr(bench, "_apart", here)  # in this process
    monkeypatch.setattr(bench, "LAYERS", {"little": (Product("little", Stage.FF, 32, 32, 32),)})
    monkeypatch.setattr(kernel_speed, "PRODUCTS", ((96, 64, 16),))
    step = {"network": "n", "batch": 1, "seconds": {"contract": 1}, "to_fast": 1, "bdwp_to_fast": 1, "pairs": {}}
    monkeypatch.setattr(kernel_speed, "_step", lambda repeats, side, batch: {"side": side} | step)


@pytest.fixture
def advances(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int | None]]:
    """Return what is done and how much there is, of each advance of a bar."""
    seen: list[tuple[int, int | None]] = []
    honest = progress.Task.advance

    def advance(self: progress.Task, *given: Any, **named: Any) -> None:
        honest(self, *given, **named)
        seen.append((self.done, self.total))

    monkeypatch.setattr(progress.Task, "advance", advance)
    return seen
