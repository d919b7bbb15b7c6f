"""The compiled engines: equal to those in Python cycle by cycle, built once, and left out where they cannot be had."""

from __future__ import annotations

import importlib.metadata
import logging
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from nmsat.algorithms.core.caches import CacheError
from nmsat.algorithms.core.compiled import CompileError
from nmsat.algorithms.core.tape import Pattern, Stage
from nmsat.dataflow.contract import limits
from nmsat.dataflow.contract.config import preset
from nmsat.dataflow.contract.isa import Queue
from nmsat.sim import compiled
from nmsat.sim import run as plain_run
from nmsat.sim.control.fetch import Words
from nmsat.sim.parts.outcome import Machine
from nmsat.sim.quick import inner as plain_inner
from nmsat.sim.quick.gear import Quick
from nmsat.sim.quick.inner import STEP
from nmsat.sim.quick.product import time_product
from nmsat.sim.sat import Sat, launch, program_words
from nmsat.sim.update import read, write
from nmsat.tb.machine.fuzz import fuzzed_job
from nmsat.tb.machine.jobs import random_job
from nmsat.tb.machine.layers import LayerProduct

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from nmsat.dataflow.contract.config import SatConfig
    from nmsat.sim.sat import Report
    from nmsat.tb.machine.jobs import MachineJob

TINY, SMALL, LARGE = preset("tiny"), preset("small"), preset("vcu1525")
TWO_LANES = TINY.replace(name="two-lanes", columns=8, act_lanes=2, row_slices=(2,), column_slices=(4,))


@pytest.fixture
def wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let compiled engines be used, as they are outside of the tests."""
    monkeypatch.delenv(compiled.ENGINES_VARIABLE)


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: None) -> Path:
    """Return the folder of caches in which nothing has been built."""
    monkeypatch.setattr(compiled, "_finder", compiled._Finder())
    monkeypatch.setenv("NMSAT_BUILD_DIR", str(tmp_path / "caches"))
    return tmp_path / "caches"


def test_all_that_a_run_needs_is_compiled() -> None:
    found = compiled.modules()
    assert {"sim.run", "sim.quick.inner", "sim.load.loader", "sim.array.head", "sim.parts.state"} <= set(found)
    assert not {"sim.values", "sim.sat", "sim.compiled", *compiled.SHARED} & set(found)


def test_a_build_is_named_by_all_that_shapes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    first = compiled.name()
    assert first == compiled.name()
    monkeypatch.setattr(compiled, "_BUILD", compiled._BUILD + "\n")
    assert compiled.name() != first
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(CompileError, match="no-such-compiler"):
        compiled.name()


def test_imports_of_compiled_modules_lead_to_each_other(tmp_path: Path) -> None:
    compiled._lay(tmp_path, compiled.modules())
    text = (tmp_path / "nmsat_engines/sim/run.py").read_text(encoding="utf-8")
    assert "from nmsat_engines.sim.load.loader import Loader" in text
    assert "from nmsat.sim.parts.outcome import" in text
    assert "from nmsat.dataflow.contract.isa import" in text
    assert "from nmsat.sim.load" not in text
    assert (tmp_path / "nmsat/sim/parts/outcome.py").is_file()


def test_numbers_that_are_written_out_are_those_of_the_contract() -> None:
    """mypyc makes machine code of literals only."""
    run = plain_run
    assert list(Queue) == [run.LOAD, run.COMPUTE, run.STORE, run.UPDATE]
    assert [1 << q for q in Queue] == [run.LOAD_OFFERS, run.COMPUTE_OFFERS, run.STORE_OFFERS, run.UPDATE_OFFERS]
    readers = {Queue.STORE: run.READS_STORE, None: run.READS_FETCH, Queue.LOAD: run.READS_LOAD}
    readers[Queue.UPDATE] = run.READS_UPDATE
    assert [readers[queue] for queue in limits.READERS] == [1, 2, 4, 8]
    writers = {Queue.STORE: run.WRITES_STORE, Queue.UPDATE: run.WRITES_UPDATE}
    assert [writers[queue] for queue in limits.WRITERS] == [1, 2]
    assert [getattr(read, f"_{name.upper()}") for name in limits.UPDATE_READS] == [0, 1, 2, 3]
    assert [getattr(write, f"_{name.upper()}") for name in limits.UPDATE_WRITES] == [0, 1, 2, 3, 4]


def no_tool(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(tool: str) -> str:
        raise importlib.metadata.PackageNotFoundError(tool)

    monkeypatch.setattr("importlib.metadata.version", version)


def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")


def no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    def folder(name: str) -> Path:
        raise CacheError(f"folder {name!r} cannot be written")

    monkeypatch.setattr(compiled, "cache_folder", folder)


def compiler_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "_BUILD", "raise SystemExit('error: not today')")


@pytest.mark.parametrize(
    ("hinder", "why"),
    [
        (no_tool, "'mypy' is not"),
        (no_compiler, "no-such"),
        (no_cache, "be written"),
        (compiler_fails, "not today"),
    ],
)
def test_what_cannot_be_compiled_runs_in_python_and_says_so(
    hinder: Callable[[pytest.MonkeyPatch], None],
    why: str,
    nowhere: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    hinder(monkeypatch)
    with caplog.at_level(logging.WARNING, "nmsat.sim"):
        assert not compiled.prepare()
    assert len(caplog.messages) == 1
    assert "plain Python" in caplog.messages[0]
    assert why in caplog.messages[0]
    assert compiled.twin(plain_run) is plain_run
    assert not nowhere.exists() or not list((nowhere / compiled.ROOM).glob(".*"))  # nothing half-made stays


def test_a_build_that_cannot_be_loaded_is_left_out(
    nowhere: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = nowhere / compiled.ROOM / compiled.name() / compiled.PACKAGE
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise ImportError('of another processor')")
    compiled.seal(folder.parent)
    monkeypatch.setattr("sys.meta_path", sys.meta_path.copy())
    with caplog.at_level(logging.WARNING, "nmsat.sim"):
        assert compiled.twin(plain_run) is plain_run
        assert compiled.twin(plain_run) is plain_run
    assert len(caplog.messages) == 1
    assert "of another processor" in caplog.messages[0]


def test_a_build_with_a_damaged_library_is_not_loaded_but_made_anew(
    nowhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A library that was cut off would kill the process."""

    def make(part: Path) -> None:
        (part / compiled.PACKAGE / "run.so").write_bytes(b"machine code")

    monkeypatch.setattr(compiled, "_compile", make)
    monkeypatch.setattr(compiled, "_absent", set())
    monkeypatch.setattr("sys.meta_path", sys.meta_path.copy())
    folder = nowhere / compiled.ROOM / compiled.name()
    for left in (None, b"machine", b""):
        if left is not None:
            (folder / compiled.PACKAGE / "run.so").write_bytes(left)
            monkeypatch.setattr(compiled, "_finder", compiled._Finder())
            assert not compiled.ready()
        assert compiled.prepare()
        assert (folder / compiled.PACKAGE / "run.so").read_bytes() == b"machine code"
        assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_python_can_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(compiled.ENGINES_VARIABLE, "python")
    assert not compiled.prepare()
    assert compiled.twin(plain_inner) is plain_inner


@pytest.fixture(scope="module")
def engines() -> Any:
    """Return the compiled `sim.run`; it takes a minute or two unless it has been built before."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(compiled.ENGINES_VARIABLE, raising=False)
        assert compiled.prepare()
        return compiled.twin(plain_run)


def ends(report: Report) -> tuple[object, ...]:
    return report.counters, report.error, report.error_index


def gears(config: SatConfig, monkeypatch: pytest.MonkeyPatch, step: int = STEP) -> tuple[Quick, Quick]:
    """Return a quick gear in Python, and one with compiled engines."""
    monkeypatch.setenv(compiled.ENGINES_VARIABLE, "python")
    plain = Quick(config, step=step)
    monkeypatch.delenv(compiled.ENGINES_VARIABLE)
    return plain, Quick(config, step=step)


def check_cycles(config: SatConfig, job: MachineJob, engines: Any) -> None:
    """Run a program in the exact gear, in Python and compiled side by side: what is done, counted, and the states."""
    settings = launch(job.image.regions, job.place)
    program = Words(config, program_words(job.image.regions, settings))
    machine = Machine(config, Sat(config).timing)
    plain, fast = plain_run.Run(machine, settings, program), engines.Run(machine, settings, program)
    passed = 0
    while not plain.over:
        assert plain.rest() == fast.rest()
        assert plain.cycle() == fast.cycle()
        passed += 1
        if passed % 16 == 0:
            assert plain.counts() == fast.counts()
            if not plain.ending:
                assert repr(plain.key()) == repr(fast.key()), f"seed {job.seed}, cycle {plain.cycles}"
    assert fast.over
    assert ends(plain.report()) == ends(fast.report())


@pytest.mark.long
@pytest.mark.parametrize(
    ("config", "make", "seeds"),
    [
        (TINY, random_job, range(400, 440)),
        (SMALL, random_job, range(500, 510)),
        (TWO_LANES, random_job, range(600, 630)),
        (TWO_LANES, fuzzed_job, range(700, 760)),
    ],
    ids=["tiny", "small", "two-lanes", "damaged"],
)
def test_compiled_engines_are_equal_cycle_by_cycle(
    config: SatConfig, make: Callable[[SatConfig, int], MachineJob], seeds: range, engines: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    both = gears(config, monkeypatch, 8)
    for seed in seeds:
        job = make(config, seed)
        check_cycles(config, job, engines)
        settings = launch(job.image.regions, job.place)
        words = program_words(job.image.regions, settings)
        plain, fast = (gear.time(settings, words) for gear in both)
        assert ends(plain.report) == ends(fast.report), f"seed {seed}: {job.what}"
        assert (plain.walked, plain.stretches, plain.exact) == (fast.walked, fast.stretches, fast.exact)


@pytest.mark.long
@pytest.mark.parametrize("stage", [Stage.FF, Stage.BP, Stage.WU])
def test_a_product_of_a_network_takes_the_same_and_less_time(
    stage: Stage, engines: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    product = LayerProduct(stage, 28, (128, 128), 3, batch=8, pattern=Pattern(2, 8))
    seconds, found = [], []
    for gear in gears(LARGE, monkeypatch):
        start = time.process_time()
        found.append(time_product(gear, product.code()))
        seconds.append(time.process_time() - start)
    assert ends(found[0]) == ends(found[1])
    assert seconds[1] < seconds[0] / 1.5, seconds  # the walk alone is FASTER times as fast
