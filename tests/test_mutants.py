"""The list of planted faults (`make mutate`): it fits the source, and its runner tells killed from alive."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.ci_scripts import script
from tests.source import ROOT

if TYPE_CHECKING:
    from pathlib import Path


def test_each_mutant_fits_the_source(monkeypatch: pytest.MonkeyPatch) -> None:
    found = script("mutate", monkeypatch).mutants()
    assert [len(found[tier]) >= least for tier, least in (("circuit", 12), ("model", 4), ("contract", 1))] == [True] * 3
    everything = [mutant for members in found.values() for mutant in members]
    assert len({(mutant.file, mutant.name) for mutant in everything}) == len(everything)
    for mutant in everything:
        assert (ROOT / mutant.file).read_text(encoding="utf-8").count(mutant.old) == 1, mutant.name
        assert mutant.new != mutant.old
        path, _, name = mutant.test.partition("::")
        assert f"def {name}" in (ROOT / path).read_text(encoding="utf-8"), mutant.test


@pytest.mark.parametrize(
    ("codes", "states", "code"),
    [
        ([0, 1], ["killed"], 0),
        ([0, 0], ["alive"], 1),
        ([0, 4], ["broken"], 1),  # no test ran
        ([1], [], 1),  # the test fails without a fault
    ],
)
def test_what_the_runner_says(
    codes: list[int], states: list[str], code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mutate = script("mutate", monkeypatch)
    (tmp_path / "part.py").write_text("a = 1\n", encoding="utf-8")
    monkeypatch.setattr(mutate, "ROOT", tmp_path)
    monkeypatch.setattr(mutate, "mutants", lambda: {"circuit": [mutate.Mutant("a", "part.py", "1", "2", "tests/x.py")]})
    monkeypatch.setattr(mutate, "copy", lambda folder: (folder / "part.py").write_text("a = 1\n", encoding="utf-8"))
    answers, seen = iter(codes), []

    def passes(folder: Path, test: str) -> int:
        assert test == "tests/x.py"
        seen.append((folder / "part.py").read_text(encoding="utf-8"))
        return next(answers)

    monkeypatch.setattr(mutate, "passes", passes)
    assert mutate.main(["--json", str(tmp_path / "out.json")]) == code
    assert seen == ["a = 1\n", "a = 2\n"][: len(codes)]
    if states:
        assert [found["state"] for found in json.loads((tmp_path / "out.json").read_text())] == states
    with pytest.raises(SystemExit):
        mutate.main(["--only", "nothing"])


def test_a_text_that_does_not_stand_once_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mutate = script("mutate", monkeypatch)
    (tmp_path / "part.py").write_text("a = 11\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"'a': the text stands 2 times in part.py"):
        mutate.judge(tmp_path, "circuit", mutate.Mutant("a", "part.py", "1", "2", "tests/x.py"))
    assert (tmp_path / "part.py").read_text(encoding="utf-8") == "a = 11\n"
