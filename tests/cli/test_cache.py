"""`nmsat cache`, and what is never removed: what is not nmsat's, and what cannot be made again."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from nmsat.hw.parts import cache
from nmsat.hw.parts.cache import CacheError, cache_folder
from nmsat.tb.run import runs

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Outcome

    Call = Callable[[str], Outcome]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "caches"
    monkeypatch.setenv("NMSAT_BUILD_DIR", str(folder))
    return folder


def test_sizes_and_clearing(call: Call, root: Path) -> None:
    assert json.loads(call("cache --json").out)["bytes"] == dict.fromkeys(cache.ROOMS, 0)
    assert json.loads(call("cache --clear --json").out)["removed_bytes"] == 0
    assert not root.exists()  # a question makes nothing
    for name in ("verilated", "runs", "written"):
        (cache_folder(name) / "deep").mkdir()
        (root / name / "deep" / "file").write_bytes(bytes(1000))
    (root / "fresh").symlink_to(root / "written")
    found = json.loads(call("cache --json").out)
    assert found["folder"] == str(root)
    assert found["bytes"] | {"fresh": 0} == {
        **dict.fromkeys(cache.ROOMS, 0),
        "verilated": 1000,
        "runs": 1000,
        "written": 1000,
    }
    text = call("cache --clear").out
    assert text.endswith("0.0 MB removed\n")
    assert {path.name for path in root.iterdir()} == {"written", cache.TAG}
    assert (root / "written" / "deep" / "file").stat().st_size == 1000


def test_a_folder_with_other_things_is_not_cleared(call: Call, root: Path) -> None:
    (root / "runs" / "marathon-2024").mkdir(parents=True)
    (root / "thesis.tex").write_text("mine")
    cache_folder("verilated")
    outcome = call("cache --clear")
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith(f"nmsat: error: folder {str(root)!r} holds other things than caches of nmsat")
    assert (root / "runs" / "marathon-2024").is_dir()
    assert (root / "thesis.tex").read_text() == "mine"
    assert not (root / cache.TAG).exists()
    (root / cache.TAG).write_text("Signature: of another program\n")
    assert call("cache --clear").code == 2


def old_run(name: str, age: int, size: int = 0) -> Path:
    place = cache_folder(runs.RUNS) / name
    place.mkdir()
    (place / "dump.vcd").write_bytes(bytes(size))
    then = time.time() - age
    os.utime(place, (then, then))
    return place


def names() -> list[str]:
    return sorted(path.name for path in cache_folder(runs.RUNS).iterdir())


def test_the_oldest_runs_go(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "KEPT", 3)
    for number in range(5):
        old_run(f"bench_x-{number:08x}", age=number)
    mine = old_run("marathon-2024", age=99)
    with runs.run_folder("bench_x") as place:
        # Two older ones and this one.
        assert names() == sorted(["bench_x-00000000", "bench_x-00000001", place.name, mine.name])


def test_large_runs_go_but_the_newest(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "KEPT_BYTES", 1000)
    old_run("bench_x-00000002", age=2, size=1)
    old_run("bench_x-00000001", age=1, size=2000)
    with runs.run_folder("bench_x") as place:
        assert names() == sorted(["bench_x-00000001", place.name])


def test_a_run_under_way_stays(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "KEPT", 1)
    with runs.run_folder("bench_x") as first:
        os.utime(first, (1, 1))
        with runs.run_folder("bench_x") as second:
            assert names() == sorted([first.name, second.name])
    with runs.run_folder("bench_x") as third:
        assert names() == [third.name]


def test_an_interrupted_run_goes_and_a_failed_one_stays(root: Path) -> None:
    with pytest.raises(KeyboardInterrupt), runs.run_folder("bench_x"):
        raise KeyboardInterrupt
    assert names() == []
    with pytest.raises(ValueError, match="failed"), runs.run_folder("bench_x") as place:
        raise ValueError("failed")
    assert names() == [place.name]
    assert list(place.iterdir()) == []


@pytest.mark.parametrize("kind", ["file", "proc", "runs"])
def test_a_cache_that_cannot_be_written_is_said(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = {"file": tmp_path / "file", "proc": Path("/proc/caches"), "runs": tmp_path}[kind]
    (tmp_path / "file").touch()
    (tmp_path / "runs").touch()
    monkeypatch.setenv("NMSAT_BUILD_DIR", str(place))
    message = r"cannot be written: .*; free space there, or set NMSAT_BUILD_DIR"
    with pytest.raises(CacheError, match=message), runs.run_folder("bench_x"):
        pass


@pytest.mark.rtl
@pytest.mark.parametrize("line", ["verify gemm 4 4 4", "engines", "rtl --out {}/rtl", "program 4 4 4 --rtl --out {}/p"])
def test_commands_with_an_unwritable_cache_are_one_line(
    call: Call, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NMSAT_BUILD_DIR", "/proc/caches")
    outcome = call(f"{line.format(tmp_path)} --quiet")
    assert (outcome.code, outcome.out) == (2, "")
    (told,) = outcome.err.splitlines()
    assert told.startswith("nmsat: error: folder '/proc/caches/")
    assert list(tmp_path.iterdir()) == []
