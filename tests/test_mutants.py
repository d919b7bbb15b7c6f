"""The list of planted faults (`make mutate`): it fits the source, and its runner tells killed from alive."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from nmsat.tb.formal.table import PROOFS
from tests.ci_scripts import script
from tests.source import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import ModuleType


def test_each_mutant_fits_the_source(monkeypatch: pytest.MonkeyPatch) -> None:
    mutate = script("mutate", monkeypatch)
    found = mutate.mutants()
    assert len(found["circuit"]) >= 150
    assert len(found["model"]) + len(found["contract"]) >= 50
    everything = [mutant for members in found.values() for mutant in members]
    assert Counter((mutant.file, mutant.name) for mutant in everything).most_common(1)[0][1] == 1
    for mutant in everything:
        assert (ROOT / mutant.file).read_text(encoding="utf-8").count(mutant.old) == 1, mutant.name
        assert mutant.new != mutant.old
        if mutant.test.startswith(mutate.PROOF):
            assert mutant.test.removeprefix(mutate.PROOF) in PROOFS
            continue
        path, _, name = mutant.test.partition("::")
        text = (ROOT / path).read_text(encoding="utf-8")
        assert f"def {name.partition('[')[0]}" in text, mutant.test


@pytest.mark.parametrize("room", ["array", "control", "fp", "load", "memory", "parts", "store", "update", "sat.py"])
def test_no_room_of_the_circuit_is_without_mutants(room: str, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [mutant.file for mutant in script("mutate", monkeypatch).mutants()["circuit"]]
    assert sum(file.startswith(f"hw/{room}") for file in files) >= 8


class Runner:
    """The script with one mutant, `a` in part.py, whose tests are played."""

    def __init__(self, place: Path, monkeypatch: pytest.MonkeyPatch, equivalent: str = "") -> None:
        self.mutate: ModuleType = script("mutate", monkeypatch)
        self.place, self.seen = place, list[str]()
        for name, text in (("part.py", "a = 1\n"), ("x.py", "")):
            (place / name).write_text(text, encoding="utf-8")
        mutant = self.mutate.Mutant("a", "part.py", "1", "2", "x.py", equivalent)
        self.answers: Iterator[int] = iter(())
        monkeypatch.setattr(self.mutate, "ROOT", place)
        monkeypatch.setattr(self.mutate, "FOLDERS", ())
        monkeypatch.setattr(self.mutate, "FILES", ("part.py", "x.py"))
        monkeypatch.setattr(self.mutate, "mutants", lambda: {"circuit": [mutant]})
        monkeypatch.setattr(self.mutate, "passes", self.passes)
        monkeypatch.setattr(self.mutate.signal, "signal", lambda *_: None)

    def passes(self, folder: Path, test: str, cache: Path | None = None) -> int:
        assert test == "x.py"
        self.seen.append((folder / "part.py").read_text(encoding="utf-8") + ("" if cache is None else "built apart"))
        return next(self.answers)

    def run(self, codes: list[int], *options: str) -> tuple[int, list[dict[str, Any]]]:
        """Run with these exit codes of pytest; return the exit code and the verdicts."""
        self.seen.clear()
        self.answers = iter(codes)
        report = self.place / "out" / "out.json"
        code = self.mutate.main(["--json", str(report), *options])
        assert next(self.answers, None) is None
        return code, json.loads(report.read_text(encoding="utf-8"))["mutants"] if report.exists() else []


@pytest.mark.parametrize(
    ("codes", "equivalent", "state", "code"),
    [
        ([0, 1], "", "killed", 0),
        ([0, 0], "", "alive", 1),
        ([0, 4], "", "broken", 1),  # no test ran
        ([0, 0], "nothing sees it", "equivalent", 0),
        ([0, 1], "nothing sees it", "alive", 1),  # something does
        ([1], "", "", 1),  # the test fails without a fault
    ],
)
def test_what_the_runner_says(
    codes: list[int],
    equivalent: str,
    state: str,
    code: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    runner = Runner(tmp_path, monkeypatch, equivalent)
    found, verdicts = runner.run(codes)
    assert found == code
    assert runner.seen == ["a = 1\n", "a = 2\nbuilt apart"][: len(codes)]
    assert [one["state"] for one in verdicts] == ([state] if state else [])
    if state in ("alive", "broken"):
        assert 'again: make mutate ONLY="part.py a" AGAIN=1' in capsys.readouterr().out
    with pytest.raises(SystemExit):
        runner.run([], "--only", "nothing")


def test_what_is_known_is_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = Runner(tmp_path, monkeypatch)
    assert runner.run([], "--seconds", "-1")[1][0]["state"] == "not run"
    assert runner.run([0, 0])[0] == 1
    assert runner.run([1])[0] == 0  # of what lives the verdict is asked again, of its test alone it is known
    assert runner.run([]) == (0, runner.run([1], "--again")[1])
    (tmp_path / "x.py").write_text("another test", encoding="utf-8")
    assert runner.run([], "--seconds", "-1")[1][0]["state"] == "not run"
    assert runner.run([1])[0] == 0
    (tmp_path / "part.py").write_text("b = 0\na = 1\n", encoding="utf-8")
    assert runner.run([1])[0] == 0


def test_a_text_that_does_not_stand_once_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mutate = script("mutate", monkeypatch)
    (tmp_path / "part.py").write_text("a = 11\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"'a': the text stands 2 times in part.py"):
        mutate.judge(tmp_path, "circuit", mutate.Mutant("a", "part.py", "1", "2", "tests/x.py"))
    assert (tmp_path / "part.py").read_text(encoding="utf-8") == "a = 11\n"


@pytest.mark.parametrize(("text", "code"), [("pass", 0), ("assert 0", 1), ("nothing", 1), ("while 1: pass", 1)])
def test_a_test_runs_in_a_process_of_its_own(
    text: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mutate = script("mutate", monkeypatch)
    monkeypatch.setattr(mutate, "LIMIT", 2)
    (tmp_path / "part.py").write_text(f"def do():\n    {text}\n", encoding="utf-8")
    (tmp_path / "pyproject.toml").write_text("", encoding="utf-8")
    (tmp_path / "test_x.py").write_text("import part\n\ndef test_x():\n    part.do()\n", encoding="utf-8")
    assert mutate.passes(tmp_path, "test_x.py::test_x") == code
    assert mutate.passes(tmp_path, "test_x.py::test_y") == mutate.BROKEN


def test_what_was_compiled_of_a_source_is_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mutate = script("mutate", monkeypatch)
    (tmp_path / "__pycache__").mkdir()
    for name in ("part.cpython-311.pyc", "party.cpython-311.pyc"):
        (tmp_path / "__pycache__" / name).touch()
    mutate.plant(tmp_path / "part.py", "a = 2\n")
    assert [path.name for path in (tmp_path / "__pycache__").iterdir()] == ["party.cpython-311.pyc"]
