"""Every command that writes files: refusals before the work, full disks, signals; on the real command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest

import nmsat as nmsat_module
from nmsat.algorithms.core.files import PART
from nmsat.hw.parts.cache import cache_folder
from nmsat.reports.commands.base import folder
from nmsat.reports.commands.parser import Subcommands
from nmsat.reports.work.manifest import MANIFEST
from nmsat.reports.work.output import LOCK, STAGING
from tests.disk import small_disk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.conftest import Outcome

    Call = Callable[[str], Outcome]

NMSAT = str(Path(sys.executable).with_name("nmsat"))

SWEEP = Path(__file__).parent.parent.parent / "docs" / "sweep.toml"

CELL = "mlp-bdwp-2of8-seed1,epochs=2,batch=700"

IN_THE_WAY = [
    ("demo --out {}", "report.html", "nmsat.reports.work.demo.run_demo"),
    ("program 8 16 8 --out {}", "summary.json", "nmsat.reports.work.program.matrix_program"),
    ("report --out {}", "speedup.png", "nmsat.reports.work.step_runs.network_runs"),
    ("paper --report {}", "report.html", "nmsat.reports.work.step_runs.network_runs"),
    ("model resnet9 --batch 1 --report {}", "energy.csv", "nmsat.dataflow.network.models.find_model"),
    ("workload run moa --report {}", "workload.svg", "nmsat.reports.work.workload.workload_run"),
    (
        "study --networks mlp --seeds 0 --out {}/new --report {}",
        "report.html",
        "nmsat.reports.work.study.run_study",
    ),
    ("rtl --out {}", "sat_uspe.v", "nmsat.hw.release.kept.kept_files"),
    (f"sweep {SWEEP} --out {{}}", "points.parquet", "nmsat.reports.work.sweep.run_sweep"),
    ("synth --out {}", "synth_tiny.md", "nmsat.hw.release.kept.kept_files"),
    ("study --networks mlp --seeds 0 --out {}", "accuracy.json", "nmsat.reports.work.study.run_study"),
    ("study --networks mlp --seeds 0 --out {}/new --tables {}", "accuracy.md", "nmsat.reports.work.study.run_study"),
    (
        "study --networks mlp --methods dense --seeds 0 --out {}",
        "runs/mlp-dense-seed0.jsonl",
        "nmsat.reports.work.study.run_study",
    ),
    ("workload table --out {}", "workloads.md", "nmsat.reports.pages.workload_page.cycles_page"),
    ("workload table --studies --out {}", "workload_studies.md", "nmsat.reports.pages.workload_page.cycles_page"),
    ("workload table --out {}/new --report {}", "workloads.svg", "nmsat.reports.pages.workload_page.cycles_page"),
    ("gemm 8 8 8 --tiles {}/t.csv", "t.csv", "nmsat.sim.api.simulate"),
    ("gemm 8 8 8 --vcd {}/t.vcd", "t.vcd", "nmsat.sim.api.simulate"),
    ("compare docs/peers.csv --config tiny --csv {}/t.csv", "t.csv", "nmsat.reports.work.compare.compare_layer"),
    ("patterns resnet9 --budget 0.5 --out {}/p.txt", "p.txt", "nmsat.reports.work.patterns.choose_patterns"),
    ("model resnet9 --batch 1 --timeline {}/t", "t", "nmsat.dataflow.network.models.find_model"),
    (f"train --cell {CELL} --out {{}}", f"{CELL}.jsonl", "nmsat.reports.work.training.run_logged"),
    (f"train --cell {CELL} --out {{}}", f"{CELL}.npz", "nmsat.reports.work.training.run_logged"),
]


READ = (
    *("--data", "--masks", "--config-file", "--layers", "--image", "--library", "--accuracy", "--records"),
    *("--against", "--weights"),
)
"""Options that name what is read."""


def test_every_option_that_names_an_output_is_among_them() -> None:
    tried = {(line.partition(" --")[0], word) for line, _, _ in IN_THE_WAY for word in line.split() if word[:2] == "--"}
    root = nmsat_module.command_line().fill()
    for name in nmsat_module.COMMANDS:
        parser = root
        for word in name.split():
            parser = next(a for a in parser._actions if isinstance(a, Subcommands)).choices[word].fill()
        own = {"study paper": "study"}.get(name, name)  # its outputs are those of `study`, by the same code
        for action in parser._get_optional_actions():
            flag = action.option_strings[-1]
            if action.type in (Path, folder) and flag not in READ:
                assert [line for line, word in tried if line.startswith(own) and word == flag], f"{name} {flag}"


FOLDERS = [
    *(line.replace("{}/new", "x") for line, _, _ in IN_THE_WAY if line.endswith(("--out {}", "--report {}"))),
    "study --out x --tables {}",
    "study --out {}",
]
"""Command lines in which a folder is asked for."""


@pytest.mark.parametrize("line", FOLDERS)
def test_a_folder_without_a_name_is_refused(call: Call, line: str) -> None:
    outcome = call(f"{line.removesuffix(' {}')}=")
    assert (outcome.code, outcome.out) == (2, "")
    assert "the value is ''; it must be the name of a folder (. is the working folder)" in outcome.err


def boom(*_: object, **__: object) -> None:
    raise AssertionError("the work has begun")


@pytest.mark.parametrize(("line", "name", "work"), IN_THE_WAY)
def test_a_file_of_the_users_stops_the_command_before_it_works(
    call: Call, line: str, name: str, work: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "mine"
    file = folder / name
    file.parent.mkdir(parents=True)
    file.write_text('{"event": "thesis"}\n')
    (folder / "thesis.tex").write_text("x")
    monkeypatch.setattr(work, boom)
    monkeypatch.setitem(sys.modules, "pyarrow", ModuleType("pyarrow"))  # the extra of a sweep, which never begins
    outcome = call(line.format(folder, folder))
    assert (outcome.code, outcome.out) == (2, "")
    message = outcome.err.splitlines()[-1]
    assert message.startswith("nmsat: error: ") and Path(name).name in message and "--force would" in message
    assert file.read_text() == '{"event": "thesis"}\n'
    assert {path.name for path in folder.rglob("*")} == {*Path(name).parts, "thesis.tex"}
    with pytest.raises(AssertionError, match="the work has begun"):
        call(f"{line.format(folder, folder)} --force")
    assert (folder / "thesis.tex").read_text() == "x"


def nmsat(*words: str, cwd: Path | None = None, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [NMSAT, *words], cwd=cwd, env={**os.environ, **env}, capture_output=True, text=True, check=False, timeout=300
    )


def one_line(run: subprocess.CompletedProcess[str]) -> str:
    """Return the one line of a refusal."""
    assert (run.returncode, run.stdout) == (2, ""), run.stderr
    (line,) = run.stderr.splitlines()
    assert line.startswith("nmsat: error: ")
    return line


def test_a_program_into_the_working_folder_and_again(tmp_path: Path) -> None:
    words = ("program", "8", "16", "8", "--config", "tiny", "--out", ".")
    (tmp_path / "thesis.tex").write_text("x")
    for _ in range(2):
        run = nmsat(*words, cwd=tmp_path)
        assert (run.returncode, run.stderr) == (0, "")
    assert (tmp_path / "thesis.tex").read_text() == "x"
    listed = json.loads((tmp_path / MANIFEST).read_text())["files"]
    files = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert files == {*listed, MANIFEST, "thesis.tex"}
    assert {entry["command"] for entry in listed.values()} == {"program"}
    (tmp_path / "program.txt").write_text("edited")
    assert "'program.txt' in it: not written by nmsat, or changed since" in one_line(nmsat(*words, cwd=tmp_path))


def test_a_training_folder_keeps_what_is_not_of_the_run(call: Call, tmp_path: Path) -> None:
    line = f"train --cell {CELL} --out {tmp_path} --json"
    assert json.loads(call(f"{line} --steps 25").out)["step"] == 25
    results = tmp_path / f"{CELL}.jsonl"
    text = results.read_text()
    results.write_text(text + '{"event": "note", "text": "mine"}\n')
    outcome = call(line)
    assert outcome.code == 2
    assert "are not those of this run and its checkpoint, or changed since; --force would" in outcome.err
    results.write_text(text)
    assert json.loads(call(line).out)["complete"]
    results.write_text(results.read_text().replace('"accuracy"', '"precision"'))
    assert "there is no such field; delete the file to do the run again" in call(line).err
    results.write_text("[]\n")
    assert "line 1 is no line of results" in call(line).err
    assert json.loads(call(f"{line} --force").out)["complete"]


def test_a_run_under_way_is_not_done_twice(call: Call, tmp_path: Path) -> None:
    from nmsat.algorithms.core.locks import locked
    from nmsat.algorithms.training.results import lock_file

    with locked(lock_file(tmp_path, CELL)):
        outcome = call(f"train --cell {CELL} --out {tmp_path}")
        assert outcome.code == 2
        assert "is under way in another process" in outcome.err
    assert call(f"train --cell {CELL} --steps 1 --out {tmp_path}").code == 0


@pytest.mark.parametrize("words", [("gemm", "8", "8", "8", "--json"), ("gemm", "--help"), ("--version",), ("--help",)])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_an_answer_that_cannot_be_printed_is_one_line(words: tuple[str, ...], unbuffered: str) -> None:
    with Path("/dev/full").open("w") as full:
        env = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
        run = subprocess.run([NMSAT, *words], stdout=full, stderr=subprocess.PIPE, text=True, check=False, env=env)
    assert run.returncode == 2
    assert run.stderr == "nmsat: error: the answer cannot be written to stdout: No space left on device\n"


def test_a_closed_stdout_is_one_line() -> None:
    command = ["sh", "-c", f"{NMSAT} gemm 8 8 8 >&-"]
    run = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    assert (run.returncode, run.stderr) == (2, "nmsat: error: stdout is closed; the answer cannot be printed\n")


LARGE = ("64", "512", "64", "--config", "small")


@pytest.mark.parametrize(
    "words",
    [
        ("program", *LARGE, "--out", "{}"),
        ("program", *LARGE, "--out", "{}/deep/er"),
        ("gemm", "64", "64", "16", "--config", "small", "--vcd", "{}/t.vcd"),
        ("train", "--cell", CELL, "--steps", "1", "--out", "{}/runs"),
        ("study", "--networks", "mlp", "--methods", "dense", "--seeds", "0", "--processes", "1", "--out", "{}/study"),
    ],
)
def test_a_full_disk_is_one_line_and_leaves_nothing(words: tuple[str, ...], tmp_path: Path) -> None:
    with small_disk(tmp_path / "small", "size=64k") as disk:
        (disk / "thesis.tex").write_text("x")
        line = one_line(nmsat(*(word.format(disk) for word in words)))
        assert "cannot be written: No space left on device" in line and PART not in line and STAGING not in line
        assert [path.name for path in disk.rglob("*")] == ["thesis.tex"]


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_full_disk_leaves_the_older_result(tmp_path: Path) -> None:
    with small_disk(tmp_path / "small", "size=96k") as disk:
        words = ("--config", "small", "--out", str(disk / "out"))
        assert nmsat("program", "8", "16", "8", *words).returncode == 0
        before = contents(disk / "out")
        one_line(nmsat("program", "64", "512", "64", *words))
        assert contents(disk / "out") == before


def test_a_read_only_place_is_one_line(tmp_path: Path) -> None:
    with small_disk(tmp_path / "small", "size=64k,ro") as disk:
        for line in ("program 8 16 8 --out", f"train --cell {CELL} --out", "gemm 8 8 8 --tiles"):
            words = line.split()
            assert "Read-only file system" in one_line(nmsat(*words, str(disk / "new")))


def wait_for(what: Callable[[], object], process: subprocess.Popen[str]) -> None:
    end = time.time() + 120
    while not what():
        assert process.poll() is None, process.communicate()
        assert time.time() < end
        time.sleep(0.01)


@contextmanager
def running(*words: str, **env: str) -> Iterator[subprocess.Popen[str]]:
    command = [NMSAT, *words]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env={**os.environ, **env}) as process:
        try:
            yield process
        finally:
            process.kill()


def processes_of(text: str) -> list[int]:
    """Return the processes whose command line or folder names `text`."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            told = (entry / "cmdline").read_bytes().decode(errors="replace") + str((entry / "cwd").readlink())
        except OSError:
            continue
        if text in told:
            found.append(int(entry.name))
    return found


def left_running(text: str) -> list[int]:
    """Return the processes that name `text` after five seconds: what was killed takes a moment to be gone."""
    end = time.time() + 5
    while processes_of(text) and time.time() < end:
        time.sleep(0.05)
    return processes_of(text)


SIGNALS = [(signal.SIGINT, 130, "nmsat: interrupted"), (signal.SIGTERM, 143, "nmsat: terminated")]


def check_end(process: subprocess.Popen[str], number: int, code: int, text: str) -> None:
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (code, "")
    assert "Traceback" not in err and "Warning" not in err and "gnored" not in err
    assert err.splitlines()[-1] == text


@pytest.mark.parametrize(("number", "code", "text"), SIGNALS)
@pytest.mark.parametrize(
    "module",
    [
        *("signal", "nmsat.reports.work.entry", "argparse", "numpy"),
        *("nmsat.reports.commands.base", "nmsat.dataflow.contract.isa", "nmsat.sim.sat"),
    ],
)
def test_a_signal_while_the_command_starts(module: str, number: int, code: int, text: str) -> None:
    """Python tells on stderr what it imports; the signal comes when it has imported `module`."""
    with running("program", "64", "512", "64", "--config", "small", PYTHONPROFILEIMPORTTIME="1") as process:
        assert process.stderr is not None
        while line := process.stderr.readline():
            if line.split("|")[-1].strip() == module:
                break
        check_end(process, number, code, text)


def test_next_to_nothing_is_imported_before_the_handlers_are_set() -> None:
    """Until then Python answers Ctrl-C with a traceback."""
    code = "import os, sys; before = set(sys.modules); import nmsat.reports.start; print(*set(sys.modules) - before)"
    command = [sys.executable, "-S", "-c", code]
    env = {"PYTHONPATH": str(Path(nmsat_module.__file__).parent)}
    found = subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout.split()
    ours = {"nmsat", "nmsat.reports", "nmsat.reports.version", "nmsat.reports.ending", "nmsat.reports.start"}
    assert set(found) == {*ours, "__future__"}


@pytest.fixture
def caches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return caches without Verilog or models: what is kept is not written again, and no signal meets its writing."""
    folder = tmp_path_factory.mktemp("caches")
    cache_folder("yosys").mkdir(parents=True, exist_ok=True)
    (folder / "yosys").symlink_to(cache_folder("yosys"))  # takes most of a minute to make
    return folder


@pytest.mark.parametrize(("number", "code", "text"), SIGNALS)
def test_a_signal_during_elaboration_leaves_nothing(
    number: int, code: int, text: str, tmp_path: Path, caches: Path
) -> None:
    target = tmp_path / "deep" / "rtl"
    with running("rtl", "--config", "tiny", "--out", str(target), NMSAT_BUILD_DIR=str(caches)) as process:
        wait_for(lambda: list(target.glob(f"{STAGING}*")), process)
        time.sleep(1.5)
        check_end(process, number, code, text)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.rtl
@pytest.mark.parametrize(("number", "code", "text"), SIGNALS)
def test_a_signal_during_a_build_leaves_nothing(number: int, code: int, text: str, caches: Path) -> None:
    with running("verify", "gemm", "1", "1", "1", "--config", "tiny", NMSAT_BUILD_DIR=str(caches)) as process:
        wait_for(lambda: list(caches.glob("verilated/.*/obj/*.cpp")), process)
        check_end(process, number, code, text)
    left = {path.name for path in (caches / "verilated").iterdir()}
    assert all(name.endswith(".lock") for name in left), left
    assert left_running(str(caches)) == []


def test_a_signal_during_a_study_ends_its_workers(tmp_path: Path) -> None:
    words = ("study", "--networks", "vgg19-small", "--methods", "dense,bdwp", "--seeds", "0", "--processes", "2")
    with running(*words, "--out", str(tmp_path / "study")) as process:
        wait_for(lambda: len(list(tmp_path.glob("study/runs/.*.lock"))) == 2, process)
        check_end(process, signal.SIGTERM, 143, "nmsat: terminated")
    time.sleep(0.2)
    assert [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".npz"] == []
    assert LOCK not in {path.name for path in tmp_path.rglob("*")}


def test_a_repeated_signal_does_not_stop_the_cleaning(tmp_path: Path, caches: Path) -> None:
    target = tmp_path / "rtl"
    with running("rtl", "--config", "tiny", "--out", str(target), NMSAT_BUILD_DIR=str(caches)) as process:
        wait_for(lambda: list(target.glob(f"{STAGING}*")), process)
        for _ in range(20):
            process.send_signal(signal.SIGINT)
            time.sleep(0.001)
        process.communicate(timeout=60)
    assert process.returncode == 130
    assert list(tmp_path.iterdir()) == []


def test_an_ignored_ctrl_c_stays_ignored(tmp_path: Path) -> None:
    """A shell starts background jobs so, and they must not be stopped by a Ctrl-C that is for others."""
    command = f"trap '' INT; exec {NMSAT} program 8 16 8 --config tiny --out {tmp_path / 'out'} --json"
    with subprocess.Popen(["sh", "-c", command], stdout=subprocess.PIPE, text=True) as process:
        wait_for((tmp_path / "out").exists, process)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    assert json.loads(out)["cycles"] > 0
